"""What a match returns."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.integrations.match.compiler import Slot, path_of
from attnbridge.integrations.match.reader import MatchPath, public
from attnbridge.integrations.match.search import Scored
from attnbridge.integrations.topology import Topology
from attnbridge.sequence import MadeSequence
from attnbridge.validation import require

if TYPE_CHECKING:
    import pandas as pd


class Match(NamedTuple):
    """One row.

    Parameters
    ----------
    record : dict of str to object
        What RETURN gives, by column: a node as the graph has it, a relationship as (u, v) or (u, v, key), a
        relationship of several hops as the list of them, a path as MatchPath, null as None.
    score : float or None
        The sum of the weights' logarithms; None without a query.
    weights : tuple of float
        The attention weight of each step; none without a query.
    paths : tuple of MatchPath
        The path of each pattern behind MATCH.

    Examples
    --------
    >>> from attnbridge.integrations.match import Match
    >>> Match({"a": 1}, -0.5, (0.6,), ()).record
    {'a': 1}
    """

    record: dict[str, Any]
    score: float | None
    weights: tuple[float, ...]
    paths: tuple[MatchPath, ...]


class Matches(MadeSequence[Match]):
    """Rows of a match, in the order of ORDER BY, else best score first, else in the graph's order.

    A row that stands for several, by DISTINCT or count, has the score, the weights and the paths of the first of them.

    Parameters
    ----------
    columns : tuple of str
    values : list of tuple
        What RETURN gives, one tuple a row.
    found : list of Scored or None
        What each row was found as; None for the count of no rows.
    topology : Topology
    slots : list of list of Slot
        What each path is made from.
    scored : bool
        Whether there was a query.
    complete : bool, default True

    Attributes
    ----------
    complete : bool
        False where the time budget ended before all rows were found.

    Examples
    --------
    >>> import networkx as nx, attnbridge as ab
    >>> G = nx.DiGraph([("home", "east"), ("home", "north"), ("east", "north-east")])
    >>> compass = {"home": [0.1, 0.1], "east": [1.0, 0.0], "north": [0.0, 1.0], "north-east": [0.7, 0.7]}
    >>> nx.set_node_attributes(G, compass, "embedding")
    >>> matches = ab.AttentionGraph(G).match("MATCH (a)-[*1..2]->(b) RETURN b", start="home")
    >>> matches.columns, matches.records
    (('b',), [{'b': 'east'}, {'b': 'north-east'}, {'b': 'north'}])
    >>> matches[1].paths[0].edges
    (('home', 'east'), ('east', 'north-east'))
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        values: list[tuple[Any, ...]],
        found: list[Scored | None],
        topology: Topology,
        slots: list[list[Slot]],
        scored: bool,
        complete: bool = True,
    ) -> None:
        self.columns, self.complete = columns, complete
        self._values, self._found, self._topology, self._slots, self._scored = values, found, topology, slots, scored

    @property
    def records(self) -> list[dict[str, Any]]:
        """What RETURN gives, a dict for each row.

        Returns
        -------
        list of dict of str to object
        """
        return [self._record(row) for row in range(len(self))]

    @property
    def scores(self) -> npt.NDArray[np.float64] | None:
        """The score of each row, None without a query.

        Returns
        -------
        ndarray of float64, (n,), or None
        """
        if not self._scored:
            return None
        return np.array([np.nan if found is None else found.score for found in self._found], np.float64)

    def column(self, name: str) -> list[Any]:
        """Return the values of one column.

        Parameters
        ----------
        name : str

        Returns
        -------
        list of object

        Raises
        ------
        KeyError
        """
        if name not in self.columns:
            raise KeyError(f"no column {name!r}; there are {', '.join(self.columns)}")
        place = self.columns.index(name)
        return [public(values[place], self._topology) for values in self._values]

    def to_pandas(self) -> "pd.DataFrame":
        """Return the rows as a table: a column for each of RETURN, and with a query one more, "score".

        A column of RETURN that is called score stays, and takes its place.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        MissingDependencyError
            pandas is not installed.
        """
        pandas = require("pandas", "pandas")
        data: dict[str, Any] = {name: self._series(pandas, self.column(name)) for name in self.columns}
        if self._scored and "score" not in data:
            data["score"] = self.scores
        table: pd.DataFrame = pandas.DataFrame(data)
        return table

    @staticmethod
    def _series(pandas: Any, values: list[Any]) -> Any:
        nested = any(isinstance(value, tuple | list | dict | set | np.ndarray) for value in values)
        if not nested:
            return pandas.Series(values, dtype=None if values else object)
        series = pandas.Series([None] * len(values), dtype=object)
        for row, value in enumerate(values):
            series.iat[row] = value
        return series

    def _record(self, row: int) -> dict[str, Any]:
        values = self._values[row]
        return {name: public(value, self._topology) for name, value in zip(self.columns, values, strict=True)}

    def _item(self, row: int) -> Match:
        found = self._found[row]
        if found is None:
            return Match(self._record(row), None, (), ())
        paths = (public(path_of(self._topology, slots, found.row), self._topology) for slots in self._slots)
        return Match(self._record(row), found.score if self._scored else None, found.weights, tuple(paths))

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Matches({len(self)} rows of {', '.join(self.columns)}{'' if self.complete else ', incomplete'})"
