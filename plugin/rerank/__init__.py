"""Rerank stages: small objects over arrays, composed in the order given."""

from attnbridge.rerank.bm25 import BM25
from attnbridge.rerank.calibrated import Calibrated
from attnbridge.rerank.expansion import QueryExpansion
from attnbridge.rerank.feedback import Feedback
from attnbridge.rerank.fusion import Fusion
from attnbridge.rerank.gated import Gated
from attnbridge.rerank.late_interaction import LateInteraction
from attnbridge.rerank.pool import Pool, PoolIndex, Stage, TokenRows
from attnbridge.rerank.sequence import as_stages

# What `as_stages` knows by name.
STAGES: tuple[type, ...] = (
    Feedback,
    LateInteraction,
    QueryExpansion,
    BM25,
    Fusion,
    Calibrated,
    Gated,
)

__all__ = [
    "BM25",
    "Calibrated",
    "Feedback",
    "Fusion",
    "Gated",
    "LateInteraction",
    "Pool",
    "PoolIndex",
    "QueryExpansion",
    "Stage",
    "TokenRows",
    "as_stages",
]
