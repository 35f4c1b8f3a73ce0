"""Late interaction: each query token finds its best match among a candidate's tokens."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import DimensionMismatchError, InvalidInputError
from attnbridge.rerank.pool import Pool, TokenRows, mixed
from attnbridge.trace import Attended
from attnbridge.validation import as_choice, as_count, as_number

WEIGHTINGS = ("given", "distinct")

# No query token weighs nothing because others say the same.
_LEAST = 1e-3


class _Question(NamedTuple):
    """The query tokens that are read, their weights, their places among all of them, and the tokens to read."""

    query_tokens: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float64]
    places: npt.NDArray[np.int64]
    tokens: TokenRows


@dataclass(frozen=True)
class LateInteraction:
    """Mix MaxSim over token vectors into the scores.

    MaxSim = sum_i w_i max_j s_ij, s_ij = q_i . k_j (Khattab and Zaharia 2020, equation 3, as a weighted mean over the
    query's tokens): cross attention in which each query token attends to its best match only. With `soft` it is
    sum_i w_i sum_j p_ij s_ij, p_ij = softmax_j(soft * s_ij): every token of the candidate has a share. Both the scores
    so far and MaxSim are z-normalised over the candidates before they are mixed.

    Parameters
    ----------
    mix : float, default 0.7
        Share of MaxSim in the new score, 0 to 1.
    soft : float, optional
        Factor on the products before the softmax over a candidate's tokens (the inverse temperature), > 0; 10 to 40
        for tokens of unit length. Without it only the best match counts, which is the limit of a large factor; that of
        a small one is the mean.
    top_tokens : int, optional
        Only so many query tokens are read: those of greatest `query_token_weights`; of equally heavy ones those that
        the query's other tokens are least like (by the mean of their cosines), then the first. Their weights are
        scaled to a sum of 1. It saves time for queries of more than 32 tokens, which are multiplied 32 at a time.
    weighting : {"given", "distinct"}, default "given"
        "distinct" multiplies each query token's weight by 1 minus its mean cosine with the query's other tokens: what
        is said in one place only counts for more, as rare words do by their idf.

    Raises
    ------
    InvalidConfigError
        `mix` outside 0 to 1, `soft` <= 0, `top_tokens` < 1, or an unknown `weighting`.

    Notes
    -----
    A candidate without tokens has no MaxSim (NaN in the hit's parts) and counts as average.

    Products are float32, sums over tokens float64; what exceeds float32 is done again in float64.

    A hit's explanation gives for each query token the candidate's token that it attends to most, with its share: its
    term of the sum over i, divided by the sum of all terms' absolute values.

    References
    ----------
    Khattab and Zaharia 2020, ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction over
    BERT, equation 3.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> tokens = [np.eye(4)[:2], np.eye(4)[2:]]
    >>> _ = bridge.add([[1.0, 0.0], [1.0, 0.1]], ids=["a", "b"], tokens=tokens)
    >>> bridge.search([1.0, 0.0], query_tokens=np.eye(4)[3:], rerank=[ab.LateInteraction()]).ids
    ['b', 'a']
    >>> hits = bridge.search([1.0, 0.0], query_tokens=np.eye(4)[3:], rerank=[ab.LateInteraction(soft=20.0)])
    >>> hits.parts["late_interaction"].round(3).tolist()
    [1.0, 0.0]
    """

    mix: float = 0.7
    soft: float | None = None
    top_tokens: int | None = None
    weighting: str = "given"
    name: ClassVar[str] = "late_interaction"
    level: ClassVar[str] = "scores"
    requires_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "mix", as_number(self.mix, "mix", least=0.0, most=1.0))
        if self.soft is not None:
            object.__setattr__(self, "soft", as_number(self.soft, "soft", above=0.0))
        if self.top_tokens is not None:
            object.__setattr__(self, "top_tokens", as_count(self.top_tokens, "top_tokens"))
        object.__setattr__(self, "weighting", as_choice(self.weighting, "weighting", WEIGHTINGS))

    @property
    def replaces(self) -> bool:
        """Whether nothing is left of the scores so far."""
        return self.mix == 1.0

    def apply(self, pool: Pool) -> None:
        """Replace the pool's scores.

        Parameters
        ----------
        pool : Pool

        Raises
        ------
        InvalidInputError, DimensionMismatchError
            As `matches`.
        """
        question = self._question(pool)
        matches = self._matches(question, pool.rows)
        pool.scores = mixed(pool.scores, matches, self.mix)
        pool.parts[self.name] = matches
        pool.attended = lambda row: self._attended(question, row)

    def matches(self, pool: Pool, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the MaxSim of rows with the pool's query, as it is: neither normalised nor mixed.

        Parameters
        ----------
        pool : Pool
        rows : ndarray of int64, (n,)
            Any of the store's rows, candidates or not.

        Returns
        -------
        ndarray of float64, (n,)
            NaN for a row without tokens.

        Raises
        ------
        InvalidInputError
            A pool without stored tokens or without tokens of the query.
        DimensionMismatchError
            Query tokens of another dimension than the stored ones.

        Examples
        --------
        >>> import numpy as np, attnbridge as ab
        >>> class Best:
        ...     name, requires_tokens = "best", True
        ...     def apply(self, pool):
        ...         pool.scores = ab.LateInteraction().matches(pool, pool.rows)
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add(np.ones((2, 2)), tokens=[np.eye(4)[:2], np.eye(4)[2:]])
        >>> bridge.search([1.0, 0.0], query_tokens=2 * np.eye(4)[3:], rerank=Best()).scores.tolist()
        [2.0, 0.0]
        """
        return self._matches(self._question(pool), rows)

    def _question(self, pool: Pool) -> _Question:
        if pool.tokens is None:
            raise InvalidInputError(
                f"{self.name} needs stored tokens, this pool has none; give them to add(vectors, ids, tokens=...)"
            )
        dim = pool.tokens.data.shape[1]
        if pool.query_tokens is None or pool.query_token_weights is None:
            raise InvalidInputError(f"{self.name} needs the query's tokens; pass query_tokens=array (m, {dim})")
        if pool.query_tokens.shape[1] != dim:
            raise DimensionMismatchError(
                f"query_tokens must have the stored tokens' dimension {dim}, got {pool.query_tokens.shape[1]}"
            )
        query_tokens, weights = pool.query_tokens, pool.query_token_weights
        if self.weighting == "distinct":
            weights = weights * _distinctness(query_tokens)
            weights = weights / weights.sum()
        places = np.arange(len(query_tokens))
        if self.top_tokens is not None and self.top_tokens < len(query_tokens):
            order = np.lexsort((places, _likeness(query_tokens), -weights))
            places = np.sort(order[: self.top_tokens])
            query_tokens, weights = query_tokens[places], weights[places] / weights[places].sum()
        return _Question(query_tokens, weights, places, pool.tokens)

    def _matches(self, question: _Question, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        # Products are float32; tokens of half precision times a query within [-1, 1] cannot overflow it.
        size = max(1.0, float(np.abs(question.query_tokens).max()))
        query_tokens = (question.query_tokens / np.float32(size)).astype(np.float32, copy=False)
        temperature = 0.0 if self.soft is None else 1.0 / (self.soft * size)
        tokens, out = question.tokens, np.empty(len(rows))
        stored = question.weights, tokens.data, tokens.scale
        starts, lengths = tokens.starts[rows], tokens.lengths[rows]
        kernels.maxsim(query_tokens, *stored, starts, lengths, temperature, out)
        far = np.flatnonzero(~np.isfinite(out) & (lengths > 0))  # codes of a large scale can
        if len(far):
            again, wide = np.empty(len(far)), query_tokens.astype(np.float64)
            kernels.maxsim(wide, *stored, starts[far], lengths[far], temperature, again)
            out[far] = again
        return out * size

    def _attended(self, question: _Question, row: int) -> list[Attended]:
        """Return for each query token the token of a row's document that it attends to most, and its share."""
        values = _values(question.tokens, row)
        if not len(values):
            return []
        products = question.query_tokens.astype(np.float64) @ values.T
        best = products.argmax(axis=1)
        terms = products.max(axis=1)
        if self.soft is not None:
            shares = np.exp(self.soft * (products - terms[:, None]))
            terms = (shares * products).sum(axis=1) / shares.sum(axis=1)
        terms = terms * question.weights
        total = np.abs(terms).sum()
        terms = terms / total if total else terms
        order = np.argsort(-terms, kind="stable")
        return [Attended("token", int(best[i]), float(terms[i]), int(question.places[i])) for i in order]


def _likeness(query_tokens: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return each token's sum of cosines with all of them; a token of zeros, which tells nothing, is like any."""
    wide = query_tokens.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit = wide / np.where(lengths == 0.0, 1.0, lengths)
    return np.where(lengths[:, 0] == 0.0, np.inf, unit @ unit.sum(axis=0))


def _distinctness(query_tokens: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return 1 minus each token's mean cosine with the others, above 0."""
    others = max(len(query_tokens) - 1, 1)
    return np.maximum(1.0 - (_likeness(query_tokens) - 1.0) / others, _LEAST)


def _values(tokens: TokenRows, row: int) -> npt.NDArray[np.float64]:
    """Return the tokens of a row's document as numbers."""
    part = slice(tokens.starts[row], tokens.starts[row] + tokens.lengths[row])
    data = tokens.data[part]
    values = (data.view(np.float16) if data.dtype == np.uint16 else data).astype(np.float64)
    return values if tokens.scale is None else values * tokens.scale[part, None].astype(np.float64)
