"""Real documents that need no download: the docstrings of the scientific packages that are installed."""

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from io import StringIO
from types import ModuleType
from typing import Any

from attnbridge.errors import InvalidInputError

# Public modules by package, shallow ones first: an object is named after the first that shows it. Named one by one,
# since walking the packages would import their tests, deprecated modules and optional dependencies as well. Modules
# that say the same again for another type (numpy.ma, scipy.stats.mstats, scipy.fftpack, the polynomial bases, BLAS
# and LAPACK wrappers) are left out.
_MODULES = {
    "numpy": "numpy numpy.linalg numpy.fft numpy.random numpy.strings numpy.polynomial numpy.lib.stride_tricks",
    "scipy": "scipy.cluster.hierarchy scipy.cluster.vq scipy.differentiate scipy.fft scipy.integrate scipy.interpolate "
    "scipy.io scipy.linalg scipy.ndimage scipy.optimize scipy.signal scipy.signal.windows scipy.sparse "
    "scipy.sparse.csgraph scipy.sparse.linalg scipy.spatial scipy.spatial.distance scipy.spatial.transform "
    "scipy.special scipy.stats scipy.stats.contingency scipy.stats.qmc",
    "networkx": "networkx networkx.algorithms.approximation networkx.algorithms.bipartite "
    "networkx.algorithms.community networkx.algorithms.connectivity networkx.algorithms.flow "
    "networkx.algorithms.isomorphism networkx.algorithms.tree",
    "sklearn": "sklearn sklearn.calibration sklearn.cluster sklearn.compose sklearn.covariance "
    "sklearn.cross_decomposition sklearn.datasets sklearn.decomposition sklearn.discriminant_analysis sklearn.dummy "
    "sklearn.ensemble sklearn.feature_extraction sklearn.feature_extraction.image sklearn.feature_extraction.text "
    "sklearn.feature_selection sklearn.gaussian_process sklearn.gaussian_process.kernels sklearn.inspection "
    "sklearn.isotonic sklearn.kernel_approximation sklearn.kernel_ridge sklearn.linear_model sklearn.manifold "
    "sklearn.metrics sklearn.metrics.cluster sklearn.metrics.pairwise sklearn.mixture sklearn.model_selection "
    "sklearn.multiclass sklearn.multioutput sklearn.naive_bayes sklearn.neighbors sklearn.neural_network "
    "sklearn.pipeline sklearn.preprocessing sklearn.random_projection sklearn.semi_supervised sklearn.svm "
    "sklearn.tree",
    "pandas": "pandas pandas.api.extensions pandas.api.indexers pandas.api.types pandas.plotting "
    "pandas.tseries.offsets",
}

# Docstrings with fewer words say no more than the name does.
_LEAST_WORDS = 5

# numpydoc's sections: a heading underlined with dashes or equals signs.
_HEADING = re.compile(r"^[ \t]*(?P<title>\S[^\n]*)\n[ \t]*[-=]{3,}[ \t]*$", re.MULTILINE)
# Mentions outside the section, up to the paragraph's end: in prose, and as Sphinx's directive with its block.
_DIRECTIVE = re.compile(
    r"^(?P<indent>[ \t]*)\.\. *seealso::[^\n]*(?:\n(?:[ \t]*$|(?P=indent)[ \t]+[^\n]*))*", re.M | re.I
)
_MENTION = re.compile(r"\bsee\s+also\b.*?(?=\n[ \t]*\n|\Z)", re.S | re.I)
_NAME = re.compile(r"(?::[\w:]+:)?`{0,2}~?(?P<name>[A-Za-z_][\w.]*)`{0,2}(?:\(\))?")


@dataclass(frozen=True)
class Document:
    """One docstring.

    Parameters
    ----------
    id : str
        The dotted name.
    summary : str
        The first paragraph, in one line.
    text : str
        What is indexed: the docstring without what says "see also".
    relevant : tuple of str
        Ids of the documents that its See Also section links to; no part of `text`.
    """

    id: str
    summary: str
    text: str
    relevant: tuple[str, ...] = ()


@dataclass
class _Gathered:
    """Documents so far, and what every name of an object stands for."""

    documents: dict[str, str] = field(default_factory=dict)  # id -> docstring
    names: dict[str, str] = field(default_factory=dict)  # dotted name -> id
    by_text: dict[str, str] = field(default_factory=dict)  # docstring -> id
    by_object: dict[int, tuple[object, str]] = field(default_factory=dict)  # id(object) -> object, kept alive; id

    def add(self, name: str, thing: object, doc: str) -> None:
        """Take in a document, or note another name of one that is there."""
        known = self.by_object.get(id(thing), (None, None))[1] or self.by_text.get(doc)
        if known is None:
            if len(doc.split()) < _LEAST_WORDS:
                return
            known = name
            self.documents[name] = doc
        self.names.setdefault(name, known)
        self.by_text.setdefault(doc, known)
        self.by_object.setdefault(id(thing), (thing, known))


def gather(packages: Mapping[str, str] | None = None) -> list[Document]:
    """Return the documents of the installed packages, See Also sections taken out of their text.

    Parameters
    ----------
    packages : mapping of str to str, optional
        Modules, separated by spaces, by package; by default the public ones of numpy, scipy, networkx, scikit-learn
        and pandas. DuckDB's function catalogue is added where `packages` is not given.

    Returns
    -------
    list of Document
        One for each object and for each text, in a fixed order.

    Raises
    ------
    InvalidInputError
        None of the packages is installed.

    Examples
    --------
    >>> from attnbridge.demo_corpus import gather
    >>> documents = {document.id: document for document in gather({"numpy": "numpy numpy.linalg"})}
    >>> documents["numpy.linalg.svd"].summary, documents["numpy.sort"].relevant[:2]
    ('Singular Value Decomposition.', ('numpy.argsort', 'numpy.lexsort'))
    """
    gathered = _Gathered()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated names warn when they are looked at
        for modules in (_MODULES if packages is None else packages).values():
            for module in _installed(modules.split()):
                for name, thing, doc in _docstrings(module):
                    gathered.add(f"{module.__name__}.{name}", thing, doc)
    if packages is None:
        for name, doc in _duckdb_functions():
            gathered.add(name, object(), doc)
    if not gathered.documents:
        raise InvalidInputError("none of the packages whose docstrings are searched is installed; pip install scipy")
    return _documents(gathered)


def _installed(names: list[str]) -> Iterator[ModuleType]:
    for name in names:
        try:
            with redirect_stdout(StringIO()):  # stdout is for the results
                yield import_module(name)
        except Exception:  # noqa: BLE001 - not there, or broken in its own way: the others remain
            continue


def _docstrings(module: ModuleType) -> Iterator[tuple[str, object, str]]:
    """Yield (name, object, docstring) of the public callables that belong to the module's package."""
    exported = getattr(module, "__all__", None)
    for name in sorted(set(dir(module) if exported is None else exported)):
        try:
            thing = getattr(module, name, None)
        except ImportError:  # scikit-learn's experimental estimators ask for an import of their own
            continue
        doc = getattr(thing, "__doc__", None)
        if name.startswith("_") or not callable(thing) or not isinstance(doc, str):
            continue
        inherited = not inspect.isclass(thing) and doc == type(thing).__doc__
        home = str(getattr(thing, "__module__", ""))
        elsewhere = exported is None and not home.startswith(module.__name__)
        if not inherited and not elsewhere:
            yield name, thing, inspect.cleandoc(doc)


def _duckdb_functions() -> Iterator[tuple[str, str]]:
    """Yield (name, text) of each SQL function that DuckDB's catalogue describes."""
    try:
        import duckdb
    except ImportError:
        return
    with duckdb.connect() as con:
        rows = con.execute(
            "SELECT function_name, string_agg(DISTINCT description, ' ' ORDER BY description), "
            "flatten(list(DISTINCT parameters ORDER BY parameters)), "
            "flatten(list(DISTINCT examples ORDER BY examples)) "
            "FROM duckdb_functions() WHERE description <> '' AND regexp_full_match(function_name, '[a-z]\\w*') "
            "GROUP BY function_name ORDER BY function_name"
        ).fetchall()
    for name, description, parameters, examples in rows:
        parts = [description, " ".join(dict.fromkeys(parameters)), *dict.fromkeys(examples)]
        yield f"duckdb.{name}", "\n\n".join(part for part in parts if part)


def _documents(gathered: _Gathered) -> list[Document]:
    short: dict[tuple[str, str], set[str]] = {}  # (package, last part of a name) -> ids
    for name, known in gathered.names.items():
        short.setdefault((name.partition(".")[0], name.rpartition(".")[2]), set()).add(known)
    out = []
    for name, doc in gathered.documents.items():
        text, sections = split_see_also(doc)
        links = (_resolve(link, name, gathered.names, short) for link in linked_names(sections))
        relevant = tuple(dict.fromkeys(link for link in links if link is not None and link != name))
        summary = " ".join(_summary(text).split())
        out.append(Document(name, summary, text, relevant))
    return out


def _summary(text: str) -> str:
    """Return the first paragraph that is no signature, as C functions print it above their docstring."""
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    for paragraph in paragraphs:
        if not re.match(r"\s*[\w.]+\(", paragraph):
            return paragraph
    return paragraphs[0] if paragraphs else ""


def split_see_also(doc: str) -> tuple[str, str]:
    r"""Return a docstring without what says "see also", and the See Also section's body.

    Parameters
    ----------
    doc : str

    Returns
    -------
    text, section : str

    Examples
    --------
    >>> from attnbridge.demo_corpus import split_see_also
    >>> split_see_also("Add.\n\nSee Also\n--------\nsubtract : Take away.\n\nNotes\n-----\nQuick.")
    ('Add.\n\nNotes\n-----\nQuick.', 'subtract : Take away.\n\n')
    """
    headings = list(_HEADING.finditer(doc))
    ends = [*(heading.start() for heading in headings[1:]), len(doc)]
    text, section, last = "", "", 0
    for heading, end in zip(headings, ends, strict=False):
        if heading["title"].strip(" :").lower() != "see also":
            continue
        text += doc[last : heading.start()]
        section += doc[heading.end() : end].lstrip("\n")
        last = end
    text += doc[last:]
    # Mentions outside the section are no judgements, but they would give some of them away.
    return _MENTION.sub("", _DIRECTIVE.sub("", text)), section


def linked_names(section: str) -> Iterator[str]:
    r"""Yield the names that a See Also section lists, prose left out.

    Parameters
    ----------
    section : str

    Yields
    ------
    str

    Examples
    --------
    >>> from attnbridge.demo_corpus import linked_names
    >>> list(linked_names("fft, ifft\n:func:`~scipy.fft.dct` : The cosine one.\n    Like sine.\nand so on"))
    ['fft', 'ifft', 'scipy.fft.dct']
    """
    lines = [line for line in section.splitlines() if line.strip()]
    indent = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    for line in lines:
        if line[indent].isspace():
            continue  # what the name above does
        head = re.split(r"\s:(?=\s|$)|:\s", line.strip().lstrip("-* "), maxsplit=1)[0]
        names = [_NAME.fullmatch(part.strip()) for part in head.rstrip(" ,.:").split(",")]
        if all(names):
            yield from (match["name"].rstrip(".") for match in names if match is not None)


def _resolve(link: str, source: str, names: Mapping[str, str], short: Mapping[tuple[str, str], set[str]]) -> str | None:
    """Return the id that a name in `source`'s docstring stands for: the nearest module's first."""
    scope = source.rpartition(".")[0]
    while scope:
        if f"{scope}.{link}" in names:
            return names[f"{scope}.{link}"]
        scope = scope.rpartition(".")[0]
    link = re.sub(r"^(np|nx|pd)\.", lambda match: {"np": "numpy.", "nx": "networkx.", "pd": "pandas."}[match[1]], link)
    if link in names:
        return names[link]
    root, _, last = link.rpartition(".")
    package = root.partition(".")[0] if root else source.partition(".")[0]
    found: Any = short.get((package, last), set())
    return next(iter(found)) if len(found) == 1 else None
