"""From the text of a pattern to its tree: a parser by recursive descent, one method for each rule of the grammar.

::

    query        = MATCH path {"," path} [WHERE expression] RETURN [DISTINCT] columns
                   [ORDER BY key {"," key}] [SKIP count] [LIMIT count] [";"]
    path         = [name "="] node {relationship node}
    node         = "(" [name] {":" label {"|" label}} [properties] ")"
    relationship = "-" or "<-", ["[" [name] [":" type {"|" type}] ["*" [hops]] [properties] "]"], "-" or "->"
    hops         = n, n "..", ".." m, or n ".." m
    properties   = "{" [key ":" value {"," key ":" value}] "}"
"""

import functools

from attnbridge.integrations.match.expression_parser import ExpressionParser
from attnbridge.integrations.match.syntax import (
    Column,
    Expression,
    Hops,
    ListOf,
    Literal,
    NodePattern,
    Parameter,
    PathPattern,
    Properties,
    Query,
    RelationshipPattern,
    Return,
    SortKey,
)

SHAPE = "MATCH paths [WHERE condition] RETURN columns [ORDER BY keys] [SKIP n] [LIMIT n]"

_WORDS = """OPTIONAL MATCH WITH CREATE MERGE DELETE DETACH SET REMOVE UNWIND UNION CALL FOREACH LOAD USE YIELD
PROFILE EXPLAIN FINISH"""
_CLAUSES = frozenset(_WORDS.split())
_KEPT = 256  # parsed patterns


@functools.lru_cache(maxsize=_KEPT)
def parse(text: str) -> Query:
    """Return the tree of a pattern.

    Parameters
    ----------
    text : str

    Returns
    -------
    Query

    Raises
    ------
    InvalidInputError
        Not a pattern, or one with what is not supported: line and column are named, and shown.
    InputTooLargeError
        More than 20,000 characters.

    References
    ----------
    openCypher Query Language Reference, version 9.

    Examples
    --------
    >>> from attnbridge.integrations.match import parse
    >>> query = parse("match (a:Paper) -[:CITES*1..2]-> (b) where b.year>2010 return a, b.year AS year limit 10")
    >>> print(query)
    MATCH (a:Paper)-[:CITES*1..2]->(b) WHERE b.year > 2010 RETURN a, b.year AS year LIMIT 10
    >>> query.paths[0].nodes[0].labels
    (('Paper',),)
    """
    return _Parser(text).query()


class _Parser(ExpressionParser):
    """Clauses and paths."""

    def refuse_clause(self) -> None:
        """Refuse a clause that openCypher has, and this language has not."""
        if not self.is_word(*_CLAUSES):
            return
        word = str(self.token.value).upper()
        if word == "MATCH":
            raise self.error(
                "a second MATCH is not supported; write all paths behind the first, with commas between them",
                self.position,
            )
        raise self.error(f"{word} is not supported; a pattern is {SHAPE}", self.position)

    def query(self) -> Query:
        """Read a whole pattern."""
        if not self.take_word("MATCH"):
            self.refuse_clause()
            self.fail(f"expected MATCH (a pattern is {SHAPE})")
        paths = self.separated(self.path)
        where = self.expression() if self.take_word("WHERE") else None
        self.refuse_clause()
        if not self.is_word("RETURN"):
            self.fail("expected ',', WHERE or RETURN" if where is None else "expected an operator or RETURN")
        returns = self.returns()
        self.take_symbol(";")
        if self.token.kind != "end":
            self.refuse_clause()
            self.fail(f"expected the end of the pattern ({SHAPE})")
        return Query(paths, where, returns, self.text)

    def returns(self) -> Return:
        """Read RETURN and all behind it."""
        position = self.next().position
        distinct = self.take_word("DISTINCT")
        everything = self.take_symbol("*")
        columns = () if everything and not self.take_symbol(",") else self.separated(self.column)
        order: tuple[SortKey, ...] = ()
        if self.take_word("ORDER"):
            if not self.take_word("BY"):
                self.fail("expected BY after ORDER")
            order = self.separated(self.sort_key)
        skip = self.count() if self.take_word("SKIP") else None
        limit = self.count() if self.take_word("LIMIT") else None
        return Return(columns, everything, distinct, order, skip, limit, position=position)

    def column(self) -> Column:
        """Read a column of RETURN."""
        expression = self.expression()
        return Column(expression, self.name("a column's name after AS") if self.take_word("AS") else None)

    def sort_key(self) -> SortKey:
        """Read a key of ORDER BY."""
        expression = self.expression()
        if self.is_word("DESC", "DESCENDING", "ASC", "ASCENDING"):
            return SortKey(expression, str(self.next().value).upper().startswith("DESC"))
        return SortKey(expression)

    def count(self) -> Expression:
        """Read what SKIP and LIMIT take."""
        token = self.token
        if token.kind == "number" and isinstance(token.value, int):
            return Literal(self.next().value, position=token.position)
        if token.kind == "parameter":
            return Parameter(str(self.next().value), position=token.position)
        return self.fail("expected a whole number >= 0 or a $parameter")

    # ---- paths

    def path(self) -> PathPattern:
        """Read a path."""
        position = self.position
        variable = None
        if self.token.kind in ("name", "quoted"):
            if self.is_word("SHORTESTPATH", "ALLSHORTESTPATHS"):
                raise self.error(f"{self.token.value} is not supported; bound the hops, as in *1..4", position)
            self.refuse_clause()
            variable = self.variable()
            self.expect_symbol("=", " between a path's name and its pattern")
            if self.is_word("SHORTESTPATH", "ALLSHORTESTPATHS"):
                raise self.error(f"{self.token.value} is not supported; bound the hops, as in *1..4", self.position)
        nodes, relationships = [self.node()], []
        while self.is_symbol("-") or self.is_symbol("<"):
            relationships.append(self.relationship())
            nodes.append(self.node())
        return PathPattern(tuple(nodes), tuple(relationships), variable, position=position)

    def node(self) -> NodePattern:
        """Read a node."""
        position = self.position
        if not self.take_symbol("("):
            self.fail("expected a node such as (a:Paper)")
        variable = self.variable() if self.token.kind in ("name", "quoted") else None
        labels = self.labels() if self.is_symbol(":") else ()
        properties = self.properties()
        if self.is_word("WHERE"):
            raise self.error("WHERE inside a node is not supported; write it behind the paths", self.position)
        self.expect_symbol(")", " at the node's end")
        return NodePattern(variable, labels, properties, position=position)

    def relationship(self) -> RelationshipPattern:
        """Read a relationship."""
        position = self.position
        left = self.take_symbol("<")
        self.expect_symbol("-", " to begin a relationship such as -[:CITES]->")
        variable, hops = None, None
        types: tuple[str, ...] = ()
        properties: Properties = ()
        if self.take_symbol("["):
            variable = self.variable() if self.token.kind in ("name", "quoted") else None
            if self.take_symbol(":"):
                types = self.alternatives("relationship type")
                if self.is_symbol(":"):
                    raise self.error("a relationship has one type; either of two is [:A|B]", self.position)
            hops = self.hops() if self.take_symbol("*") else None
            properties = self.properties()
            if self.is_word("WHERE"):
                raise self.error(
                    "WHERE inside a relationship is not supported; write it behind the paths", self.position
                )
            self.expect_symbol("]", " at the relationship's end")
        self.expect_symbol("-", " to end a relationship such as -[:CITES]->")
        right = self.take_symbol(">")
        direction = "both" if left == right else "in" if left else "out"
        return RelationshipPattern(variable, types, hops, properties, direction, position=position)

    def hops(self) -> Hops:
        """Read what is behind the * of a relationship."""
        position = self.position
        least = self.whole_number() if self.token.kind == "number" else None
        if not self.take_symbol(".."):
            return Hops(1, None) if least is None else Hops(least, least)
        most = self.whole_number() if self.token.kind == "number" else None
        least = 1 if least is None else least
        if most is not None and most < least:
            raise self.error(f"hops must be *least..most with least <= most, got *{least}..{most}", position)
        return Hops(least, most)

    def whole_number(self) -> int:
        if not isinstance(self.token.value, int):
            self.fail("expected a whole number of hops")
        return int(self.next().value)

    def properties(self) -> Properties:
        """Read a property map, or nothing."""
        if self.token.kind == "parameter":
            raise self.error("a whole map as $parameter is not supported; write {key: $parameter}", self.position)
        if not self.take_symbol("{"):
            return ()
        found = [] if self.is_symbol("}") else list(self.separated(self.entry))
        self.expect_symbol("}", " at the property map's end")
        return tuple(found)

    def entry(self) -> tuple[str, Expression]:
        """Read one entry of a property map."""
        name = self.name("a property's name")
        self.expect_symbol(":", " between a property's name and its value")
        value = self.expression()
        for part in value.walk():
            if not isinstance(part, Literal | Parameter | ListOf):
                raise self.error(
                    "a property map takes texts, numbers, true, false, null, lists of them and $parameters; "
                    "compare with anything else in WHERE",
                    part.position,
                )
        return name, value
