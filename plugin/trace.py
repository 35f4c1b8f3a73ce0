"""How one search came to its ranking, step by step: what `Hits.explain` and `Hits.plot` show."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Attended(NamedTuple):
    """Something that a stage attended to for a candidate.

    Parameters
    ----------
    kind : str
        "candidate", or "token" of the document that best matches one of the query.
    name : str or int
        The candidate's id; or the place of the document's token among its own.
    weight : float
        Its share: of the attention, or of MaxSim.
    query : int, optional
        The place of the query's token.

    Examples
    --------
    >>> from attnbridge.trace import Attended
    >>> Attended("token", 3, 0.25, query=0).query
    0
    """

    kind: str
    name: str | int
    weight: float
    query: int | None = None


class Step(NamedTuple):
    """All candidates after one step of a search.

    Parameters
    ----------
    name : str
        The attention's or the stage's, as in `Hits.timings`.
    rows : ndarray of int64, (n,)
    scores : ndarray of float64, (n,)
        -inf for a candidate that is ruled out.
    seconds : float
    attended : callable, optional
        row -> list of Attended, most first.

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.trace import Step
    >>> Step("scaled_dot", np.array([4, 2]), np.array([1.5, 2.5]), 1e-5).ranks([2, 4, 7])
    [0, 1, None]
    """

    name: str
    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    seconds: float
    attended: Callable[[int], list[Attended]] | None = None

    def ranks(self, rows: list[int]) -> list[int | None]:
        """Return the rank of each row after this step, from 0; None for one that was not there or is ruled out.

        Parameters
        ----------
        rows : list of int

        Returns
        -------
        list of (int or None)
        """
        order = np.lexsort((self.rows, -self.scores))
        order = order[self.scores[order] > -np.inf]
        rank_of = {row: rank for rank, row in enumerate(self.rows[order].tolist())}
        return [rank_of.get(row) for row in rows]

    def score(self, row: int) -> float | None:
        """Return a row's score after this step, None for one that was not there.

        Parameters
        ----------
        row : int

        Returns
        -------
        float or None
        """
        places = np.flatnonzero(self.rows == row)
        return float(self.scores[places[0]]) if len(places) else None


class Trace(NamedTuple):
    """The steps of one search.

    Parameters
    ----------
    rows : list of int
        Of the hits, best first.
    steps : list of Step
        The attention's own first.
    origins : dict of int to str
        Where rows come from that the first search did not find.
    token_count : callable, optional
        row -> how many token vectors it has, where some are stored.
    query_token_count : int, optional
        How many token vectors the query has, where it has some.

    Examples
    --------
    >>> from attnbridge.trace import Trace
    >>> Trace([4], [], {4: "a neighbour of 'doc3'"}).origins[4]
    "a neighbour of 'doc3'"
    """

    rows: list[int]
    steps: list[Step]
    origins: dict[int, str]
    token_count: Callable[[int], int] | None = None
    query_token_count: int | None = None

    def settled(self) -> "Trace":
        """Return a copy that refers to no index: what the hits attended to is written out.

        Returns
        -------
        Trace
        """
        steps = [
            step
            if step.attended is None
            else step._replace(attended={r: step.attended(r) for r in self.rows}.__getitem__)
            for step in self.steps
        ]
        count = self.token_count
        counts = None if count is None else {row: count(row) for row in self.rows}.__getitem__
        return self._replace(steps=steps, token_count=counts)
