"""Tokens read one after the other, names, and labels."""

from collections.abc import Callable
from typing import NoReturn, TypeVar

from attnbridge.errors import InvalidInputError
from attnbridge.integrations.match.syntax import RESERVED, Labels
from attnbridge.integrations.match.tokens import Token, refusal, tokenize

_T = TypeVar("_T")


class Reading:
    """The tokens of a pattern, and how far they are read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokenize(text)
        self.place = 0

    # ---- tokens

    @property
    def token(self) -> Token:
        """The current token."""
        return self.tokens[self.place]

    @property
    def position(self) -> int:
        """Where the current token is."""
        return self.token.position

    def next(self) -> Token:
        """Return the current token and go on to the one behind it."""
        token = self.tokens[self.place]
        self.place += token.kind != "end"
        return token

    def is_symbol(self, symbol: str, ahead: int = 0) -> bool:
        """Return whether a token is this symbol: the current one, or one ahead of it."""
        token = self.tokens[min(self.place + ahead, len(self.tokens) - 1)]
        return token.kind == "symbol" and token.value == symbol

    def is_word(self, *words: str) -> bool:
        """Return whether the current token is one of these keywords."""
        return self.token.kind == "name" and str(self.token.value).upper() in words

    def take_symbol(self, symbol: str) -> bool:
        """Return whether the current token is this symbol; if so go on."""
        found = self.is_symbol(symbol)
        self.place += found
        return found

    def take_word(self, word: str) -> bool:
        """Return whether the current token is this keyword; if so go on."""
        found = self.is_word(word)
        self.place += found
        return found

    def expect_symbol(self, symbol: str, what: str = "") -> None:
        """Go on past this symbol, or say that it was expected."""
        if not self.take_symbol(symbol):
            self.fail(f"expected {symbol!r}{what}")

    def fail(self, expected: str) -> NoReturn:
        """Raise the error that says what was expected at the current token, and what is there."""
        at = self.token
        got = "the end of the pattern" if at.kind == "end" else repr(self.text[at.position : at.end])
        raise self.error(f"{expected}, got {got}", at.position)

    def error(self, message: str, position: int) -> InvalidInputError:
        """Return the error of a position."""
        return refusal(self.text, position, message)

    def separated(self, rule: Callable[[], _T]) -> tuple[_T, ...]:
        """Return what a rule reads, once and again after each comma."""
        found = [rule()]
        while self.take_symbol(","):
            found.append(rule())
        return tuple(found)

    # ---- names and labels

    def name(self, what: str) -> str:
        """Return a label, type, property or column: any word, keywords too."""
        if self.token.kind not in ("name", "quoted"):
            self.fail(f"expected {what}")
        return str(self.next().value)

    def variable(self) -> str:
        """Return a variable's name: any word but the reserved ones."""
        token = self.next()
        if token.kind == "name" and str(token.value).upper() in RESERVED:
            raise self.error(
                f"{token.value} is a keyword; a variable of that name goes in backticks: `{token.value}`",
                token.position,
            )
        return str(token.value)

    def labels(self) -> Labels:
        """Read groups of labels, each behind a colon."""
        groups = []
        while self.take_symbol(":"):
            groups.append(self.alternatives("label"))
        return tuple(groups)

    def alternatives(self, what: str) -> tuple[str, ...]:
        """Read labels or types with | between them; a colon behind the | is older openCypher."""
        if self.is_symbol("!") or self.is_symbol("%") or self.is_symbol("("):
            raise self.error(f"{self.token.value!r} in {what}s is not supported; write NOT in WHERE", self.position)
        names = [self.name(f"a {what}")]
        while self.take_symbol("|"):
            self.take_symbol(":")
            names.append(self.name(f"a {what}"))
        if self.is_symbol("&"):
            raise self.error("'&' is not supported; a node with both labels is (a:First:Second)", self.position)
        return tuple(names)
