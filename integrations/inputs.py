"""Ids, filters and query tokens as users give them, checked."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import DimensionMismatchError, InvalidInputError, InvalidMaskError
from attnbridge.hits import Id
from attnbridge.validation import as_floats, as_matrix, require_finite


def plain(values: Any) -> Any:
    """Return the columns of numpy, pandas, pyarrow and polars as lists, anything else as it is."""
    for convert in ("tolist", "to_pylist", "to_list"):
        if hasattr(values, convert):
            return getattr(values, convert)()
    return values


def id_list(ids: Any) -> list[Id]:
    """Return ids as a list of Python str and int; one id alone is a list of one."""
    ids = plain(ids)
    if isinstance(ids, str | int):
        ids = [ids]
    if not isinstance(ids, Iterable) or isinstance(ids, bytes | bytearray):
        raise InvalidInputError(f"ids must be a list of str or int, got {type(ids).__name__}")
    out: list[Id] = []
    for position, value in enumerate(ids):
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InvalidInputError(
                f"ids must be str or int: position {position} is {value!r} ({type(value).__name__}); "
                "convert it with str()"
            )
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InvalidInputError(f"ids must fit 64 bits: position {position} is {value}; use a str")
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InvalidInputError(f"ids must be text in Unicode: position {position} is {value!r}") from None
        out.append(str.__str__(value) if isinstance(value, str) else int(value))  # a str or int also of an enum
    return out


def is_one_id(ids: Any) -> bool:
    """Return whether `ids` is one id, not a list of them."""
    return isinstance(ids, str | int | np.integer) and not isinstance(ids, bool)


def as_filter(filter: Any) -> npt.NDArray[np.bool_] | list[Id]:
    """Return a filter as a boolean array or as a list of ids."""
    if not isinstance(filter, np.ndarray):
        filter = plain(filter)
    if isinstance(filter, np.ndarray):
        is_mask = filter.dtype == np.bool_
    else:
        is_mask = (
            isinstance(filter, Sequence)
            and len(filter) > 0
            and all(isinstance(value, bool | np.bool_) for value in filter)
        )
    if is_mask:
        return np.asarray(filter)
    try:
        return id_list(filter)
    except InvalidInputError as error:
        raise InvalidMaskError(f"filter must be a boolean mask or a list of ids: {error}") from error


def refuse_params(params: Any) -> None:
    """Refuse params where there is no expression that they could be values for."""
    if params is not None:
        raise InvalidInputError("params are values for where=, which is not given")


def check_query_tokens(tokens: Any, weights: Any, dim: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Return one query's checked tokens (m, dt) and their weights, which sum to 1."""
    array = as_matrix(tokens, "query_tokens")
    if len(array) == 0:
        raise InvalidInputError("query_tokens must hold at least one token, got none")
    if array.shape[1] != dim:
        raise DimensionMismatchError(f"query_tokens must have the stored tokens' dimension {dim}, got {array.shape[1]}")
    if weights is None:
        return array, np.full(len(array), 1.0 / len(array))
    w = as_floats(weights, "query_token_weights", keep_float64=True).astype(np.float64)
    if w.shape != (len(array),):
        raise DimensionMismatchError(
            f"query_token_weights must have one entry for each of {len(array)} query tokens, got shape {w.shape}"
        )
    require_finite(w, "query_token_weights")
    if (w < 0).any() or not w.any():
        raise InvalidInputError("query_token_weights must be >= 0 with a positive sum")
    w /= w.max()  # their sum may overflow
    return array, w / w.sum()
