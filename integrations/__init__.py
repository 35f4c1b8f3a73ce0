"""Floor 3: where the data lives."""

from attnbridge.integrations.bridge import AttentionVectorBridge
from attnbridge.integrations.candidates import CandidateSource, ExactIndex
from attnbridge.integrations.hnswlib import HnswIndex

__all__ = ["AttentionVectorBridge", "CandidateSource", "ExactIndex", "HnswIndex"]
