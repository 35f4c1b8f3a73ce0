"""The module that puts this library into ann-benchmarks (https://github.com/erikbern/ann-benchmarks).

In a checkout of it make a folder `ann_benchmarks/algorithms/attnbridge` of three files. `module.py`::

    from attnbridge.integrations.ann_benchmarks import AttnBridge

`Dockerfile`::

    FROM ann-benchmarks
    RUN pip3 install attnbridge
    RUN attnbridge warmup

`config.yml`, where the values of a list are tried one after the other and `query_args` are breadths of the search::

    float:
      any:
      - base_args: ['@metric']
        constructor: AttnBridge
        disabled: false
        docker_tag: ann-benchmarks-attnbridge
        module: ann_benchmarks.algorithms.attnbridge
        name: attnbridge
        run_groups:
          M-16:
            arg_groups: [{configuration: [attnbridge-f32, attnbridge-int8, attnbridge-half-int8, attnbridge-hnswlib],
              M: 16, ef_construction: 500}]
            args: {}
            query_args: [[10, 20, 40, 80, 120, 200, 400, 600, 800]]

Then `python run.py --algorithm attnbridge --dataset glove-100-angular` there.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.integrations.bridge import AttentionVectorBridge
from attnbridge.integrations.candidates import Labels
from attnbridge.integrations.configurations import CONFIGURATIONS
from attnbridge.validation import as_choice, as_count

_METRICS = {"angular": "cosine", "euclidean": "l2"}


class AttnBridge:
    """An `AttentionVectorBridge` as ann-benchmarks asks for it: the interface of its `BaseANN`.

    Parameters
    ----------
    metric : {"angular", "euclidean"}
    options : mapping, optional
        `configuration`, a name of `CONFIGURATIONS` (by default the first), and options of `AttentionVectorBridge`,
        which go before the configuration's.

    Attributes
    ----------
    name : str
        What ann-benchmarks files the results under.

    Raises
    ------
    InvalidConfigError
        Unknown metric or configuration; the known ones are listed.

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.integrations.ann_benchmarks import AttnBridge
    >>> rows = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    >>> algorithm = AttnBridge("angular", {"M": 8})
    >>> algorithm.fit(rows)
    >>> algorithm.set_query_arguments(50)
    >>> str(algorithm), algorithm.query(rows[3], 2)[0]
    ("attnbridge-f32 ({'M': 8}, ef=50)", np.int64(3))
    """

    def __init__(self, metric: str, options: Mapping[str, Any] | None = None) -> None:
        self._metric = _METRICS[as_choice(metric, "metric", _METRICS)]
        self._options = dict(options or {})
        given = self._options.pop("configuration", next(iter(CONFIGURATIONS)))
        self._title = as_choice(given, "configuration", CONFIGURATIONS)
        self._configuration = CONFIGURATIONS[self._title]
        self._bridge: AttentionVectorBridge | None = None
        self._ef = 0
        self._found: list[Labels] = []
        self.name = f"{self._title} ({self._options})"

    def fit(self, X: npt.NDArray[Any]) -> None:  # noqa: N803 - ann-benchmarks' name
        """Index the rows.

        Parameters
        ----------
        X : ndarray, (n, d)
        """
        bridge = AttentionVectorBridge(
            X.shape[1], self._metric, **{**self._configuration.constructor(X.shape[1]), **self._options}
        )
        bridge.add(X, progress=False)
        bridge.link(progress=False)
        if self._configuration.freeze:
            bridge.freeze()
        self._bridge = bridge

    def set_query_arguments(self, ef: int) -> None:
        """Set the breadth of the searches to come.

        Parameters
        ----------
        ef : int
            Less than the hits asked for counts as that many.
        """
        self._ef = as_count(ef, "ef")
        self.name = f"{self._title} ({self._options}, ef={ef})"

    def query(self, q: npt.NDArray[Any], n: int) -> Labels:
        """Return the rows nearest to one query.

        Parameters
        ----------
        q : ndarray, (d,)
        n : int

        Returns
        -------
        ndarray of int64, (n,)
        """
        return np.array(self._fitted().search(q, n, **self._search(n)).ids, np.int64)

    def batch_query(self, X: npt.NDArray[Any], n: int) -> None:  # noqa: N803
        """Search many queries with all threads; `get_batch_results` has what they found.

        Parameters
        ----------
        X : ndarray, (b, d)
        n : int
        """
        found = self._fitted().search_batch(X, n, **self._search(n))
        self._found = [np.array(hits.ids, np.int64) for hits in found]

    def get_batch_results(self) -> list[Labels]:
        """Return what the last `batch_query` found.

        Returns
        -------
        list of ndarray of int64, (n,)
        """
        return self._found

    def get_additional(self) -> dict[str, Any]:
        """Return what is stored beside the results: every setting.

        Returns
        -------
        dict
        """
        return {} if self._bridge is None else {name: str(value) for name, value in self._bridge.config.items()}

    def get_memory_usage(self) -> float:
        """Return the process' resident memory in kilobytes.

        Returns
        -------
        float
        """
        return AttentionVectorBridge(1, index="exact").memory()["resident"] / 1024

    def done(self) -> None:
        """Let the index go."""
        self._bridge, self._found = None, []

    def __str__(self) -> str:
        return self.name

    def _search(self, n: int) -> dict[str, Any]:
        return self._configuration.at(max(self._ef, n))

    def _fitted(self) -> AttentionVectorBridge:
        if self._bridge is None:
            raise RuntimeError("query needs an index: call fit first")
        return self._bridge
