"""What layers over rows share: the call, what is refused, parameters by name."""

from abc import abstractmethod

import numpy as np
import numpy.typing as npt

from attnbridge.errors import DimensionMismatchError, NumericalInstabilityError
from attnbridge.parameters import Parametrised
from attnbridge.validation import Float, all_finite, as_bool, as_count, as_floats, require_finite
from attnbridge.workspace import Lend, Workspaces


class Layer(Parametrised):
    """A layer over the last axis (or axes) of an array of any shape before them.

    Examples
    --------
    >>> import attnbridge as ab
    >>> from attnbridge.layers import Layer
    >>> isinstance(ab.LayerNorm(4), Layer)
    True
    """

    @abstractmethod
    def _apply(self, x: Float, training: bool, seed: int | None, lend: Lend) -> Float:
        """Return the output for checked input, in its precision or a wider one; a wider one may be lent."""

    def _own_shape(self) -> tuple[int, ...]:
        """Return what the last axes must be; () for any."""
        return ()

    def forward(self, x: npt.ArrayLike, *, training: bool = False, seed: int | None = None) -> Float:
        """Return the layer's output.

        Parameters
        ----------
        x : array_like, (..., d)
        training : bool, default False
            Apply what acts in training only.
        seed : int, optional
            What is random in training is drawn from it; by default fresh.

        Returns
        -------
        ndarray, of the shape of x
            float64 where x is, float32 else.

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidConfigError
        NumericalInstabilityError
            An output beyond the precision of x.
        """
        array, own = as_floats(x, "x", keep_float64=True), self._own_shape()
        if array.ndim == 0 or array.shape[array.ndim - len(own) :] != own:
            want = ", ".join(("...", *map(str, own or ("d",))))
            raise DimensionMismatchError(f"x must be ({want}) for {self!r}, got shape {array.shape}")
        if array.shape[-1] == 0:
            raise DimensionMismatchError(f"x must not be empty: its last axis has no values, got shape {array.shape}")
        if not all_finite(array):
            require_finite(array if array.ndim == 1 else array.reshape(-1, array.shape[-1]), "x")
        seed = None if seed is None else as_count(seed, "seed", least=0)
        with np.errstate(over="ignore", invalid="ignore"), Workspaces(array.size) as lend:
            out = self._apply(array, as_bool(training, "training"), seed, lend).astype(array.dtype, copy=False)
        if not all_finite(out):
            raise NumericalInstabilityError(
                f"output of {type(self).__name__} must be within {array.dtype}, it is not; rescale x or the parameters"
            )
        return out

    def __call__(self, x: npt.ArrayLike, *, training: bool = False, seed: int | None = None) -> Float:
        """Return `forward` of the same."""
        return self.forward(x, training=training, seed=seed)
