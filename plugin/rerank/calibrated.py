"""Calibration: scores become probabilities of being relevant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.hits import Hits
from attnbridge.rerank.judged import Grades, as_judgements
from attnbridge.rerank.pool import Pool
from attnbridge.rerank.sequence import as_stages
from attnbridge.validation import as_count, as_number

Matrix = npt.NDArray[np.float64]

# Parts that depend on which other candidates there are: a candidate alone would have another.
_RELATIVE = frozenset({"feedback", "fusion", "gated", "smoothing"})


@dataclass(frozen=True)
class Calibrated:
    """Turn what the attention and the stages before gave a candidate into its probability of being relevant.

    p = 1 / (1 + exp(-(intercept + sum_i coefficients[i] part[i]))), of parts as in `Hits.parts` that do not depend on
    which other candidates there are (the attention's logit, MaxSim, BM25): a document alone has the p that it has among
    others, and a threshold means the same for every attention type.

    Parameters
    ----------
    coefficients : mapping of str to float
        By part.
    intercept : float
    means : mapping of str to float, optional
        What counts for a candidate that lacks a part, such as MaxSim without tokens.

    Raises
    ------
    InvalidConfigError
        No coefficients, or one of anything that is no finite number.

    References
    ----------
    Platt, Probabilistic outputs for support vector machines, 1999.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], ids=["e", "ne", "n"])
    >>> stage = ab.Calibrated({"scaled_dot": 0.5}, -7.0)
    >>> bridge.search([1.0, 0.0], rerank=stage).scores.round(3).tolist()
    [0.953, 0.518, 0.001]
    >>> bridge.search([1.0, 0.0], rerank=stage, threshold=0.6).ids
    ['e']
    """

    coefficients: Mapping[str, float]
    intercept: float
    means: Mapping[str, float] = field(default_factory=dict)
    name: ClassVar[str] = "calibrated"
    level: ClassVar[str] = "calibration"
    requires_tokens: ClassVar[bool] = False
    __hash__ = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", _as_numbers(self.coefficients, "coefficients"))
        object.__setattr__(self, "means", _as_numbers(self.means, "means"))
        object.__setattr__(self, "intercept", as_number(self.intercept, "intercept"))
        if not self.coefficients:
            raise InvalidConfigError("coefficients must hold at least one part, got none")

    def apply(self, pool: Pool) -> None:
        """Replace the pool's scores by probabilities.

        Parameters
        ----------
        pool : Pool

        Raises
        ------
        InvalidInputError
            A part that neither the attention nor a stage before has left; or a candidate without one that has no mean.
        """
        total = np.full(len(pool.rows), self.intercept)
        for part, coefficient in self.coefficients.items():
            total += coefficient * self._values(part, pool)
        from scipy.special import expit

        pool.scores = np.where(pool.scores == -np.inf, -np.inf, expit(total))
        pool.parts[self.name] = pool.scores

    def _values(self, part: str, pool: Pool) -> Matrix:
        """Return a part of each candidate, its mean where one lacks it."""
        earlier = pool.earlier(pool.rows)
        if part not in earlier and not (part in self.means and "gated" in earlier):  # a gate may leave a stage out
            raise InvalidInputError(
                f"calibrated needs the part {part!r}, which is not among those left before it: "
                f"{', '.join(earlier) or 'none'}; search with the attention and stages that it was fitted with"
            )
        values = earlier.get(part, np.full(len(pool.rows), np.nan))
        known = np.isfinite(values)
        if not known.all() and part not in self.means:
            raise InvalidInputError(
                f"calibrated needs a mean of {part!r}, which {np.count_nonzero(~known)} candidates lack; give "
                f"means={{{part!r}: ...}}, or use Calibrated.fit"
            )
        return values if known.all() else np.where(known, values, self.means[part])

    @classmethod
    def fit(
        cls,
        bridge: Any,
        queries: npt.ArrayLike,
        relevant: Sequence[Any],
        *,
        rerank: Any = (),
        query_tokens: Sequence[npt.ArrayLike] | None = None,
        query_token_weights: Sequence[npt.ArrayLike | None] | None = None,
        query_text: Sequence[str] | None = None,
        k: int = 100,
        candidates: int | None = None,
        parts: Sequence[str] | None = None,
        l2: float = 1.0,
    ) -> "Calibrated":
        """Fit the coefficients to judged queries, by maximum likelihood.

        Of each query's k best hits those with a grade above 0 are relevant, all others, judged or not, are not. The
        targets are Platt's (1999), (r + 1) / (r + 2) and 1 / (i + 2) for r relevant and i other pairs, which keep
        separable data finite; the penalty is l2 / 2 times the squared coefficients of standardised parts.

        Parameters
        ----------
        bridge : AttentionVectorBridge
        queries : array_like, (b, d)
        relevant : list of mapping or of collection
            For each query {document id: grade}, or the ids of its relevant documents.
        rerank : Stage, str or list of those
            Stages before this one.
        query_tokens, query_token_weights, query_text
            As for `search_batch`.
        k : int, default 100
            Hits of each query.
        candidates : int, optional
            As for `search_batch`.
        parts : list of str, optional
            By default all that do not depend on which other candidates there are: not the fused or smoothed score.
        l2 : float, default 1.0

        Returns
        -------
        Calibrated

        Raises
        ------
        InvalidInputError
            Judgements that are not one for each query; no relevant hits, or no others; an unknown part.
        UnknownIdError
            Judgements of ids that the bridge does not hold.
        InvalidConfigError

        Examples
        --------
        >>> import numpy as np, attnbridge as ab
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.standard_normal((60, 13))
        >>> bridge = ab.AttentionVectorBridge(dim=13, index="exact")
        >>> _ = bridge.add(rows)
        >>> stage = ab.Calibrated.fit(bridge, rows[:20] + 0.1, [[i] for i in range(20)])
        >>> bridge.search(rows[30] + 0.1, rerank=stage, threshold=0.5).ids
        [30]
        """
        k, l2 = as_count(k, "k"), as_number(l2, "l2", least=0.0)
        options = {
            "query_tokens": query_tokens,
            "query_token_weights": query_token_weights,
            "query_text": query_text,
            "candidates": candidates,
        }
        given = {name: value for name, value in options.items() if value is not None}
        found = bridge.search_batch(queries, k=k, rerank=as_stages(rerank), **given)
        judged = as_judgements(relevant, len(found), bridge)
        labels = _labels(found, judged, k)
        names = _part_names(found, parts)
        columns = [
            np.concatenate([hits.parts.get(name, np.full(len(hits), np.nan)) for hits in found]) for name in names
        ]
        coefficients, intercept, means = fit_logistic(np.stack(columns, axis=1), labels, l2)
        return cls(
            dict(zip(names, coefficients.tolist(), strict=True)),
            intercept,
            dict(zip(names, means.tolist(), strict=True)),
        )


def fit_logistic(features: Matrix, labels: npt.NDArray[np.bool_], l2: float) -> tuple[Matrix, float, Matrix]:
    """Return coefficients, intercept and means of a penalised logistic fit with Platt's targets.

    Parameters
    ----------
    features : ndarray of float64, (n, p)
        One that is not finite is missing: it counts as the mean.
    labels : ndarray of bool, (n,)
        Both kinds at least once.
    l2 : float
        Half of it times the squared coefficients of standardised features is the penalty.

    Returns
    -------
    coefficients : ndarray of float64, (p,)
        0 for a feature that is the same everywhere.
    intercept : float
    means : ndarray of float64, (p,)
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    known = np.isfinite(features)
    counts = known.sum(axis=0)
    means = np.where(known, features, 0.0).sum(axis=0) / np.maximum(counts, 1)
    centred = np.where(known, features - means, 0.0)
    spread = centred.std(axis=0)
    varies = spread > 1e-12 * np.maximum(np.abs(means), 1e-300)
    x = centred[:, varies] / spread[varies]
    positives = np.count_nonzero(labels)
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))

    def loss(w: Matrix) -> tuple[float, Matrix]:
        logits = x @ w[1:] + w[0]
        value = (np.logaddexp(0.0, logits) - targets * logits).sum() + 0.5 * l2 * w[1:] @ w[1:]
        error = expit(logits) - targets
        return float(value), np.concatenate([[error.sum()], x.T @ error + l2 * w[1:]])

    def curvature(w: Matrix) -> Matrix:
        p = expit(x @ w[1:] + w[0])
        wide = np.column_stack([np.ones(len(x)), x])
        second: Matrix = (wide * (p * (1.0 - p))[:, None]).T @ wide
        return second + np.diag([0.0, *np.full(x.shape[1], l2)])

    start = np.zeros(1 + x.shape[1])
    found = minimize(loss, start, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-8 * len(x)}).x
    coefficients = np.zeros(features.shape[1])
    coefficients[varies] = found[1:] / spread[varies]
    return coefficients, float(found[0] - coefficients @ means), means


def _labels(found: list[Hits], judged: list[Grades], k: int) -> npt.NDArray[np.bool_]:
    """Return which hits are relevant, of all queries."""
    labels = np.array(
        [own.get(id, 0.0) > 0 for hits, own in zip(found, judged, strict=True) for id in hits.ids], np.bool_
    )
    if not labels.any():
        raise InvalidInputError(f"relevant must name documents among the {k} best hits, none is there; raise k")
    if labels.all():
        raise InvalidInputError(
            f"relevant must leave hits that are not relevant, all {len(labels)} are; raise k, or judge fewer relevant"
        )
    return labels


def _part_names(found: list[Hits], parts: Sequence[str] | None) -> list[str]:
    """Return the parts to fit."""
    there = list(dict.fromkeys(name for hits in found for name in hits.parts))
    if parts is None:
        return [name for name in there if name.rstrip("+") not in _RELATIVE]
    names = [parts] if isinstance(parts, str) else list(parts)
    unknown = [name for name in names if name not in there]
    if unknown or not names:
        raise InvalidInputError(f"parts must be some of {', '.join(there)}, got {parts!r}")
    return list(dict.fromkeys(names))


def _as_numbers(given: Any, name: str) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise InvalidConfigError(f"{name} must be a mapping {{part: number}}, got {given!r}")
    return {str(part): as_number(value, f"{name}[{part!r}]") for part, value in given.items()}
