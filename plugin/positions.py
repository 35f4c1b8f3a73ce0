"""Rotary position embedding: queries and keys turned by their places."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import (
    DimensionMismatchError,
    InputTooLargeError,
    InvalidConfigError,
    InvalidInputError,
    NumericalInstabilityError,
)
from attnbridge.validation import Float, as_array, as_bool, as_count, as_floats, as_number, require_finite

_Wide = npt.NDArray[np.float64]

# Places times dimensions up to which tables are kept: 32 MB, of the last four.
_MOST_KEPT = 1 << 21


@dataclass(frozen=True)
class RotaryEmbedding:
    """Rotation of pairs of columns by position * base^(-2i/dim), i = 0 .. dim/2 - 1.

    Of a query turned by its position m and a key turned by n, the product depends on the two vectors and m - n alone.
    As an option of attention (`rotary=`), it turns the queries and keys of each head before their products.

    Parameters
    ----------
    dim : int
        Dimension of what is turned, that of a head; even.
    base : float, default 10000.0
        > 1. A larger one turns slower.
    max_seq_len : int, optional
        Positions from it on are refused.
    interleaved : bool, default True
        Whether pairs are columns (2i, 2i + 1), as in the paper, or (i, i + dim/2), as in GPT-NeoX and Llama models.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Su et al. 2021, RoFormer: Enhanced Transformer with Rotary Position Embedding, equations 15 and 34.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> rotary = ab.RotaryEmbedding(2)
    >>> rotary.rotate([[1.0, 0.0], [1.0, 0.0]]).round(3)
    array([[1.   , 0.   ],
           [0.54 , 0.841]], dtype=float32)
    >>> attention = ab.ScaledDotProductAttention(rotary=rotary)
    >>> attention.logits([1.0, 0.0], [[1.0, 0.0], [1.0, 0.0]]).round(3)
    array([0.707, 0.382])
    """

    dim: int
    base: float = 10000.0
    max_seq_len: int | None = None
    interleaved: bool = True

    def __post_init__(self) -> None:
        dim = as_count(self.dim, "dim", most=65_536)
        if dim % 2:
            raise InvalidConfigError(f"dim must be even, columns are turned in pairs; got {dim}")
        most = None if self.max_seq_len is None else as_count(self.max_seq_len, "max_seq_len")
        for name, value in (
            ("dim", dim),
            ("base", as_number(self.base, "base", above=1.0, remedy="10000.0 is the usual one")),
            ("max_seq_len", most),
            ("interleaved", as_bool(self.interleaved, "interleaved")),
        ):
            object.__setattr__(self, name, value)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal embedding."""
        return asdict(self)

    def rotate(self, x: npt.ArrayLike, positions: npt.ArrayLike | None = None) -> Float:
        """Return each vector turned by its position.

        Parameters
        ----------
        x : array_like, (..., L, dim), or (dim,)
            Heads are a leading axis, (..., H, L, dim).
        positions : array_like of int, broadcastable to the axes before dim, optional
            >= 0; by default 0 .. L - 1, of a lone vector 0.

        Returns
        -------
        ndarray, of the shape of x
            float64 where x is, float32 else.

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InputTooLargeError
        """
        array = as_vectors(x, "x", self.dim)
        if positions is None:
            length = array.shape[-2] if array.ndim > 1 else 1
            self._require_length(length - 1)
            cosine, sine = _tables(self, length)
            return self._turned(array, cosine if array.ndim > 1 else cosine[0], sine if array.ndim > 1 else sine[0])
        places = as_whole(positions, "positions", least=0)
        if not _fits(places.shape, array.shape[:-1]):
            raise DimensionMismatchError(f"positions must broadcast to {array.shape[:-1]}, got shape {places.shape}")
        self._require_length(int(places.max(initial=0)))
        return self._turned(array, *cosines_and_sines(self, places))

    def _require_length(self, last: int) -> None:
        if self.max_seq_len is not None and last >= self.max_seq_len:
            raise InputTooLargeError(
                f"positions must be below max_seq_len = {self.max_seq_len}, got {last}; raise max_seq_len, or cut it"
            )

    def _heads(self, array: Float, heads: int, start: int = 0) -> Float:
        """Return rows (m, L, heads * dim), each head turned by the row's place, the first one at `start`."""
        count, length, width = array.shape
        self._require_length(start + length - 1)
        cosine, sine = (table[start:] for table in _tables(self, start + length))
        parts = array.reshape(count, length, heads, width // heads)
        return self._turned(parts, cosine[:, None], sine[:, None]).reshape(array.shape)

    def _turned(self, x: Float, cosine: Float, sine: Float) -> Float:
        """Return x (..., dim) turned by angles whose cosines and sines are (..., dim / 2)."""
        half = self.dim // 2
        first, second = (slice(0, None, 2), slice(1, None, 2)) if self.interleaved else (slice(half), slice(half, None))
        cosine, sine = cosine.astype(x.dtype, copy=False), sine.astype(x.dtype, copy=False)
        one, other, out = x[..., first], x[..., second], np.empty_like(x)
        with np.errstate(over="ignore", invalid="ignore"):
            out[..., first] = one * cosine - other * sine
            out[..., second] = one * sine + other * cosine
        if not np.isfinite(out).all():
            raise NumericalInstabilityError(f"what is turned by its place must stay within {x.dtype}; rescale it")
        return out


def as_rotary(value: Any, dim: int | None = None) -> RotaryEmbedding | None:
    """Return an embedding, or that of its config, for heads of a dimension where that is known; None is None."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        try:
            value = RotaryEmbedding(**value)
        except TypeError as error:
            raise InvalidConfigError(f"rotary must be as the config of a RotaryEmbedding: {error}") from None
    if not isinstance(value, RotaryEmbedding):
        raise InvalidConfigError(f"rotary must be a RotaryEmbedding, its config, or None; got {value!r}")
    if dim is not None:
        require_head_dim(value, dim)
    return value


def require_head_dim(rotary: RotaryEmbedding, dim: int) -> None:
    """Refuse an embedding for heads of another dimension."""
    if rotary.dim != dim:
        raise DimensionMismatchError(
            f"rotary must have dim = {dim} as queries and keys of a head have, got {rotary.dim}"
        )


def cosines_and_sines(rotary: RotaryEmbedding, places: npt.NDArray[Any]) -> tuple[_Wide, _Wide]:
    """Return cosines and sines (..., dim / 2) of positions times frequencies."""
    frequencies = rotary.base ** (-np.arange(0, rotary.dim, 2) / rotary.dim)
    angles = places[..., None] * frequencies
    return np.cos(angles), np.sin(angles)


def _tables(rotary: RotaryEmbedding, length: int) -> tuple[_Wide, _Wide]:
    """Return what `_angles` does, of places 0 .. length - 1; sequences that grow find most of it made."""
    if length * rotary.dim > _MOST_KEPT:
        return cosines_and_sines(rotary, np.arange(length))
    cosine, sine = _made_tables(rotary.dim, rotary.base, 1 << max(0, length - 1).bit_length())
    return cosine[:length], sine[:length]


@lru_cache(maxsize=4)
def _made_tables(dim: int, base: float, length: int) -> tuple[_Wide, _Wide]:
    return cosines_and_sines(RotaryEmbedding(dim, base), np.arange(length))


def as_vectors(value: Any, name: str, dim: int) -> Float:
    """Return finite vectors (..., dim)."""
    array = as_floats(value, name, keep_float64=True)
    if array.ndim == 0 or array.shape[-1] != dim:
        raise DimensionMismatchError(f"{name} must be (..., {dim}), got shape {array.shape}")
    if not np.isfinite(array).all():
        require_finite(array if array.ndim == 1 else array.reshape(-1, dim), name)
    return array


def as_whole(value: Any, name: str, least: int) -> npt.NDArray[np.int64]:
    """Return whole numbers of at least `least`; floats that are whole go in too."""
    array = as_array(value, name)
    if array.dtype.kind not in "iuf":
        raise InvalidInputError(f"{name} must be whole numbers, got dtype {array.dtype}")
    if array.dtype.kind == "f" or array.max(initial=0) >= 2**53:
        odd = array[(array != np.rint(array)) | (np.abs(array) >= 2.0**53)]
        if odd.size:
            raise InvalidInputError(f"{name} must be whole numbers below 2^53, got {odd.flat[0]}")
    whole: npt.NDArray[np.int64] = np.asarray(array, np.int64, order="C")
    if whole.min(initial=0) < least:
        raise InvalidInputError(f"{name} must be >= {least}, got {whole.min()}")
    return whole


def _fits(shape: tuple[int, ...], want: tuple[int, ...]) -> bool:
    """Return whether a shape broadcasts to another."""
    try:
        return np.broadcast_shapes(shape, want) == want
    except ValueError:
        return False
