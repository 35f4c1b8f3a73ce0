"""Rows in fewer bits: what a store may be asked for, and rows packed one by one, with nothing to fit."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidConfigError
from attnbridge.threads import for_chunks, usable_threads
from attnbridge.validation import as_choice, as_count, kernel_ready

# What an array of each holds; float16 goes by its bits, as the kernels read it.
STORED: dict[str, type[np.generic]] = {"float32": np.float32, "float16": np.uint16, "int8": np.int8}
DISK: dict[str, type[np.generic]] = {"float32": np.float32, "float16": np.float16, "int8": np.int8}

# What token vectors are stored as; int8 with a scale for each of them.
TOKEN_DTYPES = ("float16", "int8")

# A product of int8 codes of this many values fits 32 bits.
_MOST_INT8 = 2**17

# The moments of more values than this would take minutes to analyse.
_MOST_REDUCED = 4096

_CHUNK = 1024


@dataclass(frozen=True)
class RowSettings:
    """How a store keeps its rows and their tokens.

    Parameters
    ----------
    dtype : {"float32", "float16", "int8"}
        Of the rows that the graph is walked over.
    index_dim : int, optional
        The dimension that these are reduced to.
    keep_full : bool, default True
        Keep the float32 rows as well, to rank what the walk finds. Without, rows are given back as they are stored:
        float16 or int8, each with a scale of its own.
    token_dtype : {"float16", "int8"}, default "float16"
        Of the token vectors; each int8 one with a scale of its own.

    Raises
    ------
    InvalidConfigError
        An unknown dtype, or settings that exclude each other.
    """

    dtype: str = "float32"
    index_dim: int | None = None
    keep_full: bool = True
    token_dtype: str = "float16"

    def __post_init__(self) -> None:
        for name, choices in (("dtype", STORED), ("token_dtype", TOKEN_DTYPES)):
            given: Any = getattr(self, name)
            object.__setattr__(self, name, as_choice(getattr(given, "name", given), name, choices))  # numpy's too
        if self.index_dim is not None:
            object.__setattr__(self, "index_dim", as_count(self.index_dim, "index_dim"))
        if not isinstance(self.keep_full, bool):
            raise InvalidConfigError(f"keep_full must be True or False, got {self.keep_full!r}")
        if self.keep_full:
            return
        if self.index_dim is not None:
            raise InvalidConfigError(
                f"keep_full=False must go without index_dim, got index_dim={self.index_dim}: rows cannot be given back "
                "from their reduction; leave keep_full=True, or index_dim=None"
            )
        if self.dtype == "float32":
            raise InvalidConfigError(
                "keep_full=False must go with dtype='float16' or 'int8', got 'float32': these are the full rows; set "
                "dtype, or leave keep_full=True"
            )

    def check_dim(self, dim: int) -> None:
        """Refuse vectors of a dimension that the settings do not fit."""
        if self.index_dim is not None and self.index_dim > dim:
            raise InvalidConfigError(
                f"index_dim must be at most dim = {dim}, got {self.index_dim}; use a smaller one, or None"
            )
        if self.index_dim is not None and dim > _MOST_REDUCED:
            raise InvalidConfigError(
                f"index_dim must be None where dim is over {_MOST_REDUCED}, got dim={dim}; reduce the vectors first"
            )
        if self.dtype == "int8" and (self.index_dim or dim) > _MOST_INT8:
            raise InvalidConfigError(
                f"dtype='int8' must have at most {_MOST_INT8} dimensions, got {dim}; use dtype='float16'"
            )

    @property
    def packed(self) -> bool:
        """Whether the store's own rows are not float32."""
        return not self.keep_full

    @property
    def reduced(self) -> bool:
        """Whether the graph is walked over rows of their own."""
        return self.keep_full and (self.dtype != "float32" or self.index_dim is not None)


FULL_ROWS = RowSettings()


def on_disk(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return stored rows as what they are: bits of float16 as float16."""
    return codes.view(np.float16) if codes.dtype == np.uint16 else codes


def pack(vectors: npt.NDArray[np.float32], dtype: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Return rows in fewer bits and the step of each: row = step * codes. The rows that `unpack` returns pack alike.

    Parameters
    ----------
    vectors : (n, d) float32, finite
    dtype : {"float16", "int8"}
        With int8 a row's largest absolute value becomes 127; with float16 it comes to lie under 2^15 by a power of two.

    Returns
    -------
    codes : (n, d) int8 or uint16 (bits of float16)
    steps : (n,) float64
    """
    codes = np.empty(vectors.shape, STORED[dtype])
    steps = np.empty(len(vectors))

    def part(start: int, stop: int) -> None:
        if dtype == "int8":
            kernels.to_int8(kernel_ready(vectors[start:stop]), codes[start:stop], steps[start:stop])
        else:
            codes[start:stop], steps[start:stop] = _halves(vectors[start:stop])

    for_chunks(part, len(vectors), _CHUNK, usable_threads())
    return codes, steps


def _halves(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float64]]:
    largest = np.abs(rows).max(axis=1).astype(np.float64)
    exponents = np.frexp(largest)[1].astype(np.int64)
    exponents += np.ldexp(largest, -exponents).astype(np.float16) == 1  # as it will be: rounded
    steps = np.ldexp(1.0, exponents - 15)
    return (rows / steps[:, None]).astype(np.float16).view(np.uint16), steps


def unpack(codes: npt.NDArray[Any], steps: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return the rows (n, d) that `pack` has packed."""
    rows = np.empty(codes.shape, np.float32)
    most = np.finfo(np.float32).max

    def part(start: int, stop: int) -> None:
        values = on_disk(codes[start:stop]) * steps[start:stop, None]
        np.clip(values, -most, most, out=values)  # the largest may have been rounded up
        rows[start:stop] = values

    for_chunks(part, len(codes), _CHUNK, usable_threads())
    return rows
