"""Which pairs of query and key may attend: as an array, or as the list of the pairs."""

from attnbridge.masks.dense import DenseMask, Mask, as_attention_mask
from attnbridge.masks.sparse import SparseMask

__all__ = ["DenseMask", "Mask", "SparseMask", "as_attention_mask"]
