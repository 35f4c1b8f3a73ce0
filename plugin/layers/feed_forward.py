"""The position-wise network of a transformer block."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge.config import as_dim_of_model, as_dropout
from attnbridge.layers.base import Layer
from attnbridge.layers.dropout import dropped
from attnbridge.validation import Float, all_finite, as_bool, as_choice, as_count
from attnbridge.workspace import FEW_NUMBERS, Lend, workspace


def _relu(x: Float) -> Float:
    return np.maximum(x, 0.0, out=x)


def _gelu(x: Float) -> Float:
    """Return x P(Z <= x), Z standard normal (Hendrycks and Gimpel 2016), in place."""
    from scipy.special import ndtr

    return _times(x, ndtr)


def _silu(x: Float) -> Float:
    """Return x / (1 + exp(-x)) (Elfwing et al. 2018), in place."""
    from scipy.special import expit

    return _times(x, expit)


def _times(x: Float, function: np.ufunc) -> Float:
    """Return x times a function of it, in place."""
    if x.size < FEW_NUMBERS:
        x *= function(x)
        return x
    with workspace(x.shape, x.dtype) as factor:
        x *= function(x, out=factor)
    return x


_ACTIVATIONS: dict[str, Callable[[Float], Float]] = {"relu": _relu, "gelu": _gelu, "silu": _silu}


class FeedForward(Layer):
    """W_2 dropout(activation(W_1 x + b_1)) + b_2, row by row.

    Parameters are named as in torch's ``TransformerEncoderLayer``: linear1.weight (d_ff, d_model), linear1.bias,
    linear2.weight (d_model, d_ff), linear2.bias.

    Parameters
    ----------
    d_model : int
        Dimension of input and output.
    d_ff : int, optional
        Dimension between; by default 4 * d_model.
    activation : {"relu", "gelu", "silu"}, default "relu"
        gelu is the exact one.
    dropout : float, default 0.0
        Rate at which what is between is dropped in training.
    bias : bool, default True
        Whether there are b_1 and b_2.
    seed : int, default 0
        Of the initial parameters: matrices uniform within sqrt(6 / (rows + columns)), biases zero.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Vaswani et al. 2017, Attention Is All You Need, equation 2.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> layer = ab.FeedForward(2, 1, bias=False)
    >>> layer.set_parameters({"linear1.weight": [[1.0, -1.0]], "linear2.weight": [[3.0], [4.0]]})
    >>> layer.forward([[5.0, 3.0], [3.0, 5.0]])
    array([[6., 8.],
           [0., 0.]], dtype=float32)
    """

    _SETTINGS: ClassVar[tuple[str, ...]] = ("d_model", "d_ff", "activation", "dropout", "bias", "seed")

    def __init__(
        self,
        d_model: int,
        d_ff: int | None = None,
        activation: str = "relu",
        dropout: float = 0.0,
        bias: bool = True,
        seed: int = 0,
    ) -> None:
        self.d_model = as_dim_of_model(d_model)
        self.d_ff = 4 * self.d_model if d_ff is None else as_dim_of_model(d_ff, "d_ff")
        self.activation = as_choice(activation, "activation", _ACTIVATIONS)
        self.dropout = as_dropout(dropout)
        self.bias = as_bool(bias, "bias")
        self.seed = as_count(seed, "seed", least=0)
        self._held = self._initial()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        sizes = {"linear1": (self.d_ff, self.d_model), "linear2": (self.d_model, self.d_ff)}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, size in sizes.items():
            shapes[f"{name}.weight"] = size
            if self.bias:
                shapes[f"{name}.bias"] = size[:1]
        return shapes

    def _own_shape(self) -> tuple[int, ...]:
        return (self.d_model,)

    def _apply(self, x: Float, training: bool, seed: int | None, lend: Lend) -> Float:
        rate = self.dropout if training else 0.0
        if rate > 0.0 and seed is None:  # the same draw where it is done again
            seed = int(np.random.default_rng().integers(2**63))
        held = self._held
        out = self._run(x, held, rate, seed, lend)
        return out if all_finite(out) else self._run(x.astype(np.float64), held, rate, seed, lend)

    def _run(
        self, x: Float, held: dict[str, npt.NDArray[np.float32]], rate: float, seed: int | None, lend: Lend
    ) -> Float:
        rows = x.reshape(-1, x.shape[-1])
        hidden = _ACTIVATIONS[self.activation](self._linear(rows, held, "linear1", lend))
        if rate > 0.0:
            hidden = dropped(hidden, rate, seed)
        return self._linear(hidden, held, "linear2").reshape(x.shape)

    def _linear(self, rows: Float, held: dict[str, npt.NDArray[np.float32]], name: str, lend: Lend = np.empty) -> Float:
        weight = held[f"{name}.weight"]
        out: Float = lend((len(rows), len(weight)), rows.dtype)
        np.matmul(rows, weight.T.astype(rows.dtype, copy=False), out=out)
        if self.bias:
            out += held[f"{name}.bias"]
        return out
