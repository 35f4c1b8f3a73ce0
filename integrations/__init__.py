"""Floor 3: where the data lives."""

from attnbridge.integrations.audit import Audit, audit
from attnbridge.integrations.bridge import AttentionVectorBridge
from attnbridge.integrations.candidates import CandidateSource, ExactIndex
from attnbridge.integrations.hnswlib import HnswIndex
from attnbridge.integrations.tuning import Tuning, tune

__all__ = [
    "AttentionVectorBridge",
    "Audit",
    "CandidateSource",
    "ExactIndex",
    "HnswIndex",
    "Tuning",
    "audit",
    "tune",
]
