"""The index behind a bridge: how far rows are linked in it, and the thread that links the others."""

import atexit
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.cache import new_version
from attnbridge.errors import IndexCorruptError
from attnbridge.integrations.adjacency import Adjacency
from attnbridge.integrations.candidates import CandidateSource, Distances, Labels
from attnbridge.integrations.hnswlib import HnswIndex, within_float32
from attnbridge.integrations.view import View
from attnbridge.integrations.walk import Walk
from attnbridge.metric import Metric, norms
from attnbridge.threads import ReadWriteLock

# A tail shorter than this is not linked: reading it costs next to nothing.
LINK_FROM = 256

# Seconds that linking keeps searches waiting at a time, and where nobody has searched for as long as _QUIET.
_TURN = 0.004
_LONG_TURN = 0.1
_QUIET = 0.5


# Seconds before hnswlib's index is made from links or the links are read out of it: it lets no other thread of Python
# run meanwhile, and the search that is going on shall be answered first.
_COURTESY = 0.02

# Reading the links out takes at most this share of the time.
_REFRESHING = 0.1

# So many rows linked since the links were read are searched one by one; of more, hnswlib itself is asked.
_BEHIND = 1_000

# Rows that are taken out in one go.
_MARKED = 1_000

ENGINES = ("native", "hnswlib")


class Native(NamedTuple):
    """The graph as it was when the rows before number `bound` were linked, to be walked."""

    walk: Walk
    bound: int


class Graph:
    """A graph of the rows before number `linked`; those behind are the tail, which searches read in full.

    hnswlib builds it, and searches it with engine="hnswlib". With "native" its links are read out after linking, and
    searches walk them; hnswlib's index is then needed for linking only, and may be left empty until there is any.

    Parameters
    ----------
    index : HnswIndex
        Empty where an adjacency is given.
    linked : int, default 0
    engine : {"native", "hnswlib"}, default "native"
    metric : Metric, optional
        That of the rows, where a graph that is walked is best built in a space of its own; by default rows are linked
        as they are. Not for engine="hnswlib".
    adjacency : Adjacency, optional
        The links of those rows.
    longest : float, optional
        The length of the longest row; by default the index's.
    """

    _changing: int  # how many changes are under way

    def __init__(
        self,
        index: HnswIndex,
        linked: int = 0,
        *,
        engine: str = "native",
        metric: Metric | None = None,
        adjacency: Adjacency | None = None,
        longest: float | None = None,
    ) -> None:
        self.index = index
        self.linked = linked
        self.engine = engine
        self.metric = metric if engine == "native" else None
        self.longest = index.longest if longest is None else longest
        self.damage: IndexCorruptError | None = None  # of the rows that the graph is of, found when it was loaded
        self._native = None if adjacency is None else Native(Walk(adjacency), linked)
        self._unloaded = adjacency is not None  # the index is still to be made from the links
        self._refreshed, self._refreshing = -math.inf, 0.0  # when the links were read last, and how long that took
        self._draining = False  # linking, once begun, goes on until no tail is left
        self._gone: set[int] = set()  # rows that died, still to be taken out
        self._rate = 2_000.0  # rows linked in a second
        self._asked = 0.0
        self.pace = 200_000.0  # rows that a walk leaves by their links in a second
        self.reset()

    @property
    def version(self) -> int | None:
        """A number of what searches find here, another one after each change; None while it changes."""
        version = self._version
        return None if self._changing else version

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Mark that searches may find other rows from now on; its caller holds `_stepping`."""
        self._changing += 1
        try:
            yield
        finally:
            self._version = new_version()  # before the mark goes: who reads both sees one of them
            self._changing -= 1

    def reset(self) -> None:
        """Make the locks anew: those of a forked child may be held by threads that it has not."""
        self._lock = threading.Lock()
        self._stepping = threading.Lock()
        self._version, self._changing = new_version(), 0

    # ---- searching

    def native(self, view: View) -> Native | None:
        """Return what a search of a view is to walk; None where hnswlib is to be asked, or there is nothing yet."""
        self._asked = time.monotonic()
        native = self._native
        if self.engine != "native" or native is None or native.bound > view.count:
            return None
        return native if self._unloaded or self.differs or self.linked - native.bound <= _BEHIND else None

    def within_float32(self, queries: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Return for which prepared queries a walk's scores are within float32."""
        return within_float32(self.index.metric, self.longest, queries)

    def learn_pace(self, steps: int, seconds: float) -> None:
        """Learn how fast walks are, for those that have a time budget."""
        self.pace += 0.1 * (steps / max(seconds, 1e-6) - self.pace)

    @property
    def ready(self) -> bool:
        """Whether hnswlib can be asked; rows that are damaged are told of here."""
        if self.damage is not None:
            raise self.damage
        return self.linked > 0 and not self._unloaded and not self.differs

    @property
    def differs(self) -> bool:
        """Whether hnswlib's order of the rows is not the metric's, so that it can link them but not be asked."""
        return self.metric is not None and self.metric.graph_differs

    def _placed(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return rows as they are linked."""
        return vectors if self.metric is None else self.metric.graph_rows(vectors)

    def query(self, queries: npt.NDArray[np.float32], n: int) -> tuple[Labels, Distances]:
        """Return hnswlib's candidates among the linked rows."""
        self._asked = time.monotonic()
        return self.index.query(queries, n, threads=1)  # the chunks of a batch are what runs in parallel

    @property
    def nbytes(self) -> int:
        """How many bytes the links take, and hnswlib's index with its copy of the rows where it is loaded."""
        native = self._native
        return (0 if native is None else native.walk.adjacency.nbytes) + (self.index.nbytes if len(self.index) else 0)

    # ---- changing

    def remove(self, rows: Sequence[int]) -> None:
        """Take rows out: now, or after the step that is going on. Searches drop them meanwhile, for they are dead."""
        with self._lock:
            self._gone.update(rows)
        if self._stepping.acquire(blocking=False):
            try:
                self._take_out()
            finally:
                self._stepping.release()

    def lacks(self, view: View) -> int:
        """Return how long the tail is."""
        return view.count - self.linked

    def has_work(self, view: View, *, drain: bool = False) -> bool:
        """Return whether a step would change anything; with `drain` however short the tail is."""
        if self.damage is not None:
            return False
        lacking = self.lacks(view)
        self._draining = lacking > 0 and (self._draining or drain or lacking >= LINK_FROM)
        return self._to_load() or self._draining or bool(self._due()) or self._stale()

    def linking(self, view: View) -> bool:
        """Return whether there is work that a writer waits for: all but reading the links out once more."""
        return self.has_work(view, drain=True) and (self._to_load() or self._draining or self._native is None)

    def _to_load(self) -> bool:
        """Return whether searches want hnswlib's index, which is not made yet."""
        return self._unloaded and self.engine == "hnswlib"

    def _due(self) -> set[int]:
        if self._unloaded:  # what is dead is not loaded
            return set()
        with self._lock:
            return {row for row in self._gone if row < self.linked}

    def _stale(self) -> bool:
        """Return whether rows were linked since the links were read."""
        return self.engine == "native" and not self._unloaded and self._bound() < self.linked

    def _bound(self) -> int:
        """Return how many rows a walk finds."""
        return 0 if self._native is None else self._native.bound

    @property
    def busy(self) -> bool:
        """Whether somebody has searched just now."""
        return time.monotonic() - self._asked < _QUIET

    def step(self, view: View, *, threads: int | None = None) -> None:
        """Load the index, link some rows of the tail (as many as keep searches waiting for a moment only), or refresh.

        Only where there is no tail, and not too often, are the links read out anew.
        """
        with self._stepping:
            if not self._draining and not self._unloaded and self._stale():
                self._take_out()
                due = self._refreshed + self._refreshing / _REFRESHING
                if time.monotonic() < due:
                    time.sleep(_COURTESY)
                else:
                    self._refresh()
                return
            if self._load(view):
                return
            self._take_out()
            if not self._draining:
                return
            seconds = _TURN if self.busy else _LONG_TURN
            last = min(view.count, self.linked + max(8, int(seconds * self._rate)))
            rows = self.linked + np.flatnonzero(view.alive[self.linked : last])
            rows = rows[[row not in self.index for row in rows.tolist()]]  # a fork may have come before the next line
            if len(rows):
                started = time.perf_counter()
                vectors = view.vectors(rows)
                if self.index.metric != "cosine":
                    self.longest = max(self.longest, float(norms(vectors).max()))
                with self._change():
                    self.index.add(self._placed(vectors), rows, threads=threads)
                rate = len(rows) / max(time.perf_counter() - started, 1e-6)
                self._rate += 0.3 * (min(rate, 10.0 * self._rate) - self._rate)
            with self._change():
                self.linked = last
            if self.differs and last - self._bound() > max(_BEHIND, self._bound() // 4):
                self._refresh()

    def _refresh(self) -> None:
        """Read the links out, for searches to walk."""
        started = time.monotonic()
        linked = self.linked
        native = Native(Walk(self.index.adjacency(linked)), linked)
        with self._change():
            self._native = native
        self._refreshed = time.monotonic()
        self._refreshing = self._refreshed - started

    def _load(self, view: View) -> bool:
        """Make hnswlib's index from the links, and return whether that was still to be done."""
        if not self._unloaded:
            return False
        assert self._native is not None
        time.sleep(_COURTESY)
        adjacency, bound = self._native.walk.adjacency, self._native.bound
        try:
            vectors = view.vectors(np.arange(bound))
        except IndexCorruptError as error:
            self.damage = error
            raise
        with self._change():
            self.index.read_links(adjacency, self._placed(vectors), np.flatnonzero(~view.alive[:bound]))
            self._unloaded = False
        return True

    def _take_out(self) -> None:
        due = sorted(self._due())
        with self._change() if due else nullcontext():
            for start in range(0, len(due), _MARKED):
                self.index.remove([row for row in due[start : start + _MARKED] if row in self.index])
        with self._lock:
            self._gone.difference_update(due)

    def unload(self) -> None:
        """Let hnswlib's index go, with its copy of the rows; it is made from the links when it is needed."""
        with self.resting():
            if not self._unloaded and self._native is not None:
                with self._change():
                    self.index, self._unloaded = self.index.emptied(), True

    @contextmanager
    def resting(self) -> Iterator[Adjacency | None]:
        """Let nothing be linked meanwhile, and yield the links of all that is; None where nothing is."""
        with self._stepping:
            self._take_out()
            if not self._unloaded and self._bound() < self.linked:
                self._refresh()
            yield None if self._native is None else self._native.walk.adjacency

    def __getstate__(self) -> dict[str, Any]:
        with self.resting() as adjacency:
            return {
                "index": self.index.emptied(),
                "linked": self.linked,
                "engine": self.engine,
                "metric": self.metric,
                "longest": self.longest,
                "adjacency": None if adjacency is None else adjacency.arrays(),
            }

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state.pop("adjacency")
        adjacency = None if arrays is None else Adjacency.from_arrays(arrays, state["linked"])
        self.__init__(**state, adjacency=adjacency)  # type: ignore[misc]


class Foreign:
    """A source of the user's own: written to at once, and never while it is asked.

    Parameters
    ----------
    source : CandidateSource
    """

    def __init__(self, source: CandidateSource) -> None:
        self.source = source
        self.linked = 0  # rows before this number have been given to it
        self.ready = True
        self._lock = ReadWriteLock()

    def add(self, vectors: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> None:
        """Add rows."""
        with self._lock.write():
            self.linked = int(rows[-1]) + 1
            self.source.add(vectors, rows)

    def remove(self, rows: Sequence[int]) -> None:
        """Take rows out."""
        with self._lock.write():
            self.source.remove(rows)

    def query(self, queries: npt.NDArray[np.float32], n: int) -> tuple[Any, Any]:
        """Return what the source returns."""
        with self._lock.read():
            return self.source.query(queries, n)

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "linked": self.linked}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["source"])  # type: ignore[misc]
        self.linked = state["linked"]


_linkers: "weakref.WeakSet[Linker]" = weakref.WeakSet()


class Linker:
    """The thread that links a bridge's tail; it runs while there is something to link.

    Parameters
    ----------
    state : callable
        Returns the graph and the view to link from, or None where the bridge is gone.
    """

    def __init__(self, state: Callable[[], tuple[Graph, View] | None]) -> None:
        self._state = state
        self._reset()
        _linkers.add(self)

    def _reset(self) -> None:
        """Forget the thread: it is not in a forked child."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._error: BaseException | None = None

    def start(self) -> None:
        """Have the thread look for work."""
        with self._changed:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._run, name="attnbridge-linker", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopping:
                state = self._state()
                if state is None:
                    break
                graph, view = state
                if not graph.has_work(view):
                    with self._changed:
                        state = self._state()  # what was added meanwhile has found this thread running
                        if state is None or not state[0].has_work(state[1]):
                            self._thread = None
                            return
                    continue
                graph.step(view)
                del state, graph, view  # a bridge that nobody uses any more shall go
                with self._changed:
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised where somebody waits; the tail is searched all the same
            self._error = error
        finally:
            with self._changed:
                if self._thread is threading.current_thread():
                    self._thread = None
                self._changed.notify_all()

    def wait(self, advance: Callable[[int], None]) -> None:
        """Wait until there is no tail, or linking has failed.

        Parameters
        ----------
        advance : callable
            Called with the number of rows linked since the last call.
        """
        before: tuple[Graph, int] | None = None
        self._error = None
        while True:
            if self._error is not None:
                raise self._error
            state = self._state()
            if state is None:
                return
            graph, view = state
            if graph.damage is not None:
                raise graph.damage
            working = graph.linking(view)
            self.start()
            if before is not None and before[0] is graph and graph.linked > before[1]:
                advance(graph.linked - before[1])
            before = (graph, graph.linked)
            if not working:
                return
            with self._changed:
                if self._thread is not None:
                    self._changed.wait(1.0)
                elif self._stopping:  # the interpreter is at its end
                    return

    def stop(self) -> None:
        """End the thread after its present step, and wait for that."""
        self._stopping = True
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._stopping = False


def _stop_all() -> None:
    """At the end of the interpreter: a thread inside hnswlib would bring the process down."""
    for linker in list(_linkers):
        linker._stopping = True
    for linker in list(_linkers):
        linker.stop()
        linker._stopping = True


def _forget_threads() -> None:
    for linker in list(_linkers):
        linker._reset()
        state = linker._state()
        if state is not None:
            state[0].reset()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
