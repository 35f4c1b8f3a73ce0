"""Rerank stages: small objects over arrays, composed in the order given."""

from attnbridge.rerank.attention_rerank import AttentionRerank
from attnbridge.rerank.expansion import QueryExpansion
from attnbridge.rerank.graph_adaptive import GraphAdaptive
from attnbridge.rerank.late_interaction import LateInteraction
from attnbridge.rerank.pool import Pool, PoolIndex, Stage, TokenRows
from attnbridge.rerank.rocchio import Rocchio
from attnbridge.rerank.sequence import as_stages

# What `as_stages` knows by name.
STAGES: tuple[type, ...] = (
    AttentionRerank,
    GraphAdaptive,
    LateInteraction,
    QueryExpansion,
    Rocchio,
)

__all__ = [
    "AttentionRerank",
    "GraphAdaptive",
    "LateInteraction",
    "Pool",
    "PoolIndex",
    "QueryExpansion",
    "Rocchio",
    "Stage",
    "TokenRows",
    "as_stages",
]
