"""The settings of this library that the benchmark measures: one table, a row each."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.integrations.bridge import AttentionVectorBridge
from attnbridge.integrations.candidates import Labels
from attnbridge.integrations.contenders import Contender, Setting
from attnbridge.integrations.hnswlib import hnswlib_problem


class Configuration(NamedTuple):
    """One way to set an `AttentionVectorBridge`.

    Parameters
    ----------
    options : mapping
        Of the constructor, beside those that a `Setting` gives; index_dim="half" is half the vectors' dimension.
    at : callable
        The search options for a breadth ef.
    freeze : bool, default False
        Drop the graph builder's own copy of the vectors once all rows are linked.

    Examples
    --------
    >>> from attnbridge.integrations.configurations import CONFIGURATIONS
    >>> CONFIGURATIONS["attnbridge-hnswlib"].at(50)
    {'candidates': 50}
    """

    options: Mapping[str, Any]
    at: Callable[[int], dict[str, Any]]
    freeze: bool = False

    def constructor(self, dim: int) -> dict[str, Any]:
        """Return the constructor's options for vectors of a dimension.

        Parameters
        ----------
        dim : int

        Returns
        -------
        dict
        """
        half = {"index_dim": max(1, dim // 2)} if self.options.get("index_dim") == "half" else {}
        return {**self.options, **half}


# Candidates that are ranked by the full rows where the walk reads others.
_RANKED = 30


def _walked(ef: int) -> dict[str, Any]:
    return {"candidates": ef, "ef": ef}


def _ranked(ef: int) -> dict[str, Any]:
    return {"candidates": min(_RANKED, ef), "ef": ef}


# With ef=1 of its own, a search in hnswlib is as broad as the candidates it asks for.
CONFIGURATIONS: Mapping[str, Configuration] = MappingProxyType(
    {
        "attnbridge-f32": Configuration({}, _walked, freeze=True),
        "attnbridge-int8": Configuration({"dtype": "int8"}, _ranked, freeze=True),
        "attnbridge-half-int8": Configuration({"dtype": "int8", "index_dim": "half"}, _ranked, freeze=True),
        "attnbridge-hnswlib": Configuration({"engine": "hnswlib", "ef": 1}, lambda ef: {"candidates": ef}),
    }
)


class Bridge(Contender):
    """A bridge through its public API: what is timed is `search_batch`, hits and all.

    Parameters
    ----------
    setting : Setting
    configuration : Configuration
    """

    module = "attnbridge"
    package = "attnbridge"

    def __init__(self, setting: Setting, configuration: Configuration) -> None:
        super().__init__(setting)
        self._configuration = configuration

    def problem(self) -> str | None:
        """Return why hnswlib, which builds the graph, does not run."""
        return super().problem() or hnswlib_problem()

    def build(self, rows: npt.NDArray[np.float32], threads: int) -> None:
        """Add the rows, and wait until all are linked."""
        setting = self.setting
        self.index = AttentionVectorBridge(
            setting.dim,
            setting.metric,
            M=setting.M,
            ef_construction=setting.ef_construction,
            threads=threads,
            **self._configuration.constructor(setting.dim),
        )
        self.index.add(rows, progress=False)
        self.index.link(progress=False)
        self._freeze()

    def _freeze(self) -> None:
        if self._configuration.freeze:
            self.index.freeze()

    def search(self, queries: npt.NDArray[np.float32], k: int, ef: int, threads: int) -> Labels:
        """Return the nearest rows."""
        return self._labels(queries, k, ef, threads=threads)

    def search_filtered(self, queries: npt.NDArray[np.float32], k: int, ef: int, mask: npt.NDArray[np.bool_]) -> Labels:
        """Return the nearest rows that pass."""
        return self._labels(queries, k, ef, threads=1, filter=mask)

    def _labels(self, queries: npt.NDArray[np.float32], k: int, ef: int, **options: Any) -> Labels:
        found = self.index.search_batch(queries, k, **self._configuration.at(ef), **options)
        if all(len(hits) == k for hits in found):
            return np.array([hits.ids for hits in found], np.int64)
        return np.array([hits.ids + [-1] * (k - len(hits)) for hits in found], np.int64)

    def told_bytes(self) -> int:
        """Return the sum of what `memory` lists."""
        return sum(count for name, count in self.index.memory().items() if name != "resident")

    def save(self, folder: Path) -> None:
        """Write a snapshot."""
        self.index.save(folder)

    def load(self, folder: Path) -> None:
        """Read it, not mapped: pages that no search has touched yet would not count."""
        self.index = AttentionVectorBridge.open(folder, mmap=False, read_only=True)
        self.index.link(progress=False)
        self._freeze()


OURS: Mapping[str, Callable[[Setting], Contender]] = MappingProxyType(
    {name: partial(Bridge, configuration=configuration) for name, configuration in CONFIGURATIONS.items()}
)
