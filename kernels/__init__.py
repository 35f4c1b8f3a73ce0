"""Floor 1: Numba kernels on C-contiguous arrays.

No classes, no validation and no Python objects live here; everything above checks first and calls then.
Kernels write into the arrays they are given, release the GIL and are serial: a batch is split over threads
by ``attnbridge.threads``, one floor up.
"""

from attnbridge.kernels.codes import project, to_int8
from attnbridge.kernels.dense import attend_few, attend_many
from attnbridge.kernels.dot import dot, row_squares, weighted_sum
from attnbridge.kernels.dropout import drop
from attnbridge.kernels.expand import expand
from attnbridge.kernels.graph import edge_logits, gat_forward, gatv2, gatv2_forward, group_edges
from attnbridge.kernels.hyperbolic import poincare, rerank_poincare
from attnbridge.kernels.likeness import diffuse, mmr
from attnbridge.kernels.linear import elu_features, linear_attention
from attnbridge.kernels.mask import true_rows
from attnbridge.kernels.maxsim import maxsim
from attnbridge.kernels.rerank import exact_top_k, exact_top_k_each, rerank
from attnbridge.kernels.rotary import turned_dots
from attnbridge.kernels.segment import segment_max, segment_sum
from attnbridge.kernels.softmax import logsumexp, softmax
from attnbridge.kernels.sparse import attend_pairs
from attnbridge.kernels.topk import top_k
from attnbridge.kernels.walk import list_levels, scan, walk

__all__ = [
    "attend_few",
    "attend_many",
    "attend_pairs",
    "diffuse",
    "dot",
    "drop",
    "edge_logits",
    "elu_features",
    "exact_top_k",
    "exact_top_k_each",
    "expand",
    "gat_forward",
    "gatv2",
    "gatv2_forward",
    "group_edges",
    "linear_attention",
    "list_levels",
    "logsumexp",
    "maxsim",
    "mmr",
    "poincare",
    "project",
    "rerank",
    "rerank_poincare",
    "row_squares",
    "scan",
    "segment_max",
    "segment_sum",
    "softmax",
    "to_int8",
    "top_k",
    "true_rows",
    "turned_dots",
    "walk",
    "weighted_sum",
]
