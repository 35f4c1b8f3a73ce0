"""Logits of graph attention: the cosine, and the networks GATv2 and GATv1 over their parameters."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import DimensionMismatchError, InvalidConfigError
from attnbridge.mechanisms.row import Ids, Logits, Options
from attnbridge.metric import squares
from attnbridge.validation import as_floats, require_finite

VERSIONS = ("v1", "v2")
NAMES = {"v1": ("W", "a_q", "a_k"), "v2": ("W", "U", "a")}
EDGE_NAMES = {"v1": ("V", "a_e"), "v2": ("V",)}
COSINE_TEMPERATURE, SLOPE = 0.1, 0.2

# Squared lengths between these have lost nothing to underflow or overflow.
_SQUARES = (1e-280, 1e280)

Wide = npt.NDArray[np.float64]


def _projected(rows: npt.NDArray[Any], weight: Wide) -> Wide:
    """Return rows @ weight.T in float64, a row alone as among others."""
    out = np.empty((len(rows), len(weight)))
    kernels.project(rows.astype(np.float64), np.ones(len(rows)), weight, out)
    return out


def _directions(rows: npt.NDArray[Any]) -> Wide:
    """Return rows of length 1 in float64; a zero row stays one, and has cosine 0 with all."""
    wide = rows.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True)  # first: squares of the very long or short leave float64
    wide /= np.where(largest > 0.0, largest, 1.0)
    length = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    return np.asarray(wide / np.where(length > 0.0, length, 1.0))


def _inverse_lengths(rows: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Wide]:
    """Return rows, and factors that make their lengths 1; where squares leave float64, the rows' directions and 1."""
    squared = squares(rows)
    if _SQUARES[0] <= squared.min(initial=1.0) and squared.max(initial=1.0) <= _SQUARES[1]:
        return rows, 1.0 / np.sqrt(squared)
    strange = ~((squared >= _SQUARES[0]) & (squared <= _SQUARES[1]))
    rows = rows.copy()
    rows[strange] = _directions(rows[strange])
    squared[strange] = 1.0
    return rows, 1.0 / np.sqrt(squared)


def _scaled(rows: npt.NDArray[Any], factors: Wide) -> Wide:
    return np.asarray(rows * factors[:, None], np.float64)


class Cosine:
    """cos(q, k) / temperature."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def queries(self, rows: npt.NDArray[Any]) -> Wide:
        """Return what `logits` takes of queries: their directions."""
        return _scaled(*_inverse_lengths(rows))

    def keys(self, rows: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Wide]:
        """Return what `logits` takes of keys: them, and a factor for each."""
        return _inverse_lengths(rows)

    def directions(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return unit rows whose products are the cosines, in as many digits as the temperature asks for."""
        precise = rows.dtype == np.float64 or self.temperature < COSINE_TEMPERATURE
        return self.queries(rows).astype(np.float64 if precise else np.float32, copy=False)

    def logits(
        self,
        query: Wide,
        keys: tuple[npt.NDArray[Any], Wide],
        edges: npt.NDArray[Any] | None,
        out: Logits,
        ids: Ids | None = None,
    ) -> None:
        """Fill out (m,) from a query's direction and some keys or all; without parameters edges have no features."""
        rows, factors = keys
        kernels.dot(query, 0.0, rows, factors, None, ids, 1.0 / self.temperature, out)


class Network:
    """GATv2, or GATv1, over their parameters."""

    def __init__(
        self, version: str, arrays: Mapping[str, npt.NDArray[Any]], negative_slope: float, temperature: float
    ) -> None:
        self.version = version
        self.arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
        self.slope, self.temperature = negative_slope, temperature

    def queries(self, rows: npt.NDArray[Any]) -> Wide:
        """Return what `logits` takes of queries (L, d): W q, or the number a_q . W q."""
        projected = _projected(rows, self.arrays["W"])
        return projected if self.version == "v2" else self._score(projected, "a_q")

    def keys(self, rows: npt.NDArray[Any]) -> Wide:
        """Return what `logits` takes of keys (S, d): U k, or the number a_k . W k."""
        if self.version == "v2":
            return _projected(rows, self.arrays["U"])
        return self._score(_projected(rows, self.arrays["W"]), "a_k")

    def values(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the papers' values of nodes (n, d): U x, under v1 W x, (n, out_dim) in the precision of rows."""
        with np.errstate(over="ignore"):
            return _projected(rows, self.arrays["U" if self.version == "v2" else "W"]).astype(rows.dtype, copy=False)

    def _score(self, projected: Wide, name: str) -> Wide:
        return _projected(projected, self.arrays[name][None])

    def logits(
        self, query: Wide, keys: Wide, edges: npt.NDArray[Any] | None, out: Logits, ids: Ids | None = None
    ) -> None:
        """Fill out (m,) from projections of a query and of some keys or all, and raw edge features (m, edge_dim)."""
        along = None if edges is None else _projected(edges, self.arrays["V"])
        if self.version == "v1" and along is not None:
            along = self._score(along, "a_e")
        a = self.arrays["a"] if self.version == "v2" else np.ones(1)  # v1's sum is a scalar when LeakyReLU sees it
        kernels.gatv2(query, keys if ids is None else keys[ids], along, a, self.slope, 1.0 / self.temperature, out)


class GraphParameters(dict[str, Any]):
    """A row's parameters as nested lists, which go into JSON, and what logits are computed by."""

    @cached_property
    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """The parameters as arrays."""
        return {name: np.array(values, np.float32) for name, values in self.items()}

    def network(self, options: Options) -> Network:
        """Return what computes logits under a row's options; made once."""
        version, slope, temperature = _network_settings(options)
        made: dict[Any, Network] = self.__dict__.setdefault("_made", {})
        key = version, slope, temperature
        if key not in made:
            made[key] = Network(version, fitting(self.arrays, version, "parameters"), slope, temperature)
        return made[key]


def _network_settings(options: Options) -> tuple[str, float, float]:
    version, slope, temperature = (options[name] for name in ("version", "negative_slope", "temperature"))
    return (
        "v2" if version is None else version,
        SLOPE if slope is None else slope,
        1.0 if temperature is None else temperature,
    )


def parameters_option(value: Any, name: str) -> GraphParameters:
    """Return the check's result of a row's parameters; which of them there must be, the version says."""
    if isinstance(value, GraphParameters):
        return value
    if not isinstance(value, Mapping):
        raise InvalidConfigError(f"{name} must be a dict of arrays W, U, a (v1: W, a_q, a_k), got {value!r}")
    arrays = {str(key): as_floats(array, f"{name}[{key!r}]") for key, array in value.items()}
    for key, array in arrays.items():
        require_finite(array, f"{name}[{key!r}]")
    return GraphParameters({key: array.tolist() for key, array in arrays.items()})


def fitting(
    arrays: Mapping[str, npt.NDArray[Any]], version: str, name: str, edges: bool = False
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a version, whose names and shapes must fit each other."""
    names = NAMES[version] + (EDGE_NAMES[version] if edges else ())
    if set(arrays) != set(names):
        raise InvalidConfigError(f"{name} of version {version!r} must be {', '.join(names)}; got {', '.join(arrays)}")
    weight = arrays["W"]
    if weight.ndim != 2 or weight.size == 0:
        raise DimensionMismatchError(f"{name}['W'] must be (out_dim, in_dim), got shape {weight.shape}")
    out_dim = len(weight)
    for key in names:
        array = arrays[key]
        want = weight.shape if key in ("W", "U") else (out_dim,)
        fits = array.ndim == 2 and len(array) == out_dim if key == "V" else array.shape == want
        if not fits:
            rule = f"({out_dim}, edge_dim)" if key == "V" else str(want)
            raise DimensionMismatchError(f"{name}[{key!r}] must be {rule} as W is {weight.shape}, got {array.shape}")
    return {key: arrays[key] for key in names}
