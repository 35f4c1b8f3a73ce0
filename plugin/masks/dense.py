"""Masks of pairs as arrays, and the check of any mask that a call is given."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidMaskError
from attnbridge.masks.sparse import SparseMask
from attnbridge.workspace import workspace


class Mask(Protocol):
    """A checked mask."""

    def apply(self, logits: npt.NDArray[np.float64]) -> None:
        """Change logits (..., L, S): -inf where a pair may not attend, or a number added."""
        ...


class DenseMask:
    """A boolean or an additive array.

    Parameters
    ----------
    data : ndarray of bool or float
        Broadcastable to the logits. True attends; a float is added.
    """

    def __init__(self, data: npt.NDArray[Any]) -> None:
        self.data = data

    def apply(self, logits: npt.NDArray[np.float64]) -> None:
        """Change logits (..., L, S)."""
        if self.data.dtype == np.bool_:
            with workspace(self.data.shape, np.bool_) as hidden:
                np.logical_not(self.data, out=hidden)
                np.copyto(logits, -np.inf, where=hidden)
            return
        with np.errstate(over="ignore"):
            logits += self.data
        if np.fmax.reduce(logits, axis=None, initial=-np.inf) == np.inf:
            raise InvalidMaskError("mask must stay within float64 when added to the logits (1.8e308); lower it")


def as_attention_mask(mask: Any, shape: tuple[int, ...]) -> Mask:
    """Return the checked mask of logits of a shape (..., L, S).

    Raises
    ------
    InvalidMaskError
    """
    if isinstance(mask, SparseMask):
        if mask.shape != shape[-2:]:
            raise InvalidMaskError(
                f"mask must have shape (queries, keys) = {shape[-2:]}, got a SparseMask {mask.shape}"
            )
        return mask
    data = np.asarray(mask)
    try:
        fits = np.broadcast_shapes(data.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise InvalidMaskError(f"mask must broadcast to (queries, keys) = {shape}, got shape {data.shape}")
    if data.dtype == np.bool_:
        return DenseMask(data)
    if data.dtype.kind != "f":  # whole numbers too: a mask of 0 and 1 would be added, and 0 mask nothing
        raise InvalidMaskError(
            f"mask must be boolean (True attends) or float (added), got dtype {data.dtype}; use .astype(bool) or float"
        )
    with np.errstate(invalid="ignore"):
        top = data.max(initial=-np.inf)
    if not top < np.inf:  # NaN is not
        raise InvalidMaskError("mask must be finite or -inf; NaN and +inf have no meaning in it")
    return DenseMask(data)
