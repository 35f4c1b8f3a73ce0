"""Any attention type as a stage: the candidates' logits under it."""

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidConfigError
from attnbridge.mechanisms.base import Attention
from attnbridge.mechanisms.head_logits import head_logits
from attnbridge.mechanisms.row import AttentionType, gathered
from attnbridge.metric import Keys, Metric
from attnbridge.rerank.pool import Pool, PoolIndex, TokenRows, standardise
from attnbridge.scoring import resolve
from attnbridge.trace import Attended
from attnbridge.validation import as_number

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


class _Inputs(NamedTuple):
    """What a type reads: query, keys and options as it takes them, or the query's tokens, their weights and all."""

    query: npt.NDArray[Any]
    bias: float
    keys: Keys
    ids: Rows | None
    options: dict[str, Any]
    tokens: tuple[Any, Any, TokenRows] | None = None


class AttentionRerank:
    """Score the candidates again by the logit of any attention type.

    Types whose logits depend on the other keys (sparse, moe) see the candidates that are not ruled out, and none else;
    those that sparse attention leaves out are ruled out. Rows and query are taken as the bridge's metric takes them, at
    unit length under cosine. A type that has a metric of its own (poincare) prepares them for it.

    Parameters
    ----------
    type : str
        As `attention_types` lists them, but for "sliding".
    mix : float, default 1.0
        Share of the logit in the new score, 0 to 1. At 1 the scores are the logits; below, logits and the scores so far
        are z-normalised over the candidates before they are mixed.
    **options : object
        The type's. Its scale is by default that of a bridge with this attention.

    Raises
    ------
    InvalidConfigError
        An unknown type or option (the known ones are listed), a value that cannot be, "sliding".

    Notes
    -----
    "cross" matches stored tokens with the query's where the index has any, pooled vectors where it has none.
    "multi_head" leaves what each head gave in the hit's parts, as "attention_rerank.head_0" and so on: its logits, or
    with score="weights" its weights.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], ids=["e", "ne", "n"])
    >>> stage = ab.AttentionRerank("multi_head", num_heads=2, score="weights")
    >>> stage
    AttentionRerank('multi_head', mix=1.0, num_heads=2, score='weights')
    >>> hits = bridge.search([1.0, 0.1], k=2, rerank=stage)
    >>> hits.ids, list(hits.parts)
    (['e', 'n'], ['scaled_dot', 'attention_rerank', 'attention_rerank.head_0', 'attention_rerank.head_1'])
    """

    name: ClassVar[str] = "attention_rerank"
    level: ClassVar[str] = "scores"
    requires_tokens: ClassVar[bool] = False

    type: str
    mix: float
    options: Mapping[str, Any]
    _row: AttentionType
    _checked: dict[str, Any]

    def __init__(self, type: str | Attention, *, mix: float = 1.0, **options: Any) -> None:
        row, checked = resolve(type, options)
        if row.build_space is None:
            raise InvalidConfigError(
                f"type must not be {row.name!r}, which attends by places in a sequence and candidates have none; use "
                f"AttentionVectorBridge(attention={row.name!r}, position=column)"
            )
        row.mechanism(checked)  # refuses options that do not go together
        if checked.get("version") == "v1":
            warnings.warn(
                f"{row.name} of version 'v1' orders keys alike for every query; as a reranker take version 'v2'",
                UserWarning,
                stacklevel=2,
            )
        values = {
            "type": row.name,
            "mix": as_number(mix, "mix", least=0.0, most=1.0),
            "options": dict(checked if isinstance(type, Attention) else options),
            "_row": row,
            "_checked": checked,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"AttentionRerank cannot be changed; make a new one to set {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"AttentionRerank cannot be changed; {name} stays")

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.type, self.mix, self.options)

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"AttentionRerank({self.type!r}, mix={self.mix!r}{options})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AttentionRerank):
            return NotImplemented
        return bool(self._key() == other._key())

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> Any:
        return self.type, self.mix, _frozen(self._checked)

    @property
    def replaces(self) -> bool:
        """Whether nothing is left of the scores so far.

        Returns
        -------
        bool
        """
        return self.mix == 1.0

    @property
    def reads_tokens(self) -> bool:
        """Whether the type matches token vectors, where there are any.

        Returns
        -------
        bool
        """
        return self._row.token_logits is not None

    def apply(self, pool: Pool) -> None:
        """Replace the pool's scores.

        Parameters
        ----------
        pool : Pool

        Raises
        ------
        InvalidConfigError
            The options do not go with vectors of this dimension, or the type not with the bridge's metric.
        InvalidInputError
            poincare: a row or the query outside the ball.
        """
        live = pool.scores > -np.inf
        logits, parts = np.full(len(pool.rows), -np.inf), {}
        if live.any():
            inputs = self._inputs(pool, pool.rows[live])
            logits[live], heads = self._attend(inputs)
            for number, head in enumerate(heads):
                part = parts[f"{self.name}.head_{number}"] = np.full(len(pool.rows), np.nan)
                part[live] = head
            pool.attended = self._attended(pool.index, pool.rows[live], inputs, logits[live])
        pool.scores = self._mixed(pool.scores, logits)
        pool.parts[self.name] = logits
        pool.parts.update(parts)
        left = int((pool.scores > -np.inf).sum())
        pool.short |= pool.wanted is not None and left < min(pool.wanted, int(live.sum()))

    def _mixed(self, before: Scores, logits: Scores) -> Scores:
        """Return the new scores; what either rules out is ruled out."""
        if self.mix == 1.0:
            return logits.copy()
        out = before == -np.inf
        if self.mix > 0.0:
            out |= logits == -np.inf
        old, new = (standardise(np.where(scores == -np.inf, np.nan, scores)) for scores in (before, logits))
        return np.where(out, -np.inf, (1.0 - self.mix) * old + self.mix * new)

    def _inputs(self, pool: Pool, rows: Rows) -> _Inputs:
        """Return what the type reads: tokens, or vectors with the options that are made for them."""
        row, options = self._row, dict(self._checked)
        if row.token_logits is not None and pool.tokens is not None and pool.query_tokens is not None:
            tokens = pool.query_tokens, pool.query_token_weights, pool.tokens
            return _Inputs(pool.query, pool.query_bias, pool.keys, rows, options, tokens)
        if pool.metric.space is not None and row.metric is None:
            raise InvalidConfigError(
                f"{self.name} by {row.name!r} needs a bridge of metric cosine, ip or l2, this one has "
                f"{pool.metric.name!r}; use AttentionRerank('poincare')"
            )
        dim = len(pool.query)
        if row.require_fit is not None:
            row.require_fit(options, dim)
        if options.get("scale", 0.0) is None:
            unit = pool.metric.name == "cosine"
            own = row.index_scale
            options["scale"] = pool.metric.default_scale(dim) if own is None else own(options, dim, unit)
        if row.metric is None:
            return _Inputs(pool.query, pool.query_bias, pool.keys, rows, options)
        return _Inputs(*_points(pool, rows, row.metric(options)), options)

    def _attend(self, given: _Inputs) -> tuple[Scores, Scores]:
        """Return the rows' logits, and what each head gave (h, n)."""
        count = len(given.keys.data) if given.ids is None else len(given.ids)
        logits, heads = np.empty(count), np.empty((0, count))
        if given.tokens is not None:
            assert self._row.token_logits is not None
            self._row.token_logits(*given.tokens, given.ids, given.options, logits)
            return logits, heads
        self._row.logits(*given[:4], given.options, logits)
        if self._row.name == "multi_head":
            heads = head_logits(given.query, given.keys, given.ids, given.options)
            if given.options["score"] == "weights":
                for head in heads:
                    kernels.softmax(head, head)
        return logits, heads

    def _attended(self, index: PoolIndex | None, rows: Rows, given: _Inputs, logits: Scores) -> Any:
        """Return what tells which candidates the attention went to."""
        if index is None:
            return None

        def attended(row: int) -> list[Attended]:
            weights = np.empty(len(rows))
            if given.tokens is not None:
                kernels.softmax(logits, weights)
            else:
                self._row.weigh(*given[:4], given.options, logits, weights)
            best = np.argsort(-weights, kind="stable")
            named = zip(index.ids_of(rows[best]), weights[best].tolist(), strict=True)
            return [Attended("candidate", id, weight) for id, weight in named if weight > 0.0]

        return attended


def _points(pool: Pool, rows: Rows, metric: Metric) -> tuple[npt.NDArray[Any], float, Keys, Rows | None]:
    """Return query, bias, keys and ids for a metric of a type's own: vectors as they were given, made points of it."""
    before = pool.metric
    if before.space is None:
        vectors, query = gathered(pool.keys, rows), pool.query[None]
    elif before.space.curvature == metric.space.curvature and before.map == metric.map:  # type: ignore[union-attr]
        return pool.query, pool.query_bias, pool.keys, rows
    else:
        vectors, query = before.given(pool.keys.data[rows]), before.given(pool.query[None])
    points = np.ascontiguousarray(metric.points(vectors))
    prepared, bias = metric.prepare(metric.points(query), "query")
    return prepared[0], float(bias[0]), Keys(points, *metric.row_terms(points, "candidates")), None


def _made(type: str, mix: float, options: Mapping[str, Any]) -> AttentionRerank:
    """Return a stage, for pickle."""
    return AttentionRerank(type, mix=mix, **options)


def _frozen(value: Any) -> Any:
    """Return a value that can be hashed, equal for equal options."""
    value = getattr(value, "arrays", value)
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, Mapping):
        return tuple((name, _frozen(value[name])) for name in sorted(value))
    if isinstance(value, list | tuple):
        return tuple(_frozen(one) for one in value)
    return value
