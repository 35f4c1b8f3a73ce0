"""Attention walking along edges: the weights of steps, and the nodes within some steps of others."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.integrations.clock import Clock
from attnbridge.integrations.topology import Neighbours, Positions

Wide = npt.NDArray[np.float64]
Passing = npt.NDArray[np.bool_]

_GROUP = 1 << 16  # neighbours of nodes that are expanded at a time where there is a time budget


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
        Which of these nodes each was reached from; -1 of the first ones, the starts.
    edge_number : ndarray of int64, (v,)
        The edge of that step; -1 of a start.
    steps : ndarray of float64, (v,)
        The logarithm of that step's weight; of a start, that of its share of the attention.
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
    edges_pass : callable, optional
        (edge numbers (m,)) -> (m,) bool, or None where all edges may be taken.
    nodes_pass : callable, optional
        (positions (m,)) -> (m,) bool, or None where all nodes may be stepped to; asked once for each node.
    clock : Clock, optional
        Looked at while steps are read.
    """

    def __init__(
        self,
        neighbours: Neighbours,
        repeats: bool,
        logits_of: Callable[[Positions], Wide],
        weights_of: Callable[[Positions], Wide | None],
        edges_pass: Callable[[Positions], Passing | None] | None = None,
        nodes_pass: Callable[[Positions], Passing | None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._neighbours, self._repeats = neighbours, repeats
        self._logits_of, self._weights_of = logits_of, weights_of
        self._edges_pass, self._nodes_pass = edges_pass, nodes_pass
        self.clock = Clock() if clock is None else clock
        self.count = len(neighbours.indptr) - 1
        self._known, self._logits = np.zeros(self.count, np.bool_), np.empty(self.count)

    def scores(self, positions: Positions) -> Wide:
        """Return the logits of nodes, whether they may be stepped to or not."""
        out = np.empty(len(positions))
        for piece in self.clock.pieces(len(positions)):
            out[piece] = self._logits_of(positions[piece])
        return out

    def logits(self, positions: Positions) -> Wide:
        """Return the logits of nodes, NaN of those that are not to be stepped to."""
        fresh = positions[~self._known[positions]]
        if not (fresh[1:] > fresh[:-1]).all():
            fresh = np.unique(fresh)
        for piece in self.clock.pieces(len(fresh)):
            some = allowed = fresh[piece]
            passing = None if self._nodes_pass is None else self._nodes_pass(some)
            if passing is not None:
                self._logits[some[~passing]] = np.nan
                allowed = some[passing]
            self._logits[allowed] = self._logits_of(allowed)
            self._known[some] = True
        return self._logits[positions]

    def know(self, positions: Positions, logits: Wide) -> None:
        """Take down the logits of nodes, NaN of those that are not to be stepped to: they are not asked for again."""
        self._logits[positions], self._known[positions] = logits, True

    def read(self) -> Wide:
        """Return the logits of all nodes, NaN of those that have not been read too."""
        return np.where(self._known, self._logits, np.nan)

    def groups(self, positions: Positions) -> Iterator[slice]:
        """Yield slices of nodes, with a look at the clock before each; one of them all where there is no time budget.

        Raises
        ------
        Expired
        """
        if not self.clock.limited:
            yield slice(0, len(positions))
            return
        indptr = self._neighbours.indptr
        group = np.cumsum(indptr[positions + 1] - indptr[positions]) // _GROUP
        for start, end in pairwise((*_firsts(group).tolist(), len(positions))):
            self.clock.check()
            yield slice(start, end)

    def steps(self, positions: Positions) -> Steps:
        """Return the steps from nodes to their neighbours: softmax(logit + log(edge weight)) over those of each.

        Raises
        ------
        Expired
        """
        indptr, indices, edge_number = self._neighbours
        lengths = indptr[positions + 1] - indptr[positions]
        rows = np.repeat(np.arange(len(positions)), lengths)
        entries = np.arange(len(rows)) + np.repeat(indptr[positions] - (np.cumsum(lengths) - lengths), lengths)
        ends, numbers = indices[entries], edge_number[entries]
        if self._edges_pass is not None:
            kept = self._kept(numbers)
            rows, ends, numbers = rows[kept], ends[kept], numbers[kept]
        weights = self._weights(numbers)
        if self._repeats:
            rows, ends, numbers, log_weights = _merged(rows, ends, numbers, weights, self.count)
        else:
            log_weights = None if weights is None else np.log(weights)
        logits = self.logits(ends)
        if log_weights is not None:
            logits = logits + log_weights
        steps = Steps(rows, ends, numbers, logits)
        steps = steps.at(~np.isnan(logits))
        return steps._replace(log_weights=log_softmax(steps.rows, steps.log_weights))

    def _kept(self, numbers: Positions) -> Passing:
        """Return which edges may be taken."""
        kept = np.ones(len(numbers), np.bool_)
        for piece in self.clock.pieces(len(numbers)):
            passing = None if self._edges_pass is None else self._edges_pass(numbers[piece])
            if passing is not None:
                kept[piece] = passing
        return kept

    def _weights(self, numbers: Positions) -> Wide | None:
        """Return the weights of edges, None where all weigh the same."""
        parts = [self._weights_of(numbers[piece]) for piece in self.clock.pieces(len(numbers))]
        there = [part for part in parts if part is not None]
        return np.concatenate(there) if there else None


def around(expansion: Expansion, starts: Visited) -> Visited:
    """Return nodes and, as steps from them, their neighbours: a start once more where it has a self loop."""
    steps = expansion.steps(starts.positions)
    order = np.lexsort((steps.ends, steps.rows))
    return behind(starts, reached(expansion, steps.at(order), starts, 0, 1))


def within(expansion: Expansion, starts: Visited, hops: int, most: int | None) -> tuple[Visited, bool]:
    """Return the nodes at most so many steps from others, each with its best shortest path; and whether these are all.

    Of equally good paths it is the one by the node that comes first. Where there are more than `most` nodes, those at
    the last number of hops have the best paths.
    """
    visited = level = starts
    seen = np.zeros(expansion.count, np.bool_)
    seen[starts.positions] = True
    for hop in range(1, hops + 1):
        steps = expansion.steps(level.positions)
        steps = steps.at(~seen[steps.ends])
        sums = level.sums[steps.rows] + steps.log_weights
        chosen = best(steps, sums)
        room = len(chosen) if most is None else most - len(visited.positions)
        cut = room < len(chosen)
        if cut:
            chosen = np.sort(chosen[np.argsort(-sums[chosen], kind="stable")[:room]])
        if not len(chosen):
            return visited, not cut
        level = reached(expansion, steps.at(chosen), level, len(visited.positions) - len(level.positions), hop)
        visited = behind(visited, level)
        if cut:
            return visited, False
        seen[level.positions] = True
    return visited, True


def starts_at(positions: Positions, scores: Wide, log_shares: Wide | None = None) -> Visited:
    """Return the starts of a walk, which need not be nodes that may be stepped to.

    Parameters
    ----------
    positions : ndarray of int64, (v,)
        Different nodes.
    scores : ndarray of float64, (v,)
        Their logits, as `Expansion.scores` has them.
    log_shares : ndarray of float64, (v,), optional
        Logarithms of their shares of the attention; by default each has all of it.
    """
    count = len(positions)
    shares, none = np.zeros(count) if log_shares is None else log_shares, np.full(count, -1)
    return Visited(positions, np.zeros(count, np.int64), scores, none, none, shares, shares)


def reached(expansion: Expansion, steps: Steps, level: Visited, offset: int, hop: int) -> Visited:
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


def behind(visited: Visited, level: Visited) -> Visited:
    """Return nodes and then those of the next level."""
    return Visited(*(np.concatenate(arrays) for arrays in zip(visited, level, strict=True)))


def best(steps: Steps, sums: Wide) -> npt.NDArray[np.intp]:
    """Return which step to each node has the greatest sum, by position; of equal ones that from the first node."""
    order = np.lexsort((-sums, steps.ends))  # stable: equal ones stay in the order of rows
    return order[_firsts(steps.ends[order])]


def _firsts(values: Positions) -> npt.NDArray[np.intp]:
    """Return where runs of equal values begin."""
    begins = np.ones(len(values), np.bool_)
    begins[1:] = values[1:] != values[:-1]
    return np.flatnonzero(begins)


def _merged(
    rows: Positions, ends: Positions, numbers: Positions, weights: Wide | None, count: int
) -> tuple[Positions, Positions, Positions, Wide | None]:
    """Return parallel edges as one: the heaviest, of equal ones the first, with the logarithm of the weight of all.

    That weight itself may be beyond float64. It is None where all weigh the same and none are parallel.
    """
    codes = rows * count + ends
    order = np.lexsort((numbers, codes) if weights is None else (numbers, -weights, codes))
    firsts = _firsts(codes[order])
    chosen = order[firsts]
    log_sums = None
    if weights is not None and len(chosen):
        log_sums = np.asarray(np.logaddexp.reduceat(np.log(weights[order]), firsts))
    elif len(chosen) < len(codes):
        log_sums = np.log(np.diff(np.append(firsts, len(codes))))
    return rows[chosen], ends[chosen], numbers[chosen], log_sums


def log_softmax(rows: Positions, logits: Wide) -> Wide:
    """Return the logarithms of the softmax over the logits of each row; rows ascend."""
    if not len(rows):
        return logits
    firsts = _firsts(rows)
    lengths = np.diff(np.append(firsts, len(rows)))
    with np.errstate(over="ignore"):  # to -inf, a weight of 0
        below = logits - np.repeat(np.maximum.reduceat(logits, firsts), lengths)
    totals: Wide = np.add.reduceat(np.exp(below), firsts)
    return np.asarray(below - np.repeat(np.log(totals), lengths))
