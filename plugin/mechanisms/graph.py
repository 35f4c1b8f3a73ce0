"""Graph attention (GAT): a small network scores each edge from both its ends."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.config import AGGREGATIONS, GraphAttentionConfig, as_config, as_dim_of_model, as_dropout
from attnbridge.errors import DimensionMismatchError, InvalidConfigError, NumericalInstabilityError
from attnbridge.graph_operator import GraphInput, GraphOutput, refuse_unused
from attnbridge.masks import SparseMask
from attnbridge.mechanisms.base import Attended, Attention, AttentionOutput, Batch
from attnbridge.mechanisms.graph_logits import (
    COSINE_TEMPERATURE,
    EDGE_NAMES,
    NAMES,
    SLOPE,
    VERSIONS,
    Cosine,
    Network,
    Wide,
    fitting,
    parameters_option,
)
from attnbridge.mechanisms.graph_network import attend_network
from attnbridge.mechanisms.listed import ListedRow, PairLogits
from attnbridge.mechanisms.neighbors import attend_nodes
from attnbridge.mechanisms.pairs import Pairs
from attnbridge.mechanisms.row import AttentionType, Ids, Logits, Option, Options, gathered, optional, positive
from attnbridge.metric import Keys
from attnbridge.validation import Float, as_bool, as_choice, as_count, as_floats, as_number, require_finite


def _made(options: Options, dim: int) -> Cosine | Network:
    parameters = options["parameters"]
    if parameters is None:
        temperature = options["temperature"]
        return Cosine(COSINE_TEMPERATURE if temperature is None else temperature)
    network: Network = parameters.network(options)
    require_dim(network.arrays["W"].shape[1], dim)
    return network


def require_dim(in_dim: int, dim: int) -> None:
    """Refuse vectors of another dimension than the parameters'."""
    if in_dim != dim:
        raise DimensionMismatchError(f"Query and key dimension must be in_dim {in_dim}, got {dim}")


def _logits(query: npt.NDArray[Any], bias: float, keys: Keys, ids: Ids | None, options: Options, out: Logits) -> None:
    scorer: Any = _made(options, len(query))  # each takes what it makes of queries and keys
    rows = gathered(keys, ids)
    if len(rows):
        scorer.logits(scorer.queries(query[None])[0], scorer.keys(rows), None, out)


def _mechanism(options: Options) -> "GraphAttention":
    parameters = options["parameters"]
    settings = {name: options[name] for name in ("version", "temperature", "negative_slope")}
    if parameters is None:
        return GraphAttention(**settings)
    out_dim, in_dim = parameters.network(options).arrays["W"].shape
    made = GraphAttention(in_dim, out_dim, **settings)
    made.set_parameters(parameters.arrays)
    return made


def _require_fit(options: Options, dim: int) -> None:
    made = _mechanism(options)
    if made.in_dim is not None:
        require_dim(made.in_dim, dim)


def _refuse_of_network(**given: Any) -> None:
    """Refuse what only logits with parameters have a use for."""
    for name, value in given.items():
        if value is not None:
            raise InvalidConfigError(
                f"{name} must go with in_dim or parameters, without which logits are cosines; got {value!r}"
            )


def _require_use(options: Options) -> None:
    if options["parameters"] is None:
        _refuse_of_network(version=options["version"], negative_slope=options["negative_slope"])


def _slope(value: Any, name: str) -> float:
    return as_number(value, name, least=0.0, most=1.0)


GAT = AttentionType(
    name="gat",
    complexity="O(E)",
    best_for="graphs",
    pairwise=True,
    options={
        # Of the form with parameters: v2 where it is None.
        "version": Option(None, optional(lambda value, name: as_choice(value, name, VERSIONS))),
        # Logits are divided by it; None is 0.1 without parameters, 1 with them.
        "temperature": Option(None, optional(positive)),
        # Of LeakyReLU, with parameters: 0.2 where it is None.
        "negative_slope": Option(None, optional(_slope)),
        # W, U (out_dim, in_dim), a (out_dim,); of v1 W, a_q, a_k. None: the cosine.
        "parameters": Option(None, optional(parameters_option)),
    },
    logits=_logits,
    mechanism=_mechanism,
    aliases=("gatv2", "graph"),
    require_fit=_require_fit,
    require_use=_require_use,
)


class GraphAttention(Attention):
    """Attention of nodes over their neighbours; a mask is the adjacency, row i the neighbours of node i.

    =============================  ==============================================================
    without in_dim                 cos(q, k) / temperature
    in_dim, version "v2"           a . LeakyReLU(W q + U k + V e) / temperature
    in_dim, version "v1"           LeakyReLU(a_q . W q + a_k . W k + a_e . V e) / temperature
    =============================  ==============================================================

    Values are weighted as they are given: where the paper weighs W k, W k is the value to give. Under v1 all queries
    order the keys alike. Over a graph (`graph_forward`) the values are the nodes themselves without in_dim, and with it
    the papers': U x, under v1 W x, so that features are (n, out_dim); `edge_attr` are the edges' features.

    Parameters
    ----------
    in_dim : int, optional
        Dimension of queries and keys. Without it there are no parameters.
    out_dim : int, optional
        Hidden dimension; by default in_dim.
    version : {"v2", "v1"}, optional
        By default "v2", with in_dim only.
    edge_dim : int, optional
        Dimension of the edges' features, which calls must then give; with in_dim only.
    temperature : float, optional
        By default 0.1 for the cosine, 1 with parameters.
    negative_slope : float, optional
        Of LeakyReLU, 0 to 1; by default 0.2, with in_dim only.
    aggregation : {"sum", "mean", "max"}, default "sum"
        What becomes of the weighted values w_j v_j: their sum, the sum over how many are attended, or the largest of
        each component.
    normalize : bool, default True
        Whether weights are the softmax of the logits, or the logits themselves, 0 where masked.
    seed : int, default 0
        What initial parameters are drawn from (Xavier uniform).
    dropout : float, default 0.0
        Rate at which weights are dropped in training.
    causal : bool, default False
        Every call is causal.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Brody et al. 2022, How Attentive are Graph Attention Networks?, equation 7; Velickovic et al. 2018, Graph Attention
    Networks, equation 3.

    Examples
    --------
    A path of three nodes, each its own neighbour too.

    >>> import numpy as np, attnbridge as ab
    >>> nodes = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], np.float32)
    >>> adjacency = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], bool)
    >>> ab.GraphAttention(temperature=0.5).weights(nodes, nodes, adjacency).round(2)
    array([[0.64, 0.36, 0.  ],
           [0.26, 0.47, 0.26],
           [0.  , 0.36, 0.64]], dtype=float32)
    """

    name: ClassVar[str] = "gat"
    row: ClassVar[AttentionType] = GAT

    def __init__(
        self,
        in_dim: int | None = None,
        out_dim: int | None = None,
        *,
        version: str | None = None,
        edge_dim: int | None = None,
        temperature: float | None = None,
        negative_slope: float | None = None,
        aggregation: str = "sum",
        normalize: bool = True,
        seed: int = 0,
        dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        if in_dim is None:
            _refuse_of_network(out_dim=out_dim, version=version, edge_dim=edge_dim, negative_slope=negative_slope)
        self.in_dim = optional(as_dim_of_model)(in_dim, "in_dim")
        self.out_dim = self.in_dim if out_dim is None else as_dim_of_model(out_dim, "out_dim")
        self.version = None if in_dim is None else as_choice("v2" if version is None else version, "version", VERSIONS)
        self.edge_dim = optional(as_dim_of_model)(edge_dim, "edge_dim")
        default = COSINE_TEMPERATURE if in_dim is None else 1.0
        self.temperature = default if temperature is None else positive(temperature, "temperature")
        slope = SLOPE if negative_slope is None else _slope(negative_slope, "negative_slope")
        self.negative_slope = None if in_dim is None else slope
        self.aggregation = as_choice(aggregation, "aggregation", AGGREGATIONS)
        self.normalize = as_bool(normalize, "normalize")
        self.seed = as_count(seed, "seed", least=0)
        self.dropout = as_dropout(dropout)
        self.causal = as_bool(causal, "causal")
        self._arrays: dict[str, npt.NDArray[np.float32]] = {}
        self._scorer: Cosine | Network = Cosine(self.temperature)
        self._edges: Any = None
        if in_dim is not None:
            self.set_parameters(self._initial())

    @classmethod
    def from_config(
        cls,
        config: GraphAttentionConfig,
        in_dim: int,
        out_dim: int | None = None,
        *,
        version: str = "v2",
        seed: int = 0,
        dropout: float = 0.0,
        causal: bool = False,
    ) -> Self:
        """Return a mechanism with a configuration's settings.

        Parameters
        ----------
        config : GraphAttentionConfig
        in_dim : int
        out_dim : int, optional
        version : {"v2", "v1"}, default "v2"
        seed : int, default 0
        dropout : float, default 0.0
        causal : bool, default False

        Returns
        -------
        GraphAttention

        Raises
        ------
        InvalidConfigError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.GraphAttention.from_config(ab.GraphAttentionConfig(aggregation="max"), 8, 5).aggregation
        'max'
        """
        as_config(config, GraphAttentionConfig, cls.__name__)
        return cls(
            as_dim_of_model(in_dim, "in_dim"),
            out_dim,
            version=version,
            edge_dim=config.edge_dim,
            negative_slope=config.negative_slope,
            aggregation=config.aggregation,
            normalize=config.normalize,
            seed=seed,
            dropout=dropout,
            causal=causal,
        )

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism, parameters aside."""
        names = ("version", "edge_dim", "temperature", "negative_slope", "aggregation", "normalize", "seed", "dropout")
        out_dim = None if self.in_dim is None else self.out_dim
        return {
            "in_dim": self.in_dim,
            "out_dim": out_dim,
            **{name: getattr(self, name) for name in names},
            "causal": self.causal,
        }

    def parameters(self) -> dict[str, npt.NDArray[Any]]:
        """Return a copy of W, U (out_dim, in_dim), a (out_dim,), V (out_dim, edge_dim); of v1 W, a_q, a_k, V, a_e.

        Returns
        -------
        dict of str to ndarray of float32
        """
        return {name: array.copy() for name, array in self._arrays.items()}

    def set_parameters(self, parameters: Mapping[str, npt.ArrayLike]) -> None:
        """Take other parameters, of the same names and shapes.

        Parameters
        ----------
        parameters : mapping of str to array_like

        Raises
        ------
        InvalidConfigError, DimensionMismatchError, InvalidInputError
        """
        if self.version is None or self.in_dim is None or self.negative_slope is None:
            raise InvalidConfigError("set_parameters needs a mechanism with in_dim; this one has no parameters")
        arrays = {}
        for name, value in parameters.items():
            array = as_floats(value, f"parameters[{name!r}]")
            require_finite(array, f"parameters[{name!r}]")
            arrays[name] = array.copy()
        arrays = fitting(arrays, self.version, "parameters", edges=self.edge_dim is not None)
        shape = (self.out_dim, self.in_dim)
        if arrays["W"].shape != shape:
            raise DimensionMismatchError(f"parameters['W'] must be {shape}, got shape {arrays['W'].shape}")
        if self.edge_dim is not None and arrays["V"].shape[1] != self.edge_dim:
            want = (self.out_dim, self.edge_dim)
            raise DimensionMismatchError(f"parameters['V'] must be {want}, got shape {arrays['V'].shape}")
        self._arrays = arrays
        self._scorer = Network(self.version, arrays, self.negative_slope, self.temperature)

    def _as_type(self) -> tuple[AttentionType, dict[str, Any]]:
        if self.edge_dim is not None or not self.normalize:
            got = f"edge_dim={self.edge_dim}, normalize={self.normalize}"
            raise InvalidConfigError(
                f"edge_dim must be None and normalize True where vectors are ranked without a graph, got {got}"
            )
        given = {name: getattr(self, name) for name in ("version", "temperature", "negative_slope")}
        parameters = parameters_option(self._arrays, "parameters") if self._arrays else None
        return GAT, {**given, "parameters": parameters}

    def _initial(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return Xavier uniform parameters (Glorot and Bengio 2010, equation 16)."""
        assert self.version is not None
        names = NAMES[self.version] + (EDGE_NAMES[self.version] if self.edge_dim is not None else ())
        rng = np.random.default_rng(self.seed)
        shapes: dict[str, tuple[Any, ...]] = {
            "W": (self.out_dim, self.in_dim),
            "U": (self.out_dim, self.in_dim),
            "V": (self.out_dim, self.edge_dim),
        }
        arrays = {}
        for name in names:
            shape = shapes.get(name, (self.out_dim,))
            bound = (6.0 / (shape[0] + (shape[1] if len(shape) > 1 else 1))) ** 0.5
            arrays[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
        return arrays

    def forward(
        self,
        query: npt.ArrayLike,
        key: npt.ArrayLike,
        value: npt.ArrayLike,
        mask: Any = None,
        is_causal: bool = False,
        need_weights: bool = False,
        need_context: bool = False,
        *,
        training: bool = False,
        seed: int | None = None,
        edge_features: npt.ArrayLike | None = None,
    ) -> AttentionOutput:
        """Return each query's aggregate of the values under its weights.

        Parameters
        ----------
        query : array_like, (d,) or (..., L, d)
        key : array_like, (..., S, d)
        value : array_like, (..., S, dv)
        mask : array_like or SparseMask, broadcastable to (..., L, S), optional
            The adjacency. Boolean: True attends. Float: added to the logits.
        is_causal : bool, default False
        need_weights : bool, default False
        need_context : bool, default False
        training : bool, default False
        seed : int, optional
        edge_features : array_like, broadcastable to (..., L, S, edge_dim), or (nnz, edge_dim)
            With edge_dim, and only then. A matrix under a SparseMask has a row for each of its pairs, in the order of
            its `to_pairs`.

        Returns
        -------
        AttentionOutput

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError
        """
        return super(GraphAttention, self._along(edge_features)).forward(
            query, key, value, mask, is_causal, need_weights, need_context, training=training, seed=seed
        )

    def logits(
        self,
        query: npt.ArrayLike,
        key: npt.ArrayLike,
        mask: Any = None,
        is_causal: bool = False,
        *,
        edge_features: npt.ArrayLike | None = None,
    ) -> Logits:
        """Return the logit of each query with each key; -inf where it may not attend.

        Parameters
        ----------
        query : array_like, (d,) or (..., L, d)
        key : array_like, (..., S, d)
        mask : array_like or SparseMask, broadcastable to (..., L, S), optional
        is_causal : bool, default False
        edge_features : array_like, broadcastable to (..., L, S, edge_dim), or (nnz, edge_dim)
            With edge_dim, and only then. A matrix under a SparseMask has a row for each of its pairs, in the order of
            its `to_pairs`.

        Returns
        -------
        ndarray of float64, (..., L, S), or (..., S) for one query

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidMaskError
        """
        return super(GraphAttention, self._along(edge_features)).logits(query, key, mask, is_causal)

    def weights(
        self,
        query: npt.ArrayLike,
        key: npt.ArrayLike,
        mask: Any = None,
        is_causal: bool = False,
        *,
        edge_features: npt.ArrayLike | None = None,
    ) -> Float:
        """Return how each query spreads over the keys.

        Parameters
        ----------
        query : array_like, (d,) or (..., L, d)
        key : array_like, (..., S, d)
        mask : array_like or SparseMask, broadcastable to (..., L, S), optional
        is_causal : bool, default False
        edge_features : array_like, broadcastable to (..., L, S, edge_dim), or (nnz, edge_dim)
            With edge_dim, and only then. A matrix under a SparseMask has a row for each of its pairs, in the order of
            its `to_pairs`.

        Returns
        -------
        ndarray, (..., L, S), or (..., S) for one query

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidMaskError
        """
        return super(GraphAttention, self._along(edge_features)).weights(query, key, mask, is_causal)

    def _along(self, edge_features: npt.ArrayLike | None) -> Self:
        """Return this mechanism, or one for a single call that sees its edges."""
        if (edge_features is not None) != (self.edge_dim is not None):
            got = "none" if edge_features is None else "some"
            raise InvalidConfigError(f"edge_features must be given with edge_dim, and only then: got {got}")
        if edge_features is None:
            return self
        call = copy.copy(self)
        call._edges = as_floats(edge_features, "edge_features", keep_float64=True)
        return call

    def _logits(self, batch: Batch) -> Logits:
        if self.in_dim is not None:
            require_dim(self.in_dim, batch.query.shape[-1])
        batch.require_finite()
        if self._edges is not None and self._edges.ndim == 2 and isinstance(batch.mask, SparseMask):
            out, fill = np.zeros(batch.shape), self._pair_logits(batch)
            for problem, i in np.ndindex(*batch.shape[:2]):
                ids = batch.mask._row(i).astype(np.int64)
                row = np.empty(len(ids))
                fill(problem, i, ids, row)
                out[problem, i, ids] = row
            return out
        scorer: Any = self._scorer  # once: another thread may set parameters meanwhile
        edges, out = self._edge_blocks(batch), batch.new_logits()
        keys, queries = [scorer.keys(rows) for rows in batch.key], [scorer.queries(rows) for rows in batch.query]
        for problem, (q, k, _) in enumerate(batch.which):
            for i, query in enumerate(queries[q]):
                along = None if edges is None else edges[problem][i]
                scorer.logits(query, keys[k], along, out[problem, i])
        return out

    def _pair_logits(self, batch: Batch) -> PairLogits:
        if self.in_dim is not None:
            require_dim(self.in_dim, batch.query.shape[-1])
        batch.require_finite()
        scorer: Any = self._scorer
        along = self._listed_edges(batch)
        keys, queries = [scorer.keys(rows) for rows in batch.key], [scorer.queries(rows) for rows in batch.query]

        def fill(problem: int, i: int, ids: Ids, out: Logits) -> None:
            q, k, _ = batch.which[problem]
            scorer.logits(queries[q][i], keys[k], along(problem, i, ids), out, ids)

        return fill

    # ---- over graphs

    def _over(self, graph: GraphInput) -> GraphOutput:
        if graph.edge_attr is None:
            return super()._over(graph)
        want = (len(graph.edge_attr), self.edge_dim)
        if graph.edge_attr.shape != want:
            raise DimensionMismatchError(
                f"edge_attr must be {want} as edge_dim says, got shape {graph.edge_attr.shape}"
            )
        call = self._along(graph.edge_attr[graph.edges.numbers])
        return super(GraphAttention, call)._over(graph)

    def _refuse(self, edge_attr: Any, edge_weight: Any, edge_type: Any) -> None:
        if self.edge_dim is not None and edge_attr is None:
            raise InvalidConfigError(f"edge_attr must be given, (edges, {self.edge_dim}) as edge_dim says")
        if not self.normalize:
            refuse_unused("edge_weight", edge_weight, "normalize=False", "there is no softmax that it could go into")
        super()._refuse(None if self.edge_dim is not None else edge_attr, edge_weight, edge_type)

    def _attend_edges(self, batch: Batch, pairs: Pairs) -> tuple[Float, Float]:
        scorer, rows = self._scorer, batch.key[0]
        if isinstance(scorer, Network):
            require_dim(scorer.arrays["W"].shape[1], rows.shape[1])
            if self.aggregation == "sum" and self.normalize:
                made = attend_network(scorer, rows, self._edges, pairs)
                if made is not None:
                    return made
            value = scorer.values(rows)
            if not np.isfinite(value).all():
                raise NumericalInstabilityError(f"features must be within {rows.dtype}; rescale X, or the parameters")
            return super()._attend_edges(replace(batch, value=value[None]), pairs)
        if self.aggregation != "sum" or not self.normalize:
            return super()._attend_edges(batch, pairs)
        units = scorer.directions(rows)[None]  # whose dot products a kernel attends by
        value = rows.astype(units.dtype, copy=False)[None]
        along = replace(batch, query=units, key=units, value=value)
        features, coefficients, _ = attend_nodes(along, pairs, 1.0 / self.temperature)
        return features.astype(rows.dtype, copy=False), coefficients.astype(rows.dtype, copy=False)

    def _listed_edges(self, batch: Batch) -> Callable[[int, int, Ids], Float | None]:
        """Return what finds the edges' features (m, edge_dim) of a query of a problem with keys that its mask lists."""
        mask, listed = batch.mask, self._edges
        assert isinstance(mask, SparseMask)
        if listed is None or listed.ndim != 2:
            edges = self._edge_blocks(batch)
            return lambda problem, i, ids: None if edges is None else edges[problem][i][ids]
        want = (mask.nnz, self.edge_dim)
        if listed.shape != want:
            raise DimensionMismatchError(
                f"edge_features as a matrix must be {want} under a SparseMask, a row for each of its pairs, got shape "
                f"{listed.shape}; those of keys, alike for all queries, go in as edge_features[None]"
            )
        require_finite(listed, "edge_features")
        return lambda problem, i, ids: listed[mask.indptr[i] : mask.indptr[i] + len(ids)]

    def _edge_blocks(self, batch: Batch) -> Any:
        """Return the edges' features (P, L, S, edge_dim) of a batch, None without any."""
        if self._edges is None:
            self._along(None)  # where another mechanism calls, without a forward of this one
            return None
        want = (*batch.lead, *batch.shape[1:], self.edge_dim)
        try:
            fits = self._edges.shape[-1:] == want[-1:] and np.broadcast_shapes(self._edges.shape, want) == want
        except ValueError:
            fits = False
        if not fits:
            raise DimensionMismatchError(f"edge_features must broadcast to {want}, got shape {self._edges.shape}")
        require_finite(self._edges.reshape(-1, want[-1]), "edge_features")
        every = np.broadcast_to(self._edges, want)
        return [every[number] for number in np.ndindex(*batch.lead)]

    def _weights(self, batch: Batch, logits: Logits) -> tuple[Logits, npt.NDArray[np.float64]]:
        if self.normalize:
            return super()._weights(batch, logits)
        masked = logits == -np.inf
        logits[masked] = 0.0
        return logits, np.where(masked.all(axis=-1), -np.inf, 0.0)

    def _attend(
        self,
        batch: Batch,
        need_weights: bool = False,
        need_context: bool = False,
        training: bool = False,
        seed: int | None = None,
    ) -> Attended:
        if isinstance(batch.mask, SparseMask):
            return super()._attend(batch, need_weights, need_context, training, seed)
        with batch.working() as own:
            logits = self._masked_logits(own)
            attended = None if self.aggregation == "sum" else logits > -np.inf
            weights, total = self._weights(own, logits)
            rate, draw = self._draw(training, seed)
            if rate > 0.0:
                for problem in range(len(weights)):
                    kernels.drop(weights[problem], rate, draw, problem, 0, 0)
            if attended is None:
                output = self._outputs(own, weights)
            elif self.aggregation == "mean":
                few = np.maximum(attended.sum(axis=-1), 1)
                output = (self._outputs(own, weights) / few[..., None]).astype(batch.key.dtype, copy=False)
            else:
                output = _largest(own, weights, attended)
            return Attended(output, weights.astype(batch.key.dtype) if need_weights else None, total)

    def _listed_outputs(self, batch: Batch, rows: Iterator[ListedRow]) -> Float:
        if self.aggregation == "sum":
            return super()._listed_outputs(batch, rows)
        assert batch.value is not None
        out = np.zeros((*batch.shape[:2], batch.value.shape[-1]))
        for problem, i, ids, weights in rows:
            value = batch.value[batch.which[problem, 2]]
            if self.aggregation == "mean":
                kernels.weighted_sum(weights / len(weights), value, None, ids, out[problem, i])
            else:
                out[problem, i] = (weights[:, None] * value[ids]).max(axis=0)
        return out.astype(batch.value.dtype, copy=False)


def _largest(batch: Batch, weights: Wide, attended: npt.NDArray[np.bool_]) -> Float:
    """Return the largest of each component of the weighted values, 0 where nothing is attended."""
    assert batch.value is not None
    out = np.zeros((*weights.shape[:2], batch.value.shape[-1]))
    for problem, number in enumerate(batch.which[:, 2]):
        for i, which in enumerate(attended[problem]):
            if which.any():
                out[problem, i] = (weights[problem, i, which, None] * batch.value[number][which]).max(axis=0)
    return out.astype(batch.value.dtype, copy=False)
