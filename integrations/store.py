"""What a bridge keeps of its documents: rows, ids and token vectors."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import DimensionMismatchError, InvalidInputError, InvalidMaskError, UnknownIdError
from attnbridge.hits import Id
from attnbridge.integrations.rows import Rows, Tokens
from attnbridge.metric import Metric
from attnbridge.validation import as_floats, as_mask, as_matrix, require_finite


def _plain(values: Any) -> Any:
    """Return the columns of numpy, pandas, pyarrow and polars as lists, anything else as it is."""
    for convert in ("tolist", "to_pylist", "to_list"):
        if hasattr(values, convert):
            return getattr(values, convert)()
    return values


def id_list(ids: Any) -> list[Id]:
    """Return ids as a list of Python str and int; one id alone is a list of one."""
    ids = _plain(ids)
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


def token_list(tokens: Any, count: int, dim: int | None) -> list[npt.NDArray[np.float16]]:
    """Return `count` checked arrays (n_i, dt) as float16; None stands for a document without tokens."""
    if isinstance(tokens, str) or not isinstance(tokens, Sequence | np.ndarray):
        raise InvalidInputError(f"tokens must be a list of arrays (n_i, dt), got {type(tokens).__name__}")
    if len(tokens) != count:
        raise DimensionMismatchError(f"tokens must have one array for each of {count} vectors, got {len(tokens)}")
    out = []
    for i, given in enumerate(tokens):
        array = as_matrix([] if given is None else given, f"tokens[{i}]")
        if len(array) and dim is not None and array.shape[1] != dim:
            raise DimensionMismatchError(
                f"tokens must have one dimension: tokens[{i}] has {array.shape[1]}, those before have {dim}"
            )
        dim = array.shape[1] if len(array) else dim
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.isfinite(half).all():
            raise InvalidInputError(f"tokens must fit float16 (up to 65504): tokens[{i}] does not; rescale it")
        out.append(half)
    return [half if len(half) else half.reshape(0, dim or 0) for half in out]


class Store:
    """Rows, ids and tokens of the documents; a row's number is its label in the index.

    Parameters
    ----------
    dim : int
    metric : Metric
    """

    def __init__(self, dim: int, metric: Metric) -> None:
        self.rows = Rows(dim, metric)
        self.tokens: Tokens | None = None
        self.ids: list[Id | None] = []  # of each row, None where it is dead
        self.row_of: dict[Id, int] = {}
        self._kind: type | None = None
        self._next_id = 0

    def new_ids(self, ids: Any, count: int) -> list[Id]:
        """Return checked ids for `count` vectors, numbering on where none are given."""
        if ids is None:
            if self._kind is str:
                raise InvalidInputError("ids must be given: this bridge holds str ids, there is no next one")
            if self._next_id + count > 2**63:
                raise InvalidInputError(f"ids must be given: there is no next one after {self._next_id - 1} in 64 bits")
            return list(range(self._next_id, self._next_id + count))
        out = id_list(ids)
        if len(out) != count:
            raise DimensionMismatchError(f"ids must have one entry for each of {count} vectors, got {len(out)}")
        kind = self._kind
        for position, value in enumerate(out):
            kind = kind or type(value)
            if type(value) is not kind:
                raise InvalidInputError(
                    f"ids must be all str or all int: position {position} is {value!r} after {kind.__name__} ids; "
                    "convert them to one type"
                )
        return out

    def append(
        self,
        vectors: npt.NDArray[np.float32],
        tokens: list[npt.NDArray[np.float16]] | None,
    ) -> npt.NDArray[np.int64]:
        """Append rows that are dead until `publish`, and return their numbers.

        An append that Ctrl-C broke off leaves dead rows at most: what lags behind is filled up by the next one.
        """
        first = self.rows.append(vectors, "vectors", alive=False)
        self.ids.extend([None] * (self.rows.count - len(self.ids)))
        if tokens is not None:
            with_tokens = [t for t in tokens if len(t)]
            if self.tokens is None and with_tokens:
                self.tokens = Tokens(with_tokens[0].shape[1])
            if self.tokens is not None:
                self.tokens.append(tokens, first)
        if self.tokens is not None:
            self.tokens.skip_to(self.rows.count)
        return np.arange(first, self.rows.count)

    def publish(self, ids: Sequence[Id], rows: npt.NDArray[np.int64]) -> list[int]:
        """Bring rows to life under ids, and return the rows that this replaces."""
        replaced = []
        for id, row in zip(ids, rows.tolist(), strict=True):
            old = self.row_of.get(id)
            if old is not None:
                replaced.append(old)
                self.ids[old] = None
            self.row_of[id] = row
            self.ids[row] = id
        if ids:
            self._kind = type(ids[0])
        if self._kind is int:
            self._next_id = max([self._next_id, *(int(id) + 1 for id in ids)])
        self.rows.revive(rows)
        self.rows.kill(replaced)
        return replaced

    def forget(self, ids: Sequence[Id]) -> list[int]:
        """Take ids out, and return their rows."""
        rows = self.rows_of(ids)
        for id, row in zip(ids, rows, strict=True):
            if self.row_of.pop(id, None) is not None:
                self.ids[row] = None
        rows = sorted(set(rows))
        self.rows.kill(rows)
        return rows

    def rows_of(self, ids: Sequence[Id]) -> list[int]:
        """Return the rows that ids name; an unknown id is an error that names it."""
        rows = []
        for id in ids:
            row = self.row_of.get(id)
            if row is None:
                kind = self._kind.__name__ if self._kind else "no"
                raise UnknownIdError(f"id {id!r} is not in the index, which holds {len(self)} rows with {kind} ids")
            rows.append(row)
        return rows

    def allowed_rows(self, filter: Any) -> npt.NDArray[np.int64]:
        """Return the rows, ascending, that a mask over the live rows or a list of ids lets pass."""
        if not isinstance(filter, np.ndarray):
            filter = _plain(filter)
        if isinstance(filter, np.ndarray):
            is_mask = filter.dtype == np.bool_
        else:
            is_mask = (
                isinstance(filter, Sequence)
                and len(filter) > 0
                and all(isinstance(value, bool | np.bool_) for value in filter)
            )
        if is_mask:
            live = np.flatnonzero(self.rows.alive)
            return live[as_mask(filter, "filter", len(self))]
        try:
            named = id_list(filter)
        except InvalidInputError as error:
            raise InvalidMaskError(f"filter must be a boolean mask or a list of ids: {error}") from error
        rows = [self.row_of[id] for id in named if id in self.row_of]
        return np.unique(np.array(rows, np.int64))

    def __len__(self) -> int:
        return len(self.row_of)

    def files(self) -> dict[str, Callable[[Path], None]]:
        """Return the files that hold the store, each with the function that writes it."""

        def write_ids(path: Path) -> None:
            with path.open("w", encoding="utf-8") as file:
                json.dump({"next": self._next_id, "ids": self.ids}, file)

        files: dict[str, Callable[[Path], None]] = {
            "rows.npy": lambda path: np.save(path, self.rows.data),
            "ids.json": write_ids,
        }
        if self.tokens is not None:
            tokens = self.tokens
            files["tokens.npy"] = lambda path: np.save(path, tokens.data)
            files["token_lengths.npy"] = lambda path: np.save(path, tokens.view().lengths)
        return files

    @classmethod
    def read(cls, snapshot: Path, files: Iterable[str], metric: Metric, mmap: bool) -> "Store":
        """Read the files that `files` wrote; memory-mapped ones are copy-on-write, like arrays of our own."""
        mode = "c" if mmap else None
        stored = json.loads((snapshot / "ids.json").read_text(encoding="utf-8"))
        ids = stored["ids"]
        data = _load(snapshot / "rows.npy", mode)
        store = cls(data.shape[1], metric)
        alive = np.array([id is not None for id in ids], np.bool_)
        store.rows = Rows.wrap(data, alive, metric, str(snapshot / "rows.npy"))
        store.ids = ids
        store.row_of = {id: row for row, id in enumerate(ids) if id is not None}
        for id in store.row_of:
            store._kind = type(id)
            break
        store._next_id = stored["next"]
        if "tokens.npy" in files:
            lengths = np.load(snapshot / "token_lengths.npy")
            store.tokens = Tokens.wrap(_load(snapshot / "tokens.npy", mode), lengths)
        return store


def _load(path: Path, mode: Any) -> npt.NDArray[Any]:
    array = np.load(path, mmap_mode=mode, allow_pickle=False)
    return np.asarray(array)  # a plain array over the mapping: numpy's memmap class is slow to slice


def check_query_tokens(
    tokens: Any, weights: Any, stored: Tokens
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Return one query's checked tokens (m, dt) and their weights, which sum to 1."""
    array = as_matrix(tokens, "query_tokens")
    if len(array) == 0:
        raise InvalidInputError("query_tokens must hold at least one token, got none")
    if array.shape[1] != stored.dim:
        raise DimensionMismatchError(
            f"query_tokens must have the stored tokens' dimension {stored.dim}, got {array.shape[1]}"
        )
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
