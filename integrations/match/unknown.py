"""What a pattern that matched nothing asks for, and nothing in the graph has: names are easily mistyped."""

import warnings
from collections.abc import Iterable

from attnbridge.integrations.match.elements import Elements
from attnbridge.integrations.match.reader import Reader
from attnbridge.labels import some_of

_OF_CALLER = 5  # frames up: of whoever called `AttentionGraph.match`


def warn_of_unknown(elements: Elements, reader: Reader, looked_for: set[tuple[str, str]]) -> None:
    """Warn of types and labels of the pattern that no edge and no node has, and list those that there are.

    Parameters
    ----------
    elements : Elements
    reader : Reader
    looked_for : set of (str, str)
        What has been looked for in this graph before, and in which attribute, which takes going through it; each is
        looked for once.
    """
    topology = reader.topology
    types = {name for edge in elements.edges() for name in edge.types}
    labels = {name for node in elements.nodes() for groups in node.labels for group in groups for name in group}
    kinds = ([reader.type(number)] for number in range(topology.count))
    given = (reader.labels(position) for position in range(len(topology.nodes)))
    for option, attributes, what, names, found in (
        ("type", (reader.type_name,), "edge has type", types, kinds),
        ("labels", reader.label_names, "node has label", labels, given),
    ):
        attribute = " or ".join(map(repr, attributes))
        wanted = {(f"{option}={attribute}", name) for name in names} - looked_for
        looked_for |= wanted
        _warn(option, attribute, what, {name for _, name in wanted}, found)


def _warn(option: str, attribute: str, what: str, missing: set[str], found: Iterable[Iterable[str | None]]) -> None:
    known: dict[str, None] = {}
    for names in found if missing else ():
        known |= dict.fromkeys(name for name in names if name is not None)
        missing -= known.keys()
        if not missing:
            break
    if missing:
        wanted = " or ".join(map(repr, sorted(missing)))
        there = f"{some_of(known)} ({option}= names the attribute)"
        none = f"none: no {what.split()[0]} has a text as attribute {attribute}, {option}= names another"
        warnings.warn(
            f"the pattern matches nothing: no {what} {wanted}; known are {there if known else none}",
            UserWarning,
            stacklevel=_OF_CALLER,
        )
