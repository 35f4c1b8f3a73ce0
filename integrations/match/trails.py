"""The steps behind the rows of a match: for its explanation, its subgraph and its picture."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from attnbridge.integrations.graph_data import GraphData
from attnbridge.integrations.match.compiler import Row
from attnbridge.integrations.match.plan import Plan, Scan, layout_of
from attnbridge.integrations.match.search import Scored
from attnbridge.integrations.topology import Topology
from attnbridge.integrations.walked import subgraph, told


class Move(NamedTuple):
    """One step of a row.

    Parameters
    ----------
    source : int or None
        The position of the node before; None where a path begins.
    edge : int
        The number of the edge gone along, -1 where a path begins.
    target : int
        The position of the node chosen.
    weight : float or None
        None without a query, and of a start that was given.
    """

    source: int | None
    edge: int
    target: int
    weight: float | None


class Trails:
    """How rows came to be.

    Parameters
    ----------
    data : GraphData
    topology : Topology
    plan : Plan
        In whose layout rows are, and in whose order their weights.
    started : bool
        Whether the first node was given.
    type : hashable
        The edges' attribute with the type.
    logits : dict of int to float
        Those of the nodes chosen, by their positions; empty without a query.
    """

    def __init__(
        self, data: GraphData, topology: Topology, plan: Plan, started: bool, type: Any, logits: dict[int, float]
    ) -> None:
        self.data, self.topology, self.plan, self.started, self.type = data, topology, plan, started, type
        self.logits = logits
        self._layout = layout_of(plan)

    def moves(self, found: Scored) -> Iterator[Move]:
        """Yield the steps of a row, in the order of its weights."""
        weights, (sources, targets) = iter(found.weights), self.topology.ends
        for number, step in enumerate(self.plan):
            if isinstance(step, Scan):
                given = number == 0 and self.started
                yield Move(None, -1, self._value(found.row, step.node), None if given else next(weights, None))
                continue
            here, edges = self._value(found.row, step.start), self._value(found.row, step.edge)
            for edge in (edges,) if isinstance(edges, int) else edges:
                there = int(sources[edge]) if int(targets[edge]) == here else int(targets[edge])
                yield Move(here, edge, there, next(weights, None))
                here = there

    def _value(self, row: Row, element: int) -> Any:
        return row[self._layout[element].place]

    def lines(self, found: Scored) -> list[str]:
        """Return a line for each step of a row, and for the choice of a first node."""
        lines = []
        for move in self.moves(found):
            if move.source is None:
                weight = "" if move.weight is None else f"  weight {move.weight:.4f}"
                lines.append(f"start at {self.topology.nodes[move.target]!r}{weight}")
            else:
                lines.append(told(self.data, self.topology, self.type, move.source, *move[1:]))
        return lines

    def subgraph(self, rows: Iterable[Scored]) -> Any:
        """Return the nodes and edges of rows as a graph; of what is in several rows, the first one's weight counts."""
        nodes: dict[int, dict[str, Any]] = {}
        edges: dict[int, dict[str, Any]] = {}
        for row in rows:
            hops: dict[int, int] = {}
            for move in self.moves(row):
                hop = hops.setdefault(move.target, 0 if move.source is None else hops[move.source] + 1)
                found = nodes.setdefault(move.target, {"hop": hop} | self._score(move.target))
                found["hop"] = min(found["hop"], hop)
                if move.edge >= 0:
                    edges.setdefault(move.edge, {} if move.weight is None else {"attention": move.weight})
        return subgraph(self.data, self.topology, nodes, edges)

    def starts(self, rows: Iterable[Scored | None]) -> set[Any]:
        """Return the node that was given as the first, if it is in any row."""
        if not self.started:
            return set()
        moves = (next(self.moves(found)) for found in rows if found is not None)
        return {self.topology.nodes[move.target] for move in moves}

    def _score(self, position: int) -> dict[str, float]:
        score = self.logits.get(position, np.nan)
        return {} if np.isnan(score) else {"score": score}
