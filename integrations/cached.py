"""Searches whose hits are kept: what makes two of them the same, and hits made of what is kept."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.cache import AttentionCache, Key, NotKeyedError, content, is_bypassed, new_version
from attnbridge.hits import Hits
from attnbridge.integrations.graph import Foreign, Graph
from attnbridge.integrations.nearest import Request
from attnbridge.integrations.view import Allowed, View
from attnbridge.trace import Attended, Step, Trace


class _Answer(NamedTuple):
    """The hits of one query, without what they are of: nothing here refers to a bridge."""

    ids: list[Any]
    scores: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    distances: npt.NDArray[np.float32]
    ranks_before: npt.NDArray[np.int64]
    parts: dict[str, npt.NDArray[np.float64]]
    candidates: int
    complete: bool
    rows: list[int]
    steps: list[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.float64], float, dict[int, list[Attended]] | None]]
    origins: dict[int, str]
    query_token_count: int | None


class _Kept:
    """What is kept of one query, for its hits to take copies out of it."""

    __slots__ = ("_answer", "_timings", "_view")

    def __init__(self, answer: _Answer, view: View, seconds: float) -> None:
        self._answer, self._view = answer, view
        self._timings = {"cache": seconds, "total": seconds}

    def value(self, name: str, number: int) -> Any:
        """Return an attribute of the hits."""
        answer, view = self._answer, self._view
        if name == "timings":
            return self._timings
        if name == "payload":  # the view is the one that was searched: the key has its version
            return None if view.payload is None else partial(view.records, np.array(answer.rows, np.int64))
        if name == "trace":
            steps = [
                Step(step, rows.copy(), scores.copy(), seconds, None if attended is None else attended.__getitem__)
                for step, rows, scores, seconds, attended in answer.steps
            ]
            lengths = None if view.tokens is None else view.tokens.lengths.item
            return Trace(answer.rows.copy(), steps, answer.origins.copy(), lengths, answer.query_token_count)
        if name == "parts":
            return {part: values.copy() for part, values in answer.parts.items()}
        value = getattr(answer, name)
        return value.copy() if isinstance(value, list | np.ndarray) else value


def _answer(hits: Hits) -> _Answer:
    """Return what is kept of hits, sharing nothing with them."""
    trace = hits.trace
    assert trace is not None
    return _Answer(
        list(hits.ids),
        hits.scores.copy(),
        hits.weights.copy(),
        hits.distances.copy(),
        hits.ranks_before.copy(),
        {part: values.copy() for part, values in hits.parts.items()},
        hits.candidates,
        hits.complete,
        list(trace.rows),
        [_step(step, trace.rows) for step in trace.steps],
        dict(trace.origins),
        trace.query_token_count,
    )


def _step(step: Step, hits: Sequence[int]) -> tuple[Any, ...]:
    attended = None if step.attended is None else {row: step.attended(row) for row in hits}
    return step.name, step.rows.copy(), step.scores.copy(), step.seconds, attended


def _moment(owner: int, view: View, source: Graph | Foreign | None) -> tuple[Any, ...] | None:
    """Return the state that a search sees; None where it cannot be told, or is about to change."""
    if isinstance(source, Foreign):  # what a source of the user's own depends on, nobody knows
        return None
    version = view.__dict__.get("_version") or view.__dict__.setdefault("_version", new_version())
    if source is None:
        return owner, version
    linked = source.version
    return None if linked is None else (owner, version, linked, source.index.ef)


def _passing(allowed: Allowed | None, count: int) -> Any:
    """Return the content of a filter, in the form that takes least."""
    if allowed is None:
        return None
    if 64 * allowed.passing < count:
        return allowed.rows.tobytes()
    return allowed.passing, np.packbits(allowed.mask).tobytes()


def _keys(request: Request, view: View, moment: tuple[Any, ...]) -> list[Key]:
    """Return what each query asks.

    Raises
    ------
    NotKeyedError
        A stage that is not of this library, or has something that is not.
    """
    stages = tuple(map(content, request.stages))
    shared = (
        "search",
        *moment,
        request.k,
        request.offset,
        request.candidates,
        request.threshold,
        request.radius,
        request.exclude,
        request.exact,
        request.ef,
        stages,
    )
    filters: dict[int, Any] = {}
    keys = []
    for i, query in enumerate(request.queries):
        allowed = None if request.allowed is None else request.allowed[i]
        if id(allowed) not in filters:
            filters[id(allowed)] = _passing(allowed, view.count)
        own = (
            query.tobytes(),
            filters[id(allowed)],
            None if request.entries is None else request.entries[i].tobytes(),
            None if request.query_tokens is None else content(request.query_tokens[i]),
            None if request.query_texts is None else request.query_texts[i],
        )
        keys.append(Key((shared, own)))
    return keys


def _only(request: Request, places: list[int]) -> Request:
    """Return a request for some of its queries."""

    def pick(values: Any) -> Any:
        return None if values is None else [values[place] for place in places]

    return replace(
        request,
        queries=request.queries[places],
        allowed=pick(request.allowed),
        query_tokens=pick(request.query_tokens),
        entries=None if request.entries is None else request.entries[places],
        query_texts=pick(request.query_texts),
    )


def run_cached(
    cache: AttentionCache,
    owner: int,
    view: View,
    source: Graph | Foreign | None,
    request: Request,
    run: Callable[[Request], list[Hits]],
    is_current: Callable[[], bool],
) -> list[Hits]:
    """Return the hits of each query: those that are kept, and of the others what `run` finds.

    Parameters
    ----------
    cache : AttentionCache
    owner : int
        Number of the attention and its options.
    view : View
    source : Graph, Foreign or None
    request : Request
    run : callable
    is_current : callable
        Whether the view is still that of the present: stages may look ids up there.

    Returns
    -------
    list of Hits
    """
    moment = None if request.deadline is not None or is_bypassed() else _moment(owner, view, source)
    if moment is None:
        return run(request)
    started = time.perf_counter()
    try:
        keys = _keys(request, view, moment)
    except NotKeyedError:
        return run(request)
    kept = [cache.get(key) for key in keys]
    missing = [place for place, answer in enumerate(kept) if answer is None]
    seconds = (time.perf_counter() - started) / max(1, len(keys))
    found = [] if not missing else run(request if len(missing) == len(keys) else _only(request, missing))
    if is_current() and _moment(owner, view, source) == moment:
        for place, hits in zip(missing, found, strict=True):
            cache.put(keys[place], _answer(hits))
    fresh = iter(found)
    return [next(fresh) if answer is None else Hits.lazily(_Kept(answer, view, seconds), 0) for answer in kept]
