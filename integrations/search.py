"""One search: candidates from the index, logits over the stored rows, rerank stages, hits."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import IndexCorruptError, InvalidInputError
from attnbridge.hits import Hits
from attnbridge.integrations.candidates import CandidateSource, Distances, Labels, exact_search
from attnbridge.integrations.hnswlib import HnswIndex
from attnbridge.integrations.store import Store
from attnbridge.metric import Keys, Metric
from attnbridge.rerank import Pool, Stage, TokenRows
from attnbridge.scoring import AttentionType
from attnbridge.threads import for_chunks

# Queries that go to the index and the kernels in one call.
_CHUNK = 128

# A filter goes to exact search where reading the allowed rows costs less than the wider graph search that would
# be needed: a candidate of a graph search costs about as much as this many rows read one after the other.
_ROWS_PER_CANDIDATE = 30


@dataclass(frozen=True)
class Request:
    """A checked search.

    Parameters
    ----------
    queries : (b, d) float32
    k, offset, candidates : int
    threshold : float or None
    allowed : (m,) int64 ascending or None
        Rows that a filter lets pass.
    exclude : int
        A row never to return, or -1.
    exact : bool
    stages : sequence of Stage
    query_tokens : list of ((m, dt) float32, (m,) float64), or None
    threads : int
    """

    queries: npt.NDArray[np.float32]
    k: int
    offset: int
    candidates: int
    threshold: float | None
    allowed: npt.NDArray[np.int64] | None
    exclude: int
    exact: bool
    stages: Sequence[Stage]
    query_tokens: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]] | None
    threads: int


class Searcher:
    """One state of the store, ready to be searched.

    Parameters
    ----------
    store : Store
    source : CandidateSource
    metric : Metric
    attention : AttentionType
    options : dict
    """

    def __init__(
        self,
        store: Store,
        source: CandidateSource,
        metric: Metric,
        attention: AttentionType,
        options: dict[str, Any],
    ) -> None:
        self.store = store
        self.source = source
        self.metric = metric
        self.attention = attention
        self.options = options
        self.keys: Keys = store.rows.keys()
        self.tokens: TokenRows | None = None if store.tokens is None else store.tokens.view()

    def run(self, request: Request) -> list[Hits]:
        """Search every query of the request."""
        prepared, bias = self.metric.prepare(request.queries, "query")
        allowed = np.zeros(self.store.rows.count, np.bool_)
        if request.allowed is not None:
            allowed[request.allowed] = True
        count = len(prepared)
        out: list[Any] = [None] * count
        chunk = max(1, min(_CHUNK, -(-count // (4 * request.threads))))

        def work(start: int, stop: int) -> None:
            out[start:stop] = self._chunk(request, prepared[start:stop], bias[start:stop], allowed, start)

        for_chunks(work, count, chunk, request.threads)
        return out

    def _chunk(
        self,
        request: Request,
        queries: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float64],
        allowed: npt.NDArray[np.bool_],
        first: int,
    ) -> list[Hits]:
        started = time.perf_counter()
        raw = request.queries[first : first + len(queries)]
        labels, distances = self._candidates(request, raw, queries, bias, allowed)
        counts = (labels >= 0).sum(axis=1)
        timings = {"candidates": (time.perf_counter() - started) / len(queries)}
        if request.stages:
            return [
                self._staged(
                    request,
                    queries[i],
                    float(bias[i]),
                    labels[i, : counts[i]],
                    distances[i],
                    timings,
                    first + i,
                )
                for i in range(len(queries))
            ]
        return self._plain(request, queries, bias, labels, distances, counts, timings)

    def _plain(
        self,
        request: Request,
        queries: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float64],
        labels: Labels,
        distances: Distances,
        counts: npt.NDArray[np.int64],
        timings: dict[str, float],
    ) -> list[Hits]:
        """Rank by the attention's logit alone, in one fused call."""
        started = time.perf_counter()
        shape = (len(queries), min(request.offset + request.k, labels.shape[1]))
        positions, logits, weights = np.empty(shape, np.int64), np.empty(shape), np.empty(shape)
        self.attention.rerank(queries, bias, self.keys, labels, counts, self.options, positions, logits, weights)
        timings["rerank"] = (time.perf_counter() - started) / len(queries)
        timings["total"] = sum(timings.values())
        # Gathered for the whole chunk: a dozen numpy calls for each query would cost as much as its ranking.
        rows = np.take_along_axis(labels, np.maximum(positions, 0), axis=1)
        near = np.take_along_axis(distances, np.maximum(positions, 0), axis=1)
        name = self.attention.name
        out = []
        for i, count in enumerate(counts.tolist()):
            window = slice(request.offset, self._last(request, min(count, shape[1]), logits[i]))
            scores = logits[i, window]
            out.append(
                Hits(
                    self._ids(rows[i, window]),
                    scores,
                    weights[i, window],
                    near[i, window],
                    positions[i, window],
                    {name: scores.copy()},
                    dict(timings),
                    count,
                )
            )
        return out

    def _staged(
        self,
        request: Request,
        query: npt.NDArray[np.float32],
        bias: float,
        rows: Labels,
        distances: Distances,
        timings: dict[str, float],
        number: int,
    ) -> Hits:
        """Rank by the attention's logit, then by each stage in turn."""
        timings = dict(timings)
        started = time.perf_counter()
        pool = Pool(query, bias, self.metric, self.keys, rows, np.empty(0), self.attention, self.options, self.tokens)
        if request.query_tokens is not None:
            pool.query_tokens, pool.query_token_weights = request.query_tokens[number]
        pool.scores = pool.logits()
        parts = {self.attention.name: pool.scores.copy()}
        timings["rerank"] = time.perf_counter() - started
        for stage in request.stages if len(rows) else ():
            started = time.perf_counter()
            pool.parts = {}
            stage.apply(pool)
            pool.scores = _checked_scores(pool.scores, len(rows), stage.name)
            name = stage.name
            while name in timings:  # the same stage twice
                name += "+"
            timings[name] = time.perf_counter() - started
            for part, values in pool.parts.items():
                parts[name if part == stage.name else part] = np.array(values, np.float64)
        weights = np.empty(len(rows))
        kernels.softmax(pool.scores, weights)
        best = np.empty(min(len(rows), request.offset + request.k), np.int64)
        kernels.top_k(pool.scores, rows, best)
        window = best[request.offset : self._last(request, len(best), pool.scores[best])]
        timings["total"] = sum(timings.values())
        return Hits(
            self._ids(rows[window]),
            pool.scores[window],
            weights[window],
            distances[window],
            window,
            {name: values[window] for name, values in parts.items()},
            timings,
            len(rows),
        )

    def _ids(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        ids = self.store.ids
        return [ids[row] for row in rows.tolist()]

    @staticmethod
    def _last(request: Request, count: int, scores: npt.NDArray[np.float64]) -> int:
        """Return where the ranking ends: after `count` hits, or before the first below the threshold."""
        if request.threshold is None:
            return count
        return int((scores[:count] >= request.threshold).sum())

    def _candidates(
        self,
        request: Request,
        raw: npt.NDArray[np.float32],
        queries: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float64],
        allowed: npt.NDArray[np.bool_],
    ) -> tuple[Labels, Distances]:
        """Return up to `candidates` rows for each query, nearest first, then -1."""
        live = len(self.store)
        n = min(request.candidates + (request.exclude >= 0), live)  # k may be any number
        if n == 0:
            return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        passing, last = live, min(request.offset + request.k + (request.exclude >= 0), n) - 1
        fetch = min(n + (last == n - 1), live)  # one beyond the last hit, to see whether that is tied with it
        if request.allowed is not None:
            passing = len(request.allowed)
            fetch = min(int(1.5 * n * live / max(passing, 1)) + 1, live)
        if request.exact or passing < min(live, _ROWS_PER_CANDIDATE * fetch):
            labels, distances = self._exact(request, queries, bias, n)
        else:
            labels, distances = self._query_source(raw, fetch)
            if request.allowed is not None:
                labels, distances = _kept(labels, distances, (labels >= 0) & allowed[labels], n)
            # Read the rows where the graph did not lead to enough of them, or to the last hit's equals only: of more
            # equal rows than it returns it picks any, and ties go by order of insertion.
            tied = (distances[:, -1] == distances[:, last]) & (last < distances.shape[1] - 1)
            few = (labels >= 0).sum(axis=1) < min(n, passing)
            if labels.shape[1] > n:
                labels, distances = np.ascontiguousarray(labels[:, :n]), np.ascontiguousarray(distances[:, :n])
            short = np.flatnonzero(few | tied)
            if len(short):
                labels[short], distances[short] = self._exact(request, queries[short], bias[short], n)
        if request.exclude >= 0:
            keep = (labels >= 0) & (labels != request.exclude)
            labels, distances = _kept(labels, distances, keep, min(n, request.candidates))
        return labels, distances

    def _exact(
        self, request: Request, queries: npt.NDArray[np.float32], bias: npt.NDArray[np.float64], n: int
    ) -> tuple[Labels, Distances]:
        rows = self.store.rows.alive_rows() if request.allowed is None else request.allowed
        return exact_search(self.keys, self.metric, queries, bias, n, rows)

    def _query_source(self, queries: npt.NDArray[np.float32], n: int) -> tuple[Labels, Distances]:
        if isinstance(self.source, HnswIndex):
            labels, distances = self.source.query(queries, n, threads=1)  # the chunks are what runs in parallel
        else:
            labels, distances = self._checked(*self.source.query(queries, n), (len(queries), n))
        if self.store.rows.dead:
            gone = (labels >= 0) & ~self.store.rows.alive[labels]
            if gone.any():  # a write was broken off between store and source, or the source deletes late
                return _kept(labels, distances, (labels >= 0) & ~gone, n)
        return labels, distances

    def _checked(self, labels: Any, distances: Any, shape: tuple[int, int]) -> tuple[Labels, Distances]:
        """Hold what a source of the user's own returned against the protocol."""
        name, count = f"{type(self.source).__name__}.query", self.store.rows.count
        labels, distances = np.asarray(labels), np.asarray(distances, np.float32)
        if labels.shape != shape or distances.shape != shape or labels.dtype.kind not in "iu":
            raise IndexCorruptError(
                f"{name} must return whole-number labels and distances of shape {shape}, got {labels.dtype} "
                f"{labels.shape} and {distances.shape}"
            )
        labels = labels.astype(np.int64)
        if labels.size and labels.max() >= count:
            raise IndexCorruptError(
                f"{name} returned label {labels.max()}, but only {count} rows were added; labels must be those given "
                "to add"
            )
        ordered = np.sort(labels, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if twice.any():
            raise IndexCorruptError(f"{name} returned label {ordered[:, 1:][twice][0]} twice for one query")
        return _kept(labels, distances, labels >= 0, shape[1])


def _checked_scores(scores: Any, count: int, name: str) -> npt.NDArray[np.float64]:
    """Return a copy of what a stage left, for the next one to work on."""
    try:
        out = np.array(scores, np.float64)
    except (TypeError, ValueError):
        out = np.empty(0)
    if out.shape != (count,) or not (out < np.inf).all():  # -inf rules a candidate out
        raise InvalidInputError(
            f"stage {name!r} must leave a score for each of {count} candidates, none NaN or inf; it left {scores!r}"
        )
    return out


def _kept(labels: Labels, distances: Distances, keep: npt.NDArray[np.bool_], n: int) -> tuple[Labels, Distances]:
    """Return the first n kept entries of each row, padded with -1 and inf."""
    out_labels = np.full((len(labels), n), -1, np.int64)
    out_distances = np.full((len(labels), n), np.inf, np.float32)
    for i in range(len(labels)):
        kept = np.flatnonzero(keep[i])[:n]
        out_labels[i, : len(kept)] = labels[i, kept]
        out_distances[i, : len(kept)] = distances[i, kept]
    return out_labels, out_distances
