"""The graph isomorphism network: a network of the sum of a node and of what leads to it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from attnbridge.errors import InvalidConfigError
from attnbridge.graph_layers.base import Layer
from attnbridge.graph_layers.dense import MLP, require_columns
from attnbridge.graph_layers.segments import segment_sum
from attnbridge.graph_operator import GraphInput, GraphOutput, refuse_unused
from attnbridge.parameters import Parameters
from attnbridge.validation import as_number

_NETWORK = "nn."


class GINConv(Layer):
    """x'_i = nn((1 + eps) x_i + sum_j x_j) over the edges from j to i, each of which has coefficient 1.

    Parameters
    ----------
    nn : MLP or dict
        The network, of whose parameters the layer has copies; a dict as its `config`.
    eps : float, default 0.0
        A parameter, as torch_geometric keeps it.

    Raises
    ------
    InvalidConfigError

    Notes
    -----
    Parameters are eps (1,) and those of the network after "nn.", as torch_geometric.nn.GINConv names them around a
    torch.nn.Sequential(Linear, ReLU, Linear, ...).

    References
    ----------
    Xu et al. 2019, How Powerful are Graph Neural Networks?, equation 4.1.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> network = ab.MLP([1, 1], bias=False)
    >>> network.set_parameters({"0.weight": [[10.0]]})
    >>> ab.GINConv(network, eps=0.5).graph_forward([[1.0], [2.0]], [[0, 0], [1, 1]]).features.tolist()
    [[15.0], [50.0]]
    """

    def __init__(self, nn: MLP | Mapping[str, Any], eps: float = 0.0) -> None:
        if not isinstance(nn, MLP | Mapping):
            raise InvalidConfigError(f"nn must be an MLP, as MLP([16, 32, 8]), or a dict as its config, got {nn!r}")
        given = nn if isinstance(nn, MLP) else MLP(**nn)
        self._network, self._first = MLP(**given.config), given.parameters()
        self.eps = as_number(eps, "eps")
        super().__init__(given.seed)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal layer, parameters aside."""
        return {"nn": self._network.config, "eps": self.eps}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"eps": (1,)} | {_NETWORK + name: shape for name, shape in self._network._shapes().items()}

    def _initial(self) -> Parameters:
        return {"eps": np.array([self.eps], np.float32)} | {
            _NETWORK + name: array for name, array in self._first.items()
        }

    def _refuse(self, edge_attr: Any, edge_weight: Any, edge_type: Any) -> None:
        refuse_unused("edge_attr", edge_attr, "GINConv", "GATConv and GATv2Conv take features of edges")
        refuse_unused("edge_weight", edge_weight, "GINConv", "SAGEConv takes a weighted mean")
        refuse_unused("edge_type", edge_type, "GINConv", "HeteroConv has a layer for each type")

    def _over(self, graph: GraphInput) -> GraphOutput:
        held, rows, count = self._held, graph.X, len(graph.edges.sources)
        require_columns(rows, self._network.sizes[0], "nn.sizes[0]")
        with np.errstate(over="ignore", invalid="ignore"):
            sums = segment_sum(graph.edges, np.ones(count), rows)
            sums += (1.0 + held["eps"].astype(rows.dtype)) * rows
        return GraphOutput(self._network._outputs(sums, held, _NETWORK), np.ones(count, rows.dtype))
