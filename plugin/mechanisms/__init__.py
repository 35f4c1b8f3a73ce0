"""Attention mechanisms: each module holds a type's row of the registry and its class over whole sequences."""

from attnbridge.mechanisms.base import Attention, AttentionContext, AttentionOutput
from attnbridge.mechanisms.cross import CrossAttention
from attnbridge.mechanisms.hyperbolic import HyperbolicAttention
from attnbridge.mechanisms.multi_head import MultiHeadAttention
from attnbridge.mechanisms.sliding import SlidingWindowAttention
from attnbridge.mechanisms.standard import FlashAttention, ScaledDotProductAttention

__all__ = [
    "Attention",
    "AttentionContext",
    "AttentionOutput",
    "CrossAttention",
    "FlashAttention",
    "HyperbolicAttention",
    "MultiHeadAttention",
    "ScaledDotProductAttention",
    "SlidingWindowAttention",
]
