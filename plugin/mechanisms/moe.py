"""A mixture of experts: a router sends each query to a few attention types, and their weights are mixed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.config import AttentionConfig, as_dim_of_model, as_dropout
from attnbridge.errors import DimensionMismatchError, InvalidConfigError
from attnbridge.masks import DenseMask, SparseMask
from attnbridge.mechanisms.base import Attended, Attention, Batch, refuse_unbuilt
from attnbridge.mechanisms.graph import GraphAttention
from attnbridge.mechanisms.linear import LinearAttention
from attnbridge.mechanisms.listed import PairLogits, attend_listed, visible
from attnbridge.mechanisms.multi_head import MultiHeadAttention
from attnbridge.mechanisms.neighbors import weighted_nodes
from attnbridge.mechanisms.pairs import Pairs
from attnbridge.mechanisms.row import AttentionType, Ids, Logits, Option, Options, optional
from attnbridge.metric import Keys
from attnbridge.validation import Float, as_bool, as_count, as_floats, as_number, require_finite
from attnbridge.workspace import workspace

Gates = npt.NDArray[np.float64]
# (problem, query, logits (S,)) -> None
Hide = Callable[[int, int, Logits], None]
# A registered type, a type with options, or a mechanism.
Expert = str | tuple[str, Mapping[str, Any]] | Mapping[str, Any] | Attention
# Queries that an expert of heads weighs at a time.
_QUERIES = 128

EXPERTS = ("scaled_dot", "linear", "gat")
_TOP_K, _SPREAD = 2, 0.02


def _resolved(expert: Any, name: str) -> tuple[AttentionType, dict[str, Any]]:
    """Return the registry's row of an expert, and its options."""
    from attnbridge.scoring import resolve  # which holds this type too

    kind: Any = None
    options: Any = {}
    if isinstance(expert, str):
        kind = expert
    elif isinstance(expert, Sequence) and len(expert) == 2:
        kind, options = expert
    if not isinstance(kind, str) or not isinstance(options, Mapping):
        raise InvalidConfigError(f"{name} must be names of attention types, or (name, options), got {expert!r}")
    return resolve(kind, options)


def _experts_option(value: Any, name: str) -> tuple[Any, ...]:
    """Return names and (name, options) of types that score any vectors."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not len(value):
        raise InvalidConfigError(f"{name} must be a sequence of at least one attention type, got {value!r}")
    out: list[Any] = []
    for expert in value:
        row, options = _resolved(expert, name)
        if not row.pairwise or row.metric is not None:
            raise InvalidConfigError(f"{name} must be pairwise types that score any vectors, got {row.name!r}")
        out.append(row.name if isinstance(expert, str) else (row.name, options))
    return tuple(out)


@lru_cache(maxsize=16)
def as_jitter(value: Any, name: str = "jitter") -> float:
    """Return by how much a router's input may be off in training, in [0, 1)."""
    jitter = as_number(value, name, least=0.0)
    if jitter >= 1.0:
        raise InvalidConfigError(f"{name} must be in [0, 1), got {value!r}")
    return jitter


def initial_router(dim: int, experts: int, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return a router's weights (dim, experts), N(0, 0.02^2), and its bias, 0."""
    rng = np.random.default_rng(seed)
    weight = (_SPREAD * rng.standard_normal((dim, experts))).astype(np.float32)
    return {"W_r": weight, "b_r": np.zeros(experts, np.float32)}


def probabilities(rows: npt.NDArray[Any], router: Mapping[str, npt.NDArray[Any]]) -> Gates:
    """Return softmax(rows W_r + b_r), (n, experts), a row alone as among others."""
    logits = np.empty((len(rows), len(router["b_r"])))
    with workspace(rows.shape) as wide:
        np.copyto(wide, rows)
        kernels.project(wide, np.ones(len(rows)), _columns(router["W_r"]), logits)
    logits += router["b_r"]
    for row in logits:
        kernels.softmax(row, row)
    return logits


def _columns(weight: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.ascontiguousarray(weight.T, np.float64)


def chosen(shares: Gates, top_k: int) -> npt.NDArray[np.int64]:
    """Return each row's experts (n, top_k), the largest share first, ties by the smaller number."""
    return np.argsort(-shares, axis=1, kind="stable")[:, :top_k]


def normalized(gates: Gates) -> Gates:
    """Return gates over their sums; a row of zeros stays one."""
    total = gates.sum(axis=1, keepdims=True)
    return np.asarray(gates / np.where(total > 0.0, total, 1.0))


def _top_gates(shares: Gates, top_k: int) -> Gates:
    """Return the gates (n, experts): shares of each row's top_k experts, normalised, 0 for the others."""
    gates, best = np.zeros(shares.shape), chosen(shares, top_k)
    np.put_along_axis(gates, best, np.take_along_axis(shares, best, axis=1), axis=1)
    return normalized(gates)


def _log_shares(logits: Logits) -> None:
    """Subtract the log-sum-exp of a row of logits; nothing attended stays -inf."""
    total = kernels.logsumexp(logits)
    if total > -np.inf:
        logits -= total


def _logits(query: npt.NDArray[Any], bias: float, keys: Keys, ids: Ids | None, options: Options, out: Logits) -> None:
    experts = [_resolved(expert, "experts") for expert in options["experts"]]
    router = initial_router(len(query), len(experts), options["router_seed"])
    gates = _top_gates(probabilities(query[None], router), options["top_k"])[0]
    out[:] = -np.inf
    own, weights = np.empty(len(out)), np.empty(len(out))
    for number in np.flatnonzero(gates):
        row, settings = experts[number]
        row.logits(query, bias, keys, ids, settings, own)
        if row.weights is None:
            _log_shares(own)
        else:
            row.weigh(query, bias, keys, ids, settings, own, weights)
            with np.errstate(divide="ignore"):
                np.log(weights, own)
        np.logaddexp(out, own + math.log(gates[number]), out)


MOE = AttentionType(
    name="moe",
    complexity="O(n*k)",
    best_for="routing",
    pairwise=False,
    options={
        "experts": Option(EXPERTS, _experts_option),
        "top_k": Option(_TOP_K, as_count),
        # What the router is drawn from; a bridge has a seed of its own.
        "router_seed": Option(0, lambda value, name: as_count(value, name, least=0)),
    },
    logits=_logits,
    mechanism=lambda options: MixtureOfExpertsAttention(
        options["experts"], top_k=options["top_k"], seed=options["router_seed"]
    ),
    aliases=("mixture_of_experts",),
)


class MixtureOfExpertsAttention(Attention):
    """sum_e g_e(q) w_e(q, K) V: each query's attention is a mixture of its top_k experts' weights.

    g = softmax(q W_r + b_r) over the top_k experts, 0 for the others. Weights are mixed, not logits, whose sizes differ
    from type to type; the logits of the mixture are the logarithms of its weights. An expert whose logits are of pairs
    is computed for the queries that are sent to it, another one for all.

    Under a `SparseMask` its pairs alone are computed, unless a query is sent to an expert whose logits depend on keys
    that the mask does not list ("sparse"): then all pairs are.

    Parameters
    ----------
    experts : sequence of str, (str, dict), dict or Attention, default ("scaled_dot", "linear", "gat")
        Names of attention types, with options where they are to differ from the defaults, or mechanisms, or the
        name and config of one as a dict. Dropout is the mixture's alone.
    d_model : int, optional
        Dimension of queries, for a router with parameters that can be trained. Without it, a router for the dimension
        of each call's queries is drawn from the seed.
    top_k : int, default 2
        Experts of a query.
    capacity_factor : float, default 1.25
        In training an expert takes ceil(capacity_factor * top_k * L / E) of a call's L queries at most: all first
        choices in the queries' order, then all second ones. Gates are normalised over the experts that a query is left
        with; one that finds all of its experts full has zero weights, as in Switch.
    jitter : float, default 0.0
        In training the router's input is multiplied by numbers from U(1 - jitter, 1 + jitter), [0, 1).
    seed : int, default 0
        What the router is drawn from: weights N(0, 0.02^2), bias 0.
    causal : bool, default False
        Every call is causal.
    dropout : float, default 0.0
        Rate at which weights are dropped in training.
    max_seq_len : int, optional
        Longer sequences are refused.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Shazeer et al. 2017, Outrageously Large Neural Networks, equations 1 to 5; Fedus et al. 2021, Switch Transformers,
    sections 2.1 and 2.2.

    Examples
    --------
    >>> import attnbridge as ab
    >>> mixture = ab.MixtureOfExpertsAttention([("scaled_dot", {"scale": 1.0}), "linear"])
    >>> mixture.weights([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]).round(3)  # about half of each: 0.731 and 0.556
    array([0.644, 0.356], dtype=float32)
    """

    name: ClassVar[str] = "moe"
    row: ClassVar[AttentionType] = MOE
    _configured: ClassVar[tuple[str, ...]] = ("d_model", "causal", "dropout", "max_seq_len")

    def __init__(
        self,
        experts: Sequence[Expert] = EXPERTS,
        *,
        d_model: int | None = None,
        top_k: int = _TOP_K,
        capacity_factor: float = 1.25,
        jitter: float = 0.0,
        seed: int = 0,
        causal: bool = False,
        dropout: float = 0.0,
        max_seq_len: int | None = None,
    ) -> None:
        if isinstance(experts, str) or not isinstance(experts, Sequence) or not len(experts):
            raise InvalidConfigError(f"experts must be a sequence of at least one attention type, got {experts!r}")
        self.experts = tuple(_mechanism(expert) for expert in experts)
        if any(expert.rotary is not None for expert in self.experts):
            raise InvalidConfigError("rotary must be None in experts, to whom queries come without their places")
        self._given = tuple(experts)
        self.d_model = optional(as_dim_of_model)(d_model, "d_model")
        self.top_k = as_count(top_k, "top_k")
        if self.top_k > len(self.experts):
            raise InvalidConfigError(f"top_k must be at most the number of experts, {len(self.experts)}, got {top_k}")
        self.capacity_factor = as_number(capacity_factor, "capacity_factor", above=0.0)
        self.jitter = as_jitter(jitter)
        self.seed = as_count(seed, "seed", least=0)
        self.causal = as_bool(causal, "causal")
        self.dropout = as_dropout(dropout)
        self.max_seq_len = optional(as_count)(max_seq_len, "max_seq_len")
        self._router = None if self.d_model is None else initial_router(self.d_model, len(self.experts), self.seed)

    @classmethod
    def from_config(
        cls, config: AttentionConfig, experts: Sequence[Expert] = EXPERTS, *, top_k: int = _TOP_K, seed: int = 0
    ) -> Self:
        """Return a mechanism with a configuration's d_model, dropout, causal and max_seq_len.

        Parameters
        ----------
        config : AttentionConfig
        experts : sequence of str, (str, dict) or Attention
        top_k : int, default 2
        seed : int, default 0

        Returns
        -------
        MixtureOfExpertsAttention

        Raises
        ------
        InvalidConfigError
            No such configuration, or a setting beside its default that the mechanism has no use for.

        Examples
        --------
        >>> import attnbridge as ab
        >>> mixture = ab.MixtureOfExpertsAttention.from_config(ab.AttentionConfig(d_model=16))
        >>> mixture.parameters()["W_r"].shape
        (16, 3)
        """
        return cls(experts, **cls._settings_of(config), top_k=top_k, seed=seed)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism, parameters aside; experts given as mechanisms by their own."""
        experts = [
            {"name": expert.name, **expert.config} if isinstance(expert, Attention) else expert
            for expert in self._given
        ]
        names = ("d_model", "top_k", "capacity_factor", "jitter", "seed", "causal", "dropout", "max_seq_len")
        return {"experts": experts, **{name: getattr(self, name) for name in names}}

    def _as_type(self) -> tuple[AttentionType, dict[str, Any]]:
        drawn = None if self.d_model is None else initial_router(self.d_model, len(self.experts), self.seed)
        if any((self._router[name] != array).any() for name, array in (drawn or {}).items()):  # type: ignore[index]
            raise InvalidConfigError("parameters must be those drawn from the seed where a mixture ranks, got others")
        experts = [(row.name, options) for row, options in (expert.as_type() for expert in self.experts)]
        return MOE, {"experts": _experts_option(experts, "experts"), "top_k": self.top_k, "router_seed": self.seed}

    # ---- the router

    def parameters(self) -> dict[str, npt.NDArray[Any]]:
        """Return a copy of W_r (d_model, experts) and b_r (experts,); nothing without d_model.

        Returns
        -------
        dict of str to ndarray of float32
        """
        return {name: array.copy() for name, array in (self._router or {}).items()}

    def set_parameters(self, parameters: Mapping[str, npt.ArrayLike]) -> None:
        """Take another router.

        Parameters
        ----------
        parameters : mapping of str to array_like
            W_r and b_r.

        Raises
        ------
        InvalidConfigError, DimensionMismatchError, InvalidInputError
        """
        if self._router is None:
            raise InvalidConfigError("set_parameters needs a mechanism with d_model; this one has no parameters")
        if set(parameters) != set(self._router):
            raise InvalidConfigError(f"parameters must be W_r, b_r; got {', '.join(parameters)}")
        arrays = {}
        for name, own in self._router.items():
            array = as_floats(parameters[name], f"parameters[{name!r}]")
            if array.shape != own.shape:
                raise DimensionMismatchError(f"parameters[{name!r}] must be {own.shape}, got shape {array.shape}")
            require_finite(array, f"parameters[{name!r}]")
            arrays[name] = array.copy()
        self._router = arrays

    def router_probabilities(self, query: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return softmax(q W_r + b_r), before the top_k are taken.

        Parameters
        ----------
        query : array_like, (d,) or (..., L, d)

        Returns
        -------
        ndarray of float64, (experts,) or (..., L, experts)

        Raises
        ------
        DimensionMismatchError, InvalidInputError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.MixtureOfExpertsAttention(["scaled_dot", "linear"]).router_probabilities([0.0, 0.0])
        array([0.5, 0.5])
        """
        array = as_floats(query, "query", keep_float64=True)
        if array.ndim < 1 or array.size == 0:
            raise DimensionMismatchError(f"query must be (d,) or (..., L, d), not empty, got shape {array.shape}")
        rows = array.reshape(-1, array.shape[-1])
        require_finite(rows, "query")
        return self._shares(rows).reshape(*array.shape[:-1], len(self.experts))

    def load_balance_loss(self, query: npt.ArrayLike) -> float:
        """Return E * sum_e f_e P_e: 1 where the experts have equal loads, E where one has all (for top_k=1).

        f_e is the share of the queries' choices that fall on expert e, P_e its mean probability; capacity and jitter do
        not enter.

        Parameters
        ----------
        query : array_like, (d,) or (..., L, d)

        Returns
        -------
        float

        Raises
        ------
        DimensionMismatchError, InvalidInputError

        References
        ----------
        Fedus et al. 2021, equations 4 to 6, with each of the top_k choices counted.

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.MixtureOfExpertsAttention(["scaled_dot", "linear"], top_k=1).load_balance_loss([[0.0, 0.0]])
        1.0
        """
        shares = self.router_probabilities(query).reshape(-1, len(self.experts))
        counts = np.bincount(chosen(shares, self.top_k).reshape(-1), minlength=len(self.experts))
        return float(len(self.experts) * (counts / counts.sum()) @ shares.mean(axis=0))

    def _shares(self, rows: npt.NDArray[Any]) -> Gates:
        dim = rows.shape[-1]
        if self.d_model not in (None, dim):
            raise DimensionMismatchError(f"query must have dimension d_model = {self.d_model}, got {dim}")
        return probabilities(rows, self._router or initial_router(dim, len(self.experts), self.seed))

    def _gates(self, rows: npt.NDArray[Any], training: bool, draw: int) -> Gates:
        """Return the gates (n, experts) of a call's queries, which sum to 1 or, for what was dropped, 0."""
        if not training:
            return _top_gates(self._shares(rows), self.top_k)
        if self.jitter > 0.0:
            noise = np.random.default_rng(draw).uniform(1.0 - self.jitter, 1.0 + self.jitter, rows.shape)
            rows = rows * noise
        shares = self._shares(rows)
        best, gates = chosen(shares, self.top_k), np.zeros(shares.shape)
        capacity = math.ceil(self.capacity_factor * self.top_k * len(rows) / len(self.experts))
        taken = np.zeros(len(self.experts), np.int64)
        for choice in best.T:  # all first choices, then all second ones
            for expert in range(len(self.experts)):
                who = np.flatnonzero(choice == expert)[: capacity - taken[expert]]
                gates[who, expert] = shares[who, expert]
                taken[expert] += len(who)
        return normalized(gates)

    # ---- the mixture

    def _check(self, query: Any, key: Any, value: Any, mask: Any, is_causal: bool, **names: Any) -> Batch:
        batch = super()._check(query, key, value, mask, is_causal, **names)
        batch.require_finite()
        return batch

    def _logits(self, batch: Batch) -> Logits:
        return self._masked_logits(batch)

    def _masked_logits(self, batch: Batch) -> Logits:
        return self._mixed(batch, self._gates(_queries(batch), False, 0))

    def _mixed(self, batch: Batch, gates: Gates) -> Logits:
        """Return the logarithm of the mixed weights, (P, L, S)."""
        gates = gates.reshape(*batch.query.shape[:2], len(self.experts))[batch.which[:, 0]]  # (P, L, E)
        out = batch.new_logits()
        out.fill(-np.inf)
        for number, expert in enumerate(self.experts):
            routed = gates[..., number]
            own = replace(batch, is_causal=batch.is_causal or expert.causal, room=[])
            if not routed.any():
                continue
            if not _by_row(expert) and not _by_heads(expert):
                log_weights = _log_weights(expert, own)
                for problem, i in np.argwhere(routed).tolist():
                    _mix(out[problem, i], routed[problem, i], log_weights[problem, i])
                continue
            hide, mix = _hider(own), self._mix_heads if _by_heads(expert) else self._mix_part
            for problem in np.flatnonzero(routed.any(axis=1)).tolist():
                mix(expert, own, problem, routed[problem], hide, out[problem])
        return out

    def _mix_heads(self, expert: Attention, batch: Batch, problem: int, gates: Gates, hide: Hide, out: Logits) -> None:
        """Do what `_mix_part` does where weights are the mean of heads, for some queries at a time."""
        who = np.flatnonzero(gates)
        for start in range(0, len(who), _QUERIES):
            some = who[start : start + _QUERIES]
            part = _part(batch, problem, some)
            if batch.mask is not None or batch.is_causal:
                hidden = np.zeros((len(some), out.shape[1]))
                for i, row in zip(some.tolist(), hidden, strict=True):
                    hide(problem, i, row)
                part = replace(part, mask=DenseMask(hidden))
            for i, row in zip(some.tolist(), _log_weights(expert, part)[0], strict=True):
                _mix(out[i], gates[i], row)

    def _mix_part(self, expert: Attention, batch: Batch, problem: int, gates: Gates, hide: Hide, out: Logits) -> None:
        """Add an expert's weights for the queries of a problem that are sent to it, gates (L,), to out (L, S)."""
        who = np.flatnonzero(gates)
        with _part(batch, problem, who).working() as part:
            rows = expert._masked_logits(part)[0]
            for i, row in zip(who.tolist(), rows, strict=True):
                hide(problem, i, row)
                _to_log_weights(expert, part, row)
                _mix(out[i], gates[i], row)

    def _pair_logits(self, batch: Batch) -> PairLogits | None:
        return self._mixture(batch, self._gates(_queries(batch), False, 0))

    def _attend_edges(self, batch: Batch, pairs: Pairs) -> tuple[Float, Float]:
        gates = self._gates(_queries(batch), False, 0).reshape(len(batch.query[0]), -1)
        mask, targets, shares = pairs.mask, pairs.mask._rows(), np.zeros(pairs.mask.nnz)
        for number in np.flatnonzero(gates.any(axis=0)).tolist():
            routed = gates[targets, number]
            there = routed > 0.0
            own = Pairs(mask._filtered(there), pairs.bias[there] if len(pairs.bias) else pairs.bias)
            _, weights = self.experts[number]._attend_edges(replace(batch, mask=own.mask), own)
            shares[there] += routed[there] * weights
        return weighted_nodes(batch, pairs, shares)

    def _refuse_order(self) -> None:
        super()._refuse_order()
        for expert in self.experts:
            expert._refuse_order()

    def _mixture(self, batch: Batch, gates: Gates) -> PairLogits | None:
        """Return what fills the logarithms of the mixed weights over listed keys, None where an expert has no pairs."""
        gates = gates.reshape(*batch.query.shape[:2], len(self.experts))
        listed: list[Any] = [None] * len(self.experts)
        for number in np.flatnonzero(gates.any(axis=(0, 1))).tolist():
            expert = self.experts[number]
            own = replace(batch, is_causal=batch.is_causal or expert.causal)
            listed[number] = own, expert._pair_logits(own)
            if listed[number][1] is None:
                return None

        def fill(problem: int, i: int, ids: Ids, out: Logits) -> None:
            shares = gates[batch.which[problem, 0], i]
            out[:] = -np.inf
            for number in np.flatnonzero(shares):
                own, pair_logits = listed[number]
                seen = visible(ids, i, own.is_causal)
                if not len(seen):
                    continue
                row = np.empty(len(seen))
                pair_logits(problem, i, seen, row)
                _to_log_weights(self.experts[number], own, row)
                _mix(out[: len(seen)], shares[number], row)

        return fill

    def _attend(
        self,
        batch: Batch,
        need_weights: bool = False,
        need_context: bool = False,
        training: bool = False,
        seed: int | None = None,
    ) -> Attended:
        rate, draw = self._draw(training, seed)
        if isinstance(batch.mask, SparseMask):
            mixture = self._mixture(batch, self._gates(_queries(batch), training, draw))
            if mixture is not None:
                return Attended(*attend_listed(self, batch, mixture, need_weights, rate, draw))
        gates = self._gates(_queries(batch), training, draw)
        with batch.working() as own:
            weights, total = self._weights(own, self._mixed(own, gates))
            if rate > 0.0:
                for problem in range(len(weights)):
                    kernels.drop(weights[problem], rate, draw, problem, 0, 0)
            output = self._outputs(own, weights)
            return Attended(output, weights.astype(batch.key.dtype) if need_weights else None, total)


def _mechanism(expert: Any) -> Attention:
    """Return an expert as a mechanism; a dict is the name and the config of one."""
    from attnbridge.mechanisms.cached import CachedAttention

    refuse_unbuilt(expert)
    if isinstance(expert, CachedAttention):
        raise InvalidConfigError(
            f"experts must be without a cache, which a mixture would not look into, got {expert!r}; cache the mixture"
        )
    if isinstance(expert, Attention):
        made = expert
    elif isinstance(expert, Mapping):
        made = _from_config(**expert)
    else:
        row, options = _resolved(expert, "experts")
        made = row.mechanism(options)
    if made.dropout > 0.0:
        raise InvalidConfigError(f"experts must have dropout 0, got {made!r}; give dropout to the mixture")
    if made._softmax_eps > 0.0:
        raise InvalidConfigError(
            f"experts of softmax attention must have eps 0, got {made!r}; weights are mixed as they are"
        )
    if isinstance(made, GraphAttention) and not (
        made.normalize and made.edge_dim is None and made.aggregation == "sum"
    ):
        raise InvalidConfigError(
            f"experts must weigh by vectors alone: normalize=True, aggregation='sum', no edge_dim; got {made!r}"
        )
    return made


def _from_config(name: Any = None, **config: Any) -> Attention:
    from attnbridge import mechanisms  # which this module is part of

    for kind in vars(mechanisms).values():
        if isinstance(kind, type) and issubclass(kind, Attention) and getattr(kind, "name", None) == name is not None:
            return kind(**config)
    raise InvalidConfigError(f"experts must be attention types; a dict must have the name of one, got {name!r}")


def _queries(batch: Batch) -> Float:
    """Return all queries of a call, (n, d)."""
    return batch.query.reshape(-1, batch.query.shape[-1])


def _part(batch: Batch, problem: int, who: Ids) -> Batch:
    """Return some queries (n,) of a problem, without a mask."""
    q, k, _ = batch.which[problem]
    return Batch(
        query=batch.query[q][who][None],
        key=batch.key[k][None],
        value=None,
        which=np.zeros((1, 3), np.int64),
        lead=(),
        single=False,
        mask=None,
        is_causal=False,
        names=batch.names,
    )


def _hider(batch: Batch) -> Hide:
    """Return what puts -inf where the logits (S,) of a query of a problem may not be attended, or adds a float mask."""
    mask = batch.mask
    whole = np.broadcast_to(mask.data, (*batch.lead, *batch.shape[1:])) if isinstance(mask, DenseMask) else None

    def hide(problem: int, i: int, row: Logits) -> None:
        if whole is not None:
            DenseMask(whole[np.unravel_index(problem, batch.lead)][i]).apply(row)
        elif isinstance(mask, SparseMask):
            hidden = np.ones(len(row), np.bool_)
            hidden[mask._row(i)] = False
            row[hidden] = -np.inf
        if batch.is_causal:
            row[i + 1 :] = -np.inf

    return hide


def _by_row(expert: Attention) -> bool:
    """Return whether the logarithms of a query's weights are made of its own row of logits."""
    row = getattr(type(expert), "row", None)
    return row is not None and row.pairwise and (isinstance(expert, LinearAttention) or _is_softmax(expert))


def _by_heads(expert: Attention) -> bool:
    """Return whether a query's weights are the mean of heads, whichever the others are."""
    return isinstance(expert, MultiHeadAttention) and expert.rotary is None


def _log_weights(expert: Attention, batch: Batch) -> Logits:
    """Return the logarithm of an expert's weights (P, L, S)."""
    if not _is_softmax(expert):
        with np.errstate(divide="ignore"):
            return np.log(expert._all_weights(batch).astype(np.float64))
    logits = expert._masked_logits(batch)  # in logarithms no weight is too small
    for rows in logits:
        for row in rows:
            _log_shares(row)
    return logits


def _to_log_weights(expert: Attention, batch: Batch, row: Logits) -> None:
    """Put the logarithms of an expert's weights in place of its logits of all keys that a query attends to."""
    if not isinstance(expert, LinearAttention) or expert.eps == 0.0:
        _log_shares(row)
        return
    weights, _ = expert._weights(batch, row[None, None])
    with np.errstate(divide="ignore"):
        np.log(weights[0, 0], row)


def _is_softmax(expert: Attention) -> bool:
    """Return whether weights are the softmax of the logits."""
    if isinstance(expert, LinearAttention):
        return expert.eps == 0.0
    kind = type(expert)
    plain = kind._weights is Attention._weights and kind._all_weights is Attention._all_weights
    return plain or isinstance(expert, GraphAttention)


def _mix(out: Logits, gate: float, row: Logits) -> None:
    """Add a gate times weights (S,) to out, all in logarithms, of which those of the weights are written over."""
    row += np.log(gate)
    if out[0] == -np.inf and np.isneginf(out).all():
        out[:] = row
    else:
        np.logaddexp(out, row, out)
