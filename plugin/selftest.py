"""The installed copy held against its own float64 truth, on this machine; `attnbridge test` runs it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import functional, reference
from attnbridge.manifolds import EuclideanSpace, SphericalSpace
from attnbridge.masks import SparseMask
from attnbridge.mechanisms import (
    Attention,
    CrossAttention,
    FlashAttention,
    GeometricAttention,
    MultiHeadAttention,
    SlidingWindowAttention,
    SparseAttention,
)
from attnbridge.mechanisms.linear import orthogonal_directions
from attnbridge.mechanisms.moe import initial_router
from attnbridge.scoring import REGISTRY, resolve
from attnbridge.validation import as_choice

Array = npt.NDArray[Any]

SUITES = ("standard", "multihead", "geometric", "sparse", "graph")

# Relative errors of a float32 result and of a float64 one that a check lets pass.
LIMIT, LIMIT64 = 1e-5, 1e-10


@dataclass(frozen=True)
class Setting:
    """Options of a type that take a code path of their own.

    Parameters
    ----------
    name : str
        A type of the registry.
    suite : str
    options : mapping
    heads : int
        What dimensions of queries and values must be a multiple of.
    parameters : callable or None
        (dim) -> the option `parameters`, for vectors of a dimension.
    mechanism : Attention or None
        What to hold against the type's formula in place of what the registry makes.
    """

    name: str
    suite: str
    options: Mapping[str, Any] = field(default_factory=dict)
    heads: int = 1
    parameters: Callable[[int], dict[str, Array]] | None = None
    mechanism: Attention | None = None

    def of(self, dim: int) -> dict[str, Any]:
        """Return the options for vectors of a dimension."""
        return dict(self.options) if self.parameters is None else {**self.options, "parameters": self.parameters(dim)}

    def __str__(self) -> str:
        name, options = self.name, self.options
        if self.mechanism is not None:
            name, options = type(self.mechanism).__name__, {k: v for k, v in self.mechanism.config.items() if v}
        shown = [f"{option}={value!r}" for option, value in options.items()]
        return f"{name}({', '.join(shown + ['parameters'] * (self.parameters is not None))})"


def parameters_of(shapes: Callable[[int], Mapping[str, tuple[int, ...]]]) -> Callable[[int], dict[str, Array]]:
    """Return parameters of given shapes, drawn anew for each dimension."""

    def parameters(dim: int) -> dict[str, Array]:
        rng = np.random.default_rng(dim)
        return {
            name: (rng.standard_normal(shape) * dim**-0.5).astype(np.float32) for name, shape in shapes(dim).items()
        }

    return parameters


SETTINGS = (
    Setting("scaled_dot", "standard"),
    Setting("scaled_dot", "standard", {"scale": 0.7}),
    Setting("flash_v2", "standard"),
    Setting("flash_v2", "standard", {"block_size": 16, "scale": 0.7}),
    Setting("multi_head", "multihead", {"num_heads": 1}),
    Setting("multi_head", "multihead", {"num_heads": 3}, 3),
    Setting("multi_head", "multihead", {"num_heads": 2, "score": "weights", "scale": 0.7}, 2),
    Setting(
        "multi_head",
        "multihead",
        {"num_heads": 2},
        2,
        parameters_of(lambda dim: {"W_q": (6, dim), "b_q": (6,), "W_k": (6, dim), "b_k": (6,)}),
    ),
    Setting("linear", "standard"),
    Setting("linear", "standard", {"scale": 0.5}),
    Setting("linear", "standard", {"feature_map": "favor", "num_features": 37, "feature_seed": 3}),
    Setting("gat", "graph"),
    Setting("gat", "graph", {"temperature": 0.5}),
    Setting("gat", "graph", {}, 1, parameters_of(lambda dim: {"W": (5, dim), "U": (5, dim), "a": (5,)})),
    Setting(
        "gat",
        "graph",
        {"version": "v1", "negative_slope": 0.1, "temperature": 0.5},
        1,
        parameters_of(lambda dim: {"W": (5, dim), "a_q": (5,), "a_k": (5,)}),
    ),
    Setting("moe", "standard"),
    Setting("moe", "standard", {"experts": ["scaled_dot", "linear", ("gat", {"temperature": 0.5})], "top_k": 3}),
    Setting(
        "moe", "standard", {"experts": [("scaled_dot", {"scale": 0.1}), "multi_head"], "top_k": 1, "router_seed": 3}, 8
    ),
    Setting("sparse", "sparse"),
    Setting("sparse", "sparse", {"top_k": 3, "scale": 0.7}),
    Setting("sparse", "sparse", {"pattern": "local", "window": 2, "position": 1}),
    Setting("sparse", "sparse", {"pattern": "local_global", "window": 1, "num_global_tokens": 2, "position": 0}),
    Setting("sparse", "sparse", {"pattern": "strided", "block_size": 3, "position": 1}),
    Setting("sparse", "sparse", {"pattern": "block", "block_size": 5, "position": 2}),
    Setting("sparse", "sparse", {"pattern": "fixed", "block_size": 3, "position": 1}),
    Setting("sparse", "sparse", mechanism=SparseAttention("local", window=3, position=0, causal=True)),
    Setting("sliding", "sparse", {"window": 2, "position": 0}),
    Setting("sliding", "sparse", {"window": 3, "position": 0, "scale": 0.7}),
    Setting("sliding", "sparse", mechanism=SlidingWindowAttention(2)),
    Setting("sliding", "sparse", mechanism=SlidingWindowAttention(3, causal=True)),
    Setting("poincare", "geometric"),
    Setting("poincare", "geometric", {"curvature": -0.5, "temperature": 0.3}),
    Setting("poincare", "geometric", {"curvature": -2.0, "map": "expmap0"}),
    Setting("poincare", "geometric", {"curvature": -2.0, "values": "manifold"}),
)


# Late interaction: a query of tokens with keys of tokens, which is no sequence with a sequence.
LATE = (
    Setting("cross", "standard"),
    Setting("cross", "standard", {"scale": 3.0}),
    Setting("cross", "standard", {"temperature": 0.5}),
)


class Shape(NamedTuple):
    """Leading axes, queries (None: one, without an axis), keys, dimensions of queries and values."""

    lead: tuple[int, ...]
    queries: int | None
    keys: int
    dim: int
    width: int

    @property
    def logits(self) -> tuple[int, ...]:
        """The shape of a mask."""
        return (*self.lead, self.queries or 1, self.keys)


# Prime sizes, all different: a swapped axis cannot fit. One query, one key; the last crosses the edges of tiles.
SHAPES = (
    Shape((), None, 5, 7, 3),
    Shape((), 3, 1, 5, 2),
    Shape((), 7, 11, 13, 5),
    Shape((2,), 1, 7, 3, 11),
    Shape((2, 3), 5, 7, 11, 2),
    Shape((), 67, 131, 31, 5),
)


def draw(setting: Setting, shape: Shape, dtype: Any = np.float32, seed: int = 0) -> tuple[Array, Array, Array]:
    """Return query, key and value with a zero row, a duplicate and one large row among them, as a type takes them."""
    rng = np.random.default_rng([seed, *shape.logits, shape.dim, shape.width])
    own = shape.lead if shape.queries is None else (*shape.lead, shape.queries)
    query = rng.standard_normal((*own, setting.heads * shape.dim))
    key = rng.standard_normal((*shape.lead, shape.keys, setting.heads * shape.dim))
    value = rng.standard_normal((*shape.lead, shape.keys, setting.heads * shape.width))
    if shape.keys > 3:
        key[..., 1, :], key[..., 2, :], key[..., 3, :] = 0.0, key[..., 0, :], 2.0 * key[..., 3, :]
    if own and own[-1] > 1 and shape.queries is not None:
        query[..., -1, :] = 0.0
    if setting.name == "poincare":
        radius = (-setting.options.get("curvature", -1.0)) ** -0.5
        query, key, value = (into_ball(rows, radius) for rows in (query, key, value))
    return query.astype(dtype), key.astype(dtype), value.astype(dtype)


def into_ball(rows: Array, radius: float) -> Array:
    """Return rows drawn into a ball, 0.9 of its radius at most."""
    return np.asarray(0.9 * radius * rows / (1.0 + np.linalg.norm(rows, axis=-1, keepdims=True)))


MASKS = ("none", "bool", "float", "sparse", "causal")


def masked(kind: str, shape: Shape, seed: int = 0) -> dict[str, Any]:
    """Return the arguments of a kind of mask; the last of several queries may attend to nothing."""
    rng = np.random.default_rng([seed, *shape.logits])
    if kind == "sparse":
        return {"mask": SparseMask.from_dense(rng.random(shape.logits[-2:]) < 0.4)}
    if kind == "bool":
        allowed = rng.random(shape.logits) < 0.6
        allowed[..., 0, 0] = True
        allowed[..., -1, :] &= shape.logits[-2] == 1
        return {"mask": allowed[..., 0, :] if shape.queries is None else allowed}
    if kind == "float":
        added = rng.standard_normal(shape.logits)
        added[..., 0] = -np.inf
        return {"mask": added[..., 0, :] if shape.queries is None else added}
    return {"is_causal": True} if kind == "causal" else {}


# ---- errors


def logit_error(got: Array, want: Array) -> float:
    """Return the largest error relative to the largest logit of its row, or to 1 where that is more.

    Not element by element: where a product cancels to about 0, its own digits mean nothing; what a weight is off by
    is the logit's error itself. Infinity where -inf is not in its places.
    """
    open_ = np.isfinite(want)
    if got.shape != want.shape or not np.array_equal(open_, np.isfinite(got)) or not (got[~open_] == -np.inf).all():
        return float("inf")
    return _worst(np.where(open_, got, 0.0), np.where(open_, want, 0.0), 1.0)


def weight_error(got: Array, want: Array) -> float:
    """Return the largest error of a weight relative to itself; of those below 1e-30, relative to 1e-30."""
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.max(np.abs(got - want) / np.maximum(want, 1e-30), initial=0.0))


def output_error(got: Array, want: Array) -> float:
    """Return the largest error relative to the largest value of its row: weighted values cancel as products do."""
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    return _worst(got, want)


def _worst(got: Array, want: Array, least: float = 0.0) -> float:
    scale = np.maximum(np.abs(want).max(axis=-1, keepdims=True), least)
    return float(np.max(np.abs(got - want) / np.where(scale > 0.0, scale, 1.0), initial=0.0))


# ---- checks


@dataclass(frozen=True)
class Check:
    """Something to be true on this machine.

    Parameters
    ----------
    suite, name : str
    error : callable
        () -> float, a relative error.
    limit : float
        What it may be.
    """

    suite: str
    name: str
    error: Callable[[], float]
    limit: float = LIMIT


class Outcome(NamedTuple):
    """What a check found: its error, or what it raised."""

    check: Check
    error: float
    seconds: float
    raised: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the error is within its limit."""
        return self.error <= self.check.limit


def run(check: Check) -> Outcome:
    """Run one check; what it raises is a failure like any other."""
    started, raised = time.perf_counter(), None
    try:
        error = check.error()
    except Exception as problem:  # noqa: BLE001 - a self-test reports whatever is wrong
        error, raised = float("inf"), f"{type(problem).__name__}: {problem}"
    return Outcome(check, error, time.perf_counter() - started, raised)


def made(setting: Setting, dim: int) -> Attention:
    """Return the mechanism of a setting for vectors of a dimension."""
    if setting.mechanism is not None:
        return setting.mechanism
    row, options = resolve(setting.name, setting.of(dim))
    return row.mechanism(options)


def truth(setting: Setting, q: Any, k: Any, v: Any, **mask: Any) -> reference.Truth:
    """Return the float64 truth of a setting for the values as they are given."""
    dim = np.shape(k[0])[-1]
    if setting.mechanism is not None:
        options = {"position": None, **setting.mechanism.config}
        mask["is_causal"] = mask.get("is_causal", False) or setting.mechanism.causal
    else:
        _, options = resolve(setting.name, setting.of(dim))
    options.pop("mask", None)  # of the pattern "mask", which no setting has
    if setting.name == "moe":
        options["router"] = initial_router(dim, len(options["experts"]), options["router_seed"])
        named = [(name, {}) if isinstance(name, str) else name for name in options["experts"]]
        options["experts"] = [(name, _known(name, resolve(name, own)[1], dim)) for name, own in named]
    options = _known(setting.name, options, dim)
    return reference.truth(setting.name, q, k, v, **mask, **options)


def _known(name: str, options: Mapping[str, Any], dim: int) -> dict[str, Any]:
    """Return options with the directions that are drawn from a seed: what is made of them the formula says."""
    if name != "linear" or options["feature_map"] != "favor":
        return dict(options)
    return {
        **options,
        "directions": orthogonal_directions(dim, options["num_features"] or 256, options["feature_seed"] or 0),
    }


def whole(mechanism: Attention, q: Any, k: Any, v: Any, **mask: Any) -> tuple[Array, Array]:
    """Return outputs and weights, of a mechanism that never makes the weights of a call too."""
    if isinstance(mechanism, FlashAttention):
        return mechanism.forward(q, k, v, **mask).output, mechanism.weights(q, k, **mask)
    output, weights, _ = mechanism.forward(q, k, v, need_weights=True, **mask)
    assert weights is not None
    return output, weights


def error_of_class(setting: Setting, q: Any, k: Any, v: Any, want: reference.Truth, **mask: Any) -> float:
    """Return the worst error of what the mechanism gives: logits, weights, output and log-normalisers."""
    mechanism = made(setting, np.shape(q)[-1])
    output, weights = whole(mechanism, q, k, v, **mask)
    if setting.name != "multi_head":  # each of whose heads has its own
        context = mechanism.forward(q, k, v, need_context=True, **mask).context
        assert context is not None
        total = np.logaddexp.reduce(want.logits, axis=-1)
        normaliser = logit_error(np.atleast_1d(context.logsumexp), np.atleast_1d(total))
    else:
        normaliser = 0.0
    return max(
        normaliser,
        logit_error(mechanism.logits(q, k, **mask), want.logits),
        weight_error(mechanism.weights(q, k, **mask), want.weights),
        weight_error(weights, want.weights),
        output_error(output, want.output),
    )


def error_of_functions(setting: Setting, q: Any, k: Any, v: Any, want: reference.Truth, mask: Any = None) -> float:
    """Return the worst error of what the functional API gives, where the registry makes the mechanism."""
    if setting.mechanism is not None:
        return 0.0
    options = setting.of(np.shape(q)[-1])
    return max(
        logit_error(functional.attention_logits(q, k, setting.name, mask=mask, **options), want.logits),
        weight_error(functional.attention_scores(q, k, setting.name, mask=mask, **options), want.weights),
        output_error(functional.attention(q, k, v, setting.name, mask=mask, **options), want.output),
    )


def checks(suite: str = "all") -> list[Check]:
    """List the checks of a suite.

    Raises
    ------
    InvalidConfigError
        Unknown suite; the known ones are listed.
    """
    as_choice(suite, "suite", ("all", *SUITES))
    return [check for check in _all() if suite in ("all", check.suite)]


def _all() -> Iterator[Check]:
    yield Check("standard", "softmax", _softmax)
    for setting in SETTINGS:
        for kind in MASKS:
            yield Check(setting.suite, f"{setting}, mask {kind}", partial(_grid, setting, kind))
        yield Check(setting.suite, f"{setting}, float64", partial(_float64, setting), LIMIT64)
        yield Check(setting.suite, f"{setting}, weights sum to 1", partial(_sums, setting))
        yield Check(setting.suite, f"{setting}, later keys unseen", partial(_causal, setting), 0.0)

    yield Check("geometric", "SphericalSpace, GeometricAttention", partial(_space, SphericalSpace(2.0)))
    yield Check("geometric", "EuclideanSpace, GeometricAttention", partial(_space, EuclideanSpace()))
    for late in LATE:
        yield Check(late.suite, f"{late}, tokens", partial(_late, late, np.float32))
        yield Check(late.suite, f"{late}, tokens, float64", partial(_late, late, np.float64), LIMIT64)
    for layer in (MultiHeadAttention(21, 3, seed=1), CrossAttention(14, 2, kdim=5, vdim=3, bias=False, seed=2)):
        for kind in ("none", "bool", "float"):
            yield Check("multihead", f"{layer}, mask {kind}", partial(_layer, layer, kind))


def _space(space: SphericalSpace | EuclideanSpace) -> float:
    """Return the worst error of attention over a space, within a radius."""
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((18, 5))
    if isinstance(space, SphericalSpace):
        rows *= space.radius / np.linalg.norm(rows, axis=1, keepdims=True)
        distance = space.radius * np.arccos(np.clip(rows[:7] @ rows[7:].T / space.radius**2, -1.0, 1.0))
    else:
        distance = np.linalg.norm(rows[:7, None] - rows[7:], axis=-1)
    reach = float(np.median(distance))
    own = GeometricAttention(space, temperature=0.5, radius=reach)
    want = reference.spread(-distance / 0.5, rows[7:], np.where(distance <= reach, 0.0, -np.inf))
    output, weights = whole(own, rows[:7], rows[7:], rows[7:])
    return max(weight_error(weights, want.weights), output_error(output, want.output))


def _late(setting: Setting, dtype: Any) -> float:
    """Return the worst error of late interaction, masks and forms of keys in turn."""
    worst = 0.0
    for tokens, lengths in ((1, [1] * 7), (3, [2, 1, 5, 3]), (5, [7] * 11)):
        query, keys, value = draw_tokens(tokens, lengths, dtype)
        for kind in ("none", "bool", "float"):
            mask = masked(kind, Shape((), None, len(lengths), 13, 3))
            want = truth(setting, query, keys, value, **mask)
            worst = max(worst, error_of_functions(setting, query, keys, value, want, **mask))
    return worst


def draw_tokens(tokens: int, lengths: Sequence[int], dtype: Any = np.float32) -> tuple[Array, list[Array], Array]:
    """Return the tokens of a query, those of keys of given lengths, and a value for each key."""
    rng = np.random.default_rng([tokens, *lengths])
    keys = [rng.standard_normal((length, 13)).astype(dtype) for length in lengths]
    return rng.standard_normal((tokens, 13)).astype(dtype), keys, rng.standard_normal((len(keys), 3)).astype(dtype)


def _layer(layer: MultiHeadAttention, kind: str) -> float:
    """Return the worst error of a layer with projections, biases other than zero."""
    rng = np.random.default_rng(4)
    held = {name: array + rng.standard_normal(array.shape) * 0.2 for name, array in layer.parameters().items()}
    layer = type(layer)(**layer.config)
    layer.set_parameters(held)
    shapes = (2, 5, layer.d_model), (2, 7, layer.kdim), (2, 7, layer.vdim)
    q, k, v = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    mask = masked(kind, Shape((2,), 5, 7, 1, 1))
    options: dict[str, Any] = {"num_heads": layer.num_heads, "scale": layer.scale, "parameters": layer.parameters()}
    want = reference.truth("multi_head", q, k, v, **mask, **options)
    output, weights, _ = layer.forward(q, k, v, need_weights=True, **mask)
    assert weights is not None
    return max(weight_error(weights, want.weights), output_error(output, want.output))


def _softmax() -> float:
    logits = np.concatenate([np.linspace(-30.0, 5.0, 97), [-np.inf]])
    return weight_error(functional.softmax(logits), reference.softmax(logits))


def _grid(setting: Setting, kind: str) -> float:
    """Return the worst error over all shapes, by mechanism and by function."""
    worst = 0.0
    for shape in SHAPES:
        q, k, v = draw(setting, shape)
        mask = masked(kind, shape)
        want = truth(setting, q, k, v, **mask)
        worst = max(worst, error_of_class(setting, q, k, v, want, **mask))
        if kind != "causal":
            worst = max(worst, error_of_functions(setting, q, k, v, want, **mask))
    return worst


def _float64(setting: Setting) -> float:
    q, k, v = draw(setting, SHAPES[2], np.float64)
    return error_of_class(setting, q, k, v, truth(setting, q, k, v))


def _sums(setting: Setting) -> float:
    """Return by how much weights miss a sum of 1, or of 0 where nothing may be attended."""
    worst = 0.0
    for shape in SHAPES:
        q, k, v = draw(setting, shape)
        mask = masked("bool", shape)
        total = made(setting, q.shape[-1]).weights(q, k, **mask).sum(axis=-1)
        attended = np.isfinite(truth(setting, q, k, v, **mask).logits).any(axis=-1)
        worst = max(worst, float(np.abs(total - attended).max()))
    return worst


def _causal(setting: Setting) -> float:
    """Return by how much outputs change with keys and values that come later: not a bit."""
    q, k, v = draw(setting, SHAPES[2])
    mechanism = made(setting, q.shape[-1])
    half = q.shape[-2] // 2
    want = mechanism.forward(q, k, v, is_causal=True).output[:half]
    half += first_place(setting)
    k[half:], v[half:] = k[half:, ::-1] * np.float32(0.5), v[half:, ::-1] * np.float32(0.5)  # points stay in the ball
    got = mechanism.forward(q, k, v, is_causal=True).output[: len(want)]
    return 0.0 if got.tobytes() == want.tobytes() else float("inf")


def first_place(setting: Setting) -> int:
    """Return at which key the first query of a causal call stands."""
    return int(setting.options.get("position") or 0) if setting.name == "sparse" else 0


def untested(settings: Sequence[Setting] = (*SETTINGS, *LATE)) -> list[str]:
    """List the types of the registry that no setting has."""
    return [name for name in REGISTRY if name not in {setting.name for setting in settings}]
