"""Graph attention networks whose ranking of neighbours depends on the node (Brody et al. 2022)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidConfigError
from attnbridge.graph_layers.attentive import AttentiveLayer, Edges, over_nodes
from attnbridge.parameters import Parameters, named_parameters
from attnbridge.validation import Float, as_bool


class GATv2Conv(AttentiveLayer):
    r"""Graph attention whose ranking of neighbours differs from node to node.

    .. math::
        x'_i = \sum_j \alpha_{ij} (W_l x_j + b_l),\quad
        \alpha_{ij} = \mathrm{softmax}_j(a^T \mathrm{LeakyReLU}(W_l x_j + b_l + W_r x_i + b_r + V e_{ij}))

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
        Biases b_l and b_r, and one at the end.
    share_weights : bool, default False
        One projection for both ends of an edge: W_r = W_l and b_r = b_l.
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
    S. Brody, U. Alon, E. Yahav, "How Attentive are Graph Attention Networks?", ICLR 2022, equation 7.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> layer = ab.GATv2Conv(1, 1, add_self_loops=False, bias=False)
    >>> layer.set_parameters({"att": [[[1.0]]], "lin_l.weight": [[1.0]], "lin_r.weight": [[0.0]]})
    >>> features, coefficients = layer.graph_forward([[0.0], [np.log(3.0)]], [[0, 1], [0, 0]])
    >>> coefficients.round(3).tolist()
    [[0.25], [0.75]]
    """

    _SETTINGS: ClassVar[tuple[str, ...]] = (
        *AttentiveLayer._SETTINGS[:-2],
        "share_weights",
        *AttentiveLayer._SETTINGS[-2:],
    )

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
        share_weights: bool = False,
        residual: bool = False,
        seed: int = 0,
    ) -> None:
        self.share_weights = as_bool(share_weights, "share_weights")
        settings = concat, negative_slope, add_self_loops, edge_dim, fill_value, bias, residual, seed
        super().__init__(in_channels, out_channels, heads, *settings)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"att": (1, self.heads, self.out_channels)}
        for side in ("lin_l", "lin_r"):
            shapes[f"{side}.weight"] = (self._columns, self.in_channels)
            if self.bias:
                shapes[f"{side}.bias"] = (self._columns,)
        if self.edge_dim is not None:
            shapes["lin_edge.weight"] = (self._columns, self.edge_dim)
        return shapes | self._last_shapes()

    def _initial(self) -> Parameters:
        held = super()._initial()
        if self.share_weights:
            held["lin_r.weight"] = held["lin_l.weight"]
        return held

    def set_parameters(self, parameters: Mapping[str, npt.ArrayLike]) -> None:
        """Put other parameters in place, copied; a call that has begun goes on with those before.

        Parameters
        ----------
        parameters : dict of str to array_like
            All that `parameters` returns: of a layer of PyTorch Geometric,
            {name: tensor.numpy() for name, tensor in conv.state_dict().items()}.

        Raises
        ------
        InvalidConfigError, DimensionMismatchError, InvalidInputError
            Other names or shapes, a value that is not finite, or, with share_weights, two projections that differ;
            nothing has changed then.
        """
        held = named_parameters(parameters, self._shapes())
        for name in ("weight", "bias") if self.share_weights else ():
            if f"lin_l.{name}" in held and (held[f"lin_l.{name}"] != held[f"lin_r.{name}"]).any():
                raise InvalidConfigError(
                    f"parameters['lin_r.{name}'] must equal parameters['lin_l.{name}'] with share_weights=True; give "
                    "the layer share_weights=False"
                )
        self._held = held

    def _prepared(self, held: dict[str, npt.NDArray[np.float64]], dtype: Any) -> dict[str, Float]:
        made = {name: array.astype(dtype) for name, array in held.items()}
        made["att"] = made["att"].reshape(-1)
        if self.edge_dim is not None:
            made["lin_edge.weight"] = np.ascontiguousarray(made["lin_edge.weight"].T)
        return made

    def _attend(self, rows: Float, edges: Edges, matrices: dict[str, Float], out: Float, coefficients: Float) -> int:
        left = self._side("lin_l", rows, matrices)
        right = left if self.share_weights else self._side("lin_r", rows, matrices)
        along = edges.attributes, matrices.get("lin_edge.weight", edges.attributes), edges.log_weight
        settings = matrices["att"], self.negative_slope, matrices["start"]
        call = *edges.entries, edges.loops, left, right, *along, *settings

        def work(first: int, stop: int) -> int:
            return int(kernels.gatv2_forward(*call, first, stop, out, coefficients))

        return over_nodes(work, out, len(coefficients))

    def _side(self, name: str, rows: Float, matrices: dict[str, Float]) -> Float:
        """Return the rows as one end of an edge has them."""
        projected = rows @ matrices[f"{name}.weight"].T
        if self.bias:
            projected += matrices[f"{name}.bias"]
        return projected
