"""Candidates that the first search did not find: the neighbours of the best it did."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.hits import Id
from attnbridge.rerank.pool import Pool, PoolIndex, standardise
from attnbridge.validation import as_count

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Neighbours = Callable[[Rows], tuple[Rows, Rows]]

# Nodes that are looked up in one go where none is known yet.
_LOOKED_UP = 10_000


@dataclass(frozen=True)
class GraphAdaptive:
    """Have neighbours of the best candidates join them, and theirs if they are good, until the budget is spent.

    In rounds: the `batch` best candidates that have not had their turn (those that joined among them) bring their
    neighbours in, which are scored by the attention's logit under the query as it is. What documents near good
    ones are is likely to be good, though the first search missed it (the cluster hypothesis).

    Parameters
    ----------
    source : "knn", networkx graph or list of pairs of ids, default "knn"
        Where neighbours come from. "knn": the links of the index's own graph in its lowest layer; of a row that is in
        none (an exact index, rows not linked yet, an index of one's own) the 16 nearest by exact search. Of a networkx
        graph the nodes are ids, and edges are followed both ways, as are those of a list [(id, id), ...] or an
        array (2, e); nodes that the index does not hold are passed over.
    budget : int, default 100
        How many rows may join.
    batch : int, default 10
        How many candidates have their neighbours looked up in a round.
    guide : Stage, optional
        A stage that can score any row, such as `LateInteraction`: candidates then have their turn in the order of
        the mix that it would leave. The scores left are still the logits; the stage itself may follow.

    Raises
    ------
    InvalidConfigError
        `budget` or `batch` < 1, a source that is none of these, or a guide that cannot match rows.

    Notes
    -----
    Rows that the search's filter or radius does not let pass do not join, nor do their neighbours by way of them.

    References
    ----------
    MacAvaney et al. 2022, Adaptive Re-Ranking with a Corpus Graph, algorithm 1; Kulkarni et al. 2023, Lexically
    Accelerated Dense Retrieval, section 3.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0]], ids=["a", "b", "c"])
    >>> hits = bridge.search([1.0, 0.1], k=2, candidates=2, rerank=ab.GraphAdaptive([("a", "c")], budget=1))
    >>> hits.ids, hits.candidates
    (['a', 'b'], 3)
    """

    source: Any = "knn"
    budget: int = 100
    batch: int = 10
    guide: Any = None
    _near: Any = field(init=False, repr=False, compare=False)
    name: ClassVar[str] = "graph_adaptive"
    level: ClassVar[str] = "candidates"
    never_after: ClassVar[tuple[str, ...]] = ("scores", "calibration", "selection")

    def __post_init__(self) -> None:
        source = self.source
        if isinstance(source, str):
            if source != "knn":
                raise InvalidConfigError(
                    f"source must be 'knn', a networkx graph, or edges as pairs of ids, got {source!r}"
                )
        elif not _is_graph(source):
            object.__setattr__(self, "source", _as_edges(source))
        object.__setattr__(self, "budget", as_count(self.budget, "budget"))
        object.__setattr__(self, "batch", as_count(self.batch, "batch"))
        if self.guide is not None and not (callable(getattr(self.guide, "matches", None)) and _has_mix(self.guide)):
            raise InvalidConfigError(
                f"guide must be a stage that can match any row, such as LateInteraction(), got {self.guide!r}"
            )
        object.__setattr__(self, "_near", _neighbours_of(self.source))

    @property
    def requires_tokens(self) -> bool:
        """Whether the guide reads token vectors.

        Returns
        -------
        bool
        """
        return self.guide is not None and bool(self.guide.requires_tokens)

    @property
    def requires_text(self) -> bool:
        """Whether the guide reads the query's text.

        Returns
        -------
        bool
        """
        return bool(getattr(self.guide, "requires_text", False))

    def apply(self, pool: Pool) -> None:
        """Put more rows behind the pool's, with their logits.

        Parameters
        ----------
        pool : Pool

        Raises
        ------
        InvalidConfigError
            A pool that no search of an index made.
        InvalidInputError
            None of the graph's nodes is in the index.
        """
        index = pool.require_index(self.name)
        near = index.neighbours if self._near is None else self._by_ids(index)
        growing = _Growing(pool, index, self.guide)
        met = 0
        while growing.joined < self.budget:
            best = growing.next(self.batch)
            if not len(best):
                break
            flat, lengths = near(growing.rows[best])
            met += len(flat)
            growing.join(flat, np.repeat(best, lengths), self.budget)
        if self._near is not None and not met:
            self._require_known(index)
        growing.settle(pool, index)
        pool.parts[self.name] = pool.scores

    def _by_ids(self, index: PoolIndex) -> Neighbours:
        """Return what looks neighbours up by their ids."""

        def near(rows: Rows) -> tuple[Rows, Rows]:
            lists = [list(self._near(id)) for id in index.ids_of(rows)]
            found = index.rows_of(list(chain.from_iterable(lists)))
            owner = np.repeat(np.arange(len(rows)), [len(one) for one in lists])
            return found[found >= 0], np.bincount(owner[found >= 0], minlength=len(rows))

        return near

    def _require_known(self, index: PoolIndex) -> None:
        """Refuse a graph of other ids than the index's."""
        nodes = iter(self.source) if _is_graph(self.source) else iter(dict.fromkeys(chain.from_iterable(self.source)))
        count = 0
        first: list[Any] = []
        while some := list(islice(nodes, _LOOKED_UP)):
            if (index.rows_of(some) >= 0).any():
                return
            first = first or some[:5]
            count += len(some)
        raise InvalidInputError(
            f"source must have ids of the index as its nodes, none of its {count} is one: "
            f"{', '.join(map(repr, first)) or 'it is empty'}"
        )


class _Growing:
    """The candidates while more of them join."""

    def __init__(self, pool: Pool, index: PoolIndex, guide: Any) -> None:
        self.pool, self.index, self.guide = pool, index, guide
        self.rows, self.scores = pool.rows, pool.scores
        self.ruled_out = pool.rows[pool.scores == -np.inf]
        self.done = pool.scores == -np.inf  # no neighbours of what is ruled out
        self.parents = np.empty(0, np.int64)  # of those that joined
        self.seen = set(pool.rows.tolist())
        self.pairwise = pool.attention.is_pairwise(pool.options)
        self.matches: Scores = pool.scores if guide is None else guide.matches(pool, pool.rows)
        self.first = len(pool.rows)

    @property
    def joined(self) -> int:
        """How many rows have joined."""
        return len(self.rows) - self.first

    def next(self, count: int) -> Rows:
        """Return the places of the best candidates whose turn it is, and note that they have had it."""
        order = np.where(self.done, -np.inf, self._order())
        best = np.empty(min(count, len(order)), np.int64)
        kernels.top_k(order, self.rows, best)
        best = best[order[best] > -np.inf]
        self.done[best] = True
        return best

    def _order(self) -> Scores:
        """Return the scores that candidates have their turn by."""
        if self.guide is None:
            return self.scores
        mix = self.guide.mix
        known = np.where(self.scores == -np.inf, np.nan, self.scores)
        out: Scores = (1.0 - mix) * standardise(known) + mix * standardise(self.matches)
        return out

    def join(self, near: Rows, parents: Rows, budget: int) -> None:
        """Have those rows join that are new and may be returned, as far as the budget goes."""
        seen = self.seen
        fresh = [place for place, row in enumerate(near.tolist()) if row not in seen and not seen.add(row)]  # type: ignore[func-returns-value]
        if not fresh:
            return
        rows, parents = near[fresh], parents[fresh]
        admitted = self.index.admits(rows)
        left = budget - self.joined
        rows, parents = rows[admitted][:left], parents[admitted][:left]
        if not len(rows):
            return
        self.index.check(rows)
        self.rows = np.concatenate([self.rows, rows])
        self.parents = np.concatenate([self.parents, parents])
        self.done = np.concatenate([self.done, np.zeros(len(rows), np.bool_)])
        if self.pairwise:
            self.scores = np.concatenate([self.scores, self.pool.logits(rows)])
        else:  # a logit depends on who else is there
            self.scores = self.pool.logits(self.rows)
            self.scores[np.isin(self.rows, self.ruled_out)] = -np.inf
        if self.guide is not None:
            self.matches = np.concatenate([self.matches, self.guide.matches(self.pool, rows)])

    def settle(self, pool: Pool, index: PoolIndex) -> None:
        """Give the pool its rows and scores, and say where they come from."""
        if not self.joined:
            return
        pool.rows, pool.scores = self.rows, self.scores
        parents = self.parents.tolist()
        places = list(dict.fromkeys(parents))
        ids = index.ids_of(self.rows[places])
        texts = {place: f"neighbour of {id!r}" for place, id in zip(places, ids, strict=True)}
        pool.origins.update(zip(self.rows[self.first :].tolist(), map(texts.__getitem__, parents), strict=True))


def _has_mix(guide: Any) -> bool:
    return isinstance(getattr(guide, "mix", None), float)


def _is_graph(source: Any) -> bool:
    import networkx

    return isinstance(source, networkx.Graph)


def _neighbours_of(source: Any) -> Callable[[Any], Iterable[Any]] | None:
    """Return what names a node's neighbours in a graph or in edges, both ways; None for the index's own graph."""
    if isinstance(source, str):
        return None
    if not _is_graph(source):
        near: dict[Id, dict[Id, None]] = {}
        for one, other in source:
            near.setdefault(one, {})[other] = None
            near.setdefault(other, {})[one] = None
        return _Listed(near)
    return _Linked(source)


@dataclass(frozen=True)
class _Listed:
    """The neighbours in a list of edges."""

    near: dict[Id, dict[Id, None]]

    def __call__(self, node: Any) -> Iterable[Any]:
        return self.near.get(node, ())


@dataclass(frozen=True)
class _Linked:
    """The neighbours in a networkx graph, as it is at the moment."""

    graph: Any

    def __call__(self, node: Any) -> Iterable[Any]:
        graph = self.graph
        if node not in graph:
            return ()
        if graph.is_directed():
            return dict.fromkeys(chain(graph.succ[node], graph.pred[node]))
        return graph.adj[node]  # type: ignore[no-any-return]


def _as_edges(source: Any) -> tuple[tuple[Id, Id], ...]:
    """Return edges as pairs of ids."""
    rule = "source must be 'knn', a networkx graph, or edges as pairs of ids"
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or len(source) != 2:
            raise InvalidConfigError(f"{rule} or an array (2, e), got an array of shape {source.shape}")
        source = zip(*source.tolist(), strict=True)
    elif isinstance(source, str | bytes) or not isinstance(source, Iterable):
        raise InvalidConfigError(f"{rule}, got {source!r}")
    edges = []
    for place, edge in enumerate(source):
        pair = edge.tolist() if isinstance(edge, np.ndarray) else edge
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InvalidConfigError(f"{rule}; edge {place} is {edge!r}")
        ids = [one.item() if isinstance(one, np.generic) else one for one in pair]
        if any(isinstance(one, bool) or not isinstance(one, str | int) for one in ids):
            raise InvalidConfigError(f"source must have pairs of ids, str or int; edge {place} is {edge!r}")
        edges.append((ids[0], ids[1]))
    if not edges:
        raise InvalidConfigError("source must have at least one edge, got none")
    return tuple(edges)
