"""A layer for each type of edge, and what becomes of a node's features from all of them."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge.errors import (
    AttentionError,
    DimensionMismatchError,
    GraphStructureError,
    InvalidConfigError,
    InvalidInputError,
)
from attnbridge.graph_edges import InEdges, Positions
from attnbridge.graph_layers.dense import within_range
from attnbridge.graph_operator import GraphInput, GraphOperator, GraphOutput, refuse_unused
from attnbridge.validation import Float, as_choice


class HeteroConv(GraphOperator):
    """aggr_t layer_t(x, edges of type t): for graphs whose edges have types.

    Each layer runs over all nodes and the edges of its type; one whose type has no edges adds what it makes of nodes
    alone (root weights, biases). An edge's coefficients are those of its type's layer: (m,), or (m, heads) where a
    layer has heads. Layers with (m,) go together with those of one head, then as (m, 1); other numbers of heads do not.

    Parameters
    ----------
    convs : mapping of hashable to GraphOperator
        The layer, or attention mechanism, of each type. Loops are to be edges of a type: layers with add_self_loops
        are refused, and those that take types themselves.
    aggr : {"sum", "mean", "max"}, default "sum"
        How the layers' features are put together.

    Raises
    ------
    InvalidConfigError

    Notes
    -----
    Every call needs `edge_type`. `edge_attr` go to the layers with an edge_dim, `edge_weight` to all.

    References
    ----------
    torch_geometric.nn.HeteroConv; Schlichtkrull et al. 2018, Modeling Relational Data with Graph Convolutional
    Networks, equation 2 (a map for each relation, summed).

    Examples
    --------
    >>> import attnbridge as ab
    >>> layer = ab.HeteroConv({"cites": ab.ScaledDotProductAttention(), "by": ab.GraphAttention()})
    >>> features, coefficients = layer.graph_forward(
    ...     [[1.0], [2.0], [4.0]], [[1, 2, 2], [0, 0, 1]], edge_type=["cites", "by", "by"]
    ... )
    >>> features.tolist(), coefficients.tolist()
    ([[6.0], [4.0], [0.0]], [1.0, 1.0, 1.0])
    """

    needs_edge_type: ClassVar[bool] = True

    def __init__(self, convs: Mapping[Hashable, GraphOperator], aggr: str = "sum") -> None:
        if not isinstance(convs, Mapping) or not convs:
            raise InvalidConfigError(f"convs must be a mapping of at least one type to its layer, got {convs!r}")
        for kind, layer in convs.items():
            _require_layer(kind, layer)
        self.convs = dict(convs)
        self.aggr = as_choice(aggr, "aggr", ("sum", "mean", "max"))
        self._prefixes = {f"convs.{kind}.": kind for kind in self.convs}
        if len(self._prefixes) < len(self.convs):
            raise InvalidConfigError(f"convs must have types that read differently, got {_listed(self.convs)}")

    @property
    def config(self) -> dict[str, Any]:
        """What the layer was made with."""
        return {"convs": self.convs, "aggr": self.aggr}

    @property
    def edge_dim(self) -> int | None:
        """The edge_dim of the first layer that has one, None where edges need no features.

        Returns
        -------
        int or None
        """
        dims: list[int] = [layer.edge_dim for layer in self.convs.values() if _takes_attr(layer)]  # type: ignore[attr-defined]
        return dims[0] if dims else None

    def parameters(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of all layers' parameters, "convs.TYPE." before their names.

        Returns
        -------
        dict of str to ndarray
        """
        return {
            prefix + name: array
            for prefix, kind in self._prefixes.items()
            for name, array in _parameters(self.convs[kind]).items()
        }

    def set_parameters(self, parameters: Mapping[str, npt.ArrayLike]) -> None:
        """Put other parameters in place, those of each layer as a whole.

        Parameters
        ----------
        parameters : dict of str to array_like
            All that `parameters` returns, or all of some of the layers.

        Raises
        ------
        InvalidConfigError, DimensionMismatchError, InvalidInputError
            Other names or shapes, or a value that is not finite; nothing has changed then.
        """
        parts: dict[str, dict[str, Any]] = {}
        for name, value in parameters.items():
            fitting = [one for one in self._prefixes if str(name).startswith(one)]
            if not fitting:
                raise InvalidConfigError(f"parameters must begin with {', '.join(self._prefixes)}; got {name!r}")
            prefix = max(fitting, key=len)  # of types "a" and "a.b"
            parts.setdefault(prefix, {})[name[len(prefix) :]] = value
        before: list[tuple[Any, dict[str, Any]]] = []
        try:
            for prefix, part in parts.items():
                layer = self.convs[self._prefixes[prefix]]
                before.append((layer, _parameters(layer)))
                _set_parameters(layer, part, prefix)
        except AttentionError:
            for layer, held in before:
                if held:
                    _set_parameters(layer, held, "")
            raise

    def __repr__(self) -> str:
        return f"HeteroConv({self.convs!r}, aggr={self.aggr!r})"

    def _refuse(self, edge_attr: Any, edge_weight: Any, edge_type: Any) -> None:
        if edge_type is None:
            raise InvalidInputError(f"edge_type must be given, of each edge one of {_listed(self.convs)}")
        takers = [layer for layer in self.convs.values() if _takes_attr(layer)]
        if not takers:
            refuse_unused("edge_attr", edge_attr, "HeteroConv", "none of its layers has an edge_dim")
        for layer in self.convs.values():
            layer._refuse(edge_attr if _takes_attr(layer) else None, edge_weight, None)

    def _over(self, graph: GraphInput) -> GraphOutput:
        assert graph.edge_type is not None
        types = self._numbered(graph.edge_type)
        made = []
        for number, layer in enumerate(self.convs.values()):
            own = np.flatnonzero(types == number)
            made.append((own, layer._over(_of_type(graph, types == number, own, _takes_attr(layer)))))
        features = self._together([output for _, output in made])
        shape = max((output.coefficients.shape[1:] for _, output in made), key=len)
        out = np.empty((len(types), *shape), features.dtype)
        for own, output in made:
            out[own] = output.coefficients.reshape(len(own), *shape)
        return GraphOutput(features, out)

    def _numbered(self, kinds: Sequence[Any]) -> Positions:
        """Return which layer is each edge's."""
        numbers = {kind: number for number, kind in enumerate(self.convs)}
        out = np.empty(len(kinds), np.int64)
        for edge, kind in enumerate(kinds):
            found = numbers.get(kind) if isinstance(kind, Hashable) else None
            if found is None:
                raise GraphStructureError(f"edge_type must be one of {_listed(numbers)}, of edge {edge} it is {kind!r}")
            out[edge] = found
        return out

    def _together(self, outputs: list[GraphOutput]) -> Float:
        """Return the layers' features as one."""
        for what, shapes in (
            ("features of one dimension", [output.features.shape[1:] for output in outputs]),
            ("coefficients of as many heads", [output.coefficients.shape[1:] for output in outputs]),
        ):
            if len({shape or (1,) for shape in shapes}) > 1:  # (m,) is one head's
                got = ", ".join(f"{kind!r}: {shape}" for kind, shape in zip(self.convs, shapes, strict=True))
                raise DimensionMismatchError(f"convs must give {what}, beside edges and nodes got {got}")
        features = outputs[0].features.copy()
        with np.errstate(over="ignore", invalid="ignore"):
            for output in outputs[1:]:
                if self.aggr == "max":
                    np.maximum(features, output.features, out=features)
                else:
                    features += output.features
        if self.aggr == "mean":
            features /= len(outputs)
        return within_range(features)


def _require_layer(kind: Any, layer: Any) -> None:
    """Refuse what is no layer, and layers that change the edges or take types."""
    if not isinstance(layer, GraphOperator) or isinstance(layer, HeteroConv):
        raise InvalidConfigError(f"convs[{kind!r}] must be a layer or an attention mechanism, got {layer!r}")
    if getattr(layer, "add_self_loops", False):
        raise InvalidConfigError(
            f"convs[{kind!r}] must have add_self_loops=False: give loops as edges of a type of their own"
        )


def _takes_attr(layer: Any) -> bool:
    return getattr(layer, "edge_dim", None) is not None


def _parameters(layer: Any) -> dict[str, npt.NDArray[Any]]:
    return dict(layer.parameters())


def _set_parameters(layer: Any, parameters: Mapping[str, Any], prefix: str) -> None:
    if not hasattr(layer, "set_parameters"):
        raise InvalidConfigError(f"parameters must have none of {prefix}*: {layer!r} has no parameters")
    layer.set_parameters(parameters)


def _listed(kinds: Mapping[Any, Any]) -> str:
    return ", ".join(map(repr, kinds))


def _of_type(graph: GraphInput, chosen: npt.NDArray[np.bool_], own: Positions, with_attr: bool) -> GraphInput:
    """Return the graph of some edges only, `own` in the order as given, numbered anew."""
    edges = graph.edges
    kept = np.flatnonzero(chosen[edges.numbers])
    new = np.cumsum(chosen) - 1
    few = InEdges(np.searchsorted(kept, edges.indptr), edges.sources[kept], new[edges.numbers[kept]])
    attr = None if graph.edge_attr is None or not with_attr else graph.edge_attr[own]
    return GraphInput(graph.X, few, attr, None if graph.edge_weight is None else graph.edge_weight[own], None)
