"""What a row of the registry holds, and what several types share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidConfigError
from attnbridge.metric import Keys, Metric
from attnbridge.validation import as_number

if TYPE_CHECKING:
    from attnbridge.mechanisms.base import Attention

Logits = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Option:
    """An option of an attention type: its default, and the check of a given value."""

    default: Any
    check: Callable[[Any, str], Any]


@dataclass(frozen=True)
class AttentionType:
    """A row of the registry.

    Parameters
    ----------
    name, complexity, best_for : str
    pairwise : bool
        Whether the logit of a pair does not depend on the other keys.
    options : mapping of str to Option
    logits : callable
        (query (d,), query_bias, Keys, ids (m,) or None, options, out (m,) float64) -> None; fills `out`. The ids are
        all the keys there are, for a type whose logits depend on the others.
    mechanism : callable
        (options) -> Attention, the type over whole sequences.
    weights : callable or None
        (query (d,), query_bias, Keys, ids (m,) or None, options, logits, out (m,) float64) -> None, where weights are
        not the softmax of the logits.
    rerank : callable or None
        (queries (b, d), query_bias (b,), Keys, ids (b, m), counts (b,), options, positions, logits, weights) ->
        None; a fused kernel, fills the last three, (b, k) each.
    build_space : str or None
        The space in which hnswlib builds: "metric" for the bridge's own.
    metric : callable or None
        (options) -> Metric, of a type that brings its own; its rows and queries are given as this prepares them.
    largest_logit : float or None
        An upper bound of the logit that is reached by equal vectors, where there is one.
    aliases : tuple of str
    pairwise_with : callable or None
        (options) -> bool, where `pairwise` is not true with all options.
    require_fit : callable or None
        (options, dim) -> None; raises where the options cannot go with an index of vectors of a dimension.
    index_scale : callable or None
        (options, dim, unit) -> float or None; the scale over an index where none is given, `unit` for unit vectors.
        Without it, that of the index's metric.
    token_logits : callable or None
        (query_tokens (t, dt), token_weights (t,), TokenRows, ids (m,), options, out (m,) float64) -> None, of a type
        whose query and keys may be several token vectors each.
    require_use : callable or None
        (options) -> None; raises where an option would change nothing, as it goes with another one.
    """

    name: str
    complexity: str
    best_for: str
    pairwise: bool
    options: Mapping[str, Option]
    logits: Callable[..., None]
    mechanism: Callable[[Options], "Attention"]
    weights: Callable[..., None] | None = None
    rerank: Callable[..., None] | None = None
    build_space: str | None = "metric"
    metric: Callable[[Options], Metric] | None = None
    largest_logit: float | None = None
    aliases: tuple[str, ...] = field(default=())
    pairwise_with: Callable[[Options], bool] | None = None
    require_fit: Callable[[Options, int], None] | None = None
    index_scale: Callable[[Options, int, bool], float | None] | None = None
    token_logits: Callable[..., None] | None = None
    require_use: Callable[[Options], None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _named, (self.name,)

    def is_pairwise(self, options: Options) -> bool:
        """Return whether the logit of a pair does not depend on the other keys, with these options."""
        return self.pairwise and (self.pairwise_with is None or self.pairwise_with(options))

    def rank(
        self,
        queries: npt.NDArray[Any],
        bias: npt.NDArray[np.float64],
        keys: Keys,
        ids: Ids,
        counts: Ids,
        options: Options,
        positions: Ids,
        logits: Logits,
        weights: Logits,
    ) -> None:
        """Fill positions, logits and weights, (b, k) each, with the best of each query's candidates.

        Positions are those in `ids`, best first, then -1; ties by the smaller id. Weights are among all candidates.
        """
        if self.rerank is not None:
            self.rerank(queries, bias, keys, ids, counts, options, positions, logits, weights)
            return
        positions[:], logits[:], weights[:] = -1, -np.inf, 0.0
        for b, count in enumerate(counts):
            candidates = ids[b, :count]
            scores, shares = np.empty(count), np.empty(count)
            self.logits(queries[b], bias[b], keys, candidates, options, scores)
            self.weigh(queries[b], bias[b], keys, candidates, options, scores, shares)
            keep_best(scores, shares, candidates, positions[b], logits[b], weights[b])

    def weigh(
        self, query: npt.NDArray[Any], bias: float, keys: Keys, ids: Ids | None, options: Options, logits: Any, out: Any
    ) -> None:
        """Fill `out` (m,) with the weights that belong to the logits of all candidates."""
        if self.weights is None:
            kernels.softmax(logits, out)
        else:
            self.weights(query, bias, keys, ids, options, logits, out)


def keep_best(scores: Logits, shares: Logits, candidates: Ids, positions: Ids, logits: Logits, weights: Logits) -> None:
    """Fill the beginning of the last three, (k,) each, with the best scores: their positions, themselves, weights."""
    best = positions[: min(len(scores), len(positions))]
    kernels.top_k(scores, candidates, best)
    logits[: len(best)], weights[: len(best)] = scores[best], shares[best]


def _named(name: str) -> AttentionType:
    """Return a row of the registry, for pickle."""
    from attnbridge.scoring import resolve  # which is made of these rows

    return resolve(name, {})[0]


def positive(value: Any, name: str) -> float:
    """Return a finite number > 0."""
    return as_number(value, name, above=0.0)


def optional(check: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """Return a check that lets None pass."""
    return lambda value, name: None if value is None else check(value, name)


def of_outputs(name: str, default: Any) -> Callable[[Options, int], None]:
    """Return a `require_fit` that refuses an option which acts on outputs alone: an index makes none."""

    def require_fit(options: Options, dim: int) -> None:
        if options[name] != default:
            raise InvalidConfigError(
                f"{name} must be left out in an index, which ranks and makes no outputs; got {options[name]!r}"
            )

    return require_fit


def scale_or_default(dim: int, scale: float | None) -> float:
    """Return the given scale, or 1/sqrt(d)."""
    return float(dim**-0.5 if scale is None else scale)


def gathered(keys: Keys, ids: Ids | None) -> npt.NDArray[np.floating[Any]]:
    """Return stored rows as the numbers that logits are taken on (unit rows under cosine), float32 or float64."""
    rows = keys.data if ids is None else keys.data[ids]
    if rows.dtype == np.uint16:
        rows = rows.view(np.float16)
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float32)
    if keys.scale is not None:
        scale = keys.scale if ids is None else keys.scale[ids]
        rows = (rows * scale[:, None]).astype(rows.dtype)
    return rows
