"""Attention matrices as pictures and pages: which query attends to which key."""

import html
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.drawing import PICTURES, as_output, save_picture
from attnbridge.errors import DimensionMismatchError, InputTooLargeError, InvalidConfigError, InvalidInputError
from attnbridge.heat_maps import Maps, picture
from attnbridge.heat_page import SETTINGS, page
from attnbridge.labels import middle_cut, shown
from attnbridge.mechanisms.heads import Heads
from attnbridge.scoring import resolve
from attnbridge.validation import Float, as_count, as_floats, as_matrix, require_finite
from attnbridge.whole_file import write_whole

PAGE = ".html"
SUFFIXES = (*PICTURES, PAGE)

_MOST_WEIGHTS = 50_000_000  # that are computed
_MOST_HEADS = 24


def visualize(
    query: npt.ArrayLike,
    key: npt.ArrayLike | None = None,
    attention_type: str = "scaled_dot",
    path: str | PathLike[str] | None = None,
    *,
    mask: Any = None,
    is_causal: bool = False,
    head: int | str | None = None,
    query_labels: Sequence[object] | None = None,
    key_labels: Sequence[object] | None = None,
    **options: Any,
) -> Any:
    """Draw how queries spread their attention over keys.

    Parameters
    ----------
    query : array_like, (L, d)
        With "cross" each row is a query of its own; (L, m, d) are queries of m tokens.
    key : array_like, (S, d), optional
        With "cross" (S, t, d) too: keys of t tokens. By default the queries: self-attention.
    attention_type : str, default "scaled_dot"
        A name or alias from `attention_types`. multi_head gets a panel for each head and one for their mean.
    path : str or path, optional
        A .png, .svg or .html file to write; see `plot_attention`.
    mask : array_like, broadcastable to (L, S), optional
        Boolean: True attends. Float: added to the logits.
    is_causal : bool, default False
        Query i attends to keys 0..i only.
    head : int or "mean", optional
        multi_head: draw this head alone, or the mean of all.
    query_labels, key_labels : list of str, optional
        One for each row and column; in self-attention the keys' are the queries' where they are not given.
    **options : object
        Options of the type, as `attention_types` lists them. sliding: `position` is by default each row's own place.

    Returns
    -------
    matplotlib.figure.Figure, or plotly.graph_objects.Figure
        plotly's for a .html path.

    Raises
    ------
    MissingDependencyError
        matplotlib or plotly is not installed.
    DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError
    InputTooLargeError
        More than 50,000,000 weights.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> figure = ab.visualize(np.eye(3), is_causal=True, scale=1.0)
    >>> figure.axes[0].images[0].get_array().filled(0).round(2)
    array([[1.  , 0.  , 0.  ],
           [0.27, 0.73, 0.  ],
           [0.21, 0.21, 0.58]])
    """
    weights, panels, name = _weights(query, key, attention_type, mask, is_causal, head, options)
    if key is None and key_labels is None:
        key_labels = query_labels
    told = options | ({"is_causal": True} if is_causal else {})
    title = name + "".join(f", {option} {middle_cut(shown(value), 40)}" for option, value in told.items())
    return plot_attention(weights, path, query_labels=query_labels, key_labels=key_labels, panels=panels, title=title)


def plot_attention(
    weights: npt.ArrayLike,
    path: str | PathLike[str] | None = None,
    *,
    query_labels: Sequence[object] | None = None,
    key_labels: Sequence[object] | None = None,
    panels: Sequence[str] | None = None,
    title: str = "",
) -> Any:
    """Draw attention weights: one row a query, one column a key, grey where nothing is attended to.

    Parameters
    ----------
    weights : array_like, (L, S) or (P, L, S)
        As mechanisms return them; P panels beside each other, heads for example, with one colour scale.
    path : str or path, optional
        A .png or .svg picture, or a .html page (5 MB, and up to 6 MB of weights) that needs no network: the weight
        under the mouse is told, and parts can be enlarged. Of more than 1,000 rows or columns (400 where there are
        several panels; in a page 1,000,000 cells in all) neighbours are averaged, and the title says so.
    query_labels, key_labels : list of str, optional
        One for each row and column; by default their numbers.
    panels : list of str, optional
        One title for each panel.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure, or plotly.graph_objects.Figure
        plotly's for a .html path.

    Raises
    ------
    MissingDependencyError
        matplotlib or plotly is not installed.
    DimensionMismatchError, InvalidInputError

    Examples
    --------
    >>> import attnbridge as ab
    >>> figure = ab.plot_attention([[0.9, 0.1], [0.4, 0.6]], key_labels=["wing", "flow"])
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['wing', 'flow']
    """
    file = None if path is None else as_output(path, SUFFIXES)
    maps = _checked(weights, panels, query_labels, key_labels, title)
    if file is not None and file.suffix.lower() == PAGE:
        made = page(maps)
        text = made.to_html(full_html=True, include_plotlyjs=True, include_mathjax=False, config=SETTINGS)
        head = f"<head><title>{html.escape(title or 'attention weights')}</title>"
        written = text.replace("<head>", head, 1).encode("utf-8", "backslashreplace")
        write_whole(file, lambda stream: stream.write(written))
        return made
    figure = picture(maps)
    if file is not None:
        save_picture(figure, file)
    return figure


def _weights(
    query: Any, key: Any, attention_type: str, mask: Any, is_causal: bool, head: Any, options: Mapping[str, Any]
) -> tuple[Float, list[str], str]:
    """Return weights (P, L, S), what the P panels are called, and the type's name."""
    row, checked = resolve(attention_type, dict(options))
    tokens = row.token_logits is not None
    query = _rows(query, "query", tokens)
    key = query if key is None else _rows(key, "key", tokens)
    if row.name == "sliding" and checked["position"] is None:
        checked["position"] = list(range(len(query)))
    mechanism = row.mechanism(checked)
    heads = mechanism.num_heads if isinstance(mechanism, Heads) else None
    if head is not None and heads is None:
        raise InvalidConfigError(f"head must be left out with {row.name}, which has none; multi_head has")
    wanted = None if head in (None, "mean") else as_count(head, "head", least=0, most=(heads or 1) - 1)
    count = len(query) * len(key) * (heads or 1)
    if count > _MOST_WEIGHTS:
        raise InputTooLargeError(
            f"a picture must be of at most {_MOST_WEIGHTS:,} weights (queries x keys x heads), got {count:,}; "
            "cut query or key"
        )
    if tokens:
        if mask is not None:
            raise InvalidConfigError(f"mask must be left out with {row.name}: each row is a query of its own")
        each = [mechanism.weights(one, key, None, is_causal) for one in query]
        return np.stack(each)[None], [""], row.name
    if not isinstance(mechanism, Heads):
        return mechanism.weights(query, key, mask, is_causal)[None], [""], row.name
    parts = np.concatenate(mechanism._head_weights(mechanism._check(query, key, None, mask, is_causal)))
    mean = parts.mean(axis=0)[None]
    if wanted is not None:
        return parts[wanted : wanted + 1], [f"head {wanted}"], row.name
    if head == "mean":
        return mean, ["mean"], row.name
    if len(parts) > _MOST_HEADS:
        raise InvalidConfigError(
            f"head must be given where there are more than {_MOST_HEADS} heads, here {heads}: a number, or 'mean'"
        )
    return np.concatenate([parts, mean]), [*(f"head {h}" for h in range(len(parts))), "mean"], row.name


def _rows(value: Any, name: str, tokens: bool) -> Float:
    """Return rows (n, d), or for a type that reads tokens (n, m, d) too; at least one."""
    rows = as_floats(value, name, keep_float64=True)
    if not (tokens and rows.ndim == 3):
        rows = as_matrix(rows, name, keep_float64=True)
    if not rows.size:
        raise InvalidInputError(f"{name} must not be empty: there is nothing to draw")
    return rows


def _checked(weights: Any, panels: Any, query_labels: Any, key_labels: Any, title: str) -> Maps:
    array = as_floats(weights, "weights", keep_float64=True)
    if array.ndim not in (2, 3) or not array.size:
        raise DimensionMismatchError(
            f"weights must be (queries, keys) or (panels, queries, keys), none of them 0, got shape {array.shape}"
        )
    array = array.reshape(-1, *array.shape[-2:])
    require_finite(array.reshape(-1, array.shape[-1]), "weights")
    if array.min() < 0:
        raise InvalidInputError(f"weights must not be negative, got {array.min():g}; logits become weights by softmax")
    names = [""] * len(array) if panels is None else list(panels)
    if len(names) != len(array):
        raise DimensionMismatchError(f"panels must be one title for each of {len(array)} panels, got {len(names)}")
    _, queries, keys = array.shape
    rows, columns = _labels(query_labels, "query_labels", queries), _labels(key_labels, "key_labels", keys)
    return Maps(array, names, rows, columns, title)


def _labels(labels: Any, name: str, count: int) -> list[str] | None:
    if labels is None:
        return None
    if isinstance(labels, str) or not isinstance(labels, Sequence | np.ndarray):
        raise InvalidInputError(f"{name} must be a list of texts, got {labels!r:.80}")
    if len(labels) != count:
        whose = "queries" if name == "query_labels" else "keys"
        raise DimensionMismatchError(f"{name} must be one for each of {count} {whose}, got {len(labels)}")
    return [str(label) for label in labels]
