"""What a match reads of a graph: attributes as they are now, each edge and logit once."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from attnbridge.integrations.clock import Clock
from attnbridge.integrations.graph_data import edge_type
from attnbridge.integrations.match.values import Edge, Node, Path, plain
from attnbridge.integrations.topology import Neighbours, Positions, Topology

Numbers = npt.NDArray[np.float64]

_FEW = 64  # edges of a node that Python sorts sooner than numpy does
Step = tuple[int, int]  # the number of an edge, and the position of the node that it leads to


class MatchPath(NamedTuple):
    """A path of a match.

    Parameters
    ----------
    nodes : tuple of hashable
    edges : tuple of tuple
        (u, v) as the graph has them, of a multigraph (u, v, key): one less than nodes.

    Examples
    --------
    >>> from attnbridge.integrations.match import MatchPath
    >>> MatchPath(("b", "a"), (("a", "b"),)).nodes
    ('b', 'a')
    """

    nodes: tuple[Hashable, ...]
    edges: tuple[tuple[Any, ...], ...]


class GraphData(Protocol):
    """Where attributes are read."""

    def node_data(self, topology: Topology, position: int) -> dict[Any, Any]:
        """Return a node's attributes."""

    def edge_data(self, topology: Topology, number: int) -> dict[Any, Any]:
        """Return an edge's attributes."""


class Reader:
    """A graph during one match.

    Parameters
    ----------
    data : GraphData
    topology : Topology
    labels : tuple of str
        The nodes' attributes that hold labels: a text, or a collection of texts.
    type : hashable
        The edges' attribute that holds the type.
    logits : callable, optional
        The logits of nodes by their positions, -inf or NaN of nodes that are not to be stepped to; None without query.
    edge_weights : callable, optional
        The weights of edges by their numbers, or None where all weigh the same.
    """

    def __init__(
        self,
        data: GraphData,
        topology: Topology,
        labels: tuple[str, ...],
        type: Any,
        logits: Callable[[Positions], Numbers] | None = None,
        edge_weights: Callable[[Positions], Numbers | None] | None = None,
    ) -> None:
        self.data, self.topology, self.nodes = data, topology, topology.nodes
        self.scored = logits is not None
        self.label_names, self.type_name = labels, type
        self._read_logits, self._read_weights = logits, edge_weights
        self._neighbours: dict[str, Neighbours] = {}
        self._logits: dict[int, float] = {}

    def attributes(self, position: int) -> dict[Any, Any]:
        """Return a node's attributes."""
        return self.data.node_data(self.topology, position)

    def edge_attributes(self, number: int) -> dict[Any, Any]:
        """Return an edge's attributes."""
        return self.data.edge_data(self.topology, number)

    def labels(self, position: int) -> list[str]:
        """Return a node's labels, as they are ordered in its attributes."""
        attributes, found = self.attributes(position), []
        for name in self.label_names:
            value = attributes.get(name)
            given = plain(value)
            if isinstance(given, str):
                found.append(given)
            elif isinstance(given, list):
                texts = [str(label) for label in given if isinstance(label, str)]
                found += sorted(texts) if isinstance(value, set | frozenset) else texts
        return list(dict.fromkeys(found))

    def type(self, number: int) -> str | None:
        """Return an edge's type: its attribute, or else, in a multigraph, its key where that is a text."""
        return edge_type(self.edge_attributes(number).get(self.type_name), self.topology, number)

    def steps(self, direction: str, position: int) -> list[Step]:
        """Return the edges of a direction at a node, in their order, and where they lead."""
        if direction not in self._neighbours:
            self._neighbours[direction] = self.topology.edges(direction)
        neighbours = self._neighbours[direction]
        part = slice(neighbours.indptr[position], neighbours.indptr[position + 1])
        numbers, ends = neighbours.edge_number[part], neighbours.indices[part]
        if len(numbers) <= _FEW:
            return sorted(zip(numbers.tolist(), ends.tolist(), strict=True))
        order = np.argsort(numbers)  # no edge is there twice
        return list(zip(numbers[order].tolist(), ends[order].tolist(), strict=True))

    def read_logits(self, positions: Iterable[int], clock: Clock | None = None) -> None:
        """Read the query's logits with nodes' embeddings in one go, those that are not known yet.

        Raises
        ------
        Expired
            The time is over; what was read is kept.
        """
        if self._read_logits is None:
            return
        new = [position for position in dict.fromkeys(positions) if position not in self._logits]
        for piece in (clock or Clock()).pieces(len(new)):
            found = self._read_logits(np.array(new[piece], np.int64))
            self._logits.update(zip(new[piece], found.tolist(), strict=True))

    def logit(self, position: int) -> float:
        """Return the query's logit with a node's embedding."""
        if position not in self._logits:
            self.read_logits((position,))
        return self._logits[position]

    @property
    def known_logits(self) -> dict[int, float]:
        """The logits read so far, by the nodes' positions."""
        return self._logits

    def log_weights(self, steps: Sequence[Step], clock: Clock) -> Numbers:
        """Return the logarithm of each step's attention weight.

        Weights are the softmax of the logits, each times the edge's weight where edges have one; 0 of nodes that are
        not to be stepped to. Edges numbered -1 are none: they stand for the choice of a first node.

        Raises
        ------
        Expired
        """
        positions = [position for _, position in steps]
        self.read_logits(positions, clock)
        logits = np.array([self._logits[position] for position in positions])
        if self._read_weights is not None and steps and steps[0][0] >= 0:
            numbers = np.array([number for number, _ in steps], np.int64)
            for piece in clock.pieces(len(numbers)):
                weights = self._read_weights(numbers[piece])
                if weights is not None:
                    logits[piece] += np.log(weights)
        known = np.isfinite(logits)
        out = np.full(len(logits), -np.inf)
        if known.any():
            shifted = logits[known] - logits[known].max()
            out[known] = shifted - np.log(np.exp(shifted).sum())
        return out


def public(value: Any, topology: Topology) -> Any:
    """Return a value as a row shows it: nodes as the graph has them, edges as (u, v) or (u, v, key)."""
    if isinstance(value, Node):
        return topology.nodes[value.position]
    if isinstance(value, Edge):
        return topology.edge(value.number)
    if isinstance(value, Path):
        nodes, edges = map(Node, value.nodes), map(Edge, value.edges)
        return MatchPath(tuple(public(node, topology) for node in nodes), tuple(public(e, topology) for e in edges))
    if isinstance(value, list) and any(isinstance(entry, Node | Edge | Path) for entry in value):
        return [public(entry, topology) for entry in value]
    return value
