"""Attention by a logit of the user's own: a function that Numba compiles, called for each pair."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.mechanisms.base import Batch, RegisteredAttention
from attnbridge.mechanisms.row import AttentionType, Ids, Logits, Option, Options, gathered
from attnbridge.metric import Keys
from attnbridge.validation import as_number


class CustomAttention(RegisteredAttention):
    """Attention by a registered logit: softmax(logit(q, k) + mask) V.

    Parameters
    ----------
    row : AttentionType
    options : mapping of str to float

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> ab.register_attention("l1", lambda q, k: -np.abs(q - k).sum())
    >>> ab.attention([0.0], [[0.0], [3.0]], [[1.0], [0.0]], "l1").round(2)
    array([0.95], dtype=float32)
    >>> ab.unregister_attention("l1")
    """

    name = "custom"

    def __init__(self, row: AttentionType, options: Options) -> None:
        self.row = row  # type: ignore[misc]
        self.name = row.name  # type: ignore[misc]
        self._given = dict(options)

    @property
    def config(self) -> dict[str, Any]:
        """The options of the type."""
        return dict(self._given)

    def _options(self) -> Mapping[str, Any]:
        return self._given

    def _logits(self, batch: Batch) -> Logits:
        batch.require_finite()  # what a function makes of NaN is nobody's business
        return super()._logits(batch)


def custom_row(name: str, logit: Callable[..., float], options: Mapping[str, float], best_for: str) -> AttentionType:
    """Return the registry's row of a function of query and key.

    Raises
    ------
    InvalidConfigError
        Not a function of (query, key, *options), not one that Numba compiles, or one that returns no number.
    """
    defaults = {str(key): as_number(value, f"options[{key!r}]") for key, value in options.items()}
    fill = _filling(name, logit, len(defaults))
    require_within = _checking(name, logit)

    def logits(
        query: npt.NDArray[Any], bias: float, keys: Keys, ids: Ids | None, options: Options, out: Logits
    ) -> None:
        rows = _fixed(gathered(keys, ids))
        given, arguments = _fixed(query.astype(rows.dtype, copy=False)), tuple(options[key] for key in defaults)
        require_within(given, rows, arguments)
        try:
            fill(given, rows, arguments, out)
        except Exception as error:  # the function's own
            raise _raised(name, error) from error
        if not np.isfinite(out).all():
            bad = out[~np.isfinite(out)][0]
            raise InvalidInputError(f"logit of {name!r} must be finite for all vectors it is asked about, got {bad}")

    row = AttentionType(
        name=name,
        complexity="O(n^2)",
        best_for=best_for,
        pairwise=True,
        options={key: Option(value, as_number) for key, value in defaults.items()},
        logits=logits,
        mechanism=lambda options: CustomAttention(row, options),
    )
    return row


def _raised(name: str, error: Exception) -> InvalidInputError:
    return InvalidInputError(f"logit of {name!r} must give a number for all vectors, it raised {error!r}")


def _fixed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array that a logit cannot write to: the vectors are others'."""
    view = array.view()
    view.flags.writeable = False
    return view


def _filling(name: str, logit: Any, extra: int) -> Callable[..., None]:
    """Return a loop over rows, compiled for float32."""
    import numba

    if not callable(logit):
        raise InvalidConfigError(f"logit must be a function (query, key) -> number, got {logit!r}")
    try:
        compiled = logit if hasattr(logit, "py_func") else numba.njit(logit)
    except TypeError:  # built in, or of another library
        raise InvalidConfigError(f"logit must be a function written in Python, got {logit!r}") from None
    _require_arguments(name, getattr(compiled, "py_func", compiled), extra)

    @numba.njit(nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
    def fill(query: Any, rows: Any, arguments: Any, out: Any) -> None:
        for j in range(rows.shape[0]):
            out[j] = compiled(query, rows[j], *arguments)

    trial = _fixed(np.empty(1, np.float32)), _fixed(np.empty((1, 1), np.float32)), (1.0,) * extra, np.empty(1)
    try:
        if not numba.config.DISABLE_JIT:
            fill.compile(tuple(map(numba.typeof, trial)))  # not called: of what dimension its vectors are, it knows
    except Exception as error:  # NumbaError, or what the function's use of types raises
        raise InvalidConfigError(
            f"logit of {name!r} must be a function that Numba compiles for vectors that it cannot write to, and that "
            f"returns a number: {_reason(error)}"
        ) from error
    made: Callable[..., None] = fill
    return made


def _checking(name: str, logit: Any) -> Callable[..., None]:
    """Return what refuses a function that reads beyond its vectors: the first pair of a length goes to a checked twin.

    The fast one does not look, and would go on with whatever lies there.
    """
    import numba

    twin = numba.njit(boundscheck=True)(getattr(logit, "py_func", logit))
    seen: set[tuple[Any, ...]] = set()

    def require_within(query: npt.NDArray[Any], rows: npt.NDArray[Any], arguments: tuple[float, ...]) -> None:
        case = query.dtype.char, len(query), arguments
        if case in seen or not len(rows):
            return
        try:
            twin(query, rows[0], *arguments)
        except IndexError as error:
            raise InvalidInputError(
                f"logit of {name!r} must read within query and key, which are {len(query)} long here: {error}"
            ) from error
        except Exception as error:
            raise _raised(name, error) from error
        seen.add(case)

    return require_within


def _reason(error: Exception) -> str:
    """Return what Numba says, without where it was at work."""
    said = [line.strip() for line in str(error).splitlines()]
    told = [
        line for line in said if line and not line.startswith(("Failed in", "During", "File ", "<source", "There "))
    ]
    return " ".join(told[:2])


def _require_arguments(name: str, function: Any, extra: int) -> None:
    """Refuse a function that does not take a query, a key and a number for each option."""
    try:
        inspect.signature(function).bind(*range(2 + extra))
    except TypeError as error:
        raise InvalidConfigError(
            f"logit of {name!r} must take query, key and its {extra} options in their order: {error}"
        ) from None
