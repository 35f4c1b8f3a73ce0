"""Expressions: conditions of WHERE, columns of RETURN, keys of ORDER BY."""

from collections.abc import Callable

from attnbridge.integrations.match.reading import Reading
from attnbridge.integrations.match.syntax import (
    RESERVED,
    Arithmetic,
    Binary,
    Call,
    Comparison,
    Expression,
    HasLabels,
    IsNull,
    ListOf,
    Literal,
    Logical,
    Minus,
    Not,
    Parameter,
    Property,
    Variable,
)

FUNCTIONS = ("count", "id", "labels", "length", "nodes", "relationships", "score", "type")

_REFUSED = {
    "CASE": "CASE is not supported",
    "EXISTS": "EXISTS is not supported; ask whether a property is there with IS NOT NULL",
    "ALL": "ALL is not supported; a relationship's properties and type hold for each hop of -[:TYPE*1..3 {key: 1}]-",
    "ANY": "ANY is not supported; use IN",
    "NONE": "NONE is not supported; use NOT x IN list",
    "SINGLE": "SINGLE is not supported",
}
_COMPARED = frozenset(("=", "<>", "<", "<=", ">", ">="))
_DEEPEST = 32  # Python allows a thousand calls inside each other, and a level takes a dozen


class ExpressionParser(Reading):
    """Expressions, loosest binding first."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def expression(self) -> Expression:
        """Return any expression."""
        self.depth += 1
        self.limit_depth(self.depth)
        found = self.logical("OR", lambda: self.logical("XOR", lambda: self.logical("AND", self.negation)))
        self.depth -= 1
        self.limit_depth(found.height())
        return found

    def limit_depth(self, depth: int) -> None:
        """Refuse what would exhaust the stack."""
        if depth > _DEEPEST:
            raise self.error(f"an expression must not nest deeper than {_DEEPEST} levels", self.position)

    def logical(self, operator: str, rule: Callable[[], Expression]) -> Expression:
        """Read what is joined by AND, OR or XOR."""
        operands = [rule()]
        position = self.position
        while self.take_word(operator):
            operands.append(rule())
        return operands[0] if len(operands) == 1 else Logical(operator, tuple(operands), position=position)

    def negation(self) -> Expression:
        """Read NOT, or what may be behind it."""
        position, count = self.position, 0
        while self.take_word("NOT"):
            count += 1
            self.limit_depth(self.depth + count)
        found = self.comparison()
        for _ in range(count):
            found = Not(found, position=position)
        return found

    def comparison(self) -> Expression:
        """Read a chain of comparisons."""
        operands, operators = [self.predicate()], []
        position = self.position
        if self.is_symbol("=~"):
            raise self.error("=~ is not supported; use STARTS WITH, ENDS WITH or CONTAINS", position)
        while self.token.kind == "symbol" and self.token.value in _COMPARED:
            operators.append(str(self.next().value))
            operands.append(self.predicate())
        if not operators:
            return operands[0]
        return Comparison(tuple(operands), tuple(operators), position=position)

    def predicate(self) -> Expression:
        """Read IN, IS NULL, and comparisons of texts."""
        found, count = self.sum(), self.depth
        while self.is_word("IN", "IS", "CONTAINS", "STARTS", "ENDS"):
            count += 1
            self.limit_depth(count)
            position = self.position
            word = str(self.next().value).upper()
            if word == "IS":
                negated = self.take_word("NOT")
                if not self.take_word("NULL"):
                    self.fail("expected NULL or NOT NULL after IS")
                found = IsNull(found, negated, position=position)
                continue
            if word in ("STARTS", "ENDS"):
                if not self.take_word("WITH"):
                    self.fail(f"expected WITH after {word}")
                word += " WITH"
            found = Binary(word, found, self.sum(), position=position)
        return found

    def sum(self) -> Expression:
        """Read arithmetic."""
        return self.chain(("+", "-"), lambda: self.chain(("*", "/", "%"), self.signed))

    def chain(self, symbols: tuple[str, ...], rule: Callable[[], Expression]) -> Expression:
        """Read operators of one strength, from left to right."""
        operands, operators = [rule()], []
        position = self.position
        while self.token.kind == "symbol" and self.token.value in symbols:
            operators.append(str(self.next().value))
            operands.append(rule())
        if self.is_symbol("^"):
            raise self.error("^ is not supported; arithmetic has + - * / %", self.position)
        return Arithmetic.joined(operands, operators, position) if operators else operands[0]

    def signed(self) -> Expression:
        """Read an operand and its signs; a number takes in the one before it."""
        signs, count = [], self.depth
        while self.is_symbol("-") or self.is_symbol("+"):
            signs.append(self.next())
            count += 1
            self.limit_depth(count)
        number = bool(signs) and self.token.kind == "number"
        found = self.operand()
        for sign in reversed(signs):
            if sign.value == "-":
                if number and isinstance(found, Literal) and isinstance(found.value, int | float):
                    found = Literal(-found.value, position=sign.position)
                else:
                    found = Minus(found, position=sign.position)
            number = False
        return found

    def operand(self) -> Expression:
        """Read a value, a variable, a property, a function, a list, or an expression in parentheses."""
        token = self.token
        if token.kind in ("text", "number"):
            return self.ended(Literal(self.next().value, position=token.position))
        if token.kind == "parameter":
            return self.ended(Parameter(str(self.next().value), position=token.position))
        if self.take_symbol("("):
            return self.in_parentheses(token.position)
        if self.take_symbol("["):
            items = () if self.is_symbol("]") else self.separated(self.expression)
            self.expect_symbol("]", " at the list's end")
            return self.ended(ListOf(items, position=token.position))
        if self.is_symbol("{"):
            raise self.error("a map is supported in a node or relationship only: (a {year: 2017})", token.position)
        if token.kind == "quoted":
            return self.of_variable()
        if token.kind == "name":
            return self.of_word()
        return self.fail("expected a value, a variable, a property or a function")

    def in_parentheses(self, position: int) -> Expression:
        """Read an expression up to the closing parenthesis; a path is refused."""
        empty = self.is_symbol(")")
        found = Literal(None) if empty else self.expression()
        self.expect_symbol(")", " to close the parenthesis")
        lone = empty or isinstance(found, Variable | HasLabels)
        arrow = (self.is_symbol("-") or self.is_symbol("<")) and any(self.is_symbol(s, 1) for s in ("-", "["))
        if lone and arrow:
            raise self.error("a path in an expression is not supported; write it behind MATCH", position)
        if empty:
            raise self.error("expected an expression inside the parentheses", position)
        return self.ended(found)

    def of_word(self) -> Expression:
        """Read what begins with a word: true, false, null, a function, or a variable."""
        token, word = self.token, str(self.token.value).upper()
        if word in ("TRUE", "FALSE", "NULL"):
            self.next()
            return self.ended(Literal({"TRUE": True, "FALSE": False, "NULL": None}[word], position=token.position))
        if self.is_symbol("(", 1) and word not in _REFUSED:
            return self.ended(self.call())
        if word in _REFUSED:
            raise self.error(_REFUSED[word], token.position)
        if word in RESERVED:
            self.fail("expected a value, a variable, a property or a function")
        return self.of_variable()

    def of_variable(self) -> Expression:
        """Read a variable, its property, or a question for its labels."""
        token = self.token
        owner = Variable(self.variable(), position=token.position)
        if self.take_symbol("."):
            return self.ended(Property(owner, self.name(f"a property's name after {owner}."), position=token.position))
        if self.is_symbol(":"):
            return HasLabels(owner, self.labels(), position=token.position)
        return self.ended(owner)

    def call(self) -> Expression:
        """Read a function and its argument."""
        token = self.next()
        name = str(token.value).lower()
        if name not in FUNCTIONS:
            raise self.error(
                f"the function {token.value} is not supported; known are {', '.join(FUNCTIONS)}", token.position
            )
        self.expect_symbol("(")
        distinct = self.take_word("DISTINCT") if name == "count" else False
        star = name == "count" and not distinct and self.take_symbol("*")
        arguments = () if star else (self.expression(),)
        self.expect_symbol(")", f" behind {name}'s one argument")
        return Call(name, arguments, distinct, position=token.position)

    def ended(self, found: Expression) -> Expression:
        """Refuse what openCypher may have behind a value, and this language has not."""
        if self.is_symbol("["):
            raise self.error("[ ] behind a value is not supported", self.position)
        if self.is_symbol("."):
            raise self.error("only a node or relationship of MATCH has properties, as in a.year", self.position)
        return found
