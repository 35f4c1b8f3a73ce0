"""Patterns of paths in a graph."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy.typing as npt

from attnbridge.errors import AttentionError
from attnbridge.functional import pair_logits
from attnbridge.integrations.graph_view import GraphView
from attnbridge.integrations.match import Matches
from attnbridge.integrations.match.run import Scoring, as_options, run
from attnbridge.validation import Float, as_vector


class Matching(GraphView):
    """What an `AttentionGraph` finds by a pattern."""

    def match(
        self,
        pattern: str,
        query: npt.ArrayLike | None = None,
        params: Mapping[str, Any] | None = None,
        *,
        start: Any = None,
        per_step: int | None = None,
        max_hops: int = 16,
        max_rows: int = 1_000_000,
        time_budget: float | None = None,
        labels: str | Sequence[str] = ("label", "labels"),
        type: str | None = None,
    ) -> Matches:
        """Return where a pattern of nodes and relationships is in the graph.

        Patterns are openCypher's: MATCH paths [WHERE condition] RETURN columns [ORDER BY keys] [SKIP n] [LIMIT n].
        Paths, with commas between them, share variables; a node is ``(a:Paper:New {field: $f})``, a relationship
        ``-[r:CITES|EXTENDS*1..3 {year: 2017}]->``, ``<-[...]-`` or ``-[...]-``, a path with a name ``p = (a)-->(b)``.
        There are =, <>, <, <=, >, >=, IN, CONTAINS, STARTS WITH, ENDS WITH, IS [NOT] NULL, AND, OR, XOR, NOT,
        + - * / %, and the functions id(n), which is the node itself, labels(n), type(r), length(p), nodes(p),
        relationships(p), score(n), which is the query's logit with the node, and, as a column, count.

        - A node's labels are a text, or a collection of them; a relationship's type is its attribute or else, in a
          multigraph, its key where that is a text. Other attributes are properties, missing ones null.
        - No relationship is in a row twice; nodes may be. In an undirected graph arrows have no direction.
        - Comparisons with null are neither true nor false. What has no order is compared to null; so is arithmetic
          with anything but numbers, and what is divided by 0. Rows need a condition that is true.
        - Without a query rows come in the order of the graph: by the first node, the first relationship, and so on.
        - With a query they come best first. The nodes of a path are chosen from left to right, from all that fit what
          the pattern says of them and of those chosen before. A choice has a weight, the softmax of the query's scores
          of these nodes, each times the edge's weight where edges have one; a row's score is the sum of the
          logarithms of its weights. Several paths are gone through one after the other, each from the leftmost of its
          nodes that is chosen already.

        Parameters
        ----------
        pattern : str
        query : array_like, (d,), optional
            Without one no embedding is read: an `AttentionGraph` with missing="skip" needs none at all then.
        params : mapping of str to object, optional
            Values for ``$name`` in the pattern; more than it uses are allowed. What IN looks in is any collection or
            iterator but a text or a mapping, and counts as a list.
        start : hashable, optional
            The node that the first node of the pattern is: it is no choice then, and has no weight.
        per_step : int, optional
            How many nodes are kept at each choice, the best; by default all. Needs a query. Scores stay what they are.
        max_hops : int, default 16
            How far a relationship without a bound, as ``-[*]->``, may go. More is an error, not left out.
        max_rows : int, default 1,000,000
            How many rows may be found, before DISTINCT, count, ORDER BY and SKIP. More are an error.
        time_budget : float, optional
            Seconds after which the complete rows found by then are returned; `complete` is False then. Finding rows
            and what RETURN and ORDER BY say of them share it: a tenth, or with a query or ORDER BY a fifth, is kept for
            what follows. Sorting, and the columns of rows that LIMIT leaves of sorted ones, may add about a third. Not
            in it are the adjacency and kernels, which are read before, once, and passes of Python's garbage collector.
            With a query the rows need not be the best of all, and there is none as long as not all logits of the first
            choice are read.
        labels : str or sequence of str, default ("label", "labels")
            The nodes' attributes with labels.
        type : str, optional
            The edges' attribute with the type; by default the graph's `edge_type`.

        Returns
        -------
        Matches

        Raises
        ------
        InvalidInputError
            No such pattern: line and column are named and shown, and what is expected or supported there.
        InputTooLargeError
            Beyond `max_hops` or `max_rows`.
        InvalidConfigError
            A ``$name`` without a value, one that IN looks in and that is no list, or a wrong option.
        networkx.NodeNotFound
            `start` is not in the graph.
        DimensionMismatchError, GraphStructureError

        Warns
        -----
        UserWarning
            There is no row, and no edge has a type, or no node a label, of the pattern; the known ones are listed. A
            name is looked for once, and not with a time budget.

        References
        ----------
        openCypher Query Language Reference, version 9.

        Examples
        --------
        >>> import networkx as nx, attnbridge as ab
        >>> G = nx.DiGraph()
        >>> G.add_node("gat", label="Paper", year=2018, embedding=[0.9, 0.1])
        >>> G.add_node("transformer", label="Paper", year=2017, embedding=[0.6, 0.8])
        >>> G.add_node("gcn", label="Paper", year=2017, embedding=[1.0, 0.0])
        >>> G.add_edges_from([("gat", "transformer"), ("gat", "gcn")], type="CITES")
        >>> ag = ab.AttentionGraph(G)
        >>> ag.match("MATCH (a:Paper)-[:CITES]->(b) WHERE b.year < $y RETURN a, b", params={"y": 2018}).records
        [{'a': 'gat', 'b': 'transformer'}, {'a': 'gat', 'b': 'gcn'}]
        >>> for row in ag.match("MATCH (a)-->(b) RETURN b, score(b) AS s", query=[1.0, 0.2], start="gat"):
        ...     print(row.record["b"], round(row.record["s"], 2), round(row.weights[0], 2))
        gcn 9.81 0.91
        transformer 7.45 0.09
        """
        scored = query is not None
        options = as_options(scored, per_step, max_hops, max_rows, time_budget, labels, type, self._data.type_name)
        topology = self.topology
        scoring = None
        if query is not None:
            vector = as_vector(query, "query", keep_float64=True)
            self._data.require_any()
            if options.time_budget is not None:
                self._load_kernels(vector)
            scoring = Scoring(
                lambda positions: self._logits(topology, vector, positions),
                lambda numbers: self._data.edge_weights(topology, numbers),
            )
        at = None if start is None else topology.position(start)
        return run(self._data, topology, pattern, options, params=params, start=at, scoring=scoring)

    def _load_kernels(self, query: Float) -> None:
        """Score something: the time budget begins behind that."""
        with suppress(AttentionError):  # which scoring nodes will raise, too
            pair_logits(self._type, self._options, query, query[None])
