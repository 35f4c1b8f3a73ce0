"""A graph whose nodes are scored by attention: what walks, patterns and layers over it build on."""

from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import AttentionError, GraphStructureError, InvalidConfigError
from attnbridge.functional import pair_logits, require_pairwise
from attnbridge.integrations.clock import Clock
from attnbridge.integrations.expansion import Expansion, Visited
from attnbridge.integrations.filters import Allowed, Filters
from attnbridge.integrations.graph_data import GraphData, as_positions, name_of
from attnbridge.integrations.graph_hits import GraphHits
from attnbridge.integrations.topology import Neighbours, Positions, Topology
from attnbridge.mechanisms.base import Attention
from attnbridge.scoring import resolve
from attnbridge.validation import Float, as_vector


class GraphView:
    """Nodes and edges as they are now, and the logits of nodes.

    Parameters
    ----------
    data : GraphData
    attention : str or Attention
    options : dict
        Of the type.
    """

    def __init__(self, data: GraphData, attention: str | Attention, options: dict[str, Any]) -> None:
        self._data = data
        self._type, self._options = resolve(attention, options)
        require_pairwise(self._type, self._options, "a graph's edges", "attention")
        self._mechanism = attention if isinstance(attention, Attention) else None

    @property
    def graph(self) -> Any:
        """The networkx graph; of arrays a frozen MultiDiGraph, the key of an edge being its number.

        Returns
        -------
        networkx.Graph
        """
        return self._data.graph

    @property
    def topology(self) -> Topology:
        """Nodes and edges as they are now, as arrays that never change: what several calls shall agree on.

        Returns
        -------
        Topology
        """
        return self._data.topology()

    @property
    def nodes(self) -> tuple[Any, ...]:
        """The nodes, in the order of the graph: that in which they were added.

        Returns
        -------
        tuple of hashable
        """
        return self.topology.nodes

    def position(self, node: Any) -> int:
        """Return where a node is in `nodes`.

        Parameters
        ----------
        node : hashable

        Returns
        -------
        int

        Raises
        ------
        networkx.NodeNotFound
        """
        return self.topology.position(node)

    def edges(self, direction: str = "out") -> Neighbours:
        """Return each node's neighbours, in CSR form.

        Parameters
        ----------
        direction : {"out", "in", "both"}, default "out"
            In which direction edges are gone; the same for an undirected graph. A self loop is one entry in any case.

        Returns
        -------
        Neighbours
            Read-only arrays of int64: indptr (n + 1,), and for each entry a neighbour's position, indices (m,), and the
            edge's number, edge_number (m,). Edges are numbered in the order of `G.edges`.

        Raises
        ------
        InvalidConfigError
        """
        return self.topology.edges(direction)

    def edge(self, number: int) -> tuple[Any, Any, Any, dict[Any, Any]]:
        """Return an edge by its number.

        Parameters
        ----------
        number : int

        Returns
        -------
        tuple of hashable, hashable, hashable or None, dict
            From, to, key (None where there are no parallel edges), attributes: the graph's own dictionary.

        Raises
        ------
        InvalidConfigError
        """
        topology = self.topology
        count = len(topology.ends[0])
        if not count:
            raise InvalidConfigError(f"number must be that of an edge, the graph has none; got {number!r}")
        if not isinstance(number, int | np.integer):
            raise InvalidConfigError(f"number must be a whole number, 0 to {count - 1}, got {number!r}")
        if not 0 <= number < count:
            raise InvalidConfigError(f"number must be 0 to {count - 1}, got {number}")
        source, target, key = (*topology.edge(number), None)[:3]
        return source, target, key, self._data.edge_data(topology, number)

    def logits(self, query: npt.ArrayLike, positions: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the logit of a query with the embeddings of nodes, as they are now.

        Parameters
        ----------
        query : array_like, (d,)
        positions : array_like of int, (m,)
            Of nodes in `nodes`.

        Returns
        -------
        ndarray of float64, (m,)
            -inf where a node has no embedding and is skipped.

        Raises
        ------
        DimensionMismatchError, GraphStructureError, InvalidInputError
            An embedding of another length, or missing, or not of finite numbers; its node is named.
        """
        topology = self.topology
        places = as_positions(positions, len(topology.nodes))
        vector = as_vector(query, "query", keep_float64=True)
        self._data.require_any()
        logits = self._logits(topology, vector, places)
        return np.where(np.isnan(logits), -np.inf, logits)

    # ---- what walks, patterns and layers build on

    def _expansion(
        self,
        topology: Topology,
        query: Float,
        direction: str,
        filters: Filters | None = None,
        clock: Clock | None = None,
    ) -> Expansion:
        """Return what walks along the edges of a direction that pass the filters."""
        neighbours, clock = topology.edges(direction), Clock() if clock is None else clock
        self._data.require_any()
        allowed = None if filters is None else Allowed(filters, self._data, topology, clock)
        return Expansion(
            neighbours,
            topology.repeats(direction),
            lambda positions: self._logits(topology, query, positions),
            lambda numbers: self._data.edge_weights(topology, numbers),
            None if allowed is None else allowed.edges,
            None if allowed is None else allowed.nodes,
            clock,
        )

    def _query(self, topology: Topology, start: int, query: npt.ArrayLike | None) -> Float:
        """Return the query: by default a node's embedding."""
        if query is not None:
            return as_vector(query, "query", keep_float64=True)
        vector = self._data.vector(topology, start)
        if vector is None:
            self._data.require_any()
            raise GraphStructureError(
                f"node {topology.nodes[start]!r} must have an embedding to be the query; pass query=, or set it"
            )
        return vector

    def _logits(self, topology: Topology, query: Float, positions: Positions) -> npt.NDArray[np.float64]:
        """Return the logits of nodes, NaN of those that are skipped."""
        if self._mechanism is not None:
            self._mechanism.require_dim(len(query))
        out = np.full(len(positions), np.nan)
        for places, rows in self._data.blocks(topology, positions, len(query)):
            try:
                out[places] = pair_logits(self._type, self._options, query, rows)
            except AttentionError:
                self._refuse(query, rows, [topology.nodes[position] for position in positions[places].tolist()])
                raise
        return out

    def _refuse(self, query: Float, rows: Float, nodes: list[Any]) -> None:
        """Raise the error of the first node whose embedding, or of the query that, cannot be scored by itself."""
        mechanism = self._type.mechanism(self._options)
        for row, name in zip([query, *rows], ["query", *map(name_of, nodes)], strict=True):
            batch = mechanism._check(query, row[None], None, None, False, names=("query", name, "values"))
            mechanism._masked_logits(batch)

    def _hits(
        self,
        topology: Topology,
        visited: Visited,
        found: npt.NDArray[np.intp],
        limit: int | None,
        complete: bool = True,
        pruned: int = 0,
    ) -> GraphHits:
        """Return visited nodes, best first."""
        order = np.lexsort((visited.positions[found], -visited.logits[found]))
        return GraphHits(self._data, topology, visited, found[order[:limit]], complete, pruned)

    def __repr__(self) -> str:
        topology = self.topology
        kind = ("Multi" if topology.multigraph else "") + ("DiGraph" if topology.directed else "Graph")
        options = "".join(f", {name}={value!r}" for name, value in self._options.items())
        count = len(topology.ends[0])
        return f"AttentionGraph({kind} of {len(topology.nodes)} nodes, {count} edges, {self._type.name!r}{options})"
