"""GraphSAGE: a linear map of the mean, or the maximum, of what leads to each node."""

from typing import Any, ClassVar

import numpy as np

from attnbridge.config import as_dim_of_model
from attnbridge.errors import InvalidConfigError
from attnbridge.graph_layers.base import Layer
from attnbridge.graph_layers.dense import linear, require_columns, within_range
from attnbridge.graph_layers.segments import in_order, segment_max, segment_sum
from attnbridge.graph_operator import GraphInput, GraphOutput, refuse_unused
from attnbridge.validation import Float, as_bool, as_choice

# As torch's normalize has it: shorter vectors are divided by this.
_SHORTEST = 1e-12


class SAGEConv(Layer):
    """x'_i = W_l aggr_j(x_j) + b_l + W_r x_i over the edges from j to i; 0 takes the place of no edges' aggregate.

    An edge's coefficient is its share of the aggregate: of a mean 1 / degree, or its weight over their sum; of a
    maximum the share of columns whose maximum it brings, the first of equal ones. Those of a node sum to 1.

    Parameters
    ----------
    in_channels, out_channels : int
        Dimensions of nodes before and after.
    aggr : {"mean", "max"}, default "mean"
    normalize : bool, default False
        Whether outputs are divided by their Euclidean length (1e-12 at least).
    root_weight : bool, default True
        Whether there is W_r.
    project : bool, default False
        Whether ReLU(W x_j + b) is aggregated in place of x_j.
    bias : bool, default True
        Whether there is b_l.
    seed : int, default 0
        What the initial parameters are drawn from: weights Xavier uniform, biases 0.

    Raises
    ------
    InvalidConfigError

    Notes
    -----
    Names, arguments and parameters (lin_l.weight, lin_l.bias, lin_r.weight, and lin.weight, lin.bias with `project`)
    are those of torch_geometric.nn.SAGEConv. `edge_weight` makes the mean a weighted one; a maximum takes none.

    References
    ----------
    Hamilton et al. 2017, Inductive Representation Learning on Large Graphs, algorithm 1 and equation 3 (max with
    `project`).

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> layer = ab.SAGEConv(1, 1, root_weight=False)
    >>> layer.set_parameters({"lin_l.weight": [[2.0]], "lin_l.bias": [1.0]})
    >>> features, coefficients = layer.graph_forward([[1.0], [3.0], [0.0]], [[0, 1], [2, 2]])
    >>> features.tolist(), coefficients.tolist()
    ([[1.0], [1.0], [5.0]], [0.5, 0.5])
    """

    _SETTINGS: ClassVar[tuple[str, ...]] = (
        "in_channels",
        "out_channels",
        "aggr",
        "normalize",
        "root_weight",
        "project",
        "bias",
        "seed",
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        aggr: str = "mean",
        normalize: bool = False,
        root_weight: bool = True,
        project: bool = False,
        bias: bool = True,
        *,
        seed: int = 0,
    ) -> None:
        self.in_channels = as_dim_of_model(in_channels, "in_channels")
        self.out_channels = as_dim_of_model(out_channels, "out_channels")
        self.aggr = as_choice(aggr, "aggr", ("mean", "max"))
        self.normalize = as_bool(normalize, "normalize")
        self.root_weight = as_bool(root_weight, "root_weight")
        self.project = as_bool(project, "project")
        self.bias = as_bool(bias, "bias")
        super().__init__(seed)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        before, after = self.in_channels, self.out_channels
        shapes: dict[str, tuple[int, ...]] = {}
        if self.project:
            shapes |= {"lin.weight": (before, before), "lin.bias": (before,)}
        shapes["lin_l.weight"] = (after, before)
        if self.bias:
            shapes["lin_l.bias"] = (after,)
        if self.root_weight:
            shapes["lin_r.weight"] = (after, before)
        return shapes

    def _refuse(self, edge_attr: Any, edge_weight: Any, edge_type: Any) -> None:
        refuse_unused("edge_attr", edge_attr, "SAGEConv", "GATConv and GATv2Conv take features of edges")
        refuse_unused("edge_type", edge_type, "SAGEConv", "HeteroConv has a layer for each type")
        if edge_weight is not None and self.aggr == "max":
            raise InvalidConfigError("edge_weight must be left out with aggr='max': a maximum weighs no edges")

    def _over(self, graph: GraphInput) -> GraphOutput:
        held = self._held
        require_columns(graph.X, self.in_channels, "in_channels")
        rows = graph.X
        if self.project:
            rows = within_range(np.maximum(linear(rows, held, "lin"), 0.0))
        near, shares = segment_max(graph.edges, rows) if self.aggr == "max" else _mean(graph, rows)
        out = linear(near, held, "lin_l")
        if self.root_weight:
            with np.errstate(over="ignore", invalid="ignore"):  # seen in the result
                out += linear(graph.X, held, "lin_r")
        within_range(out)
        if self.normalize:
            out = _unit(out)
        return GraphOutput(out, in_order(graph.edges, shares.astype(out.dtype)))


def _unit(rows: Float) -> Float:
    """Return rows divided by their length, or by the shortest."""
    top = np.maximum(np.abs(rows).max(axis=1, keepdims=True), _SHORTEST, dtype=np.float64)
    scaled = rows / top  # squares of what is large would leave float64
    length = np.sqrt(np.square(scaled).sum(axis=1, keepdims=True))
    unit: Float = (scaled / np.maximum(length, _SHORTEST / top)).astype(rows.dtype)
    return unit


def _mean(graph: GraphInput, rows: Float) -> tuple[Float, Float]:
    """Return the mean of the rows that lead to each node, and each entry's share of it."""
    edges = graph.edges
    degrees = np.diff(edges.indptr)
    if graph.edge_weight is None:
        shares = np.repeat(1.0 / np.maximum(degrees, 1), degrees)
    else:
        shares = graph.edge_weight[edges.numbers]
        target = np.repeat(np.arange(len(degrees)), degrees)
        largest = np.zeros(len(degrees))
        np.maximum.at(largest, target, shares)  # sums of what is large or small would leave float64
        shares = shares / largest[target]
        shares /= np.bincount(target, shares, len(degrees))[target]
    return segment_sum(edges, shares, rows), shares
