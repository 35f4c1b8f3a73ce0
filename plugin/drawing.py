"""What all pictures share: fonts that have the characters of a text, and colours."""

from collections.abc import Iterable
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbridge.errors import InvalidInputError
from attnbridge.labels import middle_cut, shown
from attnbridge.validation import require
from attnbridge.whole_file import require_folder, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Told apart in the usual forms of colour blindness too (Okabe and Ito 2008).
BLUE, VERMILLION, GREEN, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#666666"

PICTURES = (".png", ".svg")

_DPI = 150


def as_output(path: str | PathLike[str], suffixes: tuple[str, ...], name: str = "path") -> Path:
    """Return the path of a file to write, one of whose suffixes it must have.

    Raises
    ------
    InvalidInputError
    """
    if not isinstance(path, str | PathLike):
        raise InvalidInputError(f"{name} must be the path of a file, a text or a Path, got {path!r}")
    file = Path(path)
    if file.suffix.lower() not in suffixes:
        raise InvalidInputError(f"{name} must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}, got {file.name!r}")
    require_folder(file, name)
    return file


def blank(width: float, height: float) -> "Figure":
    """Return an empty figure, of inches, that pyplot knows nothing of."""
    figure: Figure = require("matplotlib.figure", "viz").Figure(figsize=(width, height), layout="constrained")
    return figure


def save_picture(figure: "Figure", file: Path) -> None:
    """Write a figure in the format that the file's suffix names."""
    kind = file.suffix[1:].lower()
    write_whole(file, lambda stream: figure.savefig(stream, format=kind, dpi=_DPI))


def drawable(names: Iterable[object], longest: int) -> tuple[list[str], dict[str, Any]]:
    """Return names as matplotlib can draw them, and the text properties to draw them with.

    A character that no font of this machine has is written as its escape; a dollar begins no formula.

    Parameters
    ----------
    names : iterable of str or int
    longest : int
        More columns than this are cut in the middle.

    Returns
    -------
    tuple of list of str and dict
    """
    texts = [middle_cut(shown(name), longest) for name in names]
    fonts = {
        code: _font_of(code) for code in {ord(character) for text in texts for character in text if character > "~"}
    }
    texts = ["".join(c if fonts.get(ord(c), "") is not None else ascii(c)[1:-1] for c in text) for text in texts]
    texts = [middle_cut(text, longest) for text in texts]
    own = require("matplotlib", "viz").rcParams["font.family"]
    return texts, {"fontfamily": [*own, *sorted({font for font in fonts.values() if font})], "parse_math": False}


@lru_cache(maxsize=4096)
def _font_of(code: int) -> str | None:
    """Return a font family that has a character: "" for matplotlib's own, None where there is none."""
    manager = require("matplotlib.font_manager", "viz")
    shipped = require("matplotlib", "viz").get_data_path()  # formulas' letters, and boxes for all that there is
    own = manager.findfont(manager.FontProperties())
    if _draws(own, code):
        return ""
    others = (font for font in manager.fontManager.ttflist if not font.fname.startswith(shipped))
    return next((font.name for font in others if _draws(font.fname, code)), None)


def _draws(file: str, code: int) -> bool:
    """Return whether a font file has a character, as an outline."""
    try:
        font = require("matplotlib.ft2font", "viz").FT2Font(file)
        if not font.get_char_index(code):
            return False
        font.set_size(10.0, 72.0)
        font.load_char(code)  # coloured bitmaps fail here
    except (RuntimeError, OSError, ValueError):
        return False
    return True
