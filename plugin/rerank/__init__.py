"""Rerank stages: small objects over arrays, composed in the order given."""

from attnbridge.rerank.expansion import QueryExpansion
from attnbridge.rerank.group_by import GroupBy
from attnbridge.rerank.late_interaction import LateInteraction
from attnbridge.rerank.mmr import MMR
from attnbridge.rerank.pool import Pool, PoolIndex, Stage, TokenRows
from attnbridge.rerank.sequence import as_stages
from attnbridge.rerank.smoothing import ListwiseSmoothing
from attnbridge.rerank.threshold import Threshold

# What `as_stages` knows by name.
STAGES: tuple[type, ...] = (
    GroupBy,
    LateInteraction,
    ListwiseSmoothing,
    MMR,
    QueryExpansion,
    Threshold,
)

__all__ = [
    "MMR",
    "GroupBy",
    "LateInteraction",
    "ListwiseSmoothing",
    "Pool",
    "PoolIndex",
    "QueryExpansion",
    "Stage",
    "Threshold",
    "TokenRows",
    "as_stages",
]
