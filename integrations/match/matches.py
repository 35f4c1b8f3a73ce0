"""What a match returns."""

from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.integrations.match.compiler import Slot, path_of
from attnbridge.integrations.match.reader import MatchPath, public
from attnbridge.integrations.match.search import Scored
from attnbridge.integrations.match.trails import Trails
from attnbridge.integrations.topology import Topology
from attnbridge.labels import middle_cut
from attnbridge.sequence import MadeSequence
from attnbridge.validation import as_count, require

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_LONGEST = 60  # columns of a value in an explanation


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
    >>> from attnbridge.integrations.match import Match, MatchPath
    >>> found = Match({"a": 1}, -0.5, (0.6,), (MatchPath((1, 2), ((1, 2),)),))
    >>> found.record, found.node, found.hop, found.path
    ({'a': 1}, 2, 1, [1, 2])
    """

    record: dict[str, Any]
    score: float | None
    weights: tuple[float, ...]
    paths: tuple[MatchPath, ...]

    @property
    def path(self) -> list[Any]:
        """The nodes of the first path; none of the count of no rows.

        Returns
        -------
        list of hashable
        """
        return list(self.paths[0].nodes) if self.paths else []

    @property
    def edges(self) -> list[tuple[Any, ...]]:
        """The edges of the first path, as `G.edges` names them.

        Returns
        -------
        list of tuple
        """
        return list(self.paths[0].edges) if self.paths else []

    @property
    def node(self) -> Any:
        """The node where the first path ends, None where there is no path.

        Returns
        -------
        hashable or None
        """
        return self.path[-1] if self.paths else None

    @property
    def hop(self) -> int | None:
        """How many edges the first path has, None where there is no path.

        Returns
        -------
        int or None
        """
        return len(self.edges) if self.paths else None


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
    trails : Trails
        How rows came to be.
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
        trails: Trails,
        complete: bool = True,
    ) -> None:
        self.columns, self.complete, self._trails = columns, complete, trails
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

    def to_subgraph(self) -> Any:
        """Return what was matched: the nodes and edges of all rows, with their attributes.

        Returns
        -------
        networkx.Graph, DiGraph, MultiGraph or MultiDiGraph
            Nodes have the attribute hop too, their steps from where their row begins; with a query also score, and
            edges attention, the weight of the step along them in the first row that has it; in place of attributes of
            these names.

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.DiGraph([("a", "b"), ("a", "c"), ("c", "d")])
        >>> nx.set_node_attributes(G, [1.0, 0.5], "embedding")
        >>> matched = ab.AttentionGraph(G).match("MATCH (x)-->(y)-->(z) RETURN z", query=[1.0, 0.0]).to_subgraph()
        >>> list(matched.edges(data="attention"))
        [('a', 'c', 0.5), ('c', 'd', 1.0)]
        """
        return self._subgraph(len(self))

    def _subgraph(self, count: int) -> Any:
        """Return what was matched by the first so many rows."""
        return self._trails.subgraph(found for found in self._found[:count] if found is not None)

    def explain(self, limit: int = 10) -> str:
        """Return the first rows in words: what each returns, and a line for each of its steps, with its weight.

        Parameters
        ----------
        limit : int, default 10
            How many rows are told of.

        Returns
        -------
        str

        Raises
        ------
        InvalidConfigError

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.DiGraph()
        >>> G.add_nodes_from([("a", {"embedding": [1.0, 0.0]}), ("b", {"embedding": [0.6, 0.8]})])
        >>> G.add_edge("a", "b", type="CITES")
        >>> print(ab.AttentionGraph(G).match("MATCH (x)<-[r]-(y) RETURN y", query=[1.0, 0.0], start="b").explain())
        1. y 'a': score 0.0000
           start at 'b'
           'b' <-[CITES]- 'a'  weight 1.0000
        """
        lines = []
        for rank, row in enumerate(range(min(as_count(limit, "limit"), len(self))), 1):
            found = self._found[row]
            told = ", ".join(f"{name} {middle_cut(repr(value), _LONGEST)}" for name, value in self._record(row).items())
            score = f": score {found.score:.4f}" if self._scored and found is not None else ""
            lines.append(f"{rank}. {told}{score}")
            lines += [] if found is None else [f"   {line}" for line in self._trails.lines(found)]
        if len(self) > limit:
            lines.append(f"... {len(self) - limit} more")
        return "\n".join(lines)

    def plot(
        self,
        path: str | PathLike[str] | None = None,
        *,
        limit: int | None = None,
        label: Any = None,
        edge_label: Any = None,
    ) -> "Figure":
        """Draw what was matched, as `GraphHits.plot` draws a walk; without a query nodes and edges are all alike.

        Parameters
        ----------
        path : str or path, optional
            A .png, .svg or .pdf file to write.
        limit : int, optional
            How many rows are drawn: the first, at most 200; by default as many as have no more than 60 nodes.
        label : hashable, optional
            The nodes' attribute that they are called by; by default they are called what they are.
        edge_label : hashable, optional
            The edges' attribute that they are called by; by default that of their types.

        Returns
        -------
        matplotlib.figure.Figure
            Outside pyplot: nothing has to be closed.

        Raises
        ------
        MissingDependencyError
            matplotlib is not installed.
        InvalidConfigError
        InvalidInputError
            No rows, or a path of another suffix.

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.DiGraph([("a", "b"), ("b", "c")])
        >>> nx.set_node_attributes(G, [1.0, 0.0], "embedding")
        >>> figure = ab.AttentionGraph(G).match("MATCH (x)-->(y)-->(z) RETURN x").plot()
        >>> [text.get_text() for text in figure.axes[0].texts][:3]
        ['a', 'b', 'c']
        """
        from attnbridge.integrations.graph_plot import as_limit, draw, fitting, of_how_many

        moves = ([] if found is None else self._trails.moves(found) for found in self._found)
        nodes = ({move.target for move in row} for row in moves)
        count = fitting(nodes) if limit is None else min(len(self), as_limit(limit))
        title = of_how_many(count, len(self), "row", self.complete)
        named = self._trails.type if edge_label is None else edge_label
        starts = self._trails.starts(self._found[:count])
        return draw(self._subgraph(count), path, title, starts=starts, label=label, edge_label=named)

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
