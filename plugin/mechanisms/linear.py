"""Linear attention: weights are products of positive features, so that keys can be summed before a query comes."""

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.config import EPS_REMEDY, AttentionConfig, as_dim_of_model
from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.masks import DenseMask
from attnbridge.mechanisms.base import Attended, Batch, RegisteredAttention, wide_outputs
from attnbridge.mechanisms.listed import PairLogits
from attnbridge.mechanisms.row import AttentionType, Ids, Logits, Option, Options, gathered, optional, positive
from attnbridge.metric import Keys, squares
from attnbridge.validation import all_finite, as_bool, as_choice, as_count, as_number
from attnbridge.workspace import Lend, Workspaces

Features = npt.NDArray[np.float64]
Rows = npt.NDArray[Any]
FEATURE_MAPS = ("elu", "favor")
_NUM_FEATURES, _SEED = 256, 0

# A product of features below this has lost digits, or all of itself, to the smallest float64.
_SMALLEST = 1e-200

# Components between these have elu features whose products are float64 numbers, neither 0 nor infinite.
_PLAIN = (-300.0, 1e120)

# Up to so many queries go pair by pair: the sums cost as much as dozens of them.
_FEW = 8


def _feature_count(value: Any, name: str) -> int:
    return as_count(value, name, most=100_000, remedy="a few times the dimension will do")


@lru_cache(maxsize=8)
def orthogonal_directions(dim: int, num_features: int, seed: int) -> npt.NDArray[np.float64]:
    """Return random directions (num_features, dim), orthogonal in blocks of dim, each of them N(0, I).

    Choromanski et al. 2021, section 2.4.
    """
    rng = np.random.default_rng(seed)
    blocks = []
    for _ in range(0, num_features, dim):
        q, r = np.linalg.qr(rng.standard_normal((dim, dim)))
        lengths = np.linalg.norm(rng.standard_normal((dim, dim)), axis=1)
        blocks.append(lengths[:, None] * (q * np.sign(np.diag(r))).T)  # by the signs every rotation is as likely
    return np.ascontiguousarray(np.concatenate(blocks)[:num_features])


def log_features(rows: npt.NDArray[Any], options: Options, name: str, lend: Lend = np.empty) -> npt.NDArray[np.float64]:
    """Return the logarithm of each row's features, (n, d) or (n, num_features).

    In logarithms no feature is too large or too small, however long the rows.
    """
    favor = options["feature_map"] == "favor"
    dim, scale = rows.shape[1], options["scale"]
    if scale is None:
        scale = dim**-0.5 if favor else 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        wide = lend(rows.shape, np.float64)
        np.multiply(rows, math.sqrt(scale), out=wide, dtype=np.float64)
        if favor:
            features = _setting(options, "num_features", _NUM_FEATURES)
            directions = orthogonal_directions(dim, features, _setting(options, "feature_seed", _SEED))
            logs = lend((len(rows), features), np.float64)
            kernels.project(wide, np.ones(len(rows)), directions, logs)
            logs -= 0.5 * (squares(wide)[:, None] + math.log(features))
        else:
            logs = lend(wide.shape, np.float64)
            np.log1p(np.maximum(wide, 0.0, out=logs), out=logs)
            logs += np.minimum(wide, 0.0, out=wide)  # one of the two is 0
    if not all_finite(logs):
        raise InvalidInputError(f"{name} must have squared lengths within float64 (1.8e308); rescale it")
    return logs


def _setting(options: Options, name: str, default: int) -> int:
    return default if options[name] is None else int(options[name])


class _KeyFeatures:
    """Features of keys relative to the largest of each key."""

    def __init__(self, logs: npt.NDArray[np.float64], lend: Lend = np.empty) -> None:
        self.logs = logs
        self.top = logs.max(axis=1)
        self.features = lend(logs.shape, np.float64)
        np.exp(np.subtract(logs, self.top[:, None], out=self.features), out=self.features)

    def logits(self, query: npt.NDArray[np.float64], ids: Ids | None, out: Logits) -> None:
        """Fill out (m,) with log(phi(query) . phi(key)) of some keys or all, from the query's log-features."""
        top = query.max()
        kernels.dot(np.exp(query - top), 0.0, self.features, None, None, ids, 1.0, out)
        lost = np.flatnonzero(out < _SMALLEST)
        out[lost] = 1.0
        np.log(out, out)
        out += top + (self.top if ids is None else self.top[ids])
        for j in lost:
            out[j] = kernels.logsumexp(query + self.logs[j if ids is None else ids[j]])


def _fill(queries: Rows, keys: Rows, options: Options, names: tuple[str, str], out: Logits) -> None:
    """Fill out (L, S) with the logarithm of each pair's product of features; a pair has the same in any company."""
    if options["feature_map"] == "favor":
        _fill_by_logs(queries, keys, options, names, out)
        return
    with Workspaces(keys.size + queries.size) as lend:
        (q, asked), (k, kept) = (_elu(rows, options["scale"], lend) for rows in (queries, keys))
        kernels.project(q, np.ones(len(q)), k, out)
    if asked is None and kept is None:
        np.log(out, out)
        return
    asked, kept = (
        np.ones(len(rows), np.bool_) if fine is None else fine for rows, fine in ((queries, asked), (keys, kept))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        np.log(out, out)
    for which, others in ((~asked, np.ones(len(keys), np.bool_)), (asked, ~kept)):
        if which.any() and others.any():
            part = np.empty((np.count_nonzero(which), np.count_nonzero(others)))
            _fill_by_logs(queries[which], keys[others], options, names, part)
            out[np.ix_(which, others)] = part


def _elu(rows: Rows, scale: float | None, lend: Lend = np.empty) -> tuple[Features, npt.NDArray[np.bool_] | None]:
    """Return features elu + 1, and which rows' products with others are float64 numbers for sure; None for all."""
    factor, out = math.sqrt(1.0 if scale is None else scale), lend(rows.shape, np.float64)
    kernels.elu_features(rows, factor, out)
    low, high = _PLAIN[0] / factor, _PLAIN[1] / factor
    if low <= float(rows.min()) and float(rows.max()) <= high:
        return out, None
    return out, (rows.min(axis=1) >= np.float64(low)) & (rows.max(axis=1) <= np.float64(high))


def _fill_by_logs(queries: Rows, keys: Rows, options: Options, names: tuple[str, str], out: Logits) -> None:
    with Workspaces() as lend:
        pairs = _KeyFeatures(log_features(keys, options, names[1], lend), lend)
        for query, row in zip(log_features(queries, options, names[0], lend), out, strict=True):
            pairs.logits(query, None, row)


def _logits(query: npt.NDArray[Any], bias: float, keys: Keys, ids: Ids | None, options: Options, out: Logits) -> None:
    rows = gathered(keys, ids)
    if len(rows):
        _fill(query[None], rows, options, ("query", "keys"), out[None])


def _refuse_of_favor(feature_map: str, **given: Any) -> None:
    """Refuse what only favor has a use for where the features are others."""
    for name, value in given.items():
        if value is not None and feature_map != "favor":
            raise InvalidConfigError(f"{name} is of feature_map='favor' only, got {value!r} with {feature_map!r}")


LINEAR = AttentionType(
    name="linear",
    complexity="O(n)",
    best_for="very long sequences (>4K)",
    pairwise=True,
    options={
        "feature_map": Option("elu", lambda value, name: as_choice(value, name, FEATURE_MAPS)),
        # Of favor: 256 and 0 where they are None.
        "num_features": Option(None, optional(_feature_count)),
        "feature_seed": Option(
            None, optional(lambda value, name: as_count(value, name, least=0))
        ),  # a bridge has a seed
        # Queries and keys are multiplied by its root; None is 1 for elu, 1/sqrt(d) for favor.
        "scale": Option(None, optional(positive)),
    },
    logits=_logits,
    mechanism=lambda options: LinearAttention(
        options["feature_map"],
        num_features=options["num_features"],
        seed=options["feature_seed"],
        scale=options["scale"],
    ),
    aliases=("performer", "linear_attention"),
    # 20, which the products of unit vectors are scaled by, would be exp(20) in features: their own scale is kept.
    index_scale=lambda options, dim, unit: None,
    require_use=lambda options: _refuse_of_favor(
        options["feature_map"], num_features=options["num_features"], feature_seed=options["feature_seed"]
    ),
)


class LinearAttention(RegisteredAttention):
    """phi(Q) (phi(K)^T V) over its row sums: attention in time and memory that grow with the length, not its square.

    The weight of a pair is phi(q) . phi(k) over the sum of the query's. phi(x) is elu(x) + 1, or the positive
    orthogonal random features of FAVOR+, whose products approximate exp(scale q . k): softmax attention, the more
    features the nearer. There are no weights that dropout could drop, so that it is not offered. elu + 1 is a poor
    ranker: keys of large components (hubs) have large products with every query.

    Parameters
    ----------
    feature_map : {"elu", "favor"}, default "elu"
    num_features : int, optional
        Of favor only, up to 100,000; by default 256.
    seed : int, optional
        Of favor only: what its directions are drawn from; by default 0.
    scale : float, optional
        phi is taken of sqrt(scale) times queries and keys; by default 1/sqrt(d) for favor, as in softmax attention, and
        1 for elu.
    eps : float, default 0.0
        Added to the denominator of the weights, which then sum to a little less than 1. Denominators cannot be 0 or
        overflow without it.
    causal : bool, default False
        Every call is causal.
    d_model : int, optional
        Queries and keys of another dimension are refused.
    max_seq_len : int, optional
        Longer sequences are refused.

    Raises
    ------
    InvalidConfigError

    Notes
    -----
    Causal calls and boolean masks of keys, (S,) or (..., 1, S), take linear time; under a `SparseMask` its pairs are
    computed, under other masks, and where weights are asked for, all pairs.

    References
    ----------
    Katharopoulos et al. 2020, Transformers are RNNs, equations 5 to 7; Choromanski et al. 2021, Rethinking Attention
    with Performers, equation 5 and section 2.4.

    Examples
    --------
    >>> import attnbridge as ab
    >>> attention = ab.LinearAttention()
    >>> attention.forward([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [[10.0], [20.0]]).output.round(2)
    array([14.44], dtype=float32)
    """

    name: ClassVar[str] = "linear"
    row: ClassVar[AttentionType] = LINEAR
    _configured: ClassVar[tuple[str, ...]] = ("scale", "eps", "causal", "d_model", "max_seq_len")

    def __init__(
        self,
        feature_map: str = "elu",
        *,
        num_features: int | None = None,
        seed: int | None = None,
        scale: float | None = None,
        eps: float = 0.0,
        causal: bool = False,
        d_model: int | None = None,
        max_seq_len: int | None = None,
    ) -> None:
        self.feature_map = as_choice(feature_map, "feature_map", FEATURE_MAPS)
        _refuse_of_favor(self.feature_map, num_features=num_features, seed=seed)
        self.num_features = optional(_feature_count)(num_features, "num_features")
        self.seed = None if seed is None else as_count(seed, "seed", least=0)
        self.scale = optional(positive)(scale, "scale")
        self.eps = as_number(eps, "eps", least=0.0, remedy=EPS_REMEDY)
        self.causal = as_bool(causal, "causal")
        self.d_model = optional(as_dim_of_model)(d_model, "d_model")
        self.max_seq_len = optional(as_count)(max_seq_len, "max_seq_len")

    @classmethod
    def from_config(
        cls,
        config: AttentionConfig,
        *,
        feature_map: str = "elu",
        num_features: int | None = None,
        seed: int | None = None,
    ) -> Self:
        """Return a mechanism with a configuration's scale, eps, causal and max_seq_len.

        Parameters
        ----------
        config : AttentionConfig
        feature_map : {"elu", "favor"}, default "elu"
        num_features : int, optional
        seed : int, optional

        Returns
        -------
        LinearAttention

        Raises
        ------
        InvalidConfigError
            No such configuration, or a setting beside its default that the mechanism has no use for.

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.LinearAttention.from_config(ab.AttentionConfig(causal=True)).eps
        1e-06
        """
        return cls(feature_map, num_features=num_features, seed=seed, **cls._settings_of(config))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism."""
        names = ("feature_map", "num_features", "seed", "scale", "eps", "causal", "d_model", "max_seq_len")
        return {name: getattr(self, name) for name in names}

    def _options(self) -> Mapping[str, Any]:
        return {
            "feature_map": self.feature_map,
            "num_features": self.num_features,
            "feature_seed": self.seed,
            "scale": self.scale,
        }

    def _check(self, query: Any, key: Any, value: Any, mask: Any, is_causal: bool, **names: Any) -> Batch:
        batch = super()._check(query, key, value, mask, is_causal, **names)
        batch.require_finite()  # the features of -inf are those of nothing at all
        return batch

    def _features(self, batch: Batch) -> Iterator[tuple[int, Features, Features, int]]:
        """Yield each problem, its log-features of queries (L, m) and of keys (S, m), and the number of its value.

        Features are lent until the next problem.
        """
        options, last_q, last_k = self._options(), -1, -1
        for_queries, for_keys = Workspaces(batch.query.size), Workspaces(batch.key.size)
        with for_queries as lend_q, for_keys as lend_k:
            for problem, (q, k, v) in enumerate(batch.which.tolist()):
                if q != last_q:  # what is broadcast over problems that follow is mapped once
                    for_queries.take_back()
                    queries, last_q = log_features(batch.query[q], options, batch.names[0], lend_q), q
                if k != last_k:
                    for_keys.take_back()
                    keys, last_k = log_features(batch.key[k], options, batch.names[1], lend_k), k
                yield problem, queries, keys, v

    def _logits(self, batch: Batch) -> Logits:
        out = batch.new_logits()
        for problem, (q, k, _) in enumerate(batch.which):
            _fill(batch.query[q], batch.key[k], self._options(), batch.names[:2], out[problem])
        return out

    def _pair_logits(self, batch: Batch) -> PairLogits | None:
        if self.feature_map == "favor":
            return self._by_logs(batch)
        queries, keys = ([_elu(rows, self.scale) for rows in blocks] for blocks in (batch.query, batch.key))
        if any(fine is not None for _, fine in (*queries, *keys)):
            return self._by_logs(batch)

        def fill(problem: int, i: int, ids: Ids, out: Logits) -> None:
            q, k, _ = batch.which[problem]
            kernels.dot(queries[q][0][i], 0.0, keys[k][0], None, None, ids, 1.0, out)
            np.log(out, out)

        return fill

    def _by_logs(self, batch: Batch) -> PairLogits:
        """Return what fills logits of pairs however large or small their products are."""
        options = self._options()
        queries = [log_features(rows, options, batch.names[0]) for rows in batch.query]
        keys = [_KeyFeatures(log_features(rows, options, batch.names[1])) for rows in batch.key]

        def fill(problem: int, i: int, ids: Ids, out: Logits) -> None:
            q, k, _ = batch.which[problem]
            keys[k].logits(queries[q][i], ids, out)

        return fill

    def _weights(self, batch: Batch, logits: Logits) -> tuple[Logits, npt.NDArray[np.float64]]:
        weights, total = super()._weights(batch, logits)
        if self.eps > 0.0:
            share, total = self._with_eps(total)
            weights *= share[..., None]
        return weights, total

    def _with_eps(self, total: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return what is left of weights with eps in their denominator, and the logarithm of that."""
        if self.eps == 0.0:
            return np.ones(total.shape), total
        larger = np.where(total == -np.inf, total, np.logaddexp(total, math.log(self.eps)))
        return np.exp(total - np.logaddexp(total, math.log(self.eps))), larger

    def _attend(
        self,
        batch: Batch,
        need_weights: bool = False,
        need_context: bool = False,
        training: bool = False,
        seed: int | None = None,
    ) -> Attended:
        attends = _key_mask(batch)
        if attends is None or (not batch.is_causal and batch.shape[1] <= _FEW):
            return super()._attend(batch, need_weights, need_context, training, seed)
        self._draw(training, seed)
        assert batch.value is not None
        problems, count, _ = batch.shape
        total = np.empty((problems, count))
        with Workspaces() as lend:
            out = wide_outputs(batch, lend)
            for problem, queries, keys, v in self._features(batch):
                kernels.linear_attention(
                    queries, keys, batch.value[v], attends[problem], batch.is_causal, out[problem], total[problem]
                )
            share, total = self._with_eps(total)
            out *= share[..., None]
            output = out.astype(batch.value.dtype, copy=False)
        return Attended(output, self._all_weights(batch) if need_weights else None, total)


def _key_mask(batch: Batch) -> npt.NDArray[np.bool_] | None:
    """Return which keys may be attended, (P, S), where that is one answer for all queries of a problem."""
    problems, _, count = batch.shape
    if batch.mask is None:
        return np.ones((problems, count), np.bool_)
    if not isinstance(batch.mask, DenseMask) or batch.mask.data.dtype != np.bool_:
        return None
    data = batch.mask.data
    if data.ndim > 1 and data.shape[-2] > 1:
        return None
    rows = data[..., 0, :] if data.ndim > 1 else data
    return np.broadcast_to(rows, (*batch.lead, count)).reshape(problems, count).copy()
