"""Names and texts as people can be shown them: in one line, printable, no longer than there is room for."""

import unicodedata
from collections.abc import Collection
from itertools import islice


def shown(name: object) -> str:
    r"""Return an id as it can be shown in one line, whatever characters it holds.

    Parameters
    ----------
    name : str or int

    Returns
    -------
    str

    Examples
    --------
    >>> from attnbridge.labels import shown
    >>> shown("a"), shown("two" + chr(10) + "lines")
    ('a', "'two\\nlines'")
    """
    text = str(name)
    return text if text.isprintable() else repr(text)


def some_of(names: Collection[object], most: int = 20) -> str:
    """Return the first of some names as messages list them, and how many more there are.

    Examples
    --------
    >>> from attnbridge.labels import some_of
    >>> some_of({"a": 1, "b": 2}), some_of(range(5), 2)
    ("'a', 'b'", '0, 1 and 3 more')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, islice(names, most))) + more


def middle_cut(text: str, longest: int) -> str:
    """Return a text with its middle left out where it is too long: ids often differ at their ends.

    Parameters
    ----------
    text : str
    longest : int
        Columns that it may take, at least 5; a wide character (Chinese, Japanese, Korean) takes two.

    Returns
    -------
    str

    Examples
    --------
    >>> from attnbridge.labels import middle_cut
    >>> middle_cut("https://example.org/a/very/long/path/7", 20)
    'https://exa...path/7'
    """
    if columns(text) <= longest:
        return text
    tail = _head(text[::-1], (longest - 3) * 2 // 5)[::-1]
    return f"{_head(text, longest - 3 - columns(tail))}...{tail}"


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes.

    Parameters
    ----------
    text : str

    Returns
    -------
    int

    Examples
    --------
    >>> from attnbridge.labels import columns
    >>> columns("wing"), columns("翼")
    (4, 2)
    """
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _head(text: str, room: int) -> str:
    """Return as much of a text's beginning as there is room for."""
    taken = 0
    for place, character in enumerate(text):
        taken += _width(character)
        if taken > room:
            return text[:place]
    return text
