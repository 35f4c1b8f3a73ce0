"""Rerank stages: small objects over arrays, composed in the order given."""

from attnbridge.rerank.attention_rerank import AttentionRerank
from attnbridge.rerank.bm25 import BM25
from attnbridge.rerank.calibrated import Calibrated
from attnbridge.rerank.default import default_stages
from attnbridge.rerank.expansion import QueryExpansion
from attnbridge.rerank.feedback import Feedback
from attnbridge.rerank.fusion import Fusion
from attnbridge.rerank.gated import Gated
from attnbridge.rerank.graph_adaptive import GraphAdaptive
from attnbridge.rerank.group_by import GroupBy
from attnbridge.rerank.late_interaction import LateInteraction
from attnbridge.rerank.mmr import MMR
from attnbridge.rerank.pool import Pool, PoolIndex, Stage, TokenRows
from attnbridge.rerank.rocchio import Rocchio
from attnbridge.rerank.sequence import as_stages
from attnbridge.rerank.smoothing import ListwiseSmoothing
from attnbridge.rerank.threshold import Threshold

# What `as_stages` knows by name.
STAGES: tuple[type, ...] = (
    AttentionRerank,
    BM25,
    Calibrated,
    Feedback,
    Fusion,
    Gated,
    GraphAdaptive,
    GroupBy,
    LateInteraction,
    ListwiseSmoothing,
    MMR,
    QueryExpansion,
    Rocchio,
    Threshold,
)

__all__ = [
    "BM25",
    "MMR",
    "AttentionRerank",
    "Calibrated",
    "Feedback",
    "Fusion",
    "Gated",
    "GraphAdaptive",
    "GroupBy",
    "LateInteraction",
    "ListwiseSmoothing",
    "Pool",
    "PoolIndex",
    "QueryExpansion",
    "Rocchio",
    "Stage",
    "Threshold",
    "TokenRows",
    "as_stages",
    "default_stages",
]
