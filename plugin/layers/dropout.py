"""Dropout of the numbers of an array."""

from typing import ClassVar

import numpy as np

from attnbridge import kernels
from attnbridge.config import as_dropout
from attnbridge.layers.base import Layer
from attnbridge.validation import Float
from attnbridge.workspace import Lend


class Dropout(Layer):
    """In training, 0 in place of each number with probability p, and x / (1 - p) in place of the others.

    Parameters
    ----------
    p : float, default 0.5
        [0, 1).

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Srivastava et al. 2014, Dropout: A Simple Way to Prevent Neural Networks from Overfitting; scaled as in torch.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> layer = ab.Dropout(0.5)
    >>> layer.forward(np.ones(8), training=True, seed=1)
    array([0., 0., 0., 2., 2., 2., 0., 0.])
    >>> layer.forward(np.ones(3))
    array([1., 1., 1.])
    """

    _SETTINGS: ClassVar[tuple[str, ...]] = ("p",)

    def __init__(self, p: float = 0.5) -> None:
        self.p = as_dropout(p, "p")
        self._held = {}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def _apply(self, x: Float, training: bool, seed: int | None, lend: Lend) -> Float:
        return dropped(x.copy(), self.p, seed) if training and self.p > 0.0 else x.copy()


def dropped(x: Float, rate: float, seed: int | None) -> Float:
    """Return x (..., d), dropped in place."""
    draw = int(np.random.default_rng(seed).integers(2**63))
    kernels.drop(x.reshape(-1, x.shape[-1]), rate, draw, 0, 0, 0)
    return x
