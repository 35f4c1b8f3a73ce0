"""Which node is meant: by what it is called where all is text (in SQL, in a shell, in files), and by itself."""

import weakref
from collections.abc import Hashable
from typing import Any

from attnbridge.errors import InvalidInputError
from attnbridge.integrations.topology import Topology

# The nodes of a graph by their text, while it is as it is.
_texts: "weakref.WeakKeyDictionary[Topology, dict[str, list[Any]]]" = weakref.WeakKeyDictionary()


def node_of(topology: Topology, value: Any) -> Any:
    """Return the node that is a value, or whose text it is; the value itself where there is none.

    Parameters
    ----------
    topology : Topology
    value : object

    Returns
    -------
    hashable

    Raises
    ------
    InvalidInputError
        Several nodes have that text.

    Examples
    --------
    >>> import networkx as nx
    >>> from attnbridge.integrations.node_names import node_of
    >>> from attnbridge.integrations.topology import of_graph
    >>> node_of(of_graph(nx.path_graph(3)), "2")
    2
    """
    if isinstance(value, Hashable) and value in topology.index:
        return value
    if topology not in _texts:
        texts: dict[str, list[Any]] = {}
        for node in topology.nodes:
            texts.setdefault(str(node), []).append(node)
        _texts[topology] = texts
    same = _texts[topology].get(str(value), [])
    if len(same) > 1:
        raise InvalidInputError(
            f"node must be one node, {len(same)} have the text {value!r}: {', '.join(map(repr, same[:5]))}; relabel"
        )
    return same[0] if same else value


def same_node(one: Any, other: Any) -> bool:
    """Return whether two are one node, as a dictionary sees it: == of a tuple and a numpy number is an array.

    Parameters
    ----------
    one, other : hashable

    Returns
    -------
    bool

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.integrations.node_names import same_node
    >>> same_node((1, 2), np.int64(7)), same_node(7, np.int64(7))
    (False, True)
    """
    return len({one, other}) == 1
