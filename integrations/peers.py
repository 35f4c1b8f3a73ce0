"""The other libraries that the benchmark puts beside this one, each as its own documentation has it used."""

import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.integrations.candidates import Labels
from attnbridge.integrations.contenders import Contender, Setting
from attnbridge.integrations.hnswlib import hnswlib_problem, load_hnswlib
from attnbridge.validation import require

# How many times k candidates a search over quantised rows hands on to be ranked by the float32 ones.
REFINED = 3

_Queries = npt.NDArray[np.float32]


class Hnswlib(Contender):
    """hnswlib: float32 rows, and a Python callback as filter."""

    module = package = "hnswlib"

    def problem(self) -> str | None:
        """Return why hnswlib cannot run here; one that was built for another CPU is installed, but does not."""
        return super().problem() or hnswlib_problem()

    def _new(self) -> Any:
        # Cosine over unit vectors is their inner product.
        return load_hnswlib().Index("l2" if self.setting.metric == "l2" else "ip", self.setting.dim)

    def build(self, rows: npt.NDArray[np.float32], threads: int) -> None:
        """Index the rows."""
        self.index = self._new()
        self.index.init_index(len(rows), M=self.setting.M, ef_construction=self.setting.ef_construction)
        self.index.add_items(rows, num_threads=threads)

    def search(self, queries: _Queries, k: int, ef: int, threads: int) -> Labels:
        """Return the nearest rows."""
        self.index.set_ef(ef)
        labels, _ = self.index.knn_query(queries, k=k, num_threads=threads)
        return _signed(labels)

    def search_filtered(self, queries: _Queries, k: int, ef: int, mask: npt.NDArray[np.bool_]) -> Labels:
        """Return the nearest rows that pass, queries one by one: one that falls short of k fails its whole batch."""
        self.index.set_ef(ef)
        passes = mask.tolist().__getitem__
        out = np.full((len(queries), k), -1, np.int64)
        for i, query in enumerate(queries):
            try:
                out[i] = self.index.knn_query(query, k=k, num_threads=1, filter=passes)[0][0]
            except RuntimeError:  # fewer than k found; it returns none of them
                continue
        return out

    def told_bytes(self) -> int:
        """Return the size of the graph with its vectors."""
        return int(self.index.index_file_size())

    def save(self, folder: Path) -> None:
        """Write one file."""
        self.index.save_index(str(folder / "index"))

    def load(self, folder: Path) -> None:
        """Read it."""
        self.index = self._new()
        self.index.load_index(str(folder / "index"))


class Faiss(Contender):
    """faiss' IndexHNSWFlat: float32 rows, and a bitmap as filter."""

    module, package = "faiss", "faiss-cpu"

    @staticmethod
    def _faiss() -> ModuleType:
        with warnings.catch_warnings():  # its SWIG types, on being imported
            warnings.simplefilter("ignore", DeprecationWarning)
            return require("faiss", "bench")

    def _metric(self) -> int:
        faiss = self._faiss()
        return int(faiss.METRIC_L2 if self.setting.metric == "l2" else faiss.METRIC_INNER_PRODUCT)

    def _new(self) -> Any:
        graph = self._faiss().IndexHNSWFlat(self.setting.dim, self.setting.M, self._metric())
        graph.hnsw.efConstruction = self.setting.ef_construction
        return graph

    def _parameters(self, k: int, ef: int, **options: Any) -> Any:
        return self._faiss().SearchParametersHNSW(efSearch=ef, **options)

    def build(self, rows: npt.NDArray[np.float32], threads: int) -> None:
        """Train where it has to, and index the rows."""
        self._faiss().omp_set_num_threads(threads)
        self.index = self._new()
        self.index.train(rows)
        self.index.add(rows)

    def search(self, queries: _Queries, k: int, ef: int, threads: int) -> Labels:
        """Return the nearest rows."""
        return self._search(queries, k, self._parameters(k, ef), threads)

    def search_filtered(self, queries: _Queries, k: int, ef: int, mask: npt.NDArray[np.bool_]) -> Labels:
        """Return the nearest rows that pass."""
        selector = self._faiss().IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        return self._search(queries, k, self._parameters(k, ef, sel=selector), 1)

    def _search(self, queries: _Queries, k: int, parameters: Any, threads: int) -> Labels:
        self._faiss().omp_set_num_threads(threads)  # it has one number for the whole process
        labels: Labels = self.index.search(queries, k, params=parameters)[1]
        return labels

    def save(self, folder: Path) -> None:
        """Write one file."""
        self._faiss().write_index(self.index, str(folder / "index"))

    def load(self, folder: Path) -> None:
        """Read it."""
        self.index = self._faiss().read_index(str(folder / "index"))


class FaissRefined(Faiss):
    """faiss' HNSW over 8-bit scalars whose best candidates its IndexRefineFlat ranks by the float32 rows."""

    def _new(self) -> Any:
        faiss = self._faiss()
        quantizer = faiss.ScalarQuantizer.QT_8bit
        self._graph = faiss.IndexHNSWSQ(self.setting.dim, quantizer, self.setting.M, self._metric())
        self._graph.hnsw.efConstruction = self.setting.ef_construction
        return faiss.IndexRefineFlat(self._graph)

    def _parameters(self, k: int, ef: int, **options: Any) -> Any:
        return self._faiss().IndexRefineSearchParameters(
            k_factor=min(REFINED * k, ef) / k, base_index_params=super()._parameters(k, ef, **options)
        )


class Usearch(Contender):
    """usearch over rows of half, or a quarter, of the bytes; what it finds is not ranked anew.

    Parameters
    ----------
    setting : Setting
    dtype : {"f16", "i8"}
    """

    module = package = "usearch"
    no_filter = "usearch has no filter in Python"

    def __init__(self, setting: Setting, dtype: str) -> None:
        super().__init__(setting)
        self._dtype = dtype

    @property
    def metrics(self) -> Collection[str]:
        """Its 8-bit rows are scaled to unit length: only cosine survives that."""
        return ("cosine",) if self._dtype == "i8" else super().metrics

    def _new(self) -> Any:
        return require("usearch.index", "bench").Index(
            ndim=self.setting.dim,
            metric="l2sq" if self.setting.metric == "l2" else "ip",
            dtype=self._dtype,
            connectivity=self.setting.M,
            expansion_add=self.setting.ef_construction,
        )

    def build(self, rows: npt.NDArray[np.float32], threads: int) -> None:
        """Index the rows."""
        self.index = self._new()
        self.index.add(np.arange(len(rows)), rows, threads=threads)

    def search(self, queries: _Queries, k: int, ef: int, threads: int) -> Labels:
        """Return the nearest rows."""
        self.index.expansion_search = ef
        found = self.index.search(queries, k, threads=threads)
        keys = _signed(found.keys).reshape(len(queries), k)
        counts = np.atleast_1d(np.asarray(found.counts if len(queries) > 1 else len(found)))
        return np.where(np.arange(k) < counts[:, None], keys, -1)

    def told_bytes(self) -> int:
        """Return the memory it has allocated."""
        return int(self.index.memory_usage)

    def save(self, folder: Path) -> None:
        """Write one file."""
        self.index.save(str(folder / "index"))

    def load(self, folder: Path) -> None:
        """Read it."""
        self.index = self._new()
        self.index.load(str(folder / "index"))


class Voyager(Contender):
    """voyager; what it finds by its 8-bit rows is not ranked anew.

    Parameters
    ----------
    setting : Setting
    storage : {"Float32", "E4M3"}
        E4M3 are 8-bit floats, the better one of its two 8-bit kinds on rows that are not spread over all of [-1, 1].
    """

    module = package = "voyager"
    no_filter = "voyager has no filter"

    def __init__(self, setting: Setting, storage: str) -> None:
        super().__init__(setting)
        self._storage = storage

    def build(self, rows: npt.NDArray[np.float32], threads: int) -> None:
        """Index the rows."""
        voyager = require("voyager", "bench")
        self.index = voyager.Index(
            voyager.Space.Euclidean if self.setting.metric == "l2" else voyager.Space.InnerProduct,
            self.setting.dim,
            M=self.setting.M,
            ef_construction=self.setting.ef_construction,
            max_elements=len(rows),
            storage_data_type=getattr(voyager.StorageDataType, self._storage),
        )
        self.index.add_items(rows, num_threads=threads)

    def search(self, queries: _Queries, k: int, ef: int, threads: int) -> Labels:
        """Return the nearest rows."""
        voyager = require("voyager", "bench")
        try:
            return _signed(self.index.query(queries, k, threads, ef)[0])
        except voyager.RecallError as error:
            raise RuntimeError(str(error)) from error

    def save(self, folder: Path) -> None:
        """Write one file."""
        self.index.save(str(folder / "index"))

    def load(self, folder: Path) -> None:
        """Read it."""
        self.index = require("voyager", "bench").Index.load(str(folder / "index"))


def _signed(labels: npt.NDArray[Any]) -> Labels:
    return labels.astype(np.int64, copy=False)


PEERS: Mapping[str, Callable[[Setting], Contender]] = MappingProxyType(
    {
        "hnswlib": Hnswlib,
        "faiss-flat": Faiss,
        "faiss-sq8": FaissRefined,
        "usearch-f16": partial(Usearch, dtype="f16"),
        "usearch-i8": partial(Usearch, dtype="i8"),
        "voyager-f32": partial(Voyager, storage="Float32"),
        "voyager-e4m3": partial(Voyager, storage="E4M3"),
    }
)
