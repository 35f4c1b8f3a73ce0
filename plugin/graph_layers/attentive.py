"""What GAT and GATv2 share: settings, self loops and their features, precision, what follows the attention."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import DimensionMismatchError, InvalidConfigError, InvalidInputError, NumericalInstabilityError
from attnbridge.graph_edges import InEdges
from attnbridge.graph_layers.base import Layer
from attnbridge.graph_operator import GraphInput, GraphOutput, refuse_unused
from attnbridge.kernels.dot import FLOAT32_LIMIT
from attnbridge.parameters import Parameters
from attnbridge.threads import for_chunks, usable_threads
from attnbridge.validation import Float, all_finite, as_bool, as_count, as_number, as_vector, kernel_ready

# Elements of messages that a core takes in about a millisecond.
_MILLISECOND = 1 << 20

# What makes one value of those of the edges to a node, and what there is without any.
_REDUCTIONS: dict[str, tuple[np.ufunc, float]] = {
    "add": (np.add, 0.0),
    "max": (np.maximum, 0.0),
    "mean": (np.add, 0.0),
    "min": (np.minimum, 0.0),
    "mul": (np.multiply, 1.0),
}

FillValue = str | float | tuple[float, ...]


class Edges(NamedTuple):
    """The edges of a call as kernels take them.

    Parameters
    ----------
    entries : InEdges
    loops : int
        Number of the loop of node 0 where loops are added, or -1.
    attributes : ndarray, (edges, edge_dim)
        Those of the added loops follow. Of no size where there are none, as is the next.
    log_weight : ndarray of float64, (edges,)
    """

    entries: InEdges
    loops: int
    attributes: Float
    log_weight: npt.NDArray[np.float64]


class AttentiveLayer(Layer):
    """A layer of several heads whose softmax runs over the edges that lead to a node."""

    _SETTINGS: ClassVar[tuple[str, ...]] = (
        "in_channels",
        "out_channels",
        "heads",
        "concat",
        "negative_slope",
        "add_self_loops",
        "edge_dim",
        "fill_value",
        "bias",
        "residual",
        "seed",
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int,
        concat: bool,
        negative_slope: float,
        add_self_loops: bool,
        edge_dim: int | None,
        fill_value: str | float | npt.ArrayLike,
        bias: bool,
        residual: bool,
        seed: int,
    ) -> None:
        self.in_channels = as_count(in_channels, "in_channels", most=2**20)
        self.out_channels = as_count(out_channels, "out_channels", most=2**20)
        self.heads = as_count(heads, "heads", most=2**20)
        self.concat = as_bool(concat, "concat")
        self.negative_slope = as_number(negative_slope, "negative_slope", least=0.0, most=1.0)
        self.add_self_loops = as_bool(add_self_loops, "add_self_loops")
        self.edge_dim = None if edge_dim is None else as_count(edge_dim, "edge_dim", most=2**20)
        self.fill_value = self._as_fill_value(fill_value)
        self.bias = as_bool(bias, "bias")
        self.residual = as_bool(residual, "residual")
        self._made: tuple[Parameters, dict[Any, Any]] | None = None
        super().__init__(seed)

    def _as_fill_value(self, value: Any) -> FillValue:
        if isinstance(value, str):
            if value not in _REDUCTIONS:
                raise InvalidConfigError(
                    f"fill_value must be a number, edge_dim of them, or one of {', '.join(_REDUCTIONS)}; got {value!r}"
                )
            fill: FillValue = value
        elif np.ndim(value) == 0:
            fill = as_number(value, "fill_value", remedy=f"or one of {', '.join(_REDUCTIONS)}")
        else:
            fill = tuple(as_vector(value, "fill_value", dim=self.edge_dim).tolist())
        if fill != "mean" and not (self.add_self_loops and self.edge_dim is not None):
            raise InvalidConfigError(
                f"fill_value must be left out, got {value!r}: it is what added self loops have as features, and takes "
                "edge_dim and add_self_loops=True"
            )
        return fill

    @property
    def _columns(self) -> int:
        return self.heads * self.out_channels

    @property
    def _out(self) -> int:
        return self._columns if self.concat else self.out_channels

    def _last_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what follows the attention."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.residual:
            shapes["res.weight"] = (self._out, self.in_channels)
        if self.bias:
            shapes["bias"] = (self._out,)
        return shapes

    def _refuse(self, edge_attr: Any, edge_weight: Any, edge_type: Any) -> None:
        name = type(self).__name__
        refuse_unused("edge_type", edge_type, name, "HeteroConv has a layer for each type")
        if self.edge_dim is None:
            refuse_unused("edge_attr", edge_attr, f"{name} without edge_dim", "give the layer edge_dim")
        elif edge_attr is None:
            raise InvalidInputError(f"edge_attr must be given to {name} with edge_dim={self.edge_dim}")

    def _over(self, graph: GraphInput) -> GraphOutput:
        dim = graph.X.shape[1]
        if dim != self.in_channels:
            raise DimensionMismatchError(f"X must have in_channels = {self.in_channels} columns, got {dim}")
        if graph.edge_attr is not None and graph.edge_attr.shape[1] != self.edge_dim:
            raise DimensionMismatchError(
                f"edge_attr must have edge_dim = {self.edge_dim} columns, got {graph.edge_attr.shape[1]}"
            )
        held = self._held
        with np.errstate(over="ignore", invalid="ignore"):  # seen in the result
            result = self._in(graph.X.dtype, graph, held)
            if result is None and graph.X.dtype == np.float32:
                result = _narrow(self._in(np.dtype(np.float64), graph, held))
        if result is None:
            raise NumericalInstabilityError(
                f"the output must be within {graph.X.dtype} ({np.finfo(graph.X.dtype).max:.2g}), and logits within "
                "1e300; rescale X"
            )
        return result

    def _in(self, dtype: Any, graph: GraphInput, held: Parameters) -> GraphOutput | None:
        """Return the result by arithmetic of a precision; None where that does not suffice."""
        edges = self._edges(dtype, graph)
        if dtype == np.float32 and np.abs(edges.log_weight).max(initial=0.0) > FLOAT32_LIMIT:
            return None
        rows, matrices = graph.X.astype(dtype, copy=False), self._matrices(dtype, held)
        count = len(edges.entries.numbers) + (len(rows) if self.add_self_loops else 0)
        out, coefficients = np.empty((len(rows), self._columns), dtype), np.empty((count, self.heads), dtype)
        if self._attend(rows, edges, matrices, out, coefficients):
            return None
        if not self.concat:
            out = out.reshape(len(rows), self.heads, self.out_channels).mean(axis=1)
        if self.residual:
            out += rows @ matrices["res.weight"].T
        if self.bias and not self.concat:
            out += matrices["bias"]
        return GraphOutput(out, coefficients) if all_finite(out) else None

    def _matrices(self, dtype: Any, held: Parameters) -> dict[str, Float]:
        """Return the parameters as they are multiplied with, made once for each precision."""
        made = self._made
        if made is None or made[0] is not held:
            self._made = made = (held, {})
        if dtype not in made[1]:
            made[1][dtype] = self._prepared({name: array.astype(np.float64) for name, array in held.items()}, dtype)
            made[1][dtype]["start"] = self._start(held).astype(dtype)
        matrices: dict[str, Float] = made[1][dtype]
        return matrices

    def _start(self, held: Parameters) -> Float:
        """Return what heads side by side start from: the bias, where it is theirs."""
        return held["bias"] if self.bias and self.concat else np.zeros(self._columns)

    @abstractmethod
    def _prepared(self, held: dict[str, npt.NDArray[np.float64]], dtype: Any) -> dict[str, Float]:
        """Return what `_attend` multiplies with, "res.weight" and "bias" as they are."""

    @abstractmethod
    def _attend(self, rows: Float, edges: Edges, matrices: dict[str, Float], out: Float, coefficients: Float) -> int:
        """Write the heads' outputs and coefficients; return how many nodes ask for more precision."""

    def _edges(self, dtype: Any, graph: GraphInput) -> Edges:
        """Return the edges, with what their features and weights are in a precision."""
        nodes, count = len(graph.X), len(graph.edges.numbers)
        attributes, logs = np.empty((0, 0), dtype), np.empty(0)
        if graph.edge_attr is not None:
            attributes = graph.edge_attr.astype(dtype, copy=False)
            if self.add_self_loops:
                attributes = np.concatenate([attributes, _loop_features(self.fill_value, graph.edges, attributes)])
        if graph.edge_weight is not None:
            logs = np.zeros(count + (nodes if self.add_self_loops else 0))  # added loops weigh 1
            np.log(graph.edge_weight, out=logs[:count])
        entries = InEdges(*map(kernel_ready, graph.edges))
        return Edges(entries, count if self.add_self_loops else -1, kernel_ready(attributes), logs)


def _narrow(result: GraphOutput | None) -> GraphOutput | None:
    """Return a result in float32; None where it does not fit."""
    if result is None:
        return None
    features, coefficients = (array.astype(np.float32) for array in result)
    return GraphOutput(features, coefficients) if np.isfinite(features).all() else None


def _loop_features(fill: FillValue, edges: InEdges, attributes: Float) -> Float:
    """Return the features of added loops: given, or made of those of the edges to a node, but for given loops."""
    nodes = len(edges.indptr) - 1
    if not isinstance(fill, str):
        return np.broadcast_to(np.asarray(fill, attributes.dtype), (nodes, attributes.shape[1]))
    targets = np.repeat(np.arange(nodes), np.diff(edges.indptr))
    others = edges.sources != targets
    counts = np.bincount(targets[others], minlength=nodes)
    reduction, nothing = _REDUCTIONS[fill]
    features = np.full((nodes, attributes.shape[1]), nothing)
    some = counts > 0
    starts = (np.cumsum(counts) - counts)[some]
    if len(starts):
        features[some] = reduction.reduceat(attributes[edges.numbers[others]], starts, axis=0, dtype=np.float64)
    if fill == "mean":
        features /= np.maximum(counts, 1)[:, None]
    return features.astype(attributes.dtype)


def over_nodes(work: Callable[[int, int], int], out: Float, messages: int) -> int:
    """Call work(first, stop) over all nodes, on several threads where it pays, and return the sum."""
    nodes, size = len(out), messages * out.shape[1]
    if size < _MILLISECOND:
        return work(0, nodes)
    found: list[int] = []
    chunk = 1 + 2 * nodes * _MILLISECOND // size
    for_chunks(lambda first, stop: found.append(work(first, stop)), nodes, chunk, usable_threads())
    return sum(found)
