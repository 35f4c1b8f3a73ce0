"""The text of a pattern cut into tokens, and errors that show where in the text they are."""

import re
import sys
from typing import NamedTuple

from attnbridge.errors import InputTooLargeError, InvalidInputError

MOST_CHARACTERS = 20_000

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*|/\*.*?\*/)
  | (?P<number>0x[0-9a-fA-F]+|0o[0-7]+|(?:[0-9]+\.[0-9]+|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|[0-9]+)
  | (?P<name>[^\W\d]\w*)
  | (?P<quoted>`(?:[^`]|``)*`)
  | (?P<parameter>\$(?:\w+|`(?:[^`]|``)*`))
  | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
  | (?P<symbol><>|<=|>=|=~|\.\.|/(?!\*)|[-()\[\]{}:,.|=<>+*%^;&!])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED = {"\\": "\\", "'": "'", '"': '"', "`": "`", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_UNFINISHED = {
    "'": "this text has no closing '",
    '"': 'this text has no closing "',
    "`": "this name has no closing `",
    "/*": "this comment has no closing */",
    "$": "expected a parameter's name after $, such as $year",
}
_LARGEST = sys.float_info.max
_SHOWN = 100  # characters of the line that an error shows


class Token(NamedTuple):
    """One token.

    Parameters
    ----------
    kind : {"name", "quoted", "parameter", "number", "text", "symbol", "end"}
        A name in backticks is "quoted": it is never a keyword.
    value : str, int or float
        A name without its backticks, a parameter without its $, a text without its quotes and escapes.
    position, end : int
        Where it is in the pattern, in characters.
    """

    kind: str
    value: str | int | float
    position: int
    end: int


def refusal(text: str, position: int, message: str) -> InvalidInputError:
    """Return the error that says what is wrong at a position of a pattern, and shows its line with a caret."""
    begin = text.rfind("\n", 0, position) + 1
    stop = text.find("\n", position)
    line, column = text[begin : len(text) if stop < 0 else stop], position - begin
    shown, at = line, column
    if len(line) > _SHOWN:
        cut = max(0, min(column - _SHOWN // 2, len(line) - _SHOWN))
        shown, at = line[cut : cut + _SHOWN], column - cut
    margin = "".join("\t" if letter == "\t" else " " for letter in shown[:at])
    number = text.count("\n", 0, position) + 1
    return InvalidInputError(f"pattern, line {number}, column {column + 1}: {message}\n  {shown}\n  {margin}^")


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a pattern, the last of kind "end"; blanks and comments are left out.

    Raises
    ------
    InvalidInputError
    InputTooLargeError
    """
    if len(text) > MOST_CHARACTERS:
        raise InputTooLargeError(
            f"pattern must be at most {MOST_CHARACTERS} characters, got {len(text)}; pass long lists as $parameters"
        )
    tokens, position = [], 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise refusal(text, position, _unreadable(text, position))
        kind, end = str(found.lastgroup), found.end()
        if kind != "space":
            tokens.append(Token(kind, _value(text, kind, position, end), position, end))
        position = end
    tokens.append(Token("end", "", len(text), len(text)))
    return tokens


def _unreadable(text: str, position: int) -> str:
    for opening, message in _UNFINISHED.items():
        if text.startswith(opening, position):
            return message
    return f"the character {text[position]!r} means nothing here"


def _value(text: str, kind: str, position: int, end: int) -> str | int | float:
    raw = text[position:end]
    if kind == "text":
        return _unescaped(text, position, end)
    if kind == "number":
        if end < len(text) and (text[end].isalnum() or text[end] == "_"):
            raise refusal(text, position, "a name must not begin with a digit; put it in backticks")
        number = _number(raw)
        if not -_LARGEST <= number <= _LARGEST:
            raise refusal(text, position, "a number must be at most 1.8e308; pass a larger one as a $parameter")
        return number
    if kind in ("quoted", "parameter"):
        name = raw.removeprefix("$")
        if name.startswith("`"):
            name = name[1:-1].replace("``", "`")
        if not name:
            raise refusal(text, position, "a name must have at least one character")
        return name
    return raw


def _number(raw: str) -> int | float:
    if raw.startswith(("0x", "0o")):
        return int(raw, 0)
    return int(raw) if raw.isdigit() and len(raw) < 310 else float(raw)


def _unescaped(text: str, position: int, end: int) -> str:
    def letter(found: re.Match[str]) -> str:
        code, long_code, plain = found.groups()
        if plain is None and int(code or long_code, 16) <= 0x10FFFF:
            return chr(int(code or long_code, 16))
        if plain not in _ESCAPED:
            raise refusal(
                text,
                position + 1 + found.start(),
                f"{found[0]} is no escape; known are \\\\ \\' \\\" \\b \\f \\n \\r \\t \\uXXXX \\UXXXXXXXX",
            )
        return _ESCAPED[plain]

    return _ESCAPE.sub(letter, text[position + 1 : end - 1])
