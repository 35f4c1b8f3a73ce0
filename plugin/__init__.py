"""Attention on top of the vectors you already have: in an hnswlib index, a networkx graph, a DuckDB table.

Names are resolved on first use (PEP 562), so that ``import attnbridge`` loads neither numba nor hnswlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbridge.attention_maps import plot_attention as plot_attention
    from attnbridge.attention_maps import visualize as visualize
    from attnbridge.config import AttentionConfig as AttentionConfig
    from attnbridge.config import GraphAttentionConfig as GraphAttentionConfig
    from attnbridge.config import SparseAttentionConfig as SparseAttentionConfig
    from attnbridge.distance import AttentionDistance as AttentionDistance
    from attnbridge.errors import AttentionError as AttentionError
    from attnbridge.errors import ConcurrencyError as ConcurrencyError
    from attnbridge.errors import DimensionMismatchError as DimensionMismatchError
    from attnbridge.errors import GraphStructureError as GraphStructureError
    from attnbridge.errors import IndexCorruptError as IndexCorruptError
    from attnbridge.errors import InputTooLargeError as InputTooLargeError
    from attnbridge.errors import InvalidConfigError as InvalidConfigError
    from attnbridge.errors import InvalidInputError as InvalidInputError
    from attnbridge.errors import InvalidMaskError as InvalidMaskError
    from attnbridge.errors import MissingDependencyError as MissingDependencyError
    from attnbridge.errors import NumericalInstabilityError as NumericalInstabilityError
    from attnbridge.errors import SparseMatrixError as SparseMatrixError
    from attnbridge.errors import TrainingError as TrainingError
    from attnbridge.errors import UnknownIdError as UnknownIdError
    from attnbridge.functional import attention as attention
    from attnbridge.functional import attention_logits as attention_logits
    from attnbridge.functional import attention_score as attention_score
    from attnbridge.functional import attention_scores as attention_scores
    from attnbridge.functional import attention_types as attention_types
    from attnbridge.functional import softmax as softmax
    from attnbridge.hits import Hit as Hit
    from attnbridge.hits import Hits as Hits
    from attnbridge.integrations.bridge import AttentionVectorBridge as AttentionVectorBridge
    from attnbridge.integrations.duckdb import connect as connect
    from attnbridge.integrations.evaluation import evaluate as evaluate
    from attnbridge.integrations.graph_hits import GraphHit as GraphHit
    from attnbridge.integrations.graph_hits import GraphHits as GraphHits
    from attnbridge.integrations.match import Match as Match
    from attnbridge.integrations.match import Matches as Matches
    from attnbridge.integrations.match import MatchPath as MatchPath
    from attnbridge.integrations.networkx import AttentionGraph as AttentionGraph
    from attnbridge.integrations.rerank_tuning import tune_rerank as tune_rerank
    from attnbridge.manifolds import EuclideanSpace as EuclideanSpace
    from attnbridge.manifolds import HyperbolicSpace as HyperbolicSpace
    from attnbridge.manifolds import Manifold as Manifold
    from attnbridge.manifolds import ProductSpace as ProductSpace
    from attnbridge.manifolds import SphericalSpace as SphericalSpace
    from attnbridge.masks import SparseMask as SparseMask
    from attnbridge.mechanisms import Attention as Attention
    from attnbridge.mechanisms import AttentionContext as AttentionContext
    from attnbridge.mechanisms import AttentionOutput as AttentionOutput
    from attnbridge.mechanisms import CrossAttention as CrossAttention
    from attnbridge.mechanisms import FlashAttention as FlashAttention
    from attnbridge.mechanisms import GeometricAttention as GeometricAttention
    from attnbridge.mechanisms import GraphAttention as GraphAttention
    from attnbridge.mechanisms import HyperbolicAttention as HyperbolicAttention
    from attnbridge.mechanisms import LinearAttention as LinearAttention
    from attnbridge.mechanisms import MixtureOfExpertsAttention as MixtureOfExpertsAttention
    from attnbridge.mechanisms import MultiHeadAttention as MultiHeadAttention
    from attnbridge.mechanisms import ScaledDotProductAttention as ScaledDotProductAttention
    from attnbridge.mechanisms import SlidingWindowAttention as SlidingWindowAttention
    from attnbridge.mechanisms import SparseAttention as SparseAttention
    from attnbridge.rerank import BM25 as BM25
    from attnbridge.rerank import MMR as MMR
    from attnbridge.rerank import AttentionRerank as AttentionRerank
    from attnbridge.rerank import Calibrated as Calibrated
    from attnbridge.rerank import Feedback as Feedback
    from attnbridge.rerank import Fusion as Fusion
    from attnbridge.rerank import Gated as Gated
    from attnbridge.rerank import GraphAdaptive as GraphAdaptive
    from attnbridge.rerank import GroupBy as GroupBy
    from attnbridge.rerank import LateInteraction as LateInteraction
    from attnbridge.rerank import ListwiseSmoothing as ListwiseSmoothing
    from attnbridge.rerank import QueryExpansion as QueryExpansion
    from attnbridge.rerank import Rocchio as Rocchio
    from attnbridge.rerank import Threshold as Threshold

    __version__: str

_ERRORS = (
    "AttentionError",
    "ConcurrencyError",
    "DimensionMismatchError",
    "GraphStructureError",
    "IndexCorruptError",
    "InputTooLargeError",
    "InvalidConfigError",
    "InvalidInputError",
    "InvalidMaskError",
    "MissingDependencyError",
    "NumericalInstabilityError",
    "SparseMatrixError",
    "TrainingError",
    "UnknownIdError",
)

_MECHANISMS = (
    "Attention",
    "AttentionContext",
    "AttentionOutput",
    "GraphAttention",
    "CrossAttention",
    "GeometricAttention",
    "FlashAttention",
    "HyperbolicAttention",
    "MultiHeadAttention",
    "LinearAttention",
    "MixtureOfExpertsAttention",
    "ScaledDotProductAttention",
    "SparseAttention",
    "SlidingWindowAttention",
)

# Public name -> the module it lives in.
_HOME = {
    **dict.fromkeys(_ERRORS, "attnbridge.errors"),
    **dict.fromkeys(_MECHANISMS, "attnbridge.mechanisms"),
    "AttentionConfig": "attnbridge.config",
    "GraphAttentionConfig": "attnbridge.config",
    "SparseAttentionConfig": "attnbridge.config",
    "AttentionDistance": "attnbridge.distance",
    "AttentionGraph": "attnbridge.integrations.networkx",
    "AttentionVectorBridge": "attnbridge.integrations.bridge",
    "GraphHit": "attnbridge.integrations.graph_hits",
    "GraphHits": "attnbridge.integrations.graph_hits",
    "Match": "attnbridge.integrations.match",
    "MatchPath": "attnbridge.integrations.match",
    "Matches": "attnbridge.integrations.match",
    "Hit": "attnbridge.hits",
    "Hits": "attnbridge.hits",
    "EuclideanSpace": "attnbridge.manifolds",
    "HyperbolicSpace": "attnbridge.manifolds",
    "Manifold": "attnbridge.manifolds",
    "ProductSpace": "attnbridge.manifolds",
    "SphericalSpace": "attnbridge.manifolds",
    "Feedback": "attnbridge.rerank",
    "BM25": "attnbridge.rerank",
    "Calibrated": "attnbridge.rerank",
    "Fusion": "attnbridge.rerank",
    "Gated": "attnbridge.rerank",
    "GroupBy": "attnbridge.rerank",
    "LateInteraction": "attnbridge.rerank",
    "ListwiseSmoothing": "attnbridge.rerank",
    "MMR": "attnbridge.rerank",
    "AttentionRerank": "attnbridge.rerank",
    "GraphAdaptive": "attnbridge.rerank",
    "Rocchio": "attnbridge.rerank",
    "SparseMask": "attnbridge.masks",
    "QueryExpansion": "attnbridge.rerank",
    "Threshold": "attnbridge.rerank",
    "attention": "attnbridge.functional",
    "attention_logits": "attnbridge.functional",
    "attention_score": "attnbridge.functional",
    "attention_scores": "attnbridge.functional",
    "attention_types": "attnbridge.functional",
    "connect": "attnbridge.integrations.duckdb",
    "evaluate": "attnbridge.integrations.evaluation",
    "softmax": "attnbridge.functional",
    "tune_rerank": "attnbridge.integrations.rerank_tuning",
    "plot_attention": "attnbridge.attention_maps",
    "visualize": "attnbridge.attention_maps",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("attnbridge")
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'attnbridge' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
