"""Search whose seeds are a vector index's hits, and whose attention then flows along a graph's edges."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import GraphStructureError, InvalidConfigError, InvalidInputError
from attnbridge.integrations.clock import Clock, Expired
from attnbridge.integrations.expansion import (
    Expansion,
    Steps,
    Visited,
    Wide,
    behind,
    best,
    log_softmax,
    reached,
    starts_at,
)
from attnbridge.integrations.filters import Allowed, Filters, as_filters
from attnbridge.integrations.graph_data import GraphData
from attnbridge.integrations.graph_hits import GraphHit, GraphHits
from attnbridge.integrations.graph_view import GraphView
from attnbridge.integrations.topology import Positions, Topology
from attnbridge.validation import as_bool, as_count, as_number, as_vector

if TYPE_CHECKING:
    import pandas as pd

    from attnbridge.integrations.bridge import AttentionVectorBridge

# Chosen by what they find of WordNet's relations and Cora's citations; tests/benchmarks/bench_taxonomy.py --settings
# puts others beside them.
SEEDS, BEAM_WIDTH, MIX, DECAY = 100, 256, 0.05, 0.25

# What else the bridge's own search is told.
_BRIDGE_OPTIONS = (
    "entry_points",
    "position",
    "query_text",
    "query_token_weights",
    "query_tokens",
    "radius",
    "rerank",
    "threshold",
)


class SeededHits(GraphHits):
    """Nodes that attention has come to from a vector index's hits, best score first, ties in the order of the graph.

    It is `GraphHits`, and says how much attention there was.

    Parameters
    ----------
    data : GraphData
    topology : Topology
    visited : Visited
        With final scores in place of logits.
    chosen : ndarray of int64, (k,)
    complete : bool
    pruned : int
    log_masses : ndarray of float64, (k,)
    pruned_mass : float

    Attributes
    ----------
    masses : ndarray of float64, (k,)
        How much attention came to each hit; the seeds had 1 in all.
    pruned : int
        How many nodes were not expanded, as more attention had come to others; they may be hits themselves.
    pruned_mass : float
        How much of the attention ended at these.

    Examples
    --------
    >>> import networkx as nx, attnbridge as ab
    >>> G = nx.DiGraph([("rose", "flower"), ("tulip", "flower")])
    >>> rows = {"rose": [1.0, 0.0], "tulip": [0.8, 0.6], "flower": [0.0, 1.0]}
    >>> nx.set_node_attributes(G, rows, "embedding")
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([rows["rose"], rows["tulip"]], ids=["rose", "tulip"])
    >>> hits = ab.AttentionGraph(G).search(bridge, [0.9, 0.4])
    >>> [(node, round(mass, 3)) for node, mass in zip(hits.nodes, hits.masses.tolist())]
    [('flower', 1.0), ('tulip', 0.648), ('rose', 0.352)]
    """

    def __init__(
        self,
        data: GraphData,
        topology: Topology,
        visited: Visited,
        chosen: npt.NDArray[np.intp],
        complete: bool,
        pruned: int,
        log_masses: Wide,
        pruned_mass: float,
    ) -> None:
        super().__init__(data, topology, visited, chosen, complete, pruned)
        self.masses = np.exp(log_masses)
        self.pruned_mass = pruned_mass
        self.visited = len(np.unique(visited.positions))  # a node is there once for each number of hops

    def _figures(self, i: int, hit: GraphHit) -> str:
        return f"{super()._figures(i, hit)}, mass {self.masses[i]:.4f}"

    def to_pandas(self) -> "pd.DataFrame":
        """Return a DataFrame with a row for each hit: the fields of `GraphHit`, and its mass.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        MissingDependencyError
            pandas is not installed.
        """
        return super().to_pandas().assign(mass=self.masses)


class Seeding(GraphView):
    """What an `AttentionGraph` finds from the hits of a vector index on."""

    def search(
        self,
        bridge: "AttentionVectorBridge",
        query: npt.ArrayLike,
        k: int = 10,
        hops: int = 2,
        *,
        direction: str = "out",
        edge_types: str | Sequence[str] | None = None,
        node_filter: Callable[[Any], Any] | None = None,
        edge_filter: Callable[..., Any] | None = None,
        filter: Any = None,
        where: str | None = None,
        params: Mapping[str, Any] | None = None,
        filter_hits: bool = True,
        node_of: Mapping[Any, Any] | Callable[[Any], Any] | None = None,
        seeds: int = SEEDS,
        candidates: int | None = None,
        ef: int | None = None,
        exact: bool = False,
        beam_width: int | None = BEAM_WIDTH,
        mix: float = MIX,
        decay: float = DECAY,
        time_budget: float | None = None,
        **options: Any,
    ) -> SeededHits:
        """Return the nodes that most attention comes to, when it starts at a vector index's hits and follows edges.

        The bridge's hits are seeds. The query's attention, 1 in all, is shared among them by the softmax of their
        logits; then, hop by hop, a node hands what came to it on to its neighbours, each its share, the weight of the
        step. A node that several seeds lead to gathers what comes along all ways.

        Parameters
        ----------
        bridge : AttentionVectorBridge
            Its ids are nodes of the graph, or `node_of` says which; those that are not are passed over.
        query : array_like, (d,)
        k : int, default 10
            How many nodes are returned: the best.
        hops : int, default 2
            How many steps attention goes from the seeds; of 0 there are the seeds alone.
        direction : {"out", "in", "both"}, default "out"
        edge_types : str or list of str, optional
            Only edges of these types are gone: of the attribute that the graph's `edge_type` names or else, in a
            multigraph, of their key where that is a text.
        node_filter : callable, optional
            (node) -> bool: which nodes may be seeds, be stepped to and be found; to leave out the node that the query
            belongs to, ``lambda node: node != own``.
        edge_filter : callable, optional
            (u, v) -> bool, of a multigraph (u, v, key) -> bool: which edges may be gone.
        filter, where, params : optional
            As for `bridge.search`: which of its documents may be seeds, and be found. All hits are then documents that
            pass, whatever attention comes to; what does not pass, or is no document of the bridge, may still be stepped
            to and lead to hits (`node_filter` keeps attention away altogether).
        filter_hits : bool, default True
            False: `filter` and `where` choose the seeds alone, and any node may be found from there.
        node_of : mapping or callable, optional
            The node of each id, where nodes are no ids: {id: node}, or (id) -> node. By default an id is a node.
        seeds : int, default 100
            How many of the bridge's hits there are at most.
        candidates, ef, exact : optional
            As for `bridge.search`: how the seeds are looked for.
        beam_width : int, optional
            How many nodes are expanded at each hop at most, those with most attention; by default 256, None for all.
        mix : float, default 0.05
            How much the node's own likeness to the query counts, 0 to 1. See Notes.
        decay : float, default 0.25
            How much of what comes with a further hop counts, above 0, at most 1. See Notes.
        time_budget : float, optional
            Seconds after which what was found by then is returned. The bridge's search is always done, and seeds are
            among what is returned: `node_filter` is asked of the best hits until one has passed and the time is over.
        **options : object
            What else `bridge.search` takes for the seeds: entry_points, position, query_text, query_token_weights,
            query_tokens, radius, rerank, threshold. They decide which documents are seeds, and nothing else: a seed's
            share is by the graph's own attention, whatever `rerank` makes of it.

        Returns
        -------
        SeededHits
            Best score first, ties in the order of `nodes`. A hit's path, edges and weights are those of the way by
            which most attention came, its hop that way's steps; log_weight has the seed's share in it.
            `pruned` tells what the beam left out, `complete` is False where the time budget did.

        Raises
        ------
        DimensionMismatchError, InvalidConfigError, InvalidInputError
        GraphStructureError
            None of the bridge's hits is a node.

        Notes
        -----
        With l(v) the logit of the query with node v, w(u, v) the weight of the step from u to v, and S the seeds::

            m_0(v) = exp(l(v)) / sum of exp(l(s)) over s in S, 0 of other nodes
            m_h(v) = sum over u of m_h-1(u) w(u, v)
            mass(v) = m_0(v) + m_1(v) + decay m_2(v) + decay^2 m_3(v) + ...
            score(v) = (1 - mix) log(mass(v)) + mix l(v)

        What comes with a step is as good as a seed's own share, what comes with more steps is farther from the
        question; without decay, a taxonomy's top gathers most. Both terms of a score are in the units of logits: it
        does not depend on what else was found, and mix means the same for every type of attention.

        References
        ----------
        Haveliwala 2002, Topic-sensitive PageRank; Chung 2007, The heat kernel as the pagerank of a graph, equation 1
        (a series over hops with weights of its own).

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.DiGraph([("rose", "flower"), ("tulip", "flower"), ("oak", "tree")])
        >>> rows = {"rose": [1.0, 0.0], "tulip": [0.8, 0.6], "oak": [0, 1], "flower": [0.1, 0.9], "tree": [0, 1]}
        >>> nx.set_node_attributes(G, rows, "embedding")
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([rows[noun] for noun in ("rose", "tulip", "oak")], ids=["rose", "tulip", "oak"])
        >>> hits = ab.AttentionGraph(G).search(bridge, [0.9, 0.3], k=2)
        >>> hits.nodes, hits[0].path
        (['flower', 'tulip'], ['tulip', 'flower'])

        >>> _ = bridge.add([rows["flower"]], ids=["flower"])
        >>> bridge.set_payload(bridge.ids(), {"kind": ["noun", "noun", "noun", "taxon"]})
        >>> ab.AttentionGraph(G).search(bridge, [0.9, 0.3], where="kind = 'noun'").nodes
        ['tulip', 'rose', 'oak']
        >>> ab.AttentionGraph(G).search(bridge, [0.9, 0.3], where="kind = 'noun'", filter_hits=False).nodes
        ['flower', 'tulip', 'rose', 'oak', 'tree']
        """
        _require_bridge(bridge)
        _require_known(options)
        restrict = as_bool(filter_hits, "filter_hits")
        if not restrict and filter is None and where is None:
            raise InvalidConfigError("filter_hits=False must come with filter= or where=, which it is about")
        vector = as_vector(query, "query", keep_float64=True)
        count, steps = as_count(k, "k"), as_count(hops, "hops", least=0)
        most = as_count(seeds, "seeds")
        width = None if beam_width is None else as_count(beam_width, "beam_width")
        share = as_number(mix, "mix", least=0.0, most=1.0)
        factor = as_number(decay, "decay", above=0.0, most=1.0)
        budget = None if time_budget is None else as_number(time_budget, "time_budget", least=0.0)
        filters, clock, topology = as_filters(edge_types, node_filter, edge_filter), Clock(budget), self.topology
        topology.edges(direction)  # refused before anything is searched
        options |= {"filter": filter, "where": where, "params": params, "candidates": candidates, "ef": ef}
        found = _Found(bridge, topology, node_of)
        positions = found.seeds(vector, most, {**options, "exact": as_bool(exact, "exact")})
        passing = found.passing(filter, where, params) if restrict else None
        expansion = self._expansion(topology, vector, direction, filters, clock)
        asked = self._asked(topology, positions, filters, clock)
        expansion.know(positions[: len(asked)], self._logits_where(topology, vector, positions[: len(asked)], asked))
        seeded = _seeds(expansion, positions[: len(asked)])
        flow = _flow(expansion, seeded, steps, width, float(np.log(factor)))
        if len(asked) < len(positions):
            flow = flow._replace(complete=False)
        return self._seeded(topology, flow, share, count, passing)

    def _asked(self, topology: Topology, positions: Positions, filters: Filters, clock: Clock) -> list[bool]:
        """Return which of the first nodes `node_filter` lets pass: it is asked until one has and the time is over."""
        if filters.node_filter is None:
            return [True] * len(positions)
        allowed, asked = Allowed(Filters(node_filter=filters.node_filter), self._data, topology, Clock()), list[bool]()
        for place in range(len(positions)):
            if clock.expired and any(asked):
                break
            passing = allowed.nodes(positions[place : place + 1])
            asked.append(passing is None or bool(passing[0]))
        return asked

    def _logits_where(self, topology: Topology, query: Any, positions: Positions, passing: list[bool]) -> Wide:
        """Return the logits of nodes, NaN of those that do not pass."""
        there = np.array(passing, np.bool_)
        logits = np.full(len(positions), np.nan)
        logits[there] = self._logits(topology, query, positions[there])
        return logits

    def _seeded(
        self, topology: Topology, flow: "_Flow", mix: float, count: int, passing: Positions | None
    ) -> SeededHits:
        """Return the best nodes, of those that pass where not all do."""
        visited, masses = flow.visited, flow.log_masses
        scores = visited.logits if mix == 1.0 else (1.0 - mix) * masses + mix * visited.logits
        found = _best_ways(visited)
        if passing is not None:
            found = found[np.isin(visited.positions[found], passing)]
        chosen = found[np.lexsort((visited.positions[found], -scores[found]))][:count]
        visited = visited._replace(logits=scores)
        return SeededHits(self._data, topology, visited, chosen, *flow[2:4], masses[chosen], flow.pruned_mass)


class _Flow(NamedTuple):
    """Where attention has come to.

    Parameters
    ----------
    visited : Visited
        A node once for each number of hops at which it came there, with the best way.
    log_masses : ndarray of float64, (v,)
        Logarithm of all that came to the node.
    complete : bool
        False where the time budget ended it.
    pruned : int
    pruned_mass : float
    """

    visited: Visited
    log_masses: Wide
    complete: bool = True
    pruned: int = 0
    pruned_mass: float = 0.0


def _require_bridge(bridge: Any) -> None:
    from attnbridge.integrations.bridge import AttentionVectorBridge

    if not isinstance(bridge, AttentionVectorBridge):
        raise InvalidInputError(
            f"bridge must be an AttentionVectorBridge whose ids are nodes, got {type(bridge).__name__}; "
            "bridge.add(vectors, ids=nodes) fills one"
        )


def _require_known(options: dict[str, Any]) -> None:
    """Refuse what the bridge's search is not told."""
    for name in options:
        if name not in _BRIDGE_OPTIONS:
            raise InvalidConfigError(
                f"search has no option {name!r}; passed on to the bridge are {', '.join(_BRIDGE_OPTIONS)}"
            )


class _Found:
    """A bridge's documents as nodes of a graph.

    Parameters
    ----------
    bridge : AttentionVectorBridge
    topology : Topology
    node_of : mapping, callable or None
        The node of each id.
    """

    def __init__(self, bridge: "AttentionVectorBridge", topology: Topology, node_of: Any) -> None:
        if node_of is not None and not callable(node_of) and not isinstance(node_of, Mapping):
            raise InvalidConfigError(f"node_of must be a mapping or a function from ids to nodes, got {node_of!r}")
        self._bridge, self._index = bridge, topology.index
        self._node_of = node_of.get if isinstance(node_of, Mapping) else node_of

    def seeds(self, query: npt.NDArray[Any], most: int, options: dict[str, Any]) -> Positions:
        """Return the positions of the bridge's hits that are nodes."""
        if not (options["filter"] is options["where"] is None):
            self._bridge = self._bridge._snapshot()  # filters are looked at twice
        ids = self._bridge.search(query, k=most, **options).ids
        found = self._positions(ids)
        if ids and not len(found):
            what = "the bridge's ids must be nodes of the graph" if self._node_of is None else "node_of must give nodes"
            raise GraphStructureError(f"{what}, none of {len(ids)} hits is; the first is {ids[0]!r}")
        return found

    def passing(self, filter: Any, where: str | None, params: Any) -> Positions | None:
        """Return the positions of all nodes whose documents pass, None without a filter."""
        if filter is None and where is None:
            return None
        store = self._bridge._state.store
        view, (allowed,) = self._bridge._allowed(store, store.view, [filter], [(where, params)], -1)
        return self._positions(view.live_ids() if allowed is None else view.ids.at(allowed.rows))

    def _positions(self, ids: Sequence[Any]) -> Positions:
        """Return the positions of those ids that are nodes."""
        index, node_of = self._index, self._node_of
        if node_of is None:
            return np.array([index[one] for one in ids if one in index], np.int64)
        found = []
        for one in ids:
            node = node_of(one)
            try:
                found.append(index.get(node, -1))
            except TypeError as error:
                raise InvalidInputError(
                    f"node_of must give nodes, of {one!r} it gave {node!r}, not hashable"
                ) from error
        positions = np.array(found, np.int64)
        return positions[positions >= 0]


def _seeds(expansion: Expansion, positions: Positions) -> Visited:
    """Return the nodes that attention starts from, with their shares, in the order of the graph."""
    positions = np.unique(positions)
    logits = expansion.logits(positions)
    there = ~np.isnan(logits)
    positions, logits = positions[there], logits[there]
    return starts_at(positions, logits, log_softmax(np.zeros_like(positions), logits))


def _flow(expansion: Expansion, seeds: Visited, hops: int, width: int | None, log_decay: float) -> _Flow:
    """Return where attention comes to from the seeds."""
    masses = np.full(expansion.count, -np.inf)
    masses[seeds.positions] = seeds.sums
    visited = level = seeds
    now, offset, pruned, pruned_mass, complete = seeds.sums, 0, 0, 0.0, True
    try:
        for hop in range(1, hops + 1):
            kept = _heaviest(now, width)
            pruned += len(now) - len(kept)
            pruned_mass += float(np.delete(np.exp(now), kept).sum())
            steps = expansion.steps(level.positions[kept])
            steps = steps._replace(rows=kept[steps.rows])
            if not len(steps.rows):
                break
            ends, now = _gathered(steps, now)
            masses[ends] = np.logaddexp(masses[ends], now + (hop - 1) * log_decay)
            before, offset = offset, len(visited.positions)
            chosen = best(steps, level.sums[steps.rows] + steps.log_weights)
            level = reached(expansion, steps.at(chosen), level, before, hop)
            visited = behind(visited, level)
    except Expired:
        complete = False
    return _Flow(visited, masses[visited.positions], complete, pruned, pruned_mass)


def _heaviest(masses: Wide, width: int | None) -> npt.NDArray[np.intp]:
    """Return which nodes have most attention, ascending; of equal ones the first."""
    if width is None or len(masses) <= width:
        return np.arange(len(masses))
    return np.sort(np.argsort(-masses, kind="stable")[:width])


def _gathered(steps: Steps, masses: Wide) -> tuple[Positions, Wide]:
    """Return the nodes that steps lead to, ascending, and the logarithm of what comes to each along all of them."""
    order = np.argsort(steps.ends, kind="stable")
    ends, firsts = np.unique(steps.ends[order], return_index=True)
    return ends, np.logaddexp.reduceat((masses[steps.rows] + steps.log_weights)[order], firsts)


def _best_ways(visited: Visited) -> npt.NDArray[np.intp]:
    """Return each node's entry with the greatest log weight; of equal ones that with fewer hops."""
    order = np.lexsort((visited.hops, -visited.sums, visited.positions))
    return order[np.unique(visited.positions[order], return_index=True)[1]]
