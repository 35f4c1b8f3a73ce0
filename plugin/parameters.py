"""Trainable arrays by name: how layers hold them, hand them out and take others."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge.errors import DimensionMismatchError, InvalidConfigError
from attnbridge.validation import as_floats, require_finite

Parameters = dict[str, npt.NDArray[Any]]


class Parametrised(ABC):
    """Settings, and parameters held as float32 and replaced as a whole.

    A constructor sets what `_SETTINGS` names, then `_held` to `_initial()`.
    """

    # Names of the constructor's arguments, in its order; each is an attribute.
    _SETTINGS: ClassVar[tuple[str, ...]] = ()

    _held: Parameters
    # What Xavier uniform parameters are drawn from; layers that begin otherwise have none.
    seed: int

    @abstractmethod
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter, in the order of `parameters`."""

    def _initial(self) -> Parameters:
        """Return Xavier uniform parameters (Glorot and Bengio 2010, equation 16), biases of 0."""
        rng, held = np.random.default_rng(self.seed), {}
        for name, shape in self._shapes().items():
            bound = (6.0 / (shape[-2] + shape[-1])) ** 0.5 if len(shape) > 1 else 0.0
            held[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
        return held

    @property
    def config(self) -> dict[str, Any]:
        """What the layer was made with."""
        return {name: getattr(self, name) for name in self._SETTINGS}

    def parameters(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of the parameters, by the names of torch's state_dict.

        Returns
        -------
        dict of str to ndarray of float32
        """
        return {name: array.copy() for name, array in self._held.items()}

    def set_parameters(self, parameters: Mapping[str, npt.ArrayLike]) -> None:
        """Put other parameters in place, copied; a call that has begun goes on with those before.

        Parameters
        ----------
        parameters : dict of str to array_like
            All that `parameters` returns: of a module of torch,
            {name: tensor.numpy() for name, tensor in module.state_dict().items()}.

        Raises
        ------
        InvalidConfigError, DimensionMismatchError, InvalidInputError
            Other names or shapes, or a value that is not finite; nothing has changed then.
        """
        self._held = named_parameters(parameters, self._shapes())

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.config.items())
        return f"{type(self).__name__}({settings})"


def named_parameters(parameters: Any, shapes: Mapping[str, tuple[int, ...]]) -> Parameters:
    """Return copies of checked parameters, all that there must be."""
    if not isinstance(parameters, Mapping):
        raise InvalidConfigError(f"parameters must be a dict of arrays by name, got {type(parameters).__name__}")
    if set(parameters) != set(shapes):
        missing, unknown = sorted(set(shapes) - set(parameters)), sorted(map(str, set(parameters) - set(shapes)))
        raise InvalidConfigError(
            f"parameters must be {', '.join(shapes) or 'none'}: missing {', '.join(missing) or 'none'}, "
            f"unknown {', '.join(unknown) or 'none'}"
        )
    held: Parameters = {}
    for name, shape in shapes.items():
        array = as_floats(parameters[name], f"parameters[{name!r}]")
        if array.shape != shape:
            raise DimensionMismatchError(f"parameters[{name!r}] must be {shape}, got shape {array.shape}")
        require_finite(array, f"parameters[{name!r}]")
        held[name] = np.array(array, np.float32)
    return held
