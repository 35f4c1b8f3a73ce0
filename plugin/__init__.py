"""Attention on top of the vectors you already have: in an hnswlib index, a networkx graph, a DuckDB table.

Names are resolved on first use (PEP 562), so that ``import attnbridge`` loads neither numba nor hnswlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbridge.attention_maps import plot_attention as plot_attention
    from attnbridge.attention_maps import visualize as visualize
    from attnbridge.cache import AttentionCache as AttentionCache
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
    from attnbridge.graph_layers import MLP as MLP
    from attnbridge.graph_layers import GATConv as GATConv
    from attnbridge.graph_layers import GATv2Conv as GATv2Conv
    from attnbridge.graph_layers import GINConv as GINConv
    from attnbridge.graph_layers import HeteroConv as HeteroConv
    from attnbridge.graph_layers import SAGEConv as SAGEConv
    from attnbridge.graph_operator import GraphOperator as GraphOperator
    from attnbridge.graph_operator import GraphOutput as GraphOutput
    from attnbridge.graph_operator import NodeOutput as NodeOutput
    from attnbridge.graph_rope import GraphRoPE as GraphRoPE
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
    from attnbridge.integrations.seeding import SeededHits as SeededHits
    from attnbridge.layers import BatchNorm as BatchNorm
    from attnbridge.layers import Dropout as Dropout
    from attnbridge.layers import FeedForward as FeedForward
    from attnbridge.layers import LayerNorm as LayerNorm
    from attnbridge.layers import RMSNorm as RMSNorm
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
    from attnbridge.positions import RotaryEmbedding as RotaryEmbedding
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
    from attnbridge.scoring import register_attention as register_attention
    from attnbridge.scoring import unregister_attention as unregister_attention
    from attnbridge.sdk.builder import AttentionBuilder as AttentionBuilder
    from attnbridge.sdk.builder import GraphAttentionBuilder as GraphAttentionBuilder
    from attnbridge.sdk.pipeline import AttentionPipeline as AttentionPipeline
    from attnbridge.sdk.pipeline import prenorm_transformer_block as prenorm_transformer_block
    from attnbridge.sdk.pipeline import transformer_block as transformer_block
    from attnbridge.sdk.presets import AttentionPreset as AttentionPreset
    from attnbridge.sdk.presets import flash as flash
    from attnbridge.sdk.presets import for_generation as for_generation
    from attnbridge.sdk.presets import for_graphs as for_graphs
    from attnbridge.sdk.presets import for_large_scale as for_large_scale
    from attnbridge.sdk.presets import for_moe as for_moe
    from attnbridge.sdk.presets import for_sequences as for_sequences
    from attnbridge.sdk.presets import for_vision as for_vision
    from attnbridge.sdk.presets import from_model_name as from_model_name
    from attnbridge.sdk.presets import hyperbolic as hyperbolic
    from attnbridge.sdk.presets import linear as linear
    from attnbridge.sdk.presets import local_global as local_global
    from attnbridge.sdk.presets import moe as moe
    from attnbridge.sdk.presets import multi_head as multi_head
    from attnbridge.sdk.presets import scaled_dot as scaled_dot

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
    "AttentionCache": "attnbridge.cache",
    "AttentionConfig": "attnbridge.config",
    "GraphAttentionConfig": "attnbridge.config",
    "SparseAttentionConfig": "attnbridge.config",
    "AttentionDistance": "attnbridge.distance",
    "AttentionGraph": "attnbridge.integrations.networkx",
    "AttentionVectorBridge": "attnbridge.integrations.bridge",
    "GATConv": "attnbridge.graph_layers",
    "GATv2Conv": "attnbridge.graph_layers",
    "GINConv": "attnbridge.graph_layers",
    "HeteroConv": "attnbridge.graph_layers",
    "MLP": "attnbridge.graph_layers",
    "SAGEConv": "attnbridge.graph_layers",
    "GraphOperator": "attnbridge.graph_operator",
    "GraphOutput": "attnbridge.graph_operator",
    "NodeOutput": "attnbridge.graph_operator",
    "GraphHit": "attnbridge.integrations.graph_hits",
    "GraphHits": "attnbridge.integrations.graph_hits",
    "SeededHits": "attnbridge.integrations.seeding",
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
    "BatchNorm": "attnbridge.layers",
    "Dropout": "attnbridge.layers",
    "FeedForward": "attnbridge.layers",
    "LayerNorm": "attnbridge.layers",
    "RMSNorm": "attnbridge.layers",
    "GraphRoPE": "attnbridge.graph_rope",
    "RotaryEmbedding": "attnbridge.positions",
    "AttentionPipeline": "attnbridge.sdk.pipeline",
    "prenorm_transformer_block": "attnbridge.sdk.pipeline",
    "transformer_block": "attnbridge.sdk.pipeline",
    "attention": "attnbridge.functional",
    "attention_logits": "attnbridge.functional",
    "attention_score": "attnbridge.functional",
    "attention_scores": "attnbridge.functional",
    "attention_types": "attnbridge.functional",
    "connect": "attnbridge.integrations.duckdb",
    "evaluate": "attnbridge.integrations.evaluation",
    "register_attention": "attnbridge.scoring",
    "AttentionBuilder": "attnbridge.sdk.builder",
    "GraphAttentionBuilder": "attnbridge.sdk.builder",
    "AttentionPreset": "attnbridge.sdk.presets",
    "flash": "attnbridge.sdk.presets",
    "for_generation": "attnbridge.sdk.presets",
    "for_graphs": "attnbridge.sdk.presets",
    "for_large_scale": "attnbridge.sdk.presets",
    "for_moe": "attnbridge.sdk.presets",
    "for_sequences": "attnbridge.sdk.presets",
    "for_vision": "attnbridge.sdk.presets",
    "from_model_name": "attnbridge.sdk.presets",
    "hyperbolic": "attnbridge.sdk.presets",
    "linear": "attnbridge.sdk.presets",
    "local_global": "attnbridge.sdk.presets",
    "moe": "attnbridge.sdk.presets",
    "multi_head": "attnbridge.sdk.presets",
    "scaled_dot": "attnbridge.sdk.presets",
    "softmax": "attnbridge.functional",
    "unregister_attention": "attnbridge.scoring",
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
