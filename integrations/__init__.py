"""Floor 3: where the data lives."""

from attnbridge.integrations.audit import Audit, audit
from attnbridge.integrations.bridge import AttentionVectorBridge
from attnbridge.integrations.candidates import CandidateSource, ExactIndex
from attnbridge.integrations.collection import Collection, read_collection
from attnbridge.integrations.evaluation import Evaluation, evaluate
from attnbridge.integrations.hnswlib import HnswIndex
from attnbridge.integrations.rerank_tuning import RerankTuning, tune_rerank
from attnbridge.integrations.trec import read_qrels, read_run, write_run
from attnbridge.integrations.tuning import Tuning, tune

__all__ = [
    "AttentionVectorBridge",
    "Audit",
    "CandidateSource",
    "Collection",
    "Evaluation",
    "ExactIndex",
    "HnswIndex",
    "RerankTuning",
    "Tuning",
    "audit",
    "evaluate",
    "read_collection",
    "read_qrels",
    "read_run",
    "tune",
    "tune_rerank",
    "write_run",
]
