"""What a bridge keeps of its documents: rows, ids, token vectors and payload."""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import DimensionMismatchError, IndexCorruptError, InvalidInputError, UnknownIdError
from attnbridge.hits import Id
from attnbridge.integrations.arrays import Mapped, load_array
from attnbridge.integrations.blocks import Blocks
from attnbridge.integrations.codes import DISK, FULL_ROWS, STORED, RowSettings, on_disk
from attnbridge.integrations.inputs import id_list
from attnbridge.integrations.manifest import damaged
from attnbridge.integrations.reduction import SAMPLE, Reduction, rows_needed
from attnbridge.integrations.rows import Codes, Ids, Rows, Tokens, grown
from attnbridge.integrations.snapshot import Snapshot
from attnbridge.integrations.tokens import TokenArrays
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
    settings : RowSettings, optional
        How rows and tokens are kept, and over what the graph is walked. What has to be fitted to the rows is so once
        enough of them live, and again when they are compacted.
    """

    def __init__(self, dim: int, metric: Metric, settings: RowSettings = FULL_ROWS) -> None:
        settings.check_dim(dim)
        self.settings = settings
        self._rows = Rows(dim, metric, settings.dtype if settings.packed else "float32")
        self._codes: Codes | None = None
        self._tokens: Tokens | None = None
        self._alive: npt.NDArray[np.bool_] = np.empty(0, np.bool_)
        self._ids = Ids()
        self._row_of: dict[Id, int] | None = None  # made when an id is first asked for: many indexes are searched only
        self._kind: type | None = None
        self._next_id = 0
        self._matcher: Matcher | None = None
        self.lock = threading.Lock()  # held for moments: by writers while they publish, by readers of ids
        self.view = self._view(self._alive, 0, None, None, 0)

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
        with self.lock:
            return id in self._places()

    def _places(self) -> dict[Id, int]:
        """Return each live id's row; the caller holds the lock."""
        if self._row_of is None:
            view = self.view
            self._row_of = dict(zip(view.live_ids(), view.live_rows.tolist(), strict=True))
        return self._row_of

    @property
    def id_bytes(self) -> int:
        """About how many bytes the ids take, by a sample of them."""
        view, places = self.view, self._row_of
        sample = view.ids.part(0, min(view.count, 1_000))
        each = sum(sys.getsizeof(id) for id in sample) / max(len(sample), 1)
        objects = view.count if places is not None or self._kind is str else 0
        return view.ids.nbytes + int(each * objects) + (0 if places is None else sys.getsizeof(places))

    @property
    def id_type(self) -> type | None:
        """The type of all ids, str or int; None before the first is there."""
        return self._kind

    def rows_of(self, ids: Sequence[Id]) -> tuple[View, list[int]]:
        """Return the present view and the rows that ids name there; an unknown id is an error that names it."""
        view, rows = self.found(ids)
        for id, row in zip(ids, rows, strict=True):
            if row < 0:
                kind = self._kind.__name__ if self._kind else "no"
                raise UnknownIdError(f"id {id!r} is not in the index, which holds {view.live} rows with {kind} ids")
        return view, rows

    def found(self, ids: Sequence[Id]) -> tuple[View, list[int]]:
        """Return the present view and each id's row there, -1 for one that is not there."""
        with self.lock:
            places = self._places()
            return self.view, [places.get(id, -1) for id in ids]

    def places(self, ids: Sequence[Id]) -> list[int]:
        """Return the row of each id, -1 for one that is not there."""
        return self.found(ids)[1]

    def known(self, ids: Sequence[Id]) -> list[int]:
        """Return the rows of those ids that are there."""
        with self.lock:
            places = self._places()
            return [places[id] for id in ids if id in places]

    def allowed(
        self, filters: Sequence[npt.NDArray[np.bool_] | list[Id]], view: View | None
    ) -> tuple[View, list[Allowed]]:
        """Return a view, the present one where none is given, and the rows that each filter lets pass there."""
        with self.lock:
            view = view or self.view
            return view, [view.allowed(filter, self._places) for filter in filters]

    def frozen(self) -> "Store":
        """Return this store as it is now: writes to the other do not reach it."""
        made = Store.__new__(Store)
        with self.lock:
            made.__dict__.update(self.__dict__)
            made._row_of = None if self._row_of is None else dict(self._row_of)
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
        if view.walk is view.keys:
            self._codes = None
        with self.lock:
            self._row_of = None
        if not view.count:
            self._kind = None
        if view.tokens is None:
            self._tokens = None
        elif self._tokens is not None:
            self._tokens.cut(view.tokens)

    def _publish(self, alive: npt.NDArray[np.bool_], killed: int, payload: "Payload | None", clipped: int = 0) -> None:
        """Put a new view in place; `clipped` are values that were so since the last."""
        self._alive = alive
        before = self.view
        live = before.live + self._rows.count - before.count - killed
        self.view = self._view(alive, live, payload, before.guard, before.clipped + clipped)

    def _view(
        self,
        alive: npt.NDArray[np.bool_],
        live: int,
        payload: "Payload | None",
        guard: Guard | None,
        clipped: int,
    ) -> View:
        keys, codes = self._rows.keys(), self._codes
        reduction = Reduction(self.settings.dtype) if self.settings.packed else None
        return View(
            keys,
            alive[: self._rows.count],
            live,
            self._ids,
            None if self._tokens is None else self._tokens.view(),
            payload,
            guard,
            keys if codes is None else codes.keys(keys),
            reduction if codes is None else codes.reduction,
            self._rows.steps,
            clipped,
        )

    def _put_rows(self, vectors: npt.NDArray[np.float32]) -> int:
        """Write rows, and their codes, behind those that count; return how many values the codes clip."""
        start = self._rows.count
        self._rows.put(vectors, "vectors")
        return 0 if self._codes is None else self._codes.put(start, self._rows.part(start, start + len(vectors)))

    def _fit(self, alive: npt.NDArray[np.bool_]) -> int:
        """Fit a reduction where one is wanted and enough rows live; return how many values its codes clip."""
        dim = self._rows.dim
        if self._codes is not None or not self.settings.reduced or np.count_nonzero(alive) < rows_needed(dim):
            return 0
        rows = self._rows.part(0, len(alive))
        live = np.flatnonzero(alive)
        sample = np.sort(np.random.default_rng(0).permutation(live)[:SAMPLE])
        reduction = Reduction.fit(
            rows.data[sample], metric=self.metric, dtype=self.settings.dtype, index_dim=self.settings.index_dim
        )
        codes = Codes(reduction, dim)
        clipped = codes.put(0, rows)
        self._codes = codes
        return clipped

    def add(
        self,
        ids: Sequence[Id],
        vectors: npt.NDArray[np.float32],
        tokens: TokenArrays | None,
        payload: "Payload | None",
    ) -> list[int]:
        """Append rows under distinct ids, and return the rows that they replace; `payload` is that of all rows."""
        view, start, count = self.view, self.view.count, len(vectors)
        with self._writing():
            if view.guard is not None:  # what is mapped is copied now, and so must be sound
                view.check_rows()
                view.check_walk()
                view.check_tokens()
            clipped = self._put_rows(vectors)
            self._put_tokens(tokens, start, count)
            alive = grown(self._alive, start, count)
            alive[start : start + count] = True
            with self.lock:
                places = self._places()
            replaced = [places[id] for id in ids if id in places]
            if replaced:
                alive = alive.copy()
                alive[replaced] = False
            clipped += self._fit(alive[: start + count])
            self._ids.put(start, ids)
            with self.lock:
                places.update(zip(ids, range(start, start + count), strict=True))
                self._learn_kind(ids)
                self._rows.count = start + count
                self._publish(alive, len(replaced), payload, clipped)
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

    def _put_tokens(self, tokens: TokenArrays | None, start: int, count: int) -> None:
        if tokens is not None:
            if self._tokens is None and tokens.dim is not None:
                self._tokens = Tokens(tokens.dim, self.settings.token_dtype)
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
                places = self._places()
                for id in ids:
                    del places[id]
                self._publish(alive, len(rows), self.view.payload)

    def skip(self, count: int) -> None:
        """Append dead rows, so that their numbers are not used again."""
        start = self.view.count
        payload = self.appended(None, count)
        with self._writing():
            self._put_rows(np.ones((count, self._rows.dim), np.float32))
            self._put_tokens(None, start, count)
            alive = grown(self._alive, start, count)
            alive[start : start + count] = False
            self._ids.put(start, [0 if self._kind is int else ""] * count)
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
        made = Store(self._rows.dim, self.metric, self.settings)
        made._kind, made._next_id = self._kind, self._next_id
        tokens = None
        if view.tokens is not None:
            tokens = view.stored_tokens(rows)
            made._tokens = Tokens(view.tokens.data.shape[1], self.settings.token_dtype)
        payload = None if view.payload is None else view.payload.take(rows)
        made.add(view.ids.at(rows), view.vectors(rows), tokens, payload)
        return made

    def catch_up(self, before: View, store: "Store") -> list[int]:
        """Do to a compacted store what was done to its model since; return which of its rows died."""
        now = store.view
        new = before.count + np.flatnonzero(now.alive[before.count :])
        tokens = None if now.tokens is None else now.stored_tokens(new)
        payload = None
        if now.payload is not None:
            payload = now.payload.take(np.concatenate([before.live_rows, new]))
        count = self.view.count
        gone = self.add(now.ids.at(new), now.vectors(new), tokens, payload)
        died = np.flatnonzero(before.alive & ~now.alive[: before.count])
        ids = now.ids.at(died)
        with self.lock:
            places = self._places()
        left = [id for id in ids if places[id] < count]  # the others are rows that an upsert replaced
        rows = [places[id] for id in left]
        self.kill(left, rows)
        self._kind, self._next_id = store._kind, store._next_id
        return gone + rows

    def emptied(self) -> "Store":
        """Return an empty store that numbers on."""
        made = Store(self._rows.dim, self.metric, self.settings)
        made._next_id = self._next_id
        return made

    # ---- disk and pickle

    def _terms(self, view: View) -> npt.NDArray[np.float64] | None:
        """Return what the metric needs of each row besides its values: scale, bias or nothing."""
        return view.keys.scale if self.metric.row_term == "scale" else view.keys.bias

    def files(self) -> dict[str, Callable[[Path], None]]:
        """Return the files that hold the store, each with the function that writes it."""
        view, terms, steps = self.view, self._terms(self.view), self.view.steps
        view.check_rows()
        view.check_walk()
        view.check_tokens()

        def write_ids(path: Path) -> None:
            alive = view.alive.tolist()
            ids = [id if live else None for id, live in zip(view.ids.part(0, view.count), alive, strict=True)]
            with path.open("w", encoding="utf-8") as file:
                json.dump({"next": self._next_id, "ids": ids}, file)

        files: dict[str, Callable[[Path], None]] = {
            "rows.npy": lambda path: np.save(path, on_disk(view.keys.data)),
            "ids.json": write_ids,
        }
        if terms is not None:
            files["terms.npy"] = lambda path: np.save(path, terms)
        if steps is not None:
            files["steps.npy"] = lambda path: np.save(path, steps)
        if view.reduction is not None and view.walk is not view.keys:
            files["codes.npy"] = lambda path: np.save(path, on_disk(view.walk.data))
            files["clipped.npy"] = lambda path: np.save(path, np.array([view.clipped]))
            for name, array in view.reduction.arrays().items():
                files[f"reduction_{name}.npy"] = lambda path, array=array: np.save(path, array)  # type: ignore[misc]
        if view.tokens is not None:
            tokens = view.tokens
            files["tokens.npy"] = lambda path: np.save(path, on_disk(tokens.data))
            files["token_lengths.npy"] = lambda path: np.save(path, tokens.lengths)
            scales = tokens.scale
            if scales is not None:
                files["token_scales.npy"] = lambda path: np.save(path, scales)
        if view.payload is not None:
            files["payload.parquet"] = view.payload.write
        return files

    @classmethod
    def read(
        cls, snapshot: Snapshot, dim: int, metric: Metric, mmap: bool, settings: RowSettings = FULL_ROWS
    ) -> "Store":
        """Read the files that `files` wrote; memory-mapped ones are copy-on-write, like arrays of our own."""
        ids, next_id = _read_ids(snapshot)
        dtype = settings.dtype if settings.packed else "float32"
        data, offset = _array(snapshot, "rows.npy", DISK[dtype], (len(ids), dim), mmap=mmap)
        terms = None if metric.row_term is None else _numbers(snapshot, "terms.npy", len(ids))
        steps = _numbers(snapshot, "steps.npy", len(ids)) if settings.packed else None
        rows = Rows.wrap(data.view(STORED[dtype]), terms, steps, metric)
        codes, clipped = _read_codes(snapshot, len(ids), dim, settings, mmap)
        tokens, token_blocks, scale_blocks = _read_tokens(snapshot, len(ids), settings.token_dtype, mmap)
        guard = None
        if mmap and len(ids):
            guard = Guard(
                (snapshot.blocks("rows.npy"), offset),
                data.itemsize * dim,
                token_blocks,
                0 if tokens is None else np.dtype(DISK[tokens.dtype]).itemsize * tokens.dim,
                None if codes is None else snapshot.blocks("codes.npy"),
                Mapped(snapshot.folder / "rows.npy", offset, data),
                scale_blocks,
            )
        payload = None
        if "payload.parquet" in snapshot:
            from attnbridge.integrations.payload import Payload

            payload = Payload.read(snapshot.path("payload.parquet"), len(ids))
        return cls._of(rows, ids, next_id, tokens, payload, guard, settings, codes, clipped)

    @classmethod
    def adopt(
        cls,
        data: npt.NDArray[np.float32],
        metric: Metric,
        ids: Sequence[Id],
        live: npt.NDArray[np.int64],
        settings: RowSettings = FULL_ROWS,
    ) -> "Store":
        """Return a store of rows of which those named in `live` have ids and the others are dead."""
        settings.check_dim(data.shape[1])
        rows = Rows(data.shape[1], metric, settings.dtype if settings.packed else "float32")
        rows.put(data, "vectors")
        rows.count = len(data)
        given: list[Id | None] = [None] * len(data)
        for row, id in zip(live.tolist(), ids, strict=True):
            given[row] = id
        next_id = max((id + 1 for id in ids if isinstance(id, int)), default=0)
        store = cls._of(rows, given, max(next_id, 0), None, None, None, settings)
        store._publish(store._alive, 0, None, store._fit(store._alive))
        return store

    @classmethod
    def _of(
        cls,
        rows: Rows,
        ids: list[Id | None],
        next_id: int,
        tokens: Tokens | None,
        payload: "Payload | None",
        guard: Guard | None,
        settings: RowSettings,
        codes: Codes | None = None,
        clipped: int = 0,
    ) -> "Store":
        store = cls(rows.dim, rows.metric, settings)
        store._rows, store._codes, store._tokens, store._next_id = rows, codes, tokens, next_id
        store._alive = (
            np.array([id is not None for id in ids], np.bool_) if None in ids else np.ones(len(ids), np.bool_)
        )
        store._kind = next((type(id) for id in ids if id is not None), None)
        placeholder: Id = "" if store._kind is str else 0
        store._ids.put(0, [placeholder if id is None else id for id in ids] if None in ids else ids)  # type: ignore[arg-type]
        store.view = store._view(store._alive, int(np.count_nonzero(store._alive)), payload, guard, clipped)
        return store

    def __getstate__(self) -> dict[str, Any]:
        view = self.view
        alive = view.alive.tolist()
        view.check_rows()
        view.check_walk()
        view.check_tokens()
        coded = view.walk is not view.keys
        return {
            "metric": self.metric,
            "settings": self.settings,
            "data": np.ascontiguousarray(view.keys.data),
            "terms": self._terms(view),
            "steps": view.steps,
            "codes": (np.ascontiguousarray(view.walk.data), view.reduction, view.clipped) if coded else None,
            "ids": [id if live else None for id, live in zip(view.ids.part(0, view.count), alive, strict=True)],
            "next_id": self._next_id,
            "tokens": None
            if view.tokens is None
            else (on_disk(view.tokens.data), view.tokens.lengths, view.tokens.scale),
            "payload": view.payload,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        rows = Rows.wrap(state["data"], state["terms"], state["steps"], state["metric"])
        codes, clipped = None, 0
        if state["codes"] is not None:
            data, reduction, clipped = state["codes"]
            codes = Codes.wrap(data, reduction, rows.dim)
        tokens = None if state["tokens"] is None else Tokens.wrap(*state["tokens"])
        made = Store._of(
            rows, state["ids"], state["next_id"], tokens, state["payload"], None, state["settings"], codes, clipped
        )
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


def _numbers(snapshot: Snapshot, file: str, count: int) -> npt.NDArray[np.float64]:
    """Return one finite number a row."""
    numbers, _ = _array(snapshot, file, np.float64, (count,), mmap=False)
    if not np.isfinite(numbers).all():
        raise damaged(snapshot.folder / file, "it must hold finite numbers")
    return numbers


def _read_codes(
    snapshot: Snapshot, count: int, dim: int, settings: RowSettings, mmap: bool
) -> tuple[Codes | None, int]:
    """Return what the graph is walked over where it is not the rows, and how many of its values are clipped."""
    if "codes.npy" not in snapshot:
        return None, 0
    path = snapshot.folder / "codes.npy"
    if not settings.reduced:
        raise damaged(path, "its index keeps no codes beside its rows")
    arrays = {"step": _array(snapshot, "reduction_step.npy", np.float64, (1,), mmap=False)[0]}
    if settings.index_dim is not None or "reduction_directions.npy" in snapshot:
        shape = (settings.index_dim or dim, dim)
        arrays["directions"], _ = _array(snapshot, "reduction_directions.npy", np.float32, shape, mmap=False)
    try:
        reduction = Reduction.from_arrays(arrays, settings.dtype, dim)
    except IndexCorruptError as error:
        raise IndexCorruptError(f"{snapshot.folder}: {error}") from error
    clipped, _ = _array(snapshot, "clipped.npy", np.int64, (1,), mmap=False)
    if clipped[0] < 0:
        raise damaged(snapshot.folder / "clipped.npy", f"it must hold a count, got {clipped[0]}")
    data, _ = _array(snapshot, "codes.npy", DISK[settings.dtype], (count, reduction.width(dim)), mmap=mmap)
    return Codes.wrap(data.view(STORED[settings.dtype]), reduction, dim), int(clipped[0])


def _read_tokens(
    snapshot: Snapshot, count: int, dtype: str, mmap: bool
) -> tuple[Tokens | None, tuple[Blocks, int] | None, tuple[Blocks, int] | None]:
    """Return the tokens, and the blocks of their file and of that of their scales with where the arrays begin."""
    if "tokens.npy" not in snapshot:
        return None, None, None
    lengths, _ = _array(snapshot, "token_lengths.npy", np.int64, (count,), mmap=False)
    data, offset = _array(snapshot, "tokens.npy", DISK[dtype], (None, None), mmap=mmap)
    if count and (lengths.min() < 0 or lengths.max() > len(data) or lengths.sum() != len(data)):
        raise IndexCorruptError(f"{snapshot.path('token_lengths.npy')} does not fit tokens.npy; restore it")
    blocks = (snapshot.blocks("tokens.npy"), offset)
    if dtype != "int8":
        if "token_scales.npy" in snapshot:
            raise damaged(snapshot.folder / "token_scales.npy", f"its index keeps tokens as {dtype}, without scales")
        return Tokens.wrap(data, lengths), blocks, None
    scales, scale_offset = _array(snapshot, "token_scales.npy", np.float32, (len(data),), mmap=mmap)
    return Tokens.wrap(data, lengths, scales), blocks, (snapshot.blocks("token_scales.npy"), scale_offset)


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
        live = [id for id in ids if id is not None] if None in ids else ids
        if kinds == {int} and not -(2**63) <= min(live) <= max(live) < 2**63:
            raise ValueError("one does not fit 64 bits")
        # numbers not in a set: what that takes in memory would not be given back
        if len(live) > len(np.unique(np.array(live, np.int64)) if kinds == {int} else set(live)):
            raise ValueError("one occurs twice")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise IndexCorruptError(f"{path} is not a list of ids ({error}); restore it from a backup") from error
    return ids, next_id
