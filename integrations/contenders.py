"""What the benchmark asks of an index: a library, or one setting of it."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.integrations.candidates import Labels
from attnbridge.metric import METRICS


class Setting(NamedTuple):
    """What all graphs of one benchmark have in common.

    Parameters
    ----------
    metric : {"cosine", "ip", "l2"}
        Under cosine all rows and queries are unit vectors already.
    dim : int
    M : int
        Links of a row; twice as many in the lowest layer, which all libraries do alike.
    ef_construction : int

    Examples
    --------
    >>> from attnbridge.integrations.contenders import Setting
    >>> Setting("cosine", 384, 16, 200).M
    16
    """

    metric: str
    dim: int
    M: int
    ef_construction: int


class Contender(ABC):
    """One index of the benchmark; nothing is imported before `build` or `load`.

    Parameters
    ----------
    setting : Setting

    Attributes
    ----------
    module, package : str
        What Python imports and what pip installs.
    no_filter : str or None
        Why the library cannot search filtered, where it cannot.
    """

    module: ClassVar[str]
    package: ClassVar[str]
    no_filter: ClassVar[str | None] = None

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.index: Any = None

    @property
    def metrics(self) -> Collection[str]:
        """The metrics that the library has."""
        return METRICS

    def problem(self) -> str | None:
        """Return why the contender cannot run here, None where it can.

        Returns
        -------
        str or None
        """
        if importlib.util.find_spec(self.module) is None:
            return f"not installed: pip install {self.package}"
        if self.setting.metric not in self.metrics:
            return f"has no metric {self.setting.metric!r}"
        return None

    @abstractmethod
    def build(self, rows: npt.NDArray[np.float32], threads: int) -> None:
        """Index rows (n, d) under their numbers.

        Parameters
        ----------
        rows : ndarray of float32, (n, d)
        threads : int
        """

    @abstractmethod
    def search(self, queries: npt.NDArray[np.float32], k: int, ef: int, threads: int) -> Labels:
        """Return each query's nearest rows.

        Parameters
        ----------
        queries : ndarray of float32, (b, d)
        k : int
        ef : int
            Breadth of the search, at least k.
        threads : int

        Returns
        -------
        ndarray of int64, (b, k)
            -1 where fewer were found.

        Raises
        ------
        RuntimeError
            A query falls short of k, and the library refuses the batch for it.
        """

    def search_filtered(self, queries: npt.NDArray[np.float32], k: int, ef: int, mask: npt.NDArray[np.bool_]) -> Labels:
        """Return each query's nearest of the rows that a mask (n,) lets pass; one thread.

        Parameters
        ----------
        queries : ndarray of float32, (b, d)
        k : int
        ef : int
        mask : ndarray of bool, (n,)

        Returns
        -------
        ndarray of int64, (b, k)
        """
        raise NotImplementedError(self.no_filter)

    def told_bytes(self) -> int | None:
        """Return the bytes in memory as the library itself counts them, None where it does not.

        Returns
        -------
        int or None
        """
        return None

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the index into an empty folder.

        Parameters
        ----------
        folder : Path
        """

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote, all of it into memory.

        Parameters
        ----------
        folder : Path
        """
