"""One search: candidates from the index, logits over the stored rows, rerank stages, hits."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidInputError
from attnbridge.hits import Hits, Id
from attnbridge.integrations.candidates import Distances, Labels, distances_of
from attnbridge.integrations.graph import Foreign, Graph
from attnbridge.integrations.nearest import Found, Nearest, Request
from attnbridge.integrations.pool_index import SearchIndex
from attnbridge.integrations.view import View
from attnbridge.mechanisms.row import AttentionType, keep_best
from attnbridge.metric import Metric
from attnbridge.rerank import Pool
from attnbridge.rerank.pool import places_among
from attnbridge.threads import for_chunks
from attnbridge.trace import Step, Trace

# Queries that go to the index and the kernels in one call.
_CHUNK = 256

# The same where each query has a filter of its own: rows are read for all of them together, the more the better.
_FILTERED_CHUNK = 1_024

_NONE = np.empty(0)
_NO_ROWS = np.empty(0, np.int64)

# How many times as many candidates are taken where a stage leaves too few of them.
_MORE = 4


class _Ranked:
    """What a chunk of queries found, for their hits to take out of it."""

    windows: list[slice]
    candidates: list[int]
    complete: list[bool]

    def __init__(
        self,
        view: View,
        name: str,
        rows: Labels,
        scores: npt.NDArray[np.float64],
        weights: npt.NDArray[np.float64],
        ranks_before: Labels,
        nearness: Callable[[], Distances],
        timings: dict[str, float],
    ) -> None:
        self.view, self.name, self.rows, self.timings = view, name, rows, timings
        self.scores, self.weights, self.ranks_before, self.nearness = scores, weights, ranks_before, nearness
        self.ids = view.ids.at(rows)  # now: an id is read beside those of other queries
        self.distances: Distances | None = None

    def value(self, name: str, number: int) -> Any:
        """Return an attribute of one query's hits."""
        window = self.windows[number]
        if name in ("candidates", "complete"):
            return getattr(self, name)[number]
        if name == "timings":
            return self.timings.copy()
        if name == "parts":
            return {self.name: self.scores[number, window].copy()}
        if name == "trace":
            count = self.windows[number].stop
            step = Step(self.name, self.rows[number, :count], self.scores[number, :count], self.timings["rerank"])
            return Trace(self.rows[number, window].tolist(), [step], {})
        if name == "payload":
            return None if self.view.payload is None else partial(self.view.records, self.rows[number, window])
        if name == "distances" and self.distances is None:
            self.distances = self.nearness()
        if name == "scores":  # not those that `parts` are of
            return self.scores[number, window].copy()
        return getattr(self, name)[number][window]

    def columns(self, numbers: Sequence[int]) -> "Columns":
        """Return what `columns_of` does, of some of the queries."""
        if self.distances is None:
            self.distances = self.nearness()
        ends = [(self.windows[number].start, self.windows[number].stop) for number in numbers]
        starts, stops = np.array(ends, np.int64).T
        ranks = np.arange(self.rows.shape[1])
        kept = (ranks >= starts[:, None]) & (ranks < stops[:, None])
        ids = np.array([self.ids[number] for number in numbers], object)
        numeric = (values[numbers][kept] for values in (self.scores, self.weights, self.distances))
        return Columns(kept.sum(axis=1), ids[kept], *numeric)


class Columns(NamedTuple):
    """What several queries found, one's hits after the other's, and how many hits each has."""

    lengths: npt.NDArray[np.int64]
    ids: npt.NDArray[np.object_]
    scores: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    distances: npt.NDArray[np.float32]


def columns_of(found: Sequence[Hits]) -> Columns:
    """Return the columns of all hits together, as their chunk has them, without making each query's."""
    parts = [Columns(np.empty(0, np.int64), np.empty(0, object), _NONE, _NONE, np.empty(0, np.float32))]
    for source, group in groupby(found, lambda hits: getattr(hits, "_source", None)):
        several = list(group)
        if isinstance(source, _Ranked):
            parts.append(source.columns([hits._number for hits in several]))
            continue
        for hits in several:
            ids = np.array(hits.ids, object)
            parts.append(Columns(np.array([len(ids)]), ids, hits.scores, hits.weights, hits.distances))
    return Columns(*map(np.concatenate, zip(*parts, strict=True)))


class _Staged:
    """What one query found and what became of it stage by stage, for its hits to take out of it."""

    __slots__ = (
        "best",
        "candidates",
        "complete",
        "every",
        "first",
        "given",
        "ids",
        "index",
        "nearness",
        "origins",
        "query_tokens",
        "rows",
        "scores",
        "steps",
        "timings",
        "view",
    )

    def __init__(
        self, view: View, index: SearchIndex, rows: Labels, distances: Distances, origins: dict[int, str]
    ) -> None:
        self.view, self.index, self.first, self.origins = view, index, rows, origins
        self.nearness = distances
        self.query_tokens: int | None = None
        self.steps: list[Step] = []
        self.given: list[dict[str, npt.NDArray[np.float64]]] = []

    def take(self, step: Step, parts: dict[str, npt.NDArray[np.float64]]) -> None:
        """Keep what the candidates are after a step, and what each of them was given in it."""
        self.steps.append(step)
        self.given.append(parts)

    def close(
        self,
        every: npt.NDArray[np.float64],
        best: Labels,
        scores: npt.NDArray[np.float64],
        timings: dict[str, float],
        candidates: int,
        complete: bool,
    ) -> None:
        """Keep the final scores and which of them are hits."""
        self.every, self.best, self.scores, self.timings = every, best, scores, timings
        self.candidates, self.complete = candidates, complete
        self.rows = self.steps[-1].rows[best]
        self.ids = self.view.ids.at(self.rows)

    def value(self, name: str, number: int) -> Any:
        """Return an attribute of the hits."""
        if name in ("ids", "scores", "timings", "candidates", "complete"):
            return getattr(self, name)
        return getattr(self, f"_{name}")()

    def _weights(self) -> npt.NDArray[np.float64]:
        weights = np.zeros(len(self.every))
        if len(self.best):
            kernels.softmax(self.every, weights)
        return weights[self.best]

    def _unmoved(self) -> bool:
        """Return whether the candidates are those of the first search."""
        return self.steps[-1].rows is self.first

    def _distances(self) -> Distances:
        return self.nearness[self.best] if self._unmoved() else self.index.distances(self.rows)

    def _ranks_before(self) -> Labels:
        return self.best.copy() if self._unmoved() else places_among(self.rows, self.first)

    def _parts(self) -> dict[str, npt.NDArray[np.float64]]:
        return self.parts_of(self.rows, self.best)

    def parts_of(self, rows: Labels, last: Labels | None = None) -> dict[str, npt.NDArray[np.float64]]:
        """Return what each row was given: by the attention its score, by a stage what the stage says.

        Parameters
        ----------
        rows : (n,) int64
        last : (n,) int64, optional
            Their places among the candidates of the last step.

        Returns
        -------
        dict of str to (n,) float64
            NaN for a row that was not there.
        """
        out: dict[str, npt.NDArray[np.float64]] = {}
        for step, given in zip(self.steps, self.given, strict=True):
            parts = given if step is not self.steps[0] else {step.name: step.scores}
            places = places_among(rows, step.rows) if last is None or step.rows is not self.steps[-1].rows else last
            for name, values in parts.items():
                out[name] = values[places]
                out[name][places < 0] = np.nan
        return out

    def _payload(self) -> Callable[[], list[dict[str, Any]]]:
        return partial(self.view.records, self.rows)

    def _trace(self) -> Trace:
        lengths = None if self.view.tokens is None else self.view.tokens.lengths.item
        return Trace(self.rows.tolist(), self.steps, self.origins, lengths, self.query_tokens)


class Searcher:
    """One state of a bridge, ready to be searched.

    Parameters
    ----------
    view : View
    source : Graph, Foreign or None
        Where candidates come from; None reads every row.
    metric : Metric
    attention : AttentionType
    options : dict
    places : callable
        ids -> the rows that they have now, -1 for those that are not there.
    """

    def __init__(
        self,
        view: View,
        source: Graph | Foreign | None,
        metric: Metric,
        attention: AttentionType,
        options: dict[str, Any],
        places: Callable[[Sequence[Id]], list[int]],
    ) -> None:
        self.view = view
        self.source = source
        self.metric = metric
        self.attention = attention
        self.options = options
        self.places = places

    def run(self, request: Request) -> list[Hits]:
        """Search every query of the request."""
        prepared, bias = self.metric.prepare(request.queries, "query")
        count = len(prepared)
        out: list[Any] = [None] * count
        chunk = max(1, self._chunk_size(request, count))

        def work(start: int, stop: int) -> None:
            part = slice(start, stop)
            if start and request.late():
                out[part] = [self._nothing() for _ in range(start, stop)]
            else:
                out[part] = self._chunk(request, prepared[part], bias[part], start)

        for_chunks(work, count, chunk, request.threads)
        return out

    @staticmethod
    def _chunk_size(request: Request, count: int) -> int:
        """Return how many queries to take in one go."""
        if request.deadline is not None:
            return 4
        if request.allowed is not None and any(one is not request.allowed[0] for one in request.allowed):
            return min(_FILTERED_CHUNK, -(-count // request.threads))
        return min(_CHUNK, -(-count // (4 * request.threads)))

    def _nothing(self) -> Hits:
        """Return the hits of a query whose turn came after the deadline."""
        none = np.empty(0)
        rows = np.empty(0, np.int64)
        return Hits([], none, none, none.astype(np.float32), rows, {}, {"total": 0.0}, 0, complete=False)

    def _chunk(
        self, request: Request, queries: npt.NDArray[np.float32], bias: npt.NDArray[np.float64], first: int
    ) -> list[Hits]:
        started = time.perf_counter()
        search = Nearest(self.view, self.source, self.metric, request, queries, bias, first)
        found = search.candidates() if request.radius is None else search.within(request.radius)
        counts = (found.labels >= 0).sum(axis=1)
        if self.view.guard is not None:
            self.view.check_rows(found.labels[found.labels >= 0])
        timings = {"candidates": (time.perf_counter() - started) / len(queries)}
        if request.stages and found.rough:
            exact = distances_of(self.view.keys, self.metric, queries, bias, found.labels)
            found = found._replace(distances=exact)
        if not request.stages:
            return self._plain(request, queries, bias, found, counts, timings, first)
        return [
            self._staged(
                request,
                queries[i],
                float(bias[i]),
                found.labels[i, : counts[i]],
                found.distances[i],
                bool(found.complete[i]),
                timings,
                first + i,
            )
            for i in range(len(queries))
        ]

    def _plain(
        self,
        request: Request,
        queries: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float64],
        found: Found,
        counts: npt.NDArray[np.int64],
        timings: dict[str, float],
        first: int,
    ) -> list[Hits]:
        """Rank by the attention's logit alone, in one fused call."""
        started = time.perf_counter()
        labels, distances, complete, rough = found
        most = labels.shape[1] if request.k is None else min(request.offset + request.k, labels.shape[1])
        shape = (len(queries), most)
        positions, logits, weights = np.empty(shape, np.int64), np.empty(shape), np.empty(shape)
        # A type that is not pairwise may ask which rows its keys are.
        keys, near = self.view.keys, labels
        if self.attention.pairwise:
            keys, near = self.view.gathered(labels)
        else:
            self.view.ranked(int(counts.sum()))
        if self._by_tokens(request):
            self._match(request, labels, counts, first, positions, logits, weights)
        else:
            self.attention.rank(queries, bias, keys, near, counts, self.options, positions, logits, weights)
        timings["rerank"] = (time.perf_counter() - started) / len(queries)
        timings["total"] = sum(timings.values())
        places = np.maximum(positions, 0)
        which = np.arange(len(queries))[:, None]  # half the cost of take_along_axis
        if rough:
            best = np.where(positions >= 0, near[which, places], -1)
            nearness = partial(distances_of, keys, self.metric, queries, bias, best)
        else:
            nearness = partial(distances.__getitem__, (which, places))
        lasts = np.minimum(counts, most).tolist()
        if self._excludes(request):
            lasts = (logits > -np.inf).sum(axis=1).tolist()
        if request.threshold is not None:
            lasts = [self._last(request, last, logits[i]) for i, last in enumerate(lasts)]
        ranked = _Ranked(
            self.view, self.attention.name, labels[which, places], logits, weights, positions, nearness, timings
        )
        ranked.windows = [slice(request.offset, last) for last in lasts]
        ranked.candidates, ranked.complete = counts.tolist(), complete.tolist()
        return [Hits.lazily(ranked, i) for i in range(len(queries))]

    def _by_tokens(self, request: Request) -> bool:
        """Return whether the attention itself reads token vectors."""
        return self.attention.token_logits is not None and request.query_tokens is not None

    def _excludes(self, request: Request) -> bool:
        """Return whether candidates may have a logit of -inf: those are no hits."""
        return not self.attention.pairwise or self._by_tokens(request)

    def _match(
        self,
        request: Request,
        labels: Labels,
        counts: npt.NDArray[np.int64],
        first: int,
        positions: Labels,
        logits: npt.NDArray[np.float64],
        weights: npt.NDArray[np.float64],
    ) -> None:
        """Fill the last three with the best of each query's candidates by their tokens."""
        assert self.attention.token_logits is not None
        assert request.query_tokens is not None
        positions[:], logits[:], weights[:] = -1, -np.inf, 0.0
        for b, count in enumerate(counts.tolist()):
            rows, scores, shares = labels[b, :count], np.empty(count), np.empty(count)
            self.view.check_tokens(rows)
            tokens = request.query_tokens[first + b]
            self.attention.token_logits(*tokens, self.view.tokens, rows, self.options, scores)
            kernels.softmax(scores, shares)
            keep_best(scores, shares, rows, positions[b], logits[b], weights[b])

    def _staged(
        self,
        request: Request,
        query: npt.NDArray[np.float32],
        bias: float,
        rows: Labels,
        distances: Distances,
        complete: bool,
        timings: dict[str, float],
        number: int,
    ) -> Hits:
        """Rank by the attention's logit, then by each stage in turn; again with more candidates where a stage asks."""
        while True:
            hits, short = self._ranked(request, query, bias, rows, distances, complete, timings, number)
            asked = request.candidates
            if not short or len(rows) < asked or request.radius is not None or request.late():
                return hits
            started = time.perf_counter()
            most = min(_MORE * asked, self.view.live)
            request = replace(request, candidates=most, exact=request.exact or most == self.view.live)
            index = self._index(request, number, query, bias)
            found = index.find(query, bias, rows)
            if len(found) <= len(rows):
                return hits
            rows = found
            distances = index.distances(rows)
            spent = time.perf_counter() - started
            timings = timings | {"candidates": timings["candidates"] + spent}

    def _index(self, request: Request, number: int, query: npt.NDArray[np.float32], bias: float) -> SearchIndex:
        return SearchIndex(self, request, number, query, bias, self.places)

    def _ranked(
        self,
        request: Request,
        query: npt.NDArray[np.float32],
        bias: float,
        rows: Labels,
        distances: Distances,
        complete: bool,
        timings: dict[str, float],
        number: int,
    ) -> tuple[Hits, bool]:
        """Rank one query's candidates, and return whether a stage could do with more of them."""
        timings = dict(timings)
        started = time.perf_counter()
        view, name = self.view, self.attention.name
        pool = Pool(query, bias, self.metric, view.keys, rows, _NONE, self.attention, self.options, view.tokens)
        index = self._index(request, number, query, bias)
        pool.index = index
        pool.wanted = None if request.k is None else request.offset + request.k
        if request.query_texts is not None:
            pool.query_text = request.query_texts[number]
        if request.query_tokens is not None:
            pool.query_tokens, pool.query_token_weights = request.query_tokens[number]
        if self._by_tokens(request):
            view.check_tokens(rows)
        pool.scores = pool.logits()
        out = _NO_ROWS
        if self._excludes(request) and (pool.scores == -np.inf).any():
            keep = pool.scores > -np.inf
            out = rows[~keep]
            pool.rows, pool.scores = rows[keep], pool.scores[keep]
        ended = time.perf_counter()
        timings["rerank"] = ended - started
        staged = _Staged(view, index, rows, distances, pool.origins)
        staged.query_tokens = None if pool.query_tokens is None else len(pool.query_tokens)
        scores, pool.earlier = pool.scores, staged.parts_of
        staged.take(Step(name, pool.rows, scores, timings["rerank"]), {})
        for stage in request.stages if len(pool.rows) else ():
            if request.late():
                complete = False
                break
            if stage.requires_tokens or pool.query_tokens is not None:
                view.check_tokens(pool.rows)
            before, started = pool.rows, ended
            pool.parts, pool.attended, pool.scores = {}, None, scores.copy()  # which stages may write on
            stage.apply(pool)
            if pool.rows is not before:
                pool.rows = _checked_rows(pool.rows, view, stage.name)
            left, scores = pool.scores, _checked_scores(pool.scores, len(pool.rows), stage.name)
            name = stage.name
            while name in timings:  # the same stage twice
                name += "+"
            ended = time.perf_counter()
            timings[name] = ended - started
            parts = {
                _renamed(part, stage.name, name): scores if values is left else np.array(values, np.float64)
                for part, values in pool.parts.items()
            }
            staged.take(Step(name, pool.rows, scores, timings[name], pool.attended), parts)
        rows = pool.rows
        best = np.empty(len(rows) if request.k is None else min(len(rows), request.offset + request.k), np.int64)
        kernels.top_k(scores, rows, best)
        ordered = scores[best]
        count = len(best)
        if count and ordered[-1] == -np.inf:  # what is ruled out is no hit
            count = int((ordered > -np.inf).sum())
        last = self._last(request, count, ordered)
        view.ranked(len(rows))
        timings["total"] = sum(timings.values())
        every = len(rows) + (int((~np.isin(out, rows)).sum()) if len(out) else 0)
        staged.close(scores, best[request.offset : last], ordered[request.offset : last], timings, every, complete)
        return Hits.lazily(staged, 0), pool.short

    @staticmethod
    def _last(request: Request, count: int, scores: npt.NDArray[np.float64]) -> int:
        """Return where the ranking ends: after `count` hits, or before the first below the threshold."""
        if request.threshold is None:
            return count
        return int((scores[:count] >= request.threshold).sum())


def _renamed(part: str, own: str, name: str) -> str:
    """Return what a part of a stage goes by where the stage goes by another name than its own."""
    return name + part[len(own) :] if part == own or part.startswith(f"{own}.") else part


def _checked_rows(rows: Any, view: View, name: str) -> Labels:
    """Return the rows that a stage left, which must be distinct and alive."""
    out = np.asarray(rows)
    if out.shape == (0,):
        return np.empty(0, np.int64)
    if out.ndim != 1 or out.dtype.kind not in "iu" or len(np.unique(out)) < len(out):
        raise InvalidInputError(f"stage {name!r} must leave distinct row numbers (n,); it left {rows!r}")
    if not (out.min() >= 0 and out.max() < view.count and view.alive[out].all()):
        raise InvalidInputError(f"stage {name!r} must leave rows of the search it is part of; it left {rows!r}")
    view.check_rows(out.astype(np.int64))
    return out.astype(np.int64)


def _checked_scores(scores: Any, count: int, name: str) -> npt.NDArray[np.float64]:
    """Return a copy of what a stage left, for the next one to work on."""
    try:
        out = np.array(scores, np.float64)
    except (TypeError, ValueError):
        out = np.empty(0)
    # -inf rules a candidate out; the largest of several is NaN where one is
    if out.shape != (count,) or (count and not np.maximum.reduce(out) < np.inf):
        raise InvalidInputError(
            f"stage {name!r} must leave a score for each of {count} candidates, none NaN or inf; it left {scores!r}"
        )
    return out
