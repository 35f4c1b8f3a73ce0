"""Linear maps of nodes, and networks of them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.config import as_dim_of_model
from attnbridge.errors import DimensionMismatchError, InvalidConfigError, NumericalInstabilityError
from attnbridge.parameters import Parameters, Parametrised
from attnbridge.validation import Float, as_bool, as_count, as_matrix


def linear(rows: Float, held: Parameters, name: str) -> Float:
    """Return rows W^T + b of a linear map's parameters, in the precision of rows; b where there is one."""
    with np.errstate(over="ignore", invalid="ignore"):
        out: Float = rows @ held[f"{name}.weight"].T.astype(rows.dtype, copy=False)
        if f"{name}.bias" in held:
            out += held[f"{name}.bias"]
    return out


def require_columns(rows: Float, count: int, name: str) -> None:
    """Refuse nodes of another dimension than the layer's."""
    if rows.shape[1] != count:
        raise DimensionMismatchError(f"X must have {name} = {count} columns, got {rows.shape[1]}")


def within_range(features: Float) -> Float:
    """Return features, which must be numbers."""
    if not np.isfinite(features).all():
        raise NumericalInstabilityError(f"features must be within {features.dtype}; rescale X, or the parameters")
    return features


class MLP(Parametrised):
    """A network of linear maps with ReLU between them.

    Parameters
    ----------
    sizes : sequence of int
        Dimensions from the input's to the output's, two at least.
    bias : bool, default True
        Whether the linear maps have biases.
    seed : int, default 0
        What the initial parameters are drawn from: weights Xavier uniform, biases 0.

    Raises
    ------
    InvalidConfigError

    Examples
    --------
    Parameters have the names of torch.nn.Sequential(Linear, ReLU, Linear).

    >>> import attnbridge as ab
    >>> network = ab.MLP([1, 2, 1])
    >>> network.set_parameters({"0.weight": [[1], [-1]], "0.bias": [0, 1], "2.weight": [[1, 1]], "2.bias": [0.5]})
    >>> network([[3.0], [-3.0]]).tolist()
    [[3.5], [4.5]]
    """

    def __init__(self, sizes: Sequence[int], bias: bool = True, seed: int = 0) -> None:
        if not isinstance(sizes, list | tuple) or len(sizes) < 2:
            raise InvalidConfigError(f"sizes must be dimensions from input to output, two at least, got {sizes!r}")
        self.sizes = tuple(as_dim_of_model(size, f"sizes[{i}]") for i, size in enumerate(sizes))
        self.bias = as_bool(bias, "bias")
        self.seed = as_count(seed, "seed", least=0)
        self._held = self._initial()

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal network, parameters aside."""
        return {"sizes": list(self.sizes), "bias": self.bias, "seed": self.seed}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for number, (before, after) in enumerate(pairwise(self.sizes)):
            shapes[f"{2 * number}.weight"] = (after, before)
            if self.bias:
                shapes[f"{2 * number}.bias"] = (after,)
        return shapes

    def __call__(self, X: npt.ArrayLike) -> Float:  # noqa: N803
        """Return the outputs of rows.

        Parameters
        ----------
        X : array_like, (n, sizes[0])

        Returns
        -------
        ndarray, (n, sizes[-1])
            float32, or float64 where X is.

        Raises
        ------
        DimensionMismatchError, InvalidInputError, NumericalInstabilityError
        """
        return self._outputs(as_matrix(X, "X", dim=self.sizes[0], keep_float64=True), self._held, "")

    def _outputs(self, rows: Float, held: Parameters, prefix: str) -> Float:
        """Return the outputs of checked rows under parameters whose names have a prefix."""
        last = len(self.sizes) - 2
        for number in range(last + 1):
            rows = linear(rows, held, f"{prefix}{2 * number}")
            if number < last:
                np.maximum(rows, 0.0, out=rows)
        return within_range(rows)

    def __repr__(self) -> str:
        return f"MLP({list(self.sizes)}, bias={self.bias}, seed={self.seed})"
