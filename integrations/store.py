"""What a bridge keeps of its documents: rows, ids, token vectors and payload."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import DimensionMismatchError, IndexCorruptError, InvalidInputError, UnknownIdError
from attnbridge.hits import Id
from attnbridge.integrations.arrays import load_array
from attnbridge.integrations.inputs import id_list
from attnbridge.integrations.rows import Rows, Tokens, grown
from attnbridge.integrations.snapshot import Snapshot
from attnbridge.integrations.view import Allowed, Guard, View
from attnbridge.metric import Metric

if TYPE_CHECKING:
    import pyarrow as pa

    from attnbridge.integrations.payload import Payload
    from attnbridge.integrations.where import Matcher


class Store:
    """The documents; a row's number is its label in the index.

    Rows are only ever appended: an upsert is a new row and the death of the old one. Every write ends by putting a new
    `View` in place of the old, in one assignment; searches go on with the one that they hold. One thread writes at a
    time (the bridge sees to that), any number read.

    Parameters
    ----------
    dim : int
    metric : Metric
    """

    def __init__(self, dim: int, metric: Metric) -> None:
        self._rows = Rows(dim, metric)
        self._tokens: Tokens | None = None
        self._alive: npt.NDArray[np.bool_] = np.empty(0, np.bool_)
        self._ids: list[Id] = []
        self._row_of: dict[Id, int] = {}
        self._kind: type | None = None
        self._next_id = 0
        self._matcher: Matcher | None = None
        self.lock = threading.Lock()  # held for moments: by writers while they publish, by readers of ids
        self.view = View(self._rows.keys(), self._alive, 0, self._ids, None, None, None)

    @property
    def token_dim(self) -> int | None:
        """Dimension of a token vector, None where no tokens are stored."""
        return None if self._tokens is None else self._tokens.dim

    @property
    def metric(self) -> Metric:
        """The rows' metric."""
        return self._rows.metric

    # ---- reading

    def __len__(self) -> int:
        return self.view.live

    def __contains__(self, id: object) -> bool:
        return id in self._row_of

    def rows_of(self, ids: Sequence[Id]) -> tuple[View, list[int]]:
        """Return the present view and the rows that ids name there; an unknown id is an error that names it."""
        with self.lock:
            view, rows = self.view, [self._row_of.get(id) for id in ids]
        found = []
        for id, row in zip(ids, rows, strict=True):
            if row is None:
                kind = self._kind.__name__ if self._kind else "no"
                raise UnknownIdError(f"id {id!r} is not in the index, which holds {view.live} rows with {kind} ids")
            found.append(row)
        return view, found

    def allowed(
        self, filters: Sequence[npt.NDArray[np.bool_] | list[Id]], view: View | None
    ) -> tuple[View, list[Allowed]]:
        """Return a view, the present one where none is given, and the rows that each filter lets pass there."""
        with self.lock:
            view = view or self.view
            return view, [view.allowed(filter, self._row_of) for filter in filters]

    def frozen(self) -> "Store":
        """Return this store as it is now: writes to the other do not reach it."""
        made = Store.__new__(Store)
        with self.lock:
            made.__dict__.update(self.__dict__)
            made._row_of = dict(self._row_of)
        made.lock = threading.Lock()
        return made

    def matching(self, where: Any, params: Any, view: View) -> Allowed:
        """Return the rows for which a SQL expression over the payload is true."""
        from attnbridge.integrations.payload import Payload
        from attnbridge.integrations.where import Matcher

        if self._matcher is None:
            self._matcher = Matcher(self._ids)
        payload = Payload.empty(view.count) if view.payload is None else view.payload
        return Allowed(view.count, self._matcher.mask(where, params, payload, view.alive))

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

    # ---- writing

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Undo whatever was begun where an error or Ctrl-C comes before the new view is in place."""
        try:
            yield
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Go back to the present view, forgetting what a write that was broken off has left."""
        view = self.view
        self._rows.count = view.count
        del self._ids[view.count :]
        rows = view.live_rows.tolist()
        self._row_of.clear()
        self._row_of.update(zip((self._ids[row] for row in rows), rows, strict=True))
        if not view.count:
            self._kind = None
        if view.tokens is None:
            self._tokens = None
        elif self._tokens is not None:
            self._tokens.cut(view.tokens)

    def _publish(self, alive: npt.NDArray[np.bool_], killed: int, payload: "Payload | None") -> None:
        self._alive = alive
        count = self._rows.count
        self.view = View(
            self._rows.keys(),
            alive[:count],
            self.view.live + count - self.view.count - killed,
            self._ids,
            None if self._tokens is None else self._tokens.view(),
            payload,
            self.view.guard,
        )

    def add(
        self,
        ids: Sequence[Id],
        vectors: npt.NDArray[np.float32],
        tokens: list[npt.NDArray[np.float16]] | None,
        payload: "Payload | None",
    ) -> list[int]:
        """Append rows under distinct ids, and return the rows that they replace; `payload` is that of all rows."""
        view, start, count = self.view, self.view.count, len(vectors)
        with self._writing():
            if view.guard is not None:  # what is mapped is copied now, and so must be sound
                view.check_rows()
                view.check_tokens()
            self._rows.put(vectors, "vectors")
            self._put_tokens(tokens, start, count)
            alive = grown(self._alive, start, count)
            alive[start : start + count] = True
            del self._ids[start:]
            self._ids.extend(ids)
            with self.lock:
                replaced = [self._row_of[id] for id in ids if id in self._row_of]
                if replaced:
                    alive = alive.copy()
                    alive[replaced] = False
                self._row_of.update(zip(ids, range(start, start + count), strict=True))
                self._learn_kind(ids)
                self._rows.count = start + count
                self._publish(alive, len(replaced), payload)
        return replaced

    def appended(self, table: "pa.Table | None", count: int) -> "Payload | None":
        """Return the payload with that of so many rows more; what does not fit is refused."""
        payload = self.view.payload
        if payload is None:
            if table is None:
                return None
            from attnbridge.integrations.payload import Payload

            payload = Payload.empty(self.view.count)
        return payload.append(table, count)

    def _put_tokens(self, tokens: list[npt.NDArray[np.float16]] | None, start: int, count: int) -> None:
        if tokens is not None:
            with_tokens = [t for t in tokens if len(t)]
            if self._tokens is None and with_tokens:
                self._tokens = Tokens(with_tokens[0].shape[1])
            if self._tokens is not None:
                self._tokens.append(tokens, start)
        if self._tokens is not None:
            self._tokens.skip_to(start + count)

    def _learn_kind(self, ids: Sequence[Id]) -> None:
        if ids:
            self._kind = type(ids[0])
        if self._kind is int:
            self._next_id = max([self._next_id, *(int(id) + 1 for id in ids)])

    def kill(self, ids: Sequence[Id], rows: Sequence[int]) -> None:
        """Take distinct ids out, whose rows are given."""
        with self._writing():
            alive = self._alive.copy()
            alive[rows] = False
            with self.lock:
                for id in ids:
                    del self._row_of[id]
                self._publish(alive, len(rows), self.view.payload)

    def skip(self, count: int) -> None:
        """Append dead rows, so that their numbers are not used again."""
        start = self.view.count
        payload = self.appended(None, count)
        with self._writing():
            self._rows.put(np.ones((count, self._rows.dim), np.float32), "vectors")
            self._put_tokens(None, start, count)
            alive = grown(self._alive, start, count)
            alive[start : start + count] = False
            del self._ids[start:]
            self._ids.extend([0 if self._kind is int else ""] * count)
            self._rows.count = start + count
            self._publish(alive, count, payload)

    def updated(self, rows: Sequence[int], table: "pa.Table") -> "Payload":
        """Return the payload with other values in distinct rows; what does not fit is refused."""
        from attnbridge.integrations.payload import Payload

        payload = Payload.empty(self.view.count) if self.view.payload is None else self.view.payload
        return payload.update(np.array(rows, np.int64), table)

    def set_payload(self, payload: "Payload") -> None:
        """Put a payload in place of the old one."""
        self._publish(self._alive, 0, payload)

    def compacted(self, view: View) -> "Store":
        """Return a store of the rows that are alive in a view, in their order."""
        rows = view.live_rows
        view.check_tokens()
        made = Store(self._rows.dim, self.metric)
        made._kind, made._next_id = self._kind, self._next_id
        tokens = None
        if view.tokens is not None:
            tokens = [view.tokens_of(row) for row in rows.tolist()]
            made._tokens = Tokens(view.tokens.data.shape[1])
        payload = None if view.payload is None else view.payload.take(rows)
        made.add([view.ids[row] for row in rows.tolist()], view.vectors(rows), tokens, payload)
        return made

    def catch_up(self, before: View, store: "Store") -> list[int]:
        """Do to a compacted store what was done to its model since; return which of its rows died."""
        now = store.view
        new = before.count + np.flatnonzero(now.alive[before.count :])
        tokens = None if now.tokens is None else [now.tokens_of(row) for row in new.tolist()]
        payload = None
        if now.payload is not None:
            payload = now.payload.take(np.concatenate([before.live_rows, new]))
        count = self.view.count
        gone = self.add([now.ids[row] for row in new.tolist()], now.vectors(new), tokens, payload)
        died = np.flatnonzero(before.alive & ~now.alive[: before.count])
        ids = [now.ids[row] for row in died.tolist()]
        left = [id for id in ids if self._row_of[id] < count]  # the others are rows that an upsert replaced
        rows = [self._row_of[id] for id in left]
        self.kill(left, rows)
        self._kind, self._next_id = store._kind, store._next_id
        return gone + rows

    def emptied(self) -> "Store":
        """Return an empty store that numbers on."""
        made = Store(self._rows.dim, self.metric)
        made._next_id = self._next_id
        return made

    # ---- disk and pickle

    def files(self) -> dict[str, Callable[[Path], None]]:
        """Return the files that hold the store, each with the function that writes it."""
        view, terms = self.view, self._rows.terms
        view.check_rows()
        view.check_tokens()

        def write_ids(path: Path) -> None:
            alive = view.alive.tolist()
            ids = [id if live else None for id, live in zip(view.ids[: view.count], alive, strict=True)]
            with path.open("w", encoding="utf-8") as file:
                json.dump({"next": self._next_id, "ids": ids}, file)

        files: dict[str, Callable[[Path], None]] = {
            "rows.npy": lambda path: np.save(path, view.keys.data),
            "ids.json": write_ids,
        }
        if terms is not None:
            files["terms.npy"] = lambda path: np.save(path, terms)
        if view.tokens is not None:
            tokens = view.tokens
            files["tokens.npy"] = lambda path: np.save(path, tokens.data.view(np.float16))
            files["token_lengths.npy"] = lambda path: np.save(path, tokens.lengths)
        if view.payload is not None:
            files["payload.parquet"] = view.payload.write
        return files

    @classmethod
    def read(cls, snapshot: Snapshot, dim: int, metric: Metric, mmap: bool) -> "Store":
        """Read the files that `files` wrote; memory-mapped ones are copy-on-write, like arrays of our own."""
        ids, next_id = _read_ids(snapshot)
        data, offset = _array(snapshot, "rows.npy", np.float32, (len(ids), dim), mmap=mmap)
        terms = None
        if metric.row_term is not None:
            terms, _ = _array(snapshot, "terms.npy", np.float64, (len(ids),), mmap=False)
        tokens = token_blocks = None
        if "tokens.npy" in snapshot:
            lengths, _ = _array(snapshot, "token_lengths.npy", np.int64, (len(ids),), mmap=False)
            array, token_offset = _array(snapshot, "tokens.npy", np.float16, (None, None), mmap=mmap)
            if len(ids) and (lengths.min() < 0 or lengths.max() > len(array) or lengths.sum() != len(array)):
                raise IndexCorruptError(f"{snapshot.path('token_lengths.npy')} does not fit tokens.npy; restore it")
            tokens = Tokens.wrap(array, lengths)
            token_blocks = (snapshot.blocks("tokens.npy"), token_offset)
        guard = None
        if mmap and len(ids):
            token_bytes = 0 if tokens is None else 2 * tokens.dim
            guard = Guard((snapshot.blocks("rows.npy"), offset), 4 * dim, token_blocks, token_bytes)
        payload = None
        if "payload.parquet" in snapshot:
            from attnbridge.integrations.payload import Payload

            payload = Payload.read(snapshot.path("payload.parquet"), len(ids))
        return cls._of(Rows.wrap(data, terms, metric), ids, next_id, tokens, payload, guard)

    @classmethod
    def adopt(
        cls, data: npt.NDArray[np.float32], metric: Metric, ids: Sequence[Id], live: npt.NDArray[np.int64]
    ) -> "Store":
        """Return a store of rows of which those named in `live` have ids and the others are dead."""
        rows = Rows(data.shape[1], metric)
        rows.put(data, "vectors")
        rows.count = len(data)
        given: list[Id | None] = [None] * len(data)
        for row, id in zip(live.tolist(), ids, strict=True):
            given[row] = id
        next_id = max((id + 1 for id in ids if isinstance(id, int)), default=0)
        return cls._of(rows, given, max(next_id, 0), None, None, None)

    @classmethod
    def _of(
        cls,
        rows: Rows,
        ids: list[Id | None],
        next_id: int,
        tokens: Tokens | None,
        payload: "Payload | None",
        guard: Guard | None,
    ) -> "Store":
        store = cls(rows.dim, rows.metric)
        store._rows, store._tokens, store._next_id = rows, tokens, next_id
        store._alive = np.ones(len(ids), np.bool_)
        if None in ids:
            store._alive = np.array([id is not None for id in ids], np.bool_)
            store._row_of = {id: row for row, id in enumerate(ids) if id is not None}
        else:
            store._row_of = dict(zip(ids, range(len(ids)), strict=True))  # type: ignore[arg-type]
        store._kind = next((type(id) for id in store._row_of), None)
        placeholder: Id = "" if store._kind is str else 0
        store._ids = [placeholder if id is None else id for id in ids] if None in ids else ids  # type: ignore[assignment]
        token_rows = None if tokens is None else tokens.view()
        store.view = View(rows.keys(), store._alive, len(store._row_of), store._ids, token_rows, payload, guard)
        return store

    def __getstate__(self) -> dict[str, Any]:
        view = self.view
        alive = view.alive.tolist()
        view.check_rows()
        view.check_tokens()
        return {
            "metric": self.metric,
            "data": np.ascontiguousarray(view.keys.data),
            "terms": self._rows.terms,
            "ids": [id if live else None for id, live in zip(view.ids[: view.count], alive, strict=True)],
            "next_id": self._next_id,
            "tokens": None if view.tokens is None else (view.tokens.data.view(np.float16), view.tokens.lengths),
            "payload": view.payload,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        rows = Rows.wrap(state["data"], state["terms"], state["metric"])
        tokens = None if state["tokens"] is None else Tokens.wrap(*state["tokens"])
        made = Store._of(rows, state["ids"], state["next_id"], tokens, state["payload"], None)
        self.__dict__.update(made.__dict__)


def _array(
    snapshot: Snapshot, file: str, dtype: npt.DTypeLike, shape: tuple[int | None, ...], *, mmap: bool
) -> tuple[npt.NDArray[Any], int]:
    """Return one of a snapshot's arrays, of that shape (None: any), and where in the file it begins."""
    array, offset = load_array(snapshot, file, dtype, len(shape), mmap=mmap)
    if any(size not in (None, got) for size, got in zip(shape, array.shape, strict=True)):
        raise IndexCorruptError(
            f"{snapshot.folder / file} must have shape {shape}, got {array.shape}; restore it from a backup"
        )
    return array, offset


def _read_ids(snapshot: Snapshot) -> tuple[list[Id | None], int]:
    """Return each row's id, None where it is dead, and the next one to give."""
    path = snapshot.path("ids.json")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        ids, next_id = stored["ids"], stored["next"]
        if not isinstance(ids, list) or type(next_id) is not int:
            raise TypeError("it must have a list and the next one")
        kinds = set(map(type, ids)) - {type(None)}
        if kinds not in (set(), {int}, {str}):
            raise TypeError("they must be all text or all whole numbers")
        distinct = set(ids) - {None}
        if len(ids) - ids.count(None) != len(distinct):
            raise ValueError("one occurs twice")
        if kinds == {int} and not -(2**63) <= min(distinct) <= max(distinct) < 2**63:
            raise ValueError("one does not fit 64 bits")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise IndexCorruptError(f"{path} is not a list of ids ({error}); restore it from a backup") from error
    return ids, next_id
