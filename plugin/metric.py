"""The three metrics of a vector index: how each turns stored rows and a query into similarities.

A similarity is higher for nearer rows and is what attention scales into a logit:

==========  =========================  ====================
metric      similarity                 distance (hnswlib's)
==========  =========================  ====================
cosine      q . x / (abs(q) abs(x))    1 - similarity
ip          q . x                      1 - similarity
l2          -abs(q - x)^2 / 2          -2 similarity
==========  =========================  ====================

All three come from one kernel: (row_scale * q . x + row_bias + query_bias) * scale.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidInputError
from attnbridge.validation import as_choice

METRICS = ("cosine", "ip", "l2")

# Rows shorter than this lose digits in float32 products; under cosine they count as zero vectors.
SMALLEST_NORM = 1e-30


class Keys(NamedTuple):
    """Stored rows as the kernels read them: (scale * row . query + bias), scale and bias None for 1 and 0."""

    data: npt.NDArray[Any]  # (n, d) float32, int8 or uint16 (bits of float16)
    scale: npt.NDArray[np.float64] | None = None  # (n,)
    bias: npt.NDArray[np.float64] | None = None  # (n,)


def squares(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the squared Euclidean norm of each row, accumulated in float64."""
    out = np.empty(len(rows), np.float64)
    kernels.row_squares(rows, out)
    return out


def norms(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the Euclidean norm of each row, accumulated in float64."""
    return np.sqrt(squares(rows))


class Metric:
    """One of cosine, ip, l2.

    Parameters
    ----------
    name : {"cosine", "ip", "l2"}
    """

    def __init__(self, name: str) -> None:
        self.name = as_choice(name, "metric", METRICS)

    def default_scale(self, dim: int) -> float:
        """Return the bridge's logit scale: 20 under cosine, where 1/sqrt(d) would leave all weights alike."""
        return 20.0 if self.name == "cosine" else dim**-0.5

    def row_terms(
        self, rows: npt.NDArray[np.float32], name: str
    ) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.float64] | None]:
        """Return the rows' scale and bias for `Keys`; zero vectors under cosine are refused by row."""
        if self.name == "ip":
            return None, None
        if self.name == "l2":
            return None, -0.5 * squares(rows)
        length = norms(rows)
        self._refuse_zero(length, name)
        return 1.0 / length, None

    def prepare(
        self, queries: npt.NDArray[np.float32], name: str
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """Return queries (b, d) as the kernels want them, and a bias for each."""
        if self.name == "ip":
            return queries, np.zeros(len(queries))
        if self.name == "l2":
            return queries, -0.5 * squares(queries)
        length = norms(queries)
        self._refuse_zero(length, name)
        return (queries / length[:, None]).astype(np.float32), np.zeros(len(queries))

    def distances(self, similarities: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Return hnswlib's distance for each similarity."""
        distances = -2.0 * similarities if self.name == "l2" else 1.0 - similarities
        with np.errstate(over="ignore"):
            return distances.astype(np.float32)

    def _refuse_zero(self, length: npt.NDArray[np.float64], name: str) -> None:
        short = np.flatnonzero(length < SMALLEST_NORM)
        if len(short):
            raise InvalidInputError(
                f"{name} must not hold zero vectors under metric='cosine': row {short[0]} has norm "
                f"{length[short[0]]:g}; drop it, or use metric='ip' or 'l2'"
            )
