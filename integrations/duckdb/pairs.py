"""The score of a pair, for columns of queries and keys: a query is read once and goes by a number from there on.

DuckDB copies a constant argument for each of a chunk's 2,048 rows before it calls a Python function, but calls a
function of nothing but constants once. So the macro has two calls: `query` takes what is the same for many rows and
returns a number, `score` takes that number and the key. The first is called anew for each chunk (`current_query_id()`
keeps it from being computed when a statement is planned), so that no number outlives what it stands for.
"""

import itertools
import threading
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import AttentionError, InvalidInputError, NumericalInstabilityError
from attnbridge.functional import aligned_logits, attention_logits, attention_score, pair_logits
from attnbridge.integrations.duckdb.arguments import settings
from attnbridge.integrations.duckdb.lists import Lists, Places, as_lists, whole
from attnbridge.mechanisms.row import AttentionType
from attnbridge.scoring import resolve

# A query's number is that of its batch times this, plus its row there: more than a chunk has.
_ROWS = 1 << 20
# Batches that a thread keeps: so many in any case, up to the second number while they are no larger than the third.
_KEPT, _MOST_KEPT, _KEPT_BYTES = 16, 1024, 16 << 20
_MOST_THREADS = 256

_numbers = itertools.count()


class _Queries:
    """The queries of a chunk, each with its attention type and options."""

    def __init__(self, vectors: Lists, types: Any, options: Any) -> None:
        self.number = next(_numbers)
        self.vectors = vectors.detached()
        self.codes, self.settings = settings(types, options)
        self._resolved: dict[int, tuple[AttentionType, dict[str, Any]]] = {}

    def resolved(self, row: int) -> tuple[AttentionType, dict[str, Any]]:
        """Return the registry's row and the checked options of a query."""
        code = int(self.codes[row])
        if code not in self._resolved:
            name, options = self.settings[code]
            kind, checked = resolve(name, options)
            if not kind.is_pairwise(checked):
                attention_score([0.0], [0.0], name, **options)  # which says why not
            self._resolved[code] = kind, checked
        return self._resolved[code]

    def score(self, row: int, key: Any) -> float:
        """Return the score of one pair, or the Python API's error."""
        name, options = self.settings[self.codes[row]]
        return attention_score(self.vectors.value(row), key, name, **options)


class _Kept:
    """The last batches of one thread."""

    def __init__(self) -> None:
        self._batches: deque[_Queries] = deque()
        self._nbytes = 0

    def keep(self, batch: _Queries) -> None:
        """Keep a batch, and let go of what is older than one statement can need."""
        self._batches.append(batch)
        self._nbytes += batch.vectors.nbytes
        while len(self._batches) > _MOST_KEPT or (len(self._batches) > _KEPT and self._nbytes > _KEPT_BYTES):
            self._nbytes -= self._batches.popleft().vectors.nbytes

    def find(self, number: int) -> _Queries | None:
        """Return the batch of a number, where it is kept."""
        return next((batch for batch in reversed(self._batches) if batch.number == number), None)


# By thread, since DuckDB makes both calls of a chunk in one. `threading.local` would not do: to Python, a thread of
# DuckDB's is a new one at every call.
_kept: dict[int, _Kept] = {}


def _keep(batch: _Queries) -> None:
    mine = _kept.get(threading.get_ident())
    if mine is None:
        for other in list(_kept)[: len(_kept) + 1 - _MOST_THREADS]:
            _kept.pop(other, None)
        mine = _kept[threading.get_ident()] = _Kept()
    mine.keep(batch)


def _find(number: int) -> _Queries:
    mine = _kept.get(threading.get_ident())
    batch = None if mine is None else mine.find(number)
    if batch is None:
        raise InvalidInputError(
            "the query of this score is not known any more; call attention_score(query, key) in one expression"
        )
    return batch


def query(queries: Any, types: Any, options: Any, _statement: Any = None) -> Any:
    """Return a number for each query, NULL for NULL."""
    import pyarrow as pa

    batch = _Queries(as_lists(queries, "query"), types, options)
    _keep(batch)
    numbers = batch.number * _ROWS + np.arange(len(batch.codes))
    valid = batch.vectors.valid
    return pa.array(numbers, pa.int64(), mask=None if valid is None else ~valid)


def score(numbers: Any, keys: Any) -> Any:
    """Return the score of each pair of a query, by its number, and a key: NULL where one of them is."""
    import pyarrow as pa

    given, lists = whole(numbers), as_lists(keys, "key")
    known = np.ones(len(given), np.bool_) if lists.valid is None else lists.valid
    if given.null_count:
        known = known & given.is_valid().to_numpy(zero_copy_only=False)
        given = given.fill_null(0)
    out = np.zeros(len(given))
    asked, places = given.to_numpy(), np.flatnonzero(known)
    while len(places):
        number = asked[places[0]] // _ROWS
        mine = asked[places] // _ROWS == number
        _fill(out, places[mine], _find(int(number)), asked[places[mine]] % _ROWS, lists)
        places = places[~mine]
    return pa.array(as_float(out), mask=None if known.all() else ~known)


def _fill(out: npt.NDArray[np.float64], places: Places, batch: _Queries, rows: Places, keys: Lists) -> None:
    """Fill `out` at some places, whose queries are at `rows` of a batch."""
    if (rows == rows[0]).all():
        _fill_one(out, places, batch, int(rows[0]), keys)
        return
    if len(batch.settings) == 1:
        queries, block = batch.vectors.block(rows), keys.block(places)
        if queries is not None and block is not None and queries.shape == block.shape:
            try:
                out[places] = aligned_logits(*batch.resolved(int(rows[0])), queries, block)
            except AttentionError:  # which of the pairs it is, they say one by one
                pass
            else:
                return
    for row in np.unique(rows):
        _fill_one(out, places[rows == row], batch, int(row), keys)


def _fill_one(out: npt.NDArray[np.float64], places: Places, batch: _Queries, row: int, keys: Lists) -> None:
    """Fill `out` at some places, all of one query."""
    kind, options = batch.resolved(row)
    vector = batch.vectors.value(row)
    try:
        if kind.token_logits is not None and keys.depth > 1:
            documents = [keys.value(int(place)) for place in places]
            out[places] = attention_logits(vector, documents, kind.name, max_keys=len(documents), **options)
            return
        block = keys.block(places)
        if block is not None and isinstance(vector, np.ndarray) and vector.shape == block.shape[1:]:
            out[places] = pair_logits(kind, options, vector, block)
            return
    except AttentionError:  # which of the pairs it is, they say one by one
        pass
    for place in places:
        out[place] = batch.score(row, keys.value(int(place)))


def as_float(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return numbers as SQL's FLOAT.

    Raises
    ------
    NumericalInstabilityError
    """
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    if (np.isinf(narrow) & np.isfinite(values)).any():
        raise NumericalInstabilityError(
            "the score must fit FLOAT (up to 3.4e38), a pair's does not; rescale the vectors, or set a smaller scale"
        )
    return narrow
