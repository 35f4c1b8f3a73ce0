import re

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnbridge as ab
from attnbridge.errors import InputTooLargeError, InvalidInputError
from attnbridge.integrations.match import parse
from attnbridge.integrations.match.syntax import (
    Arithmetic,
    Binary,
    Call,
    Column,
    Comparison,
    HasLabels,
    Hops,
    IsNull,
    ListOf,
    Literal,
    Logical,
    Minus,
    NodePattern,
    Not,
    Parameter,
    PathPattern,
    Property,
    Query,
    RelationshipPattern,
    Return,
    SortKey,
    Variable,
)


def where(condition):
    return parse(f"MATCH (a) WHERE {condition} RETURN a").where


A = Variable("a")
X = Property(A, "x")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("match (a) return a", "MATCH (a) RETURN a"),
        ("MATCH () RETURN count( * );", "MATCH () RETURN count(*)"),
        ("MATCH (:A:B|C {x:1,`y z`:'t'})RETURN 1", "MATCH (:A:B|C {x: 1, `y z`: 't'}) RETURN 1"),
        ("MATCH (a)-->(b)<--(c)--(d)<-->(e) RETURN e", "MATCH (a)-->(b)<--(c)--(d)--(e) RETURN e"),
        ("MATCH (a) - [r :A|:B * 1 .. 2 {w: 1.5}] -> () RETURN r", "MATCH (a)-[r:A|B*1..2 {w: 1.5}]->() RETURN r"),
        (
            "MATCH (a)-[*]-()-[*3]-()-[*..2]-()-[*2..]-()-[*0..1]->() RETURN a",
            "MATCH (a)-[*]-()-[*3]-()-[*1..2]-()-[*2..]-()-[*0..1]->() RETURN a",
        ),
        ("MATCH p=(a)-->(b), (b)-->(c) RETURN *", "MATCH p = (a)-->(b), (b)-->(c) RETURN *"),
        ("MATCH (a) RETURN *, a.x AS y", "MATCH (a) RETURN *, a.x AS y"),
        (
            "MATCH (a) // all\nRETURN /* of\nthem */ DISTINCT a ORDER BY a.x desc, a.y ASC skip 1 limit $n",
            "MATCH (a) RETURN DISTINCT a ORDER BY a.x DESC, a.y SKIP 1 LIMIT $n",
        ),
        ("MATCH (`match`) RETURN `match`.where", "MATCH (`match`) RETURN `match`.`where`"),
        ("MATCH (`a``b`:`c d`) RETURN `a``b`", "MATCH (`a``b`:`c d`) RETURN `a``b`"),
        ("MATCH (größe) RETURN größe.länge", "MATCH (größe) RETURN größe.länge"),
        ("MATCH (a:Match)-[:RETURN]->() RETURN a", "MATCH (a:`Match`)-[:`RETURN`]->() RETURN a"),
        ("MATCH (a) RETURN Score(a), COUNT(DISTINCT a)", "MATCH (a) RETURN score(a), count(DISTINCT a)"),
    ],
)
def test_patterns_are_read_and_printed(text, printed):
    assert str(parse(text)) == printed
    assert parse(printed) == parse(text)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("true", Literal(True)),
        ("NULL", Literal(None)),
        ("0x1F = 0o17", Comparison((Literal(31), Literal(15)), ("=",))),
        (".5 < 1e3", Comparison((Literal(0.5), Literal(1000.0)), ("<",))),
        (r"'it\'s\t\\ \u00e9\U0001F600'", Literal("it's\t\\ é😀")),
        ('"it\'s"', Literal("it's")),
        ("a.x = $p", Comparison((X, Parameter("p")), ("=",))),
        ("a.x = $`p q`", Comparison((X, Parameter("p q")), ("=",))),
        ("a.x = $1", Comparison((X, Parameter("1")), ("=",))),
        ("-1 < a.x <= +5", Comparison((Literal(-1), X, Literal(5)), ("<", "<="))),
        ("a.x<-5", Comparison((X, Literal(-5)), ("<",))),
        ("1 - 2 - 3 * -a.x", None),
        ("NOT a.x AND a.x OR a.x XOR a.x", Logical("OR", (Logical("AND", (Not(X), X)), Logical("XOR", (X, X))))),
        ("a.x OR a.x OR a.x", Logical("OR", (X, X, X))),
        ("NOT NOT a:A:B|C", Not(Not(HasLabels(A, (("A",), ("B", "C")))))),
        ("a.x + 1 IN [1, $p]", Binary("IN", Arithmetic((X, Literal(1)), ("+",)), ListOf((Literal(1), Parameter("p"))))),
        ("a.x starts WITH 'b'", Binary("STARTS WITH", X, Literal("b"))),
        ("a.x IS not NULL", IsNull(X, True)),
        ("a.x IN [] IS NULL", IsNull(Binary("IN", X, ListOf(())), False)),
        ("id(a) = 1", Comparison((Call("id", (A,)), Literal(1)), ("=",))),
    ],
)
def test_expressions_bind_as_in_opencypher(text, tree):
    found = where(text)
    if tree is None:
        product = Arithmetic((Literal(3), Minus(X)), ("*",))
        assert found == Arithmetic((Literal(1), Literal(2), product), ("-", "-"))
    else:
        assert found == tree


WORD = re.escape("expected a value, a variable, a property or a function")
SHAPE = re.escape("MATCH paths [WHERE condition] RETURN columns [ORDER BY keys] [SKIP n] [LIMIT n]")


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        # characters
        ("MATCH (a) RETURN a ?", 1, 20, r"the character '\?' means nothing here"),
        ("MATCH (a) WHERE a.x = 'abc\n RETURN a", 1, 23, "this text has no closing '"),
        ('MATCH (a) WHERE a.x = "', 1, 23, 'this text has no closing "'),
        ("MATCH (`a) RETURN a", 1, 8, "this name has no closing `"),
        ("MATCH (a) /* RETURN a", 1, 11, r"this comment has no closing \*/"),
        ("MATCH (a) WHERE a.x = $", 1, 23, "expected a parameter's name after [$], such as [$]year"),
        ("MATCH (``) RETURN 1", 1, 8, "a name must have at least one character"),
        (r"MATCH (a) WHERE a.x = 'a\q' RETURN a", 1, 25, r"\\q is no escape; known are"),
        (r"MATCH (a) WHERE a.x = '\U00110000' RETURN a", 1, 24, r"\\U00110000 is no escape; known are"),
        ("MATCH (a:1b) RETURN a", 1, 10, "a name must not begin with a digit; put it in backticks"),
        ("MATCH (a) RETURN 1e999", 1, 18, "a number must be at most 1.8e308; pass a larger one as a [$]parameter"),
        # clauses
        ("", 1, 1, f"expected MATCH .a pattern is {SHAPE}., got the end of the pattern"),
        ("RETURN 1", 1, 1, f"expected MATCH .a pattern is {SHAPE}., got 'RETURN'"),
        ("CREATE (a)", 1, 1, f"CREATE is not supported; a pattern is {SHAPE}"),
        ("OPTIONAL MATCH (a) RETURN a", 1, 1, "OPTIONAL is not supported"),
        ("MATCH (a)\nOPTIONAL MATCH (a)-->(b) RETURN a", 2, 1, "OPTIONAL is not supported"),
        ("MATCH (a) WITH a RETURN a", 1, 11, "WITH is not supported"),
        ("MATCH (a) MATCH (b) RETURN a", 1, 11, "a second MATCH is not supported; write all paths behind the first"),
        ("MATCH (a) WHERE a.x UNWIND a.y AS b RETURN b", 1, 21, "UNWIND is not supported"),
        ("MATCH (a) RETURN a UNION MATCH (b) RETURN b", 1, 20, "UNION is not supported"),
        ("CALL db.labels()", 1, 1, "CALL is not supported"),
        ("MATCH (a) SET a.x = 1", 1, 11, "SET is not supported"),
        ("MATCH (a), DELETE a", 1, 12, "DELETE is not supported"),
        ("MATCH (a)", 1, 10, "expected ',', WHERE or RETURN, got the end of the pattern"),
        ("MATCH (a) WHERE a.x b", 1, 21, "expected an operator or RETURN, got 'b'"),
        ("MATCH (a) RETURN a b", 1, 20, f"expected the end of the pattern .{re.escape(SHAPE)}.|expected the end"),
        ("MATCH (a) RETURN", 1, 17, f"{WORD}, got the end of the pattern"),
        ("MATCH (a) RETURN a AS", 1, 22, "expected a column's name after AS, got the end of the pattern"),
        ("MATCH (a) RETURN a ORDER a.x", 1, 26, "expected BY after ORDER, got 'a'"),
        ("MATCH (a) RETURN a LIMIT -1", 1, 26, "expected a whole number >= 0 or a [$]parameter, got '-'"),
        ("MATCH (a) RETURN a LIMIT 1.5", 1, 26, "expected a whole number >= 0 or a [$]parameter, got '1.5'"),
        ("MATCH (a) RETURN a SKIP", 1, 24, "expected a whole number >= 0 or a [$]parameter, got the end"),
        ("MATCH (a) RETURN a LIMIT 1 SKIP 1", 1, 28, "expected the end of the pattern"),
        # paths
        ("MATCH a RETURN a", 1, 9, "expected '=' between a path's name and its pattern, got 'RETURN'"),
        ("MATCH [a] RETURN a", 1, 7, r"expected a node such as \(a:Paper\), got '\['"),
        ("MATCH (a RETURN a", 1, 10, "expected '[)]' at the node's end, got 'RETURN'"),
        ("MATCH (a)-[:X]>(b) RETURN a", 1, 15, "expected '-' to end a relationship such as .*, got '>'"),
        ("MATCH (a)<(b) RETURN a", 1, 11, "expected '-' to begin a relationship such as .*, got '[(]'"),
        ("MATCH (a)-[r->(b) RETURN a", 1, 13, "expected ']' at the relationship's end, got '-'"),
        ("MATCH (a)-->RETURN a", 1, 13, "expected a node such as .*, got 'RETURN'"),
        ("MATCH (a:) RETURN a", 1, 10, "expected a label, got '[)]'"),
        ("MATCH (a)-[:]->() RETURN a", 1, 13, "expected a relationship type, got ']'"),
        ("MATCH (a:!B) RETURN a", 1, 10, "'!' in labels is not supported; write NOT in WHERE"),
        ("MATCH (a:A&B) RETURN a", 1, 11, "'&' is not supported; a node with both labels is [(]a:First:Second[)]"),
        ("MATCH ()-[:A:B]->() RETURN 1", 1, 13, r"a relationship has one type; either of two is \[:A\|B\]"),
        ("MATCH ()-[*2..1]->() RETURN 1", 1, 12, r"hops must be \*least..most with least <= most, got \*2..1"),
        ("MATCH ()-[*1.5]->() RETURN 1", 1, 12, "expected a whole number of hops, got '1.5'"),
        ("MATCH (a $p) RETURN a", 1, 10, "a whole map as [$]parameter is not supported; write {key: [$]parameter}"),
        ("MATCH (a {1: 2}) RETURN a", 1, 11, "expected a property's name, got '1'"),
        ("MATCH (a {x 2}) RETURN a", 1, 13, "expected ':' between a property's name and its value, got '2'"),
        ("MATCH (a {x: 2) RETURN a", 1, 15, "expected '}' at the property map's end, got '[)]'"),
        ("MATCH (a), (b {x: a.x}) RETURN a", 1, 19, "a property map takes texts, numbers, true, false, null, lists"),
        ("MATCH (a WHERE a.x) RETURN a", 1, 10, "WHERE inside a node is not supported; write it behind the paths"),
        ("MATCH ()-[r WHERE r.x]-() RETURN r", 1, 13, "WHERE inside a relationship is not supported"),
        ("MATCH (where) RETURN 1", 1, 8, "where is a keyword; a variable of that name goes in backticks: `where`"),
        ("MATCH p = shortestPath((a)-->(b)) RETURN p", 1, 11, "shortestPath is not supported; bound the hops"),
        ("MATCH shortestPath((a)-->(b)) RETURN p", 1, 7, "shortestPath is not supported; bound the hops"),
        # expressions
        ("MATCH (a) WHERE RETURN a", 1, 17, f"{WORD}, got 'RETURN'"),
        ("MATCH (a) WHERE (a.x RETURN a", 1, 22, "expected '[)]' to close the parenthesis, got 'RETURN'"),
        ("MATCH (a) WHERE a.x = RETURN a", 1, 23, f"{WORD}, got 'RETURN'"),
        ("MATCH (a) WHERE a.x == 1 RETURN a", 1, 22, f"{WORD}, got '='"),
        ("MATCH (a) WHERE a. RETURN", 1, 26, "expected an operator or RETURN, got the end"),
        ("MATCH (a) WHERE a.x =~ 'b' RETURN a", 1, 21, "=~ is not supported; use STARTS WITH, ENDS WITH or CONTAINS"),
        ("MATCH (a) WHERE a.x ^ 2 = 4 RETURN a", 1, 21, r"\^ is not supported; arithmetic has \+ - \* / %"),
        ("MATCH (a) WHERE a.x IS 1 RETURN a", 1, 24, "expected NULL or NOT NULL after IS, got '1'"),
        ("MATCH (a) WHERE a.x STARTS 'b' RETURN a", 1, 28, "expected WITH after STARTS, got \"'b'\""),
        ("MATCH (a) WHERE a.x IN [1 RETURN a", 1, 27, "expected ']' at the list's end, got 'RETURN'"),
        ("MATCH (a) WHERE (a)-->() RETURN a", 1, 17, "a path in an expression is not supported; write it behind MATCH"),
        ("MATCH (a) WHERE NOT (a:B)<-[:X]-() RETURN a", 1, 21, "a path in an expression is not supported"),
        ("MATCH (a) WHERE () RETURN a", 1, 17, "expected an expression inside the parentheses"),
        ("MATCH (a) WHERE {x: 1} = a RETURN a", 1, 17, "a map is supported in a node or relationship only"),
        ("MATCH (a) RETURN CASE WHEN true THEN 1 END", 1, 18, "CASE is not supported"),
        ("MATCH (a) WHERE EXISTS(a.x) RETURN a", 1, 17, "EXISTS is not supported; .* with IS NOT NULL"),
        ("MATCH (a) WHERE any(x IN a.y WHERE x) RETURN a", 1, 17, "ANY is not supported; use IN"),
        ("MATCH (a) RETURN size(a.x)", 1, 18, "the function size is not supported; known are count, id, labels"),
        ("MATCH (a) RETURN id()", 1, 21, f"{WORD}, got '[)]'"),
        ("MATCH (a) RETURN id(a, a)", 1, 22, "expected '[)]' behind id's one argument, got ','"),
        ("MATCH (a) RETURN a.x[0]", 1, 21, r"\[ \] behind a value is not supported"),
        ("MATCH (a) RETURN a.x.y", 1, 21, "only a node or relationship of MATCH has properties, as in a.year"),
    ],
)
def test_errors_name_the_position_and_show_it(text, line, column, message):
    with pytest.raises(InvalidInputError) as caught:
        parse(text)
    first, shown, caret = str(caught.value).split("\n")
    assert re.match(f"pattern, line {line}, column {column}: ({message})", first)
    assert shown == "  " + text.split("\n")[line - 1]
    assert caret == "  " + " " * (column - 1) + "^"


def test_long_lines_are_cut_and_tabs_kept_so_that_the_caret_fits():
    text = f"\tMATCH (a)\n\tWHERE a.x IN [{', '.join(map(str, range(200)))}] ? RETURN a"
    with pytest.raises(InvalidInputError) as caught:
        parse(text)
    _, shown, caret = str(caught.value).split("\n")
    assert len(shown) == 102
    assert shown[caret.index("^")] == "?"
    with pytest.raises(InvalidInputError, match="column 2") as caught:
        parse("\tRETURN 1")
    assert str(caught.value).endswith("\n  \tRETURN 1\n  \t^")


@pytest.mark.parametrize(
    "text",
    [
        "(" * 33 + "1" + ")" * 33,
        "NOT " * 33 + "true",
        "-" * 33 + "a.x",
        "[" * 33,
        ("NOT " * 20 + "(") * 3 + "a.x" + ")" * 3,
    ],
)
def test_deep_nesting_is_refused(text):
    with pytest.raises(InvalidInputError, match="an expression must not nest deeper than 32 levels"):
        where(text)


@pytest.mark.parametrize("operator", ["IN", "CONTAINS"])
def test_long_chains_of_predicates_are_refused_before_they_nest_too_deep(operator):
    with pytest.raises(InvalidInputError, match="an expression must not nest deeper than 32 levels"):
        where(f" {operator} ".join(["a.x"] * 200))


@pytest.mark.parametrize(("operator", "value"), [("+", 9950), ("-", -9948), ("*", 1), ("/", 1), ("%", 0)])
def test_long_chains_of_arithmetic_are_one_level(operator, value):
    pattern = f"MATCH (a) RETURN {operator.join('1' * 9950)} AS n"
    found = parse(pattern).returns.columns[0].expression
    assert len(found.operands) == 9950
    assert str(found) == f" {operator} ".join("1" * 9950)
    graph = nx.Graph()
    graph.add_node("u", embedding=[1.0])
    assert ab.AttentionGraph(graph).match(pattern).records == [{"n": value}]


def test_a_chain_of_both_strengths_is_two_levels():
    found = where("1" + "+a.x*2" * 1000 + " = 1").operands[0]
    assert found == Arithmetic((Literal(1), *[Arithmetic((X, Literal(2)), ("*",))] * 1000), ("+",) * 1000)
    assert where(f"{found} = 1").operands[0] == found


def test_parentheses_around_the_beginning_of_a_chain_are_none():
    assert where("((a.x - 1) + 2) - 3 = 0") == where("a.x - 1 + 2 - 3 = 0")
    assert where("a.x - (1 + 2) = 0") != where("a.x - 1 + 2 = 0")
    assert str(where("(a.x + 1) * 2 - (1 + 2) = 0")) == "(a.x + 1) * 2 - (1 + 2) = 0"


def test_long_conditions_are_fine():
    assert len(where(" OR ".join(["a.x = 1"] * 1000)).operands) == 1000


def test_too_long_patterns_are_refused():
    with pytest.raises(InputTooLargeError, match="pattern must be at most 20000 characters, got 20001"):
        parse("MATCH (a) RETURN a".ljust(20_001))


# ---- any tree is read back from its text

NAMES = st.one_of(
    st.sampled_from(["a", "b", "_x1", "match", "year", "größe", "two words", "tick`", "1st"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
)
LITERALS = st.builds(
    Literal,
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
)
VARIABLES = st.builds(Variable, NAMES)
LABELS = st.lists(st.lists(NAMES, min_size=1, max_size=2).map(tuple), min_size=1, max_size=2).map(tuple)
LEAVES = st.one_of(
    LITERALS,
    VARIABLES,
    st.builds(Parameter, NAMES),
    st.builds(Property, VARIABLES, NAMES),
    st.builds(HasLabels, VARIABLES, LABELS),
    st.builds(Call, st.sampled_from(["id", "labels", "score"]), st.tuples(VARIABLES)),
)
BINARY = ["IN", "CONTAINS", "STARTS WITH", "ENDS WITH"]
ARITHMETIC = ["+-", "*/%"]


def compound(inner):
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    comparisons = several.flatmap(
        lambda operands: st.builds(
            Comparison,
            st.just(operands),
            st.tuples(*[st.sampled_from(["=", "<>", "<", "<=", ">", ">="])] * (len(operands) - 1)),
        )
    )
    arithmetic = st.tuples(several, st.sampled_from(ARITHMETIC)).flatmap(
        lambda drawn: st.builds(
            Arithmetic.joined, st.just(drawn[0]), st.tuples(*[st.sampled_from(drawn[1])] * (len(drawn[0]) - 1))
        )
    )
    return st.one_of(
        st.builds(Not, inner),
        st.builds(Minus, inner),
        st.builds(Logical, st.sampled_from(["AND", "OR", "XOR"]), several),
        comparisons,
        st.builds(Binary, st.sampled_from(BINARY), inner, inner),
        arithmetic,
        st.builds(IsNull, inner, st.booleans()),
        st.builds(ListOf, st.lists(inner, max_size=3).map(tuple)),
    )


EXPRESSIONS = st.recursive(LEAVES, compound, max_leaves=8)
VALUES = st.one_of(LITERALS, st.builds(Parameter, NAMES), st.builds(ListOf, st.lists(LITERALS, max_size=2).map(tuple)))
PROPERTIES = st.lists(st.tuples(NAMES, VALUES), max_size=2).map(tuple)
NODES = st.builds(NodePattern, st.none() | NAMES, LABELS | st.just(()), PROPERTIES)
HOPS = st.builds(
    lambda least, more: Hops(least, None if more is None else least + more),
    st.integers(0, 9),
    st.none() | st.integers(0, 9),
)
RELATIONSHIPS = st.builds(
    RelationshipPattern,
    st.none() | NAMES,
    st.lists(NAMES, max_size=2).map(tuple),
    st.none() | HOPS,
    PROPERTIES,
    st.sampled_from(["out", "in", "both"]),
)


@st.composite
def paths(draw):
    relationships = draw(st.lists(RELATIONSHIPS, max_size=2).map(tuple))
    nodes = tuple(draw(NODES) for _ in range(len(relationships) + 1))
    return PathPattern(nodes, relationships, draw(st.none() | NAMES))


COUNTS = st.none() | st.integers(0, 99).map(Literal) | st.builds(Parameter, NAMES)
RETURNS = st.builds(
    Return,
    st.lists(st.builds(Column, EXPRESSIONS, st.none() | NAMES), min_size=1, max_size=2).map(tuple),
    st.booleans(),
    st.booleans(),
    st.lists(st.builds(SortKey, EXPRESSIONS, st.booleans()), max_size=2).map(tuple),
    COUNTS,
    COUNTS,
)


@settings(deadline=None)
@given(st.builds(Query, st.lists(paths(), min_size=1, max_size=2).map(tuple), st.none() | EXPRESSIONS, RETURNS))
def test_printed_trees_are_read_back(query):
    assert repr(parse(str(query))) == repr(query)  # to equality 1 is true


@settings(deadline=None)
@given(EXPRESSIONS)
def test_printed_expressions_are_read_back(expression):
    assert repr(where(str(expression))) == repr(expression)


@settings(deadline=None)
@given(st.text(st.sampled_from(list("()[]{}-<>=*.,:|$'\"`/ \n019ab_MATCHRETURNWHERE")), max_size=60))
def test_any_text_is_read_or_refused(text):
    for pattern in (text, f"MATCH {text}", f"MATCH (a) WHERE {text} RETURN a"):
        try:
            tree = parse(pattern)
        except InvalidInputError:
            continue
        assert parse(str(tree)) == tree
