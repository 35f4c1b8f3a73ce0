"""Attention by the distance of positions, on any manifold."""

from copy import copy
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from attnbridge.config import as_dropout
from attnbridge.manifolds import Manifold, as_manifold
from attnbridge.mechanisms.base import Attention, AttentionOutput, Batch, require_finite_rows
from attnbridge.mechanisms.listed import PairLogits
from attnbridge.mechanisms.row import Ids, Logits, positive
from attnbridge.validation import as_bool
from attnbridge.workspace import Lend, Workspaces, workspace

_NAMES = ("query_pos", "key_pos", "features")


class GeometricAttention(Attention):
    """softmax(-d(query, key) / temperature + mask) V, d the distance of positions on a manifold.

    What keeps all distances, as a rotation of all positions or a Moebius translation in hyperbolic space does, keeps
    all weights.

    Parameters
    ----------
    space : Manifold or dict
        Where positions lie; a dict as its `config`.
    temperature : float, default 1.0
        In units of the distance.
    radius : float, optional
        Keys farther from the query than this are not attended. A query with none within it has zero weights and zero
        output.
    dropout : float, default 0.0
        Rate at which weights are dropped in training.
    causal : bool, default False
        Every call is causal.

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Gulcehre et al. 2019, Hyperbolic Attention Networks, equation 2; Skopek et al. 2020, Mixed-curvature Variational
    Autoencoders (the distances).

    Examples
    --------
    >>> import attnbridge as ab
    >>> attention = ab.GeometricAttention(ab.SphericalSpace(), radius=2.0)
    >>> east, north, west = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
    >>> attention.weights(east, [east, north, west]).round(3)
    array([0.828, 0.172, 0.   ], dtype=float32)
    """

    name: ClassVar[str] = "geometric"
    radius: float | None = None

    def __init__(
        self,
        space: Manifold | dict[str, Any],
        *,
        temperature: float = 1.0,
        radius: float | None = None,
        dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        self.space = as_manifold(space)
        self.temperature = positive(temperature, "temperature")
        self.radius = None if radius is None else positive(radius, "radius")
        self.dropout = as_dropout(dropout)
        self.causal = as_bool(causal, "causal")

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal mechanism."""
        return {
            "space": self.space.config,
            "temperature": self.temperature,
            "radius": self.radius,
            "dropout": self.dropout,
            "causal": self.causal,
        }

    def forward_geometric(
        self,
        query_pos: npt.ArrayLike,
        key_pos: npt.ArrayLike,
        features: npt.ArrayLike,
        mask: Any = None,
        is_causal: bool = False,
        radius: float | None = None,
        need_weights: bool = False,
        *,
        training: bool = False,
        seed: int | None = None,
    ) -> AttentionOutput:
        """Return each query's mean of the features of keys, weighted by how near their positions are.

        Parameters
        ----------
        query_pos : array_like, (d,) or (..., L, d)
            Positions; leading axes are broadcast.
        key_pos : array_like, (..., S, d)
        features : array_like, (..., S, f)
        mask : array_like or SparseMask, broadcastable to (..., L, S), optional
            Boolean: True attends. Float: added to the logits.
        is_causal : bool, default False
            Query i attends to keys 0..i only.
        radius : float, optional
            For this call; by default the mechanism's own.
        need_weights : bool, default False
            Return the weights too, (..., L, S).
        training : bool, default False
            Apply what acts in training only (dropout).
        seed : int, optional
            What is random in training is drawn from it; by default fresh.

        Returns
        -------
        AttentionOutput
            float32, or float64 where an input is. A query that may attend to nothing, or has nothing within the radius,
            has zero weights and zero output.

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError

        Examples
        --------
        >>> import attnbridge as ab
        >>> attention = ab.GeometricAttention(ab.EuclideanSpace(), temperature=0.5)
        >>> places, features = [[0.0], [1.0], [9.0]], [[1.0], [2.0], [99.0]]
        >>> attention.forward_geometric([0.0], places, features, radius=1.0).output.round(3)
        array([1.119], dtype=float32)
        """
        within = self if radius is None else self._within(positive(radius, "radius"))
        batch = within._check(query_pos, key_pos, features, mask, is_causal, names=_NAMES)
        wanted = as_bool(need_weights, "need_weights")
        output, weights, _ = within._attend(batch, wanted, training=as_bool(training, "training"), seed=seed)
        return AttentionOutput(batch.restore(output), None if weights is None else batch.restore(weights))

    def _within(self, radius: float) -> Self:
        """Return the same mechanism with another radius."""
        other = copy(self)
        other.radius = radius
        return other

    def _distances(self, batch: Batch) -> Logits:
        """Return the distances (P, L, S)."""
        out = batch.new_logits()
        with Workspaces(batch.query.size + batch.key.size) as lend:
            queries, keys = (_positions(self.space, batch, place, lend) for place in (0, 1))
            for distances, (q, k, _) in zip(out, batch.which, strict=True):
                self.space._pairwise(queries[q], keys[k], distances)
        return out

    def _logits(self, batch: Batch) -> Logits:
        return self._of_distances(self._distances(batch))

    def _pair_logits(self, batch: Batch) -> PairLogits | None:
        queries, keys = (_positions(self.space, batch, place) for place in (0, 1))

        def fill(problem: int, i: int, ids: Ids, out: Logits) -> None:
            q, k, _ = batch.which[problem]
            self._of_distances(self.space._pairwise(queries[q, i : i + 1], keys[k][ids], out[None]))

        return fill

    def _of_distances(self, distances: Logits) -> Logits:
        """Return the logits in place of distances, -inf beyond the radius."""
        if self.radius is None:
            return np.divide(distances, -self.temperature, out=distances)
        with workspace(distances.shape, np.bool_) as beyond:
            np.greater(distances, self.radius, out=beyond)
            logits = np.divide(distances, -self.temperature, out=distances)
            np.copyto(logits, -np.inf, where=beyond)
        return logits


def _positions(space: Manifold, batch: Batch, place: int, lend: Lend = np.empty) -> npt.NDArray[np.float64]:
    """Return checked positions of queries or keys, (m, n, d)."""
    rows, name = (batch.query, batch.key)[place], batch.names[place]
    require_finite_rows(rows, name)
    points = lend(rows.shape, np.float64)
    np.copyto(points, rows)
    for number, block in enumerate(points):
        space._check(block, name if len(points) == 1 else f"{name}[{number}]")
    return points
