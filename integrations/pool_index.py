"""What rerank stages may ask of the index behind their candidates, as the one search sees it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidInputError
from attnbridge.hits import Id
from attnbridge.integrations.candidates import Distances, Labels, distances_of, exact_search
from attnbridge.integrations.graph import Graph
from attnbridge.integrations.nearest import Nearest, Request

if TYPE_CHECKING:
    from attnbridge.integrations.search import Searcher

# Of a row that is in no graph: as many as a graph of M = 16 links it with at most, when it is added.
_NEIGHBOURS = 16


class SearchIndex:
    """The index as one query of a search sees it.

    Parameters
    ----------
    searcher : Searcher
    request : Request
    number : int
        The query's.
    query : (d,) float32
        As the metric prepares it.
    bias : float
    places : callable
        ids -> the rows that they have now, -1 for those that are not there.
    """

    __slots__ = ("_bias", "_number", "_places", "_query", "_request", "_searcher", "view")

    def __init__(
        self,
        searcher: "Searcher",
        request: Request,
        number: int,
        query: npt.NDArray[np.float32],
        bias: float,
        places: Callable[[Sequence[Id]], list[int]],
    ) -> None:
        self._searcher, self._request, self._number = searcher, request, number
        self._query, self._bias, self._places = query, bias, places
        self.view = searcher.view

    def find(self, query: npt.NDArray[np.float32], query_bias: float, rows: Labels) -> Labels:
        """Return the candidates under another query, in the first one's radius and filter."""
        searcher, request = self._searcher, self._request
        allowed = None if request.allowed is None else [request.allowed[self._number]]
        one = replace(request, queries=query[None], allowed=allowed, entries=rows[None])
        search = Nearest(self.view, searcher.source, searcher.metric, one, query[None], np.array([query_bias]), 0)
        labels: Labels = search.candidates().labels[0]
        labels = labels[labels >= 0]
        self.check(labels)
        return labels if request.radius is None else labels[self._near(labels)]

    def admits(self, rows: Labels) -> npt.NDArray[np.bool_]:
        """Return which rows the search may return."""
        request = self._request
        out: npt.NDArray[np.bool_] = self.view.alive[rows] & (rows != request.exclude)
        allowed = None if request.allowed is None else request.allowed[self._number]
        if allowed is not None:
            out &= allowed.mask[rows]
        if request.radius is not None and out.any():
            out[out] = self._near(rows[out])
        return out

    def rows_of(self, ids: Sequence[Id]) -> Labels:
        """Return the rows of ids in this search's view; -1 for those that are not there."""
        rows = np.array(self._places(ids), np.int64)
        known = (rows >= 0) & (rows < self.view.count)  # one that was added meanwhile is not in this view
        known[known] = self.view.alive[rows[known]]
        return np.where(known, rows, -1)

    def ids_of(self, rows: Labels) -> list[Id]:
        """Return the ids of rows."""
        return self.view.ids.at(rows)

    def column(self, name: str, rows: Labels | None = None) -> list[Any]:
        """Return the payload's values in a column."""
        payload = self.view.payload
        if payload is None or name not in payload.names:
            known = ", ".join([] if payload is None else payload.names) or "none"
            raise InvalidInputError(f"column must be one of the payload's, {name!r} is none; they are: {known}")
        return payload.values(name, rows)

    def live_rows(self) -> Labels:
        """Return the rows of all documents, ascending."""
        return self.view.live_rows

    @property
    def cache(self) -> dict[Any, Any]:
        """What stages keep that they made of all documents; another one after each change to them."""
        kept: dict[Any, Any] = self.view.__dict__.setdefault("_cache", {})
        return kept

    def check(self, rows: Labels) -> None:
        """Verify what of memory-mapped files a stage will read of rows."""
        self.view.check_rows(rows)
        if self._request.query_tokens is not None:
            self.view.check_tokens(rows)

    def neighbours(self, rows: Labels) -> tuple[Labels, Labels]:
        """Return each row's links in layer 0 of the graph, one row's after the other's, and how many they are.

        Of rows that no walk leads to, the nearest by exact search.
        """
        source = self._searcher.source
        native = source.native(self.view) if isinstance(source, Graph) else None
        linked = np.zeros(len(rows), np.bool_) if native is None else rows < native.bound
        if native is not None and linked.all():
            links = native.walk.adjacency.links.level0[rows]
            return links[links >= 0].astype(np.int64), (links >= 0).sum(axis=1)
        nearest = self._nearest(rows[~linked])
        out, width = np.full((len(rows), _NEIGHBOURS), -1), _NEIGHBOURS
        if native is not None:
            links = native.walk.adjacency.links.level0[rows[linked]]
            width = max(width, links.shape[1])
            out = np.full((len(rows), width), -1)
            out[linked, : links.shape[1]] = links
        out[~linked, : nearest.shape[1]] = nearest
        return out[out >= 0], (out >= 0).sum(axis=1)

    def _nearest(self, rows: Labels) -> Labels:
        """Return the live rows nearest to each row, itself left out; -1 where there are no more."""
        view, metric = self.view, self._searcher.metric
        queries, bias = metric.prepare(view.vectors(rows), "rows")
        view.check_rows()
        live = None if view.live == view.count else view.live_rows
        found, _ = exact_search(view.keys, metric, queries, bias, min(_NEIGHBOURS + 1, view.live), live)
        others = found != rows[:, None]
        others &= np.cumsum(others, axis=1) <= _NEIGHBOURS
        out = np.full((len(rows), _NEIGHBOURS), -1)
        for place, (labels, keep) in enumerate(zip(found, others, strict=True)):
            out[place, : keep.sum()] = labels[keep]
        return out

    def _near(self, rows: Labels) -> npt.NDArray[np.bool_]:
        """Return which rows are in the search's radius."""
        assert self._request.radius is not None
        within: npt.NDArray[np.bool_] = self.distances(rows).astype(np.float64) <= self._request.radius
        return within

    def distances(self, rows: Labels) -> Distances:
        """Return the distances of the search's own query to rows."""
        self.view.check_rows(rows)
        bias = np.array([self._bias])
        metric = self._searcher.metric
        found: Distances = distances_of(self.view.keys, metric, self._query[None], bias, rows[None])[0]
        return found
