"""Layers that stand between attentions: norms, dropout, feed-forward networks."""

from attnbridge.layers.base import Layer
from attnbridge.layers.dropout import Dropout
from attnbridge.layers.feed_forward import FeedForward
from attnbridge.layers.norms import BatchNorm, LayerNorm, RMSNorm

__all__ = ["BatchNorm", "Dropout", "FeedForward", "Layer", "LayerNorm", "RMSNorm"]
