"""Attention mechanisms: each module holds a type's row of the registry and its class over whole sequences."""

from attnbridge.mechanisms.base import Attention, AttentionContext, AttentionOutput
from attnbridge.mechanisms.geometric import GeometricAttention
from attnbridge.mechanisms.hyperbolic import HyperbolicAttention
from attnbridge.mechanisms.standard import ScaledDotProductAttention

__all__ = [
    "Attention",
    "AttentionContext",
    "AttentionOutput",
    "GeometricAttention",
    "HyperbolicAttention",
    "ScaledDotProductAttention",
]
