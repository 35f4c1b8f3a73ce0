"""Rerank stages: small objects over arrays, composed in the order given."""

from attnbridge.rerank.expansion import QueryExpansion
from attnbridge.rerank.late_interaction import LateInteraction
from attnbridge.rerank.pool import Pool, Stage, TokenRows

__all__ = ["LateInteraction", "Pool", "QueryExpansion", "Stage", "TokenRows"]
