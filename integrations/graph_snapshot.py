"""What layers over a whole graph read of it, each thing once; and the edges in the order in which they take them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from attnbridge.graph_edges import InEdges, by_target
from attnbridge.graph_operator import GraphOutput
from attnbridge.integrations.graph_data import GraphData
from attnbridge.integrations.topology import DIRECTIONS, Positions, Topology
from attnbridge.validation import Float, as_choice

T = TypeVar("T")


class Messages(NamedTuple):
    """The edges that messages go along, each from its source to its target.

    Parameters
    ----------
    source, target : ndarray of int64, (M,)
        Positions of nodes.
    numbers : ndarray of int64, (M,), or slice
        Which edge of the graph each is: an edge that is gone both ways is there twice.
    """

    source: Positions
    target: Positions
    numbers: Positions | slice

    def at(self, kept: npt.NDArray[np.bool_]) -> "Messages":
        """Return some of them."""
        numbers = np.flatnonzero(kept) if isinstance(self.numbers, slice) else self.numbers[kept]
        return Messages(self.source[kept], self.target[kept], numbers)

    def each(self, values: Sequence[T]) -> list[T]:
        """Return what each has of the edges' values."""
        if isinstance(self.numbers, slice):
            return list(values)
        return [values[number] for number in self.numbers.tolist()]


def messages(topology: Topology, direction: str) -> Messages:
    """Return what goes along the edges ("in"), against them ("out"), or both ways, as in an undirected graph always.

    Both ways: the edges in their order, and after them the reverse of each that is not a self loop.
    """
    as_choice(direction, "direction", DIRECTIONS)
    source, target = topology.ends
    if topology.directed and direction != "both":
        return Messages(*((source, target) if direction == "in" else (target, source)), slice(None))
    back = np.flatnonzero(source != target)
    return Messages(
        np.concatenate([source, target[back]]),
        np.concatenate([target, source[back]]),
        np.concatenate([np.arange(len(source)), back]),
    )


class Wiring(NamedTuple):
    """Messages as a layer takes them.

    Parameters
    ----------
    messages : Messages
        Without those from and to nodes that are skipped.
    edges : InEdges
    kept : ndarray of bool, (M,), or None
        Which of all messages these are; None where they are all.
    """

    messages: Messages
    edges: InEdges
    kept: npt.NDArray[np.bool_] | None


class GraphSnapshot:
    """Embeddings and what edges have as they were when a layer first asked for them.

    Parameters
    ----------
    data : GraphData
    topology : Topology
    """

    def __init__(self, data: GraphData, topology: Topology) -> None:
        self._data, self.topology = data, topology
        self._read: dict[str, Any] = {}

    def _once(self, name: str, read: Callable[[], T]) -> T:
        """Return what is read once: threads that read at a time are all given what the first of them has read."""
        if name not in self._read:
            self._read.setdefault(name, read())
        value: T = self._read[name]
        return value

    @property
    def embeddings(self) -> tuple[Float, npt.NDArray[np.bool_]]:
        """Rows (n, d), and which nodes are not skipped (n,)."""
        positions = np.arange(len(self.topology.nodes))
        return self._once("embeddings", lambda: self._data.matrix(self.topology, positions))

    @property
    def edge_weights(self) -> npt.NDArray[np.float64] | None:
        """The weight of each edge (m,), None where all weigh the same."""
        numbers = np.arange(self.topology.count)
        return self._once("edge_weights", lambda: self._data.edge_weights(self.topology, numbers))

    @property
    def edge_features(self) -> Float | None:
        """The features of each edge (m, edge_dim), None where there are none."""
        return self._once("edge_features", lambda: self._data.edge_features(self.topology))

    @property
    def edge_types(self) -> list[str]:
        """The type of each edge, m long."""
        return self._once("edge_types", lambda: self._data.edge_types(self.topology))

    def wiring(self, direction: str) -> Wiring:
        """Return the messages of a direction."""
        return self._once(direction, lambda: self._wiring(direction))

    def _wiring(self, direction: str) -> Wiring:
        _, known = self.embeddings
        found = messages(self.topology, direction)
        kept = None
        if not known.all():
            kept = known[found.source] & known[found.target]
            found = found.at(kept)
        return Wiring(found, by_target(found.source, found.target, len(known)), kept)


def spread(output: GraphOutput, wiring: Wiring, known: npt.NDArray[np.bool_]) -> GraphOutput:
    """Return what a layer made of the nodes and messages that it was given, 0 for the others."""
    if wiring.kept is None and known.all():
        return output
    kept = np.ones(len(wiring.edges.sources), np.bool_) if wiring.kept is None else wiring.kept
    given = len(wiring.edges.sources)
    loops = output.coefficients[given:]  # one of each node, where the layer adds them
    coefficients = np.zeros((len(kept) + len(loops), *loops.shape[1:]), loops.dtype)
    coefficients[: len(kept)][kept] = output.coefficients[:given]
    if len(loops):
        coefficients[len(kept) :][known] = loops[known]
    features = output.features.copy()
    features[~known] = 0.0
    return GraphOutput(features, coefficients)
