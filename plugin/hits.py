"""What a search returns."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidInputError
from attnbridge.sequence import MadeSequence
from attnbridge.trace import Trace
from attnbridge.validation import require

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.figure import Figure

Id = str | int


class Hit(NamedTuple):
    """One hit.

    Parameters
    ----------
    id : str or int
    score : float
        Final score, higher is better.
    weight : float
        Softmax of the final scores over all candidates.
    distance : float
        The index's distance (cosine and ip: 1 - similarity; l2: squared; poincare: hyperbolic).
    rank_before : int
        Rank among the candidates by distance, from 0; -1 for a hit that was not one of them.

    Examples
    --------
    >>> from attnbridge.hits import Hit
    >>> Hit("a", 12.5, 0.4, 0.37, 3).id
    'a'
    """

    id: Id
    score: float
    weight: float
    distance: float
    rank_before: int


class HitsSource(Protocol):
    """What `Hits.lazily` asks for the attributes of one of several queries."""

    def value(self, name: str, number: int) -> Any:
        """Return what `Hits` takes under that name.

        Parameters
        ----------
        name : str
        number : int

        Returns
        -------
        Any
        """
        ...


class Hits(MadeSequence[Hit]):
    """Ranked hits of one query, best first.

    Parameters
    ----------
    ids : list of str or int
    scores : ndarray of float64, (k,)
        Final scores, higher is better.
    weights : ndarray of float64, (k,)
        How the query's attention spreads over all candidates: the softmax of the final scores (multi_head without
        stages: the mean of its heads' own). They sum to 1 only when every candidate is a hit.
    distances : ndarray of float32, (k,)
        The index's distances (cosine and ip: 1 - similarity; l2: squared; poincare: hyperbolic).
    ranks_before : ndarray of int64, (k,)
        Rank of each hit among the candidates by distance, from 0.
    parts : dict of str to ndarray, (k,)
        What each stage gave each hit, under the stage's name.
    timings : dict of str to float
        Seconds spent in each step; in a batch, the query's share of its chunk.
    candidates : int
        How many candidates were ranked.
    payload : callable or list of dict, optional
        Each hit's payload, or a function that fetches it when it is asked for.
    complete : bool, default True
        False where a time budget ended before all was done that was asked for.
    trace : Trace, optional
        All candidates after each step.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["east", "north"])
    >>> hits = bridge.search([0.9, 0.1], k=1)
    >>> hits.ids, hits[0].rank_before
    (['east'], 0)
    """

    __slots__ = (
        "_number",
        "_payload",
        "_source",
        "candidates",
        "complete",
        "distances",
        "ids",
        "parts",
        "ranks_before",
        "scores",
        "timings",
        "trace",
        "weights",
    )
    _source: HitsSource
    _number: int

    def __init__(
        self,
        ids: list[Any],
        scores: npt.NDArray[np.float64],
        weights: npt.NDArray[np.float64],
        distances: npt.NDArray[np.float32],
        ranks_before: npt.NDArray[np.int64],
        parts: Mapping[str, npt.NDArray[np.float64]],
        timings: Mapping[str, float],
        candidates: int,
        payload: Callable[[], list[dict[str, Any]]] | list[dict[str, Any]] | None = None,
        complete: bool = True,
        trace: Trace | None = None,
    ) -> None:
        self.ids = ids
        self.scores = scores
        self.weights = weights
        self.distances = distances
        self.ranks_before = ranks_before
        self.parts = parts
        self.timings = timings
        self.candidates = candidates
        self._payload = payload
        self.complete = complete
        self.trace = trace

    @classmethod
    def lazily(cls, source: "HitsSource", number: int) -> "Hits":
        """Return hits whose attributes are made when they are asked for: in a batch that is most of what hits cost.

        Parameters
        ----------
        source : HitsSource
        number : int
            Which query of the source's.

        Returns
        -------
        Hits
        """
        made = object.__new__(cls)
        made._source, made._number = source, number
        return made

    def __getattr__(self, name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"Hits has no attribute {name!r}", name=name, obj=self)
        value = self._source.value(name.lstrip("_"), self._number)
        setattr(self, name, value)
        return value

    @property
    def payload(self) -> list[dict[str, Any]]:
        """Each hit's payload, as it was when the search began; empty where the index holds none.

        Returns
        -------
        list of dict of str to object

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], payload={"year": [1998, 2017]})
        >>> bridge.search([0.1, 0.9], k=1).payload
        [{'year': 2017}]
        """
        if callable(self._payload):
            self._payload = self._payload()
        return [{} for _ in self.ids] if self._payload is None else self._payload

    def __reduce__(self) -> tuple[Any, ...]:
        values = (self.ids, self.scores, self.weights, self.distances, self.ranks_before, self.parts, self.timings)
        trace = None if self.trace is None else self.trace.settled()
        return Hits, (*values, self.candidates, self.payload, self.complete, trace)

    def __len__(self) -> int:
        return len(self.ids)

    def _item(self, i: int) -> Hit:
        return Hit(
            self.ids[i],
            float(self.scores[i]),
            float(self.weights[i]),
            float(self.distances[i]),
            int(self.ranks_before[i]),
        )

    def __eq__(self, other: object) -> bool:
        """Compare everything but the timings."""
        if not isinstance(other, Hits):
            return NotImplemented
        mine, theirs = self._columns(), other._columns()
        return (
            self.ids == other.ids
            and self.candidates == other.candidates
            and self.complete == other.complete
            and mine.keys() == theirs.keys()
            and all(np.array_equal(mine[name], theirs[name], equal_nan=True) for name in mine)
        )

    __hash__ = None  # type: ignore[assignment]

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "score": self.scores,
            "weight": self.weights,
            "distance": self.distances,
            "rank_before": self.ranks_before,
            **{f"part_{name}": values for name, values in self.parts.items()},
        }

    def _table(self) -> dict[str, Any]:
        records = self.payload
        names = records[0] if records else {}
        payload = {f"payload_{name}": [record[name] for record in records] for name in names}
        return {"id": self.ids, **self._columns(), **payload}

    def explain(
        self, i: int | None = None, *, tokens: Sequence[str] | None = None, query_tokens: Sequence[str] | None = None
    ) -> str:
        """Return why a hit is where it is, in words: where it came from, its score and rank after every step.

        Ranks are from 1, among all candidates; "up" and "down" since the step before. Below a step stands what it
        attended to most, where the step can tell, each with its share.

        Parameters
        ----------
        i : int, optional
            The hit's place, from 0; negative from the last. Without it, a table of all hits.
        tokens : list of str, optional
            The texts of the document's tokens, one for each of its token vectors, to be told instead of their places.
        query_tokens : list of str, optional
            The same of the query's.

        Returns
        -------
        str

        Raises
        ------
        InvalidInputError
            No such hit, hits that no search made, texts that are not as many as the tokens, or texts where no step
            matched tokens.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.9, 0.5], [0.0, 1.0]], ids=["a", "b", "c"])
        >>> print(bridge.search([1.0, 0.3], rerank=ab.QueryExpansion()).explain(0))  # doctest: +ELLIPSIS
        1. b
           score 19.6472, weight 0.6584, distance 0.0231608
           from: the index, 1st of its candidates by distance
           step           score  rank ...
           by distance        -     1 ...
           scaled_dot   19.5368     1 ...
           expansion    19.6472     1 ...
              attends to 'b' 0.68, 'a' 0.32, 'c' 0.00
        """
        from attnbridge.explain import explanation, overview

        if i is not None:
            return explanation(self, i, tokens, query_tokens)
        for name, texts in (("tokens", tokens), ("query_tokens", query_tokens)):
            if texts is not None:
                raise InvalidInputError(f"{name} must be left out without i: they are told of one hit")
        return overview(self)

    def plot(self, path: str | PathLike[str] | None = None) -> "Figure":
        """Draw how the hits came to their ranks, and beside that their weights.

        Left a slope chart: each hit's rank by distance and after every step; ranks beyond those of the hits are drawn
        closer together. Right each hit's id and its weight as a bar. At most the first 20 hits are drawn.

        Parameters
        ----------
        path : str or path, optional
            A .png or .svg file to write.

        Returns
        -------
        matplotlib.figure.Figure
            Outside pyplot: nothing has to be closed.

        Raises
        ------
        MissingDependencyError
            matplotlib is not installed.
        InvalidInputError
            No hits, hits that no search made, or a path of another suffix.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.9, 0.5], [0.0, 1.0]], ids=["a", "b", "c"])
        >>> figure = bridge.search([1.0, 0.3], rerank=ab.QueryExpansion()).plot()
        >>> [label.get_text() for label in figure.axes[1].get_yticklabels()]
        ['b', 'a', 'c']
        """
        from attnbridge.slope_chart import draw

        return draw(self, path)

    def to_pandas(self) -> "pd.DataFrame":
        """Return a DataFrame: id, score, weight, distance, rank_before, part_<stage> and payload_<column> columns.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        MissingDependencyError
            pandas is not installed.

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["east", "north"])
        >>> bridge.search([0.9, 0.1]).to_pandas()["id"].tolist()
        ['east', 'north']
        """
        frame: pd.DataFrame = require("pandas", "pandas").DataFrame(self._table())
        return frame

    def to_arrow(self) -> "pa.Table":
        """Return an Arrow table with the columns of `to_pandas`.

        Returns
        -------
        pyarrow.Table

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["east", "north"])
        >>> bridge.search([0.9, 0.1]).to_arrow().column_names[:2]
        ['id', 'score']
        """
        import pyarrow as pa

        return pa.table(self._table())

    def __repr__(self) -> str:
        total = f", {1e3 * self.timings['total']:.2f} ms" if "total" in self.timings else ""
        cut = "" if self.complete else ", time was over"
        lines = [f"Hits({len(self)} of {self.candidates} candidates{total}{cut})"]
        width = max((len(str(i)) for i in self.ids), default=0)
        lines += [
            f"{rank:4}  {hit.id!s:<{width}}  score {hit.score:10.4f}  weight {hit.weight:.4f}  "
            f"distance {hit.distance:.4f}  rank before {hit.rank_before + 1}"
            for rank, hit in enumerate(self[:20], 1)
        ]
        if len(self) > 20:
            lines.append(f"      ... {len(self) - 20} more")
        return "\n".join(lines)


_LAZY = frozenset(Hits.__slots__) - {"_source", "_number"}
