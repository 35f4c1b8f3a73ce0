"""Norms: rows or columns brought to one scale."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge.config import EPS_REMEDY
from attnbridge.errors import InvalidConfigError, InvalidInputError, NumericalInstabilityError
from attnbridge.layers.base import Layer
from attnbridge.parameters import Parameters, named_parameters
from attnbridge.validation import Float, as_bool, as_count, as_number
from attnbridge.workspace import Lend

# Held for as long as running statistics take to replace: microseconds.
_updating = threading.Lock()


def _as_shape(value: Any) -> tuple[int, ...]:
    """Return the axes that are normalised together."""
    sizes = value if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else (value,)
    if len(sizes) == 0:
        raise InvalidConfigError("normalized_shape must be a whole number or several, got none")
    return tuple(as_count(size, "normalized_shape") for size in sizes)


def _root(variance: npt.NDArray[Any], eps: float) -> npt.NDArray[Any]:
    """Return sqrt(variance + eps), of squares that float64 holds."""
    if not np.isfinite(variance).all():
        raise NumericalInstabilityError("x must have squares within float64 (|x| up to 1e154); rescale it")
    root: npt.NDArray[Any] = np.sqrt(variance + eps)
    if not root.all():
        raise NumericalInstabilityError("x must vary where eps is 0; give eps > 0")
    return root


class LayerNorm(Layer):
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last axes; the variance is the biased one.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The last axes, over which mean and variance are taken.
    eps : float, default 1e-5
        >= 0.
    elementwise_affine : bool, default True
        Whether there is a weight, 1 at first.
    bias : bool, default True
        Whether, beside a weight, there is a bias, 0 at first.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Ba et al. 2016, Layer Normalization, equation 4.

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.LayerNorm(4).forward([1.0, 2.0, 3.0, 4.0]).round(3)
    array([-1.342, -0.447,  0.447,  1.342], dtype=float32)
    """

    _SETTINGS: ClassVar[tuple[str, ...]] = ("normalized_shape", "eps", "elementwise_affine", "bias")

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        self.normalized_shape = _as_shape(normalized_shape)
        self.eps = as_number(eps, "eps", least=0.0, remedy=EPS_REMEDY)
        self.elementwise_affine = as_bool(elementwise_affine, "elementwise_affine")
        self.bias = as_bool(bias, "bias")
        self._held = self._initial()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        names = () if not self.elementwise_affine else ("weight", "bias") if self.bias else ("weight",)
        return dict.fromkeys(names, self.normalized_shape)

    def _initial(self) -> Parameters:
        return _ones_and_zeros(self._shapes())

    def _own_shape(self) -> tuple[int, ...]:
        return self.normalized_shape

    def _apply(self, x: Float, training: bool, seed: int | None, lend: Lend) -> Float:
        axes = tuple(range(-len(self.normalized_shape), 0))
        wide = np.subtract(x, x.mean(axis=axes, keepdims=True, dtype=np.float64), out=_wide(x, lend))
        wide /= _root(_mean_square(wide, axes, lend), self.eps)
        return _scaled(wide, self._held)


class RMSNorm(Layer):
    """x / sqrt(mean(x^2) + eps) * weight, over the last axes.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The last axes, over which the mean is taken.
    eps : float, optional
        >= 0; by default the machine epsilon of x, 1.2e-7 in float32.
    elementwise_affine : bool, default True
        Whether there is a weight, 1 at first.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Zhang and Sennrich 2019, Root Mean Square Layer Normalization, equation 4.

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.RMSNorm(2).forward([3.0, 4.0]).round(3)
    array([0.849, 1.131], dtype=float32)
    """

    _SETTINGS: ClassVar[tuple[str, ...]] = ("normalized_shape", "eps", "elementwise_affine")

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True
    ) -> None:
        self.normalized_shape = _as_shape(normalized_shape)
        self.eps = None if eps is None else as_number(eps, "eps", least=0.0, remedy=EPS_REMEDY)
        self.elementwise_affine = as_bool(elementwise_affine, "elementwise_affine")
        self._held = self._initial()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": self.normalized_shape} if self.elementwise_affine else {}

    def _initial(self) -> Parameters:
        return _ones_and_zeros(self._shapes())

    def _own_shape(self) -> tuple[int, ...]:
        return self.normalized_shape

    def _apply(self, x: Float, training: bool, seed: int | None, lend: Lend) -> Float:
        axes = tuple(range(-len(self.normalized_shape), 0))
        wide = _wide(x, lend)
        np.copyto(wide, x)
        eps = float(np.finfo(x.dtype).eps) if self.eps is None else self.eps
        wide /= _root(_mean_square(wide, axes, lend), eps)
        return _scaled(wide, self._held)


class BatchNorm(Layer):
    """(x - mean) / sqrt(variance + eps) * weight + bias, column by column, over all leading axes.

    In training mean and (biased) variance are those of the batch, and the running ones move towards them:
    running = (1 - momentum) running + momentum batch, the variance there unbiased. Else they are the running ones, or
    the batch's where there are none. Calls in training change the layer; from several threads each counts once.

    Parameters
    ----------
    num_features : int
        The last axis (torch's ``BatchNorm1d`` has it second).
    eps : float, default 1e-5
        >= 0.
    momentum : float or None, default 0.1
        0 to 1; None: running statistics are the mean over all batches.
    affine : bool, default True
        Whether there are weight, 1 at first, and bias, 0 at first.
    track_running_stats : bool, default True
        Whether there are running_mean, running_var and num_batches_tracked.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Ioffe and Szegedy 2015, Batch Normalization, algorithms 1 and 2.

    Examples
    --------
    >>> import attnbridge as ab
    >>> layer = ab.BatchNorm(2)
    >>> layer.forward([[1.0, 10.0], [3.0, 30.0]], training=True).round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> layer.parameters()["running_mean"].round(3)
    array([0.2, 2. ], dtype=float32)
    """

    _SETTINGS: ClassVar[tuple[str, ...]] = ("num_features", "eps", "momentum", "affine", "track_running_stats")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        self.num_features = as_count(num_features, "num_features")
        self.eps = as_number(eps, "eps", least=0.0, remedy=EPS_REMEDY)
        self.momentum = None if momentum is None else as_number(momentum, "momentum", least=0.0, most=1.0)
        self.affine = as_bool(affine, "affine")
        self.track_running_stats = as_bool(track_running_stats, "track_running_stats")
        self._held = self._initial()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        names = ("weight", "bias") if self.affine else ()
        running = ("running_mean", "running_var") if self.track_running_stats else ()
        return dict.fromkeys(names + running, (self.num_features,))

    def _initial(self) -> Parameters:
        return _ones_and_zeros(self._shapes()) | self._counted(0)

    def _counted(self, batches: int) -> Parameters:
        return {"num_batches_tracked": np.array(batches, np.int64)} if self.track_running_stats else {}

    def set_parameters(self, parameters: Mapping[str, npt.ArrayLike]) -> None:
        """Put other parameters and running statistics in place, copied.

        Parameters
        ----------
        parameters : dict of str to array_like
            All that `parameters` returns.

        Raises
        ------
        InvalidConfigError, DimensionMismatchError, InvalidInputError
            Other names or shapes, a value that is not finite, or a running variance below 0; nothing has changed then.
        """
        shapes = self._shapes() | {name: array.shape for name, array in self._counted(0).items()}
        held = named_parameters(parameters, shapes)
        if self.track_running_stats:
            count = np.asarray(parameters["num_batches_tracked"]).item()
            held |= self._counted(as_count(count, "parameters['num_batches_tracked']", least=0))
            if (held["running_var"] < 0.0).any():
                raise InvalidInputError("parameters['running_var'] must be >= 0; a variance is")
        with _updating:
            self._held = held

    def _own_shape(self) -> tuple[int, ...]:
        return (self.num_features,)

    def _apply(self, x: Float, training: bool, seed: int | None, lend: Lend) -> Float:
        held, rows = self._held, x.reshape(-1, self.num_features)
        if not training and self.track_running_stats:
            wide = np.subtract(x, held["running_mean"], out=_wide(x, lend), dtype=np.float64)
            wide /= _root(held["running_var"].astype(np.float64), self.eps)
            return _scaled(wide, held)
        if len(rows) < 2:
            raise InvalidInputError(
                f"x must have at least 2 rows for a variance of the batch, got {len(rows)}; give more, or "
                "training=False with track_running_stats=True"
            )
        mean = rows.mean(axis=0, dtype=np.float64)
        wide = np.subtract(x, mean, out=_wide(x, lend))
        variance = _mean_square(wide.reshape(rows.shape), (0,), lend)[0]
        wide /= _root(variance, self.eps)
        if training and self.track_running_stats:
            self._track(mean, variance * (len(rows) / (len(rows) - 1)))
        return _scaled(wide, held)

    def _track(self, mean: npt.NDArray[np.float64], variance: npt.NDArray[np.float64]) -> None:
        """Move the running statistics towards those of a batch."""
        with _updating:
            held = self._held
            batches = int(held["num_batches_tracked"]) + 1
            share = 1.0 / batches if self.momentum is None else self.momentum
            moved = {
                name: ((1.0 - share) * held[name] + share * batch).astype(np.float32)
                for name, batch in (("running_mean", mean), ("running_var", variance))
            }
            if not all(np.isfinite(array).all() for array in moved.values()):
                raise NumericalInstabilityError("x must have mean and variance within float32 (3.4e38); rescale it")
            self._held = held | moved | self._counted(batches)


def _ones_and_zeros(shapes: Mapping[str, tuple[int, ...]]) -> Parameters:
    """Return weights and variances of 1, biases and means of 0."""
    ones = ("weight", "running_var")
    return {name: np.full(shape, float(name in ones), np.float32) for name, shape in shapes.items()}


def _wide(x: Float, lend: Lend) -> npt.NDArray[np.float64]:
    """Return an array for the output in float64: lent, unless that is the precision of x."""
    return np.empty(x.shape) if x.dtype == np.float64 else lend(x.shape, np.float64)


def _mean_square(wide: npt.NDArray[np.float64], axes: tuple[int, ...], lend: Lend) -> npt.NDArray[np.float64]:
    """Return the mean of squares over some axes, which stay as 1."""
    squares = np.multiply(wide, wide, out=lend(wide.shape, np.float64))
    mean: npt.NDArray[np.float64] = squares.mean(axis=axes, keepdims=True)
    return mean


def _scaled(wide: npt.NDArray[Any], held: Parameters) -> Float:
    """Return wide * weight + bias, where there are such."""
    if "weight" in held:
        wide *= held["weight"]
    if "bias" in held:
        wide += held["bias"]
    return wide
