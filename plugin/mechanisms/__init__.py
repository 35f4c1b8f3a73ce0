"""Attention mechanisms: each module holds a type's row of the registry and its class over whole sequences."""

from attnbridge.mechanisms.base import Attention, AttentionContext, AttentionOutput
from attnbridge.mechanisms.cross import CrossAttention
from attnbridge.mechanisms.geometric import GeometricAttention
from attnbridge.mechanisms.graph import GraphAttention
from attnbridge.mechanisms.hyperbolic import HyperbolicAttention
from attnbridge.mechanisms.linear import LinearAttention
from attnbridge.mechanisms.moe import MixtureOfExpertsAttention
from attnbridge.mechanisms.multi_head import MultiHeadAttention
from attnbridge.mechanisms.sliding import SlidingWindowAttention
from attnbridge.mechanisms.sparse import SparseAttention
from attnbridge.mechanisms.standard import FlashAttention, ScaledDotProductAttention

__all__ = [
    "Attention",
    "AttentionContext",
    "AttentionOutput",
    "CrossAttention",
    "FlashAttention",
    "GeometricAttention",
    "GraphAttention",
    "HyperbolicAttention",
    "LinearAttention",
    "MixtureOfExpertsAttention",
    "MultiHeadAttention",
    "ScaledDotProductAttention",
    "SlidingWindowAttention",
    "SparseAttention",
]
