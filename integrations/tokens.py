"""Token vectors as users give them, checked, and in the form in which they are stored: float16, or int8 with scales."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import DimensionMismatchError, InvalidInputError
from attnbridge.integrations.inputs import plain
from attnbridge.validation import as_floats, as_matrix, as_number, require_finite

Scales = npt.NDArray[np.float32]

# The largest float16, and what no longer rounds to it. Neither is an int8 token larger: products with it stay far
# inside float32.
_MOST, _BEYOND = 65504.0, 65520.0


class TokenArrays(NamedTuple):
    """Token vectors of some documents, each array as it is stored.

    Parameters
    ----------
    data : list of (n_i, dt) float16 or int8
    scales : list of (n_i,) float32, optional
        What each token's int8 codes are multiplied with; None for float16.
    """

    data: list[npt.NDArray[Any]]
    scales: list[Scales] | None = None

    def take(self, places: Iterable[int]) -> "TokenArrays":
        """Return the tokens of some of the documents."""
        places = list(places)
        scales = None if self.scales is None else [self.scales[i] for i in places]
        return TokenArrays([self.data[i] for i in places], scales)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """How many tokens each document has."""
        return np.array([len(array) for array in self.data], np.int64)

    @property
    def dim(self) -> int | None:
        """Dimension of a token vector; None where no document has tokens."""
        return next((array.shape[1] for array in self.data if len(array)), None)


def as_tokens(tokens: Any, token_scale: Any, count: int, dim: int | None, dtype: str) -> TokenArrays | None:
    """Return checked token vectors of `count` documents as they are stored; None where none are given.

    Parameters
    ----------
    tokens : list of array_like (n_i, dt), or None
        Floats, or int8 codes, which have a `token_scale`; None stands for a document without tokens.
    token_scale : float, or list of float, array_like (n_i,) or None
    count : int
    dim : int or None
        Dimension of a token vector; None where the first one decides.
    dtype : {"float16", "int8"}
    """
    if tokens is None:
        if token_scale is not None:
            raise InvalidInputError("token_scale is that of int8 tokens, and no tokens are given; pass tokens=... too")
        return None
    if isinstance(tokens, str) or not isinstance(tokens, Sequence | np.ndarray):
        raise InvalidInputError(f"tokens must be a list of arrays (n_i, dt), got {type(tokens).__name__}")
    if len(tokens) != count:
        raise DimensionMismatchError(f"tokens must have one array for each of {count} vectors, got {len(tokens)}")
    data: list[npt.NDArray[Any]] = []
    scales: list[Scales] = []
    for i, (given, scale) in enumerate(zip(tokens, _scale_list(token_scale, count), strict=True)):
        given = _as_array(given)
        array = as_matrix(given, f"tokens[{i}]")
        if len(array) and dim is not None and array.shape[1] != dim:
            raise DimensionMismatchError(
                f"tokens must have one dimension: tokens[{i}] has {array.shape[1]}, those before have {dim}"
            )
        dim = array.shape[1] if len(array) else dim
        steps = _given_scale(given, scale, len(array), i)
        if dtype == "int8":
            codes, steps = _as_codes(array, steps, i)
            data.append(codes)
            scales.append(steps)
        else:
            data.append(_as_halves(array, steps, i))
    data = [array if len(array) else array.reshape(0, dim or 0) for array in data]
    return TokenArrays(data, scales if dtype == "int8" else None)


def _as_array(given: Any) -> Any:
    """Return a list of numbers as an array, so that its type can be asked for; what is ragged as it is."""
    if given is None:
        return np.empty(0, np.float32)
    if not isinstance(given, list | tuple):
        return given
    try:
        return np.asarray(given)
    except (ValueError, TypeError, RuntimeError):
        return given  # the check that comes next says what is wrong


def _scale_list(scale: Any, count: int) -> list[Any]:
    """Return an entry for each document."""
    scale = list(scale) if isinstance(scale, np.ndarray) and scale.ndim > 1 else plain(scale)
    if scale is None:
        return [None] * count
    if isinstance(scale, str) or not isinstance(scale, Sequence):
        return [as_number(scale, "token_scale", least=0.0, most=_MOST)] * count
    if len(scale) != count:
        raise DimensionMismatchError(
            f"token_scale must be a number, or have one entry for each of {count} vectors, got {len(scale)}"
        )
    return list(scale)


def _given_scale(given: Any, scale: Any, count: int, place: int) -> Scales | None:
    """Return the scale of each of a document's int8 tokens; None where they are floats."""
    if not _is_int8(given):
        if scale is not None and count:
            kind = getattr(given, "dtype", type(given).__name__)
            raise InvalidInputError(
                f"token_scale can be given for int8 tokens only: tokens[{place}] is {kind}; leave it out, or pass None "
                "for this document"
            )
        return None
    if scale is None:
        if count:
            raise InvalidInputError(
                f"tokens[{place}] is int8 and needs token_scale: value = code * scale; pass a number, one for each "
                "document, or an array (n_i,) for each; or pass the values as floats"
            )
        return np.empty(0, np.float32)
    name = f"token_scale[{place}]"
    if not isinstance(scale, np.ndarray) or not scale.ndim:
        scale = plain(scale)
        if isinstance(scale, str) or not isinstance(scale, Sequence):
            return np.full(count, as_number(scale, name, least=0.0, most=_MOST), np.float32)
    scales = as_floats(scale, name).astype(np.float32)
    if scales.shape != (count,):
        raise DimensionMismatchError(
            f"{name} must be a number, or one for each of {count} tokens, got shape {scales.shape}"
        )
    require_finite(scales, name)
    if (scales < 0).any():
        at = int(np.flatnonzero(scales < 0)[0])
        raise InvalidInputError(f"{name} must be >= 0: position {at} is {scales[at]}; turn the signs of its codes")
    return scales


def _is_int8(given: Any) -> bool:
    """Return whether an array holds codes; one of another library too: torch.int8."""
    if isinstance(given, np.ndarray):
        return bool(given.dtype == np.int8)
    return str(getattr(given, "dtype", "")).rpartition(".")[2] == "int8"


def _as_halves(array: npt.NDArray[Any], scales: Scales | None, place: int) -> npt.NDArray[np.float16]:
    """Return a document's tokens as float16."""
    with np.errstate(over="ignore"):
        half = (array if scales is None else array * scales[:, None]).astype(np.float16)
    if not np.isfinite(half).all():
        raise InvalidInputError(f"tokens must fit float16 (up to 65504): tokens[{place}] does not; rescale it")
    return half


def _as_codes(
    array: npt.NDArray[Any], scales: Scales | None, place: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return a document's tokens as int8 codes and the scale of each: max abs / 127, 0 for zeros, where not given."""
    codes = np.empty(array.shape, np.int8)
    if scales is None:
        steps = np.empty(len(array))
        kernels.to_int8(array, codes, steps)
        largest, scales = 127.0 * float(steps.max(initial=0.0)), steps.astype(np.float32)
    else:
        codes[:] = array
        largest = 128.0 * float(scales.max(initial=0.0))
        if largest >= _BEYOND:  # perhaps: not every code is -128
            largest = float((np.abs(array).max(axis=1, initial=0.0) * scales.astype(np.float64)).max())
    if largest >= _BEYOND:
        raise InvalidInputError(f"tokens must be at most 65504 in size: tokens[{place}] is not; rescale it")
    return codes, scales
