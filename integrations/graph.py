"""The index behind a bridge: how far rows are linked in it, and the thread that links the others."""

import atexit
import os
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import IndexCorruptError
from attnbridge.integrations.candidates import CandidateSource, Distances, Labels
from attnbridge.integrations.hnswlib import HnswIndex
from attnbridge.integrations.view import View
from attnbridge.threads import ReadWriteLock

# A tail shorter than this is not linked: reading it costs next to nothing.
LINK_FROM = 256

# Seconds that linking keeps searches waiting at a time, and where nobody has searched for as long as _QUIET.
_TURN = 0.004
_LONG_TURN = 0.1
_QUIET = 0.5


# Seconds before a saved graph is read: hnswlib lets no other thread of Python run meanwhile, and the search that found
# no graph shall be answered first.
_COURTESY = 0.02

# Rows that are taken out in one go.
_MARKED = 1_000


class Graph:
    """An hnswlib index of the rows before number `linked`; those behind are the tail, which searches read in full.

    Parameters
    ----------
    index : HnswIndex
    linked : int, default 0
    load : callable, optional
        Returns the index and `linked` of a saved graph; until the first step of linking calls it, all rows are tail.
    """

    def __init__(
        self, index: HnswIndex, linked: int = 0, load: Callable[[HnswIndex], tuple[HnswIndex, int]] | None = None
    ) -> None:
        self.index = index
        self.linked = linked
        self.damage: IndexCorruptError | None = None  # of the saved graph, found when it was loaded
        self._load = load
        self._draining = False  # linking, once begun, goes on until no tail is left
        self._gone: set[int] = set()  # rows that died, still to be taken out
        self._rate = 2_000.0  # rows linked in a second
        self._asked = 0.0
        self.reset()

    def reset(self) -> None:
        """Make the locks anew: those of a forked child may be held by threads that it has not."""
        self._lock = threading.Lock()
        self._stepping = threading.Lock()

    @property
    def ready(self) -> bool:
        """Whether there is anything to ask; a saved graph that is damaged is told of here."""
        if self.damage is not None:
            raise self.damage
        return self.linked > 0

    def query(self, queries: npt.NDArray[np.float32], n: int) -> tuple[Labels, Distances]:
        """Return candidates among the linked rows."""
        self._asked = time.monotonic()
        return self.index.query(queries, n, threads=1)  # the chunks of a batch are what runs in parallel

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
        return self._load is not None or self._draining or bool(self._due())

    def _due(self) -> set[int]:
        with self._lock:
            return {row for row in self._gone if row < self.linked}

    @property
    def busy(self) -> bool:
        """Whether somebody has searched just now."""
        return time.monotonic() - self._asked < _QUIET

    def step(self, view: View, *, threads: int | None = None) -> None:
        """Load a saved graph, or link some rows of the tail: as many as keep searches waiting for a moment only."""
        with self._stepping:
            if self._loaded():
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
                self.index.add(view.vectors(rows), rows, threads=threads)
                rate = len(rows) / max(time.perf_counter() - started, 1e-6)
                self._rate += 0.3 * (min(rate, 10.0 * self._rate) - self._rate)
            self.linked = last

    def _loaded(self) -> bool:
        if self._load is None:
            return False
        time.sleep(_COURTESY)
        try:
            self.index, self.linked = self._load(self.index)
        except IndexCorruptError as error:
            self.damage = error
            raise
        finally:
            self._load = None
        return True

    def _take_out(self) -> None:
        due = sorted(self._due())
        for start in range(0, len(due), _MARKED):
            self.index.remove([row for row in due[start : start + _MARKED] if row in self.index])
        with self._lock:
            self._gone.difference_update(due)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Let nothing be linked meanwhile, and have no dead row in the index."""
        with self._stepping:
            self._loaded()
            self._take_out()
            yield

    def __getstate__(self) -> dict[str, Any]:
        with self.resting():  # as bytes: it may go on being linked before pickle comes to an object
            return {"index": pickle.dumps(self.index, pickle.HIGHEST_PROTOCOL), "linked": self.linked}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(pickle.loads(state["index"]), state["linked"])  # type: ignore[misc]


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
            graph.has_work(view, drain=True)
            self.start()
            if before is not None and before[0] is graph and graph.linked > before[1]:
                advance(graph.linked - before[1])
            before = (graph, graph.linked)
            if not graph.has_work(view):
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
