"""Rerank stages: small objects over arrays, composed in the order given."""

from attnbridge.rerank.expansion import QueryExpansion
from attnbridge.rerank.feedback import Feedback
from attnbridge.rerank.late_interaction import LateInteraction
from attnbridge.rerank.pool import Pool, PoolIndex, Stage, TokenRows
from attnbridge.rerank.sequence import as_stages

# What `as_stages` knows by name.
STAGES: tuple[type, ...] = (
    Feedback,
    LateInteraction,
    QueryExpansion,
)

__all__ = [
    "Feedback",
    "LateInteraction",
    "Pool",
    "PoolIndex",
    "QueryExpansion",
    "Stage",
    "TokenRows",
    "as_stages",
]
