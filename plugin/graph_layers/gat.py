"""Graph attention networks (Velickovic et al. 2018)."""

from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.graph_layers.attentive import AttentiveLayer, Edges, over_nodes
from attnbridge.kernels.graph import HEADS
from attnbridge.validation import Float
from attnbridge.workspace import workspace


class GATConv(AttentiveLayer):
    r"""Graph attention: each node takes a weighted mean of the projected features of the nodes with edges to it.

    .. math::
        x'_i = \sum_j \alpha_{ij} W x_j,\quad
        \alpha_{ij} = \mathrm{softmax}_j(\mathrm{LeakyReLU}(a_s^T W x_j + a_d^T W x_i + a_e^T V e_{ij}))

    for each head, over the edges from nodes j to node i. An edge_weight multiplies inside the softmax.

    Parameters
    ----------
    in_channels : int
        Features of a node.
    out_channels : int
        Features of a node after it, for each head.
    heads : int, default 1
    concat : bool, default True
        Heads side by side, (n, heads * out_channels); else their mean, (n, out_channels).
    negative_slope : float, default 0.2
        0 to 1: LeakyReLU(x) = max(x, negative_slope x).
    add_self_loops : bool, default True
        Add a loop to every node, in place of those given, whose coefficients are 0. It has weight 1.
    edge_dim : int, optional
        Features of an edge, which must be given then.
    fill_value : {"mean", "add", "min", "max", "mul"}, float or array_like, (edge_dim,), default "mean"
        Features of added loops: made of those of the edges that lead to the node, or given. A node with no such edge
        has zeros ("mul": ones).
    bias : bool, default True
        Add a bias at the end.
    residual : bool, default False
        Add a projection of the node's own features at the end.
    seed : int, default 0
        What the initial parameters are drawn from: Xavier uniform, biases 0.

    Raises
    ------
    InvalidConfigError, DimensionMismatchError, InvalidInputError

    Notes
    -----
    Names, arguments, parameters and results are those of PyTorch Geometric's layer of that name for one set of nodes,
    without dropout. A float32 call with a logit beyond 16 is done in float64, as is one that leaves float32.

    References
    ----------
    P. Velickovic et al., "Graph Attention Networks", ICLR 2018, equations 3 to 6.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> layer = ab.GATConv(2, 1, add_self_loops=False)
    >>> layer.set_parameters({
    ...     "att_src": [[[np.log(3.0)]]], "att_dst": [[[0.0]]], "lin.weight": [[1.0, 0.0]], "bias": [0.0]
    ... })
    >>> features, coefficients = layer.graph_forward([[0.0, 0.0], [1.0, 0.0]], [[0, 1], [0, 0]])
    >>> features.round(3).tolist(), coefficients.round(3).tolist()
    ([[0.75], [0.0]], [[0.25], [0.75]])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        fill_value: str | float | npt.ArrayLike = "mean",
        bias: bool = True,
        residual: bool = False,
        seed: int = 0,
    ) -> None:
        settings = concat, negative_slope, add_self_loops, edge_dim, fill_value, bias, residual, seed
        super().__init__(in_channels, out_channels, heads, *settings)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        each = (1, self.heads, self.out_channels)
        shapes = {"att_src": each, "att_dst": each, "lin.weight": (self._columns, self.in_channels)}
        if self.edge_dim is not None:
            shapes |= {"att_edge": each, "lin_edge.weight": (self._columns, self.edge_dim)}
        return shapes | self._last_shapes()

    def _prepared(self, held: dict[str, npt.NDArray[np.float64]], dtype: Any) -> dict[str, Float]:
        """Return W with the rows a_s W and a_d W below it: one product gives a node's messages and both scores."""
        weight = held["lin.weight"]
        scores = [self._scores(held[name], weight) for name in ("att_src", "att_dst")]
        made = {"rows": np.concatenate([weight, *scores])}
        if self.edge_dim is not None:
            made["along"] = self._scores(held["att_edge"], held["lin_edge.weight"])
        made |= {name: held[name] for name in self._last_shapes()}
        return {name: array.astype(dtype) for name, array in made.items()}

    def _scores(self, a: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return a . W for each head, and zeros for heads up to a multiple of HEADS."""
        out = np.zeros((-(-self.heads // HEADS) * HEADS, weight.shape[1]))
        out[: self.heads] = np.einsum("hc,hcd->hd", a[0], weight.reshape(self.heads, self.out_channels, -1))
        return out

    def _attend(self, rows: Float, edges: Edges, matrices: dict[str, Float], out: Float, coefficients: Float) -> int:
        weight = matrices["rows"]
        along = edges.attributes if self.edge_dim is None else edges.attributes @ matrices["along"].T
        with workspace((len(rows), len(weight)), rows.dtype) as projected:
            np.matmul(rows, weight.T, out=projected)
            settings = self.negative_slope, matrices["start"]
            call = *edges.entries, edges.loops, projected, along, edges.log_weight, *settings

            def work(first: int, stop: int) -> int:
                return int(kernels.gat_forward(*call, first, stop, out, coefficients))

            return over_nodes(work, out, len(coefficients))
