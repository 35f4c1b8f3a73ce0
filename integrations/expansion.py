"""Attention walking along edges: the weights of steps, and the nodes within some steps of one."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.integrations.topology import Neighbours, Positions

Wide = npt.NDArray[np.float64]


class Steps(NamedTuple):
    """Steps from several nodes to their neighbours.

    Parameters
    ----------
    rows : ndarray of int64, (s,)
        From which of the nodes; ascending.
    ends : ndarray of int64, (s,)
        The neighbours' positions.
    edge_number : ndarray of int64, (s,)
    log_weights : ndarray of float64, (s,)
        Logarithms of the weights, which sum to 1 over the steps from a node.
    """

    rows: Positions
    ends: Positions
    edge_number: Positions
    log_weights: Wide

    def at(self, places: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> "Steps":
        """Return some of the steps."""
        return Steps(self.rows[places], self.ends[places], self.edge_number[places], self.log_weights[places])


class Visited(NamedTuple):
    """Nodes, in the order in which they were reached, and the way to each.

    Parameters
    ----------
    positions, hops : ndarray of int64, (v,)
    logits : ndarray of float64, (v,)
        NaN of a start without embedding.
    parents : ndarray of int64, (v,)
        Which of these nodes each was reached from; -1 of the first, the start.
    edge_number : ndarray of int64, (v,)
        The edge of that step; -1 of the start.
    steps : ndarray of float64, (v,)
        The logarithm of that step's weight; 0 of the start.
    sums : ndarray of float64, (v,)
        Of these logarithms along the way.
    """

    positions: Positions
    hops: Positions
    logits: Wide
    parents: Positions
    edge_number: Positions
    steps: Wide
    sums: Wide


class Expansion:
    """Steps along the edges of one direction, for one query.

    Parameters
    ----------
    neighbours : Neighbours
    repeats : bool
        Whether a node may have a neighbour more than once; it is stepped to by the heaviest edge then.
    logits_of : callable
        (positions (m,)) -> (m,) float64, NaN of nodes that are not to be stepped to; asked once for each node.
    weights_of : callable
        (edge numbers (m,)) -> (m,) float64 > 0, or None where all weigh the same.
    """

    def __init__(
        self,
        neighbours: Neighbours,
        repeats: bool,
        logits_of: Callable[[Positions], Wide],
        weights_of: Callable[[Positions], Wide | None],
    ) -> None:
        self._neighbours, self._repeats = neighbours, repeats
        self._logits_of, self._weights_of = logits_of, weights_of
        count = len(neighbours.indptr) - 1
        self._known, self._logits = np.zeros(count, np.bool_), np.empty(count)

    def logits(self, positions: Positions) -> Wide:
        """Return the logits of nodes."""
        fresh = np.unique(positions[~self._known[positions]])
        if len(fresh):
            self._logits[fresh] = self._logits_of(fresh)
            self._known[fresh] = True
        return self._logits[positions]

    def steps(self, positions: Positions) -> Steps:
        """Return the steps from nodes to their neighbours: softmax(logit + log(edge weight)) over those of each."""
        indptr, indices, edge_number = self._neighbours
        lengths = indptr[positions + 1] - indptr[positions]
        rows = np.repeat(np.arange(len(positions)), lengths)
        entries = np.arange(len(rows)) + np.repeat(indptr[positions] - (np.cumsum(lengths) - lengths), lengths)
        ends, numbers = indices[entries], edge_number[entries]
        weights = self._weights_of(numbers)
        if self._repeats:
            rows, ends, numbers, weights = _merged(rows, ends, numbers, weights, len(indptr))
        logits = self.logits(ends)
        if weights is not None:
            logits = logits + np.log(weights)
        steps = Steps(rows, ends, numbers, logits)
        steps = steps.at(~np.isnan(logits))
        return steps._replace(log_weights=_log_softmax(steps.rows, steps.log_weights))


def around(expansion: Expansion, start: int) -> Visited:
    """Return a node and, as steps from it, its neighbours: itself once more where it has a self loop."""
    first = _at(expansion, start)
    steps = expansion.steps(first.positions)
    order = np.argsort(steps.ends, kind="stable")
    return _behind(first, _reached(expansion, steps.at(order), first, 0, 1))


def within(expansion: Expansion, start: int, hops: int, most: int | None) -> tuple[Visited, bool]:
    """Return the nodes at most so many steps from one, each with its best shortest path; and whether these are all.

    Of equally good paths it is the one by the node that comes first. Where there are more than `most` nodes, those at
    the last number of hops have the best paths.
    """
    visited = level = _at(expansion, start)
    seen = np.zeros(len(expansion._known), np.bool_)
    seen[start] = True
    for hop in range(1, hops + 1):
        steps = expansion.steps(level.positions)
        steps = steps.at(~seen[steps.ends])
        sums = level.sums[steps.rows] + steps.log_weights
        best = _best(steps, sums)
        room = len(best) if most is None else most - len(visited.positions)
        cut = room < len(best)
        if cut:
            best = np.sort(best[np.argsort(-sums[best], kind="stable")[:room]])
        if not len(best):
            return visited, not cut
        level = _reached(expansion, steps.at(best), level, len(visited.positions) - len(level.positions), hop)
        visited = _behind(visited, level)
        if cut:
            return visited, False
        seen[level.positions] = True
    return visited, True


def _at(expansion: Expansion, start: int) -> Visited:
    """Return the start of a walk."""
    positions, none = np.array([start]), np.array([-1])
    return Visited(positions, np.zeros(1, np.int64), expansion.logits(positions), none, none, *np.zeros((2, 1)))


def _reached(expansion: Expansion, steps: Steps, level: Visited, offset: int, hop: int) -> Visited:
    """Return the nodes that steps from a level lead to, which begins at `offset` among those visited."""
    return Visited(
        steps.ends,
        np.full(len(steps.ends), hop),
        expansion.logits(steps.ends),
        steps.rows + offset,
        steps.edge_number,
        steps.log_weights,
        level.sums[steps.rows] + steps.log_weights,
    )


def _behind(visited: Visited, level: Visited) -> Visited:
    return Visited(*(np.concatenate(arrays) for arrays in zip(visited, level, strict=True)))


def _best(steps: Steps, sums: Wide) -> npt.NDArray[np.intp]:
    """Return which step to each node has the greatest sum, by position; of equal ones that from the first node."""
    order = np.lexsort((steps.rows, -sums, steps.ends))
    return order[_firsts(steps.ends[order])]


def _firsts(values: Positions) -> npt.NDArray[np.intp]:
    """Return where runs of equal values begin."""
    begins = np.ones(len(values), np.bool_)
    begins[1:] = values[1:] != values[:-1]
    return np.flatnonzero(begins)


def _merged(
    rows: Positions, ends: Positions, numbers: Positions, weights: Wide | None, count: int
) -> tuple[Positions, Positions, Positions, Wide | None]:
    """Return parallel edges as one: the heaviest, of equal ones the first, with the weight of all."""
    codes = rows * count + ends
    order = np.lexsort((numbers, codes) if weights is None else (numbers, -weights, codes))
    firsts = _firsts(codes[order])
    chosen = order[firsts]
    sums = None if weights is None or not len(chosen) else np.add.reduceat(weights[order], firsts)
    return rows[chosen], ends[chosen], numbers[chosen], sums


def _log_softmax(rows: Positions, logits: Wide) -> Wide:
    """Return the logarithms of the softmax over the logits of each row."""
    if not len(rows):
        return logits
    firsts = _firsts(rows)
    lengths = np.diff(np.append(firsts, len(rows)))
    with np.errstate(over="ignore"):  # to -inf, a weight of 0
        below = logits - np.repeat(np.maximum.reduceat(logits, firsts), lengths)
    totals: Wide = np.add.reduceat(np.exp(below), firsts)
    return np.asarray(below - np.repeat(np.log(totals), lengths))
