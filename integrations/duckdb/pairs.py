"""The score of a pair, for columns of queries and keys: a query is read once and goes by a number from there on.

DuckDB copies a constant argument for each of a chunk's 2,048 rows before it calls a Python function, but calls a
function of nothing but constants once. So the macro has two calls: `query` takes what is the same for many rows and
returns a number, `score` takes that number and the key. The first is called anew for each chunk, and its numbers stand
for the queries as long as DuckDB keeps the column of numbers, which is Arrow's memory: the queries go with it.
"""

import contextlib
import itertools
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import AttentionError, InvalidInputError, NumericalInstabilityError
from attnbridge.functional import aligned_logits, attention_logits, attention_score, pair_logits
from attnbridge.integrations.duckdb.arguments import settings
from attnbridge.integrations.duckdb.lists import Lists, Places, as_lists, whole
from attnbridge.manifolds import HyperbolicSpace
from attnbridge.mechanisms.row import AttentionType
from attnbridge.scoring import resolve

if TYPE_CHECKING:
    import pyarrow as pa

Scores = npt.NDArray[np.float64]

# A query's number is that of its batch times this, plus its row there: more than a chunk has.
_ROWS = 1 << 20

_numbers = itertools.count()


class _Queries:
    """The queries of a chunk, each with its attention type and options."""

    def __init__(self, vectors: Lists, types: Any, options: Any) -> None:
        self.number = next(_numbers)
        self.vectors = vectors.detached()
        self.codes, self.settings = settings(types, options)
        self._resolved: dict[int, tuple[AttentionType, dict[str, Any]]] = {}
        _batches[self.number] = self

    def column(self) -> "pa.Array":
        """Return the queries' numbers as a column that keeps them alive."""
        import pyarrow as pa

        numbers = self.number * _ROWS + np.arange(len(self.codes))
        memory = pa.foreign_buffer(numbers.ctypes.data, numbers.nbytes, base=(numbers, self))
        return pa.Array.from_buffers(pa.int64(), len(numbers), [None, memory])

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


_batches: weakref.WeakValueDictionary[int, _Queries] = weakref.WeakValueDictionary()

# What is constant altogether DuckDB computes while it plans, call by call, and copies the number on the way to `score`.
_last, _last_large = deque[_Queries](maxlen=256), deque[_Queries](maxlen=16)
_LARGE = 1 << 16


def query(queries: Any, types: Any, options: Any, _anew: Any = None) -> Any:
    """Return a number for each query."""
    batch = _Queries(as_lists(queries, "query"), types, options)
    if len(batch.codes) == 1:
        (_last_large if batch.vectors.nbytes > _LARGE else _last).append(batch)
    return batch.column()


def score(numbers: Any, keys: Any) -> Any:
    """Return the score of each pair of a query, by its number, and a key: NULL where one of them is."""
    return _of_pairs(_fill_scores, numbers, as_lists(keys, "key"))


def distance(numbers: Any, keys: Any) -> Any:
    """Return the distance in the ball of each pair of a point, by its number, and another: NULL where one is."""
    return _of_pairs(_fill_distances, numbers, as_lists(keys, "b"))


def _of_pairs(fill: Callable[[Scores, Places, _Queries, Places, Lists], None], numbers: Any, keys: Lists) -> "pa.Array":
    """Return a column of what `fill` puts at places, whose queries are at rows of a batch."""
    import pyarrow as pa

    given = whole(numbers)
    known = np.ones(len(given), np.bool_) if keys.valid is None else keys.valid.copy()
    asked, out = given.to_numpy(), np.zeros(len(given))
    of = asked // _ROWS
    for number in of[:1] if (of == of[:1]).all() else np.unique(of):
        batch = _batches.get(int(number))
        if batch is None:
            raise InvalidInputError("the query of this score is not known any more; call attention_score(query, key)")
        mine = of == number
        if batch.vectors.valid is not None:
            known[mine] &= batch.vectors.valid[asked[mine] % _ROWS]
        places = np.flatnonzero(known & mine)
        if len(places):
            fill(out, places, batch, asked[places] % _ROWS, keys)
    return pa.array(as_float(out), mask=None if known.all() else ~known)


def _fill_scores(out: Scores, places: Places, batch: _Queries, rows: Places, keys: Lists) -> None:
    if (rows == rows[0]).all():
        _fill_one(out, places, batch, int(rows[0]), keys)
        return
    codes = batch.codes[rows]
    for code in np.unique(codes):
        mine = codes == code
        if not _fill_aligned(out, places[mine], batch, rows[mine], keys):
            for place, row in zip(places[mine], rows[mine], strict=True):
                out[place] = batch.score(int(row), keys.value(int(place)))


def _fill_aligned(out: Scores, places: Places, batch: _Queries, rows: Places, keys: Lists) -> bool:
    """Fill `out` at some places, all of one type and options, and return whether that was possible."""
    queries, block = batch.vectors.block(rows), keys.block(places)
    if queries is None or block is None or queries.shape != block.shape:
        return False
    try:
        out[places] = aligned_logits(*batch.resolved(int(rows[0])), queries, block)
    except AttentionError:  # which of the pairs it is, they say one by one
        return False
    return True


def _fill_one(out: Scores, places: Places, batch: _Queries, row: int, keys: Lists) -> None:
    """Fill `out` at some places, all of one query."""
    kind, options = batch.resolved(row)
    query = batch.vectors.value(row)
    fill_logits(out, places, kind, options, query, keys, lambda place: batch.score(row, keys.value(place)))


def fill_logits(
    out: npt.NDArray[np.float64],
    places: Places,
    kind: AttentionType,
    options: dict[str, Any],
    query: Any,
    keys: Lists,
    one: Callable[[int], float],
) -> None:
    """Fill `out` at some places with the logits of a query with the keys there; what needs a look goes to `one`."""
    try:
        if kind.token_logits is not None and keys.depth > 1:
            documents = [keys.value(int(place)) for place in places]
            out[places] = attention_logits(query, documents, kind.name, max_keys=len(documents), **options)
            return
        block = keys.block(places)
        if block is not None and isinstance(query, np.ndarray) and query.shape == block.shape[1:]:
            out[places] = pair_logits(kind, options, query, block)
            return
    except AttentionError:  # which of the pairs it is, they say one by one
        pass
    for place in places:
        out[place] = one(int(place))


def _fill_distances(out: Scores, places: Places, batch: _Queries, rows: Places, keys: Lists) -> None:
    codes = batch.codes[rows]
    for code in np.unique(codes):
        mine = codes == code
        space = HyperbolicSpace(**batch.settings[code][1])
        points, block = batch.vectors.block(rows[mine]), keys.block(places[mine])
        if points is not None and block is not None and points.shape == block.shape:
            with contextlib.suppress(AttentionError):  # which of the pairs it is, they say one by one
                out[places[mine]] = space.distance(points, block)
                continue
        for place, row in zip(places[mine], rows[mine], strict=True):
            out[place] = space.distance(batch.vectors.value(int(row)), keys.value(int(place)))


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
