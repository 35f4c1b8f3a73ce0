"""Vectors of documents and of single words, in one space, without a model to download: TF-IDF and truncated SVD."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.validation import require

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORD = re.compile(r"[a-z][a-z0-9]+")


def split_words(text: str) -> list[str]:
    """Return a text's words in lower case, names in snake_case and CamelCase taken apart.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of str

    Examples
    --------
    >>> from attnbridge.demo_vectors import split_words
    >>> split_words("numpy.linalg.matrix_rank or TruncatedSVD")
    ['numpy', 'linalg', 'matrix', 'rank', 'or', 'truncated', 'svd']
    """
    return _WORD.findall(_CAMEL.sub(" ", text).lower())


class WordSpace:
    """Latent semantic analysis of a set of texts: a space with a place for each text and each word.

    Parameters
    ----------
    texts : list of str
    dim : int, default 256
        At most; a few texts span less.
    seed : int, default 0
        Of the randomised SVD.

    Attributes
    ----------
    fitted : ndarray of float32, (n, dim)
        The given texts' places.

    Raises
    ------
    MissingDependencyError
        scikit-learn is not installed.

    References
    ----------
    Deerwester et al. 1990, "Indexing by latent semantic analysis".

    Examples
    --------
    >>> from attnbridge.demo_vectors import WordSpace
    >>> space = WordSpace(["red apple", "red pear", "fast car", "fast train", "apple car", "pear train"], dim=2)
    >>> space.words("A fast, fast red apple!"), space.words("A fast, fast red apple!", most=2)
    (['fast', 'red', 'apple'], ['fast', 'red'])
    >>> space.vectors(["red apple"]).shape, space.tokens(["red", "apple"]).shape
    ((1, 2), (2, 2))
    """

    def __init__(self, texts: Sequence[str], dim: int = 256, seed: int = 0) -> None:
        text_module = require("sklearn.feature_extraction.text", "demo")
        decomposition = require("sklearn.decomposition", "demo")
        # The usual choices, compared with a few others on the demo's own measure but not searched for: damped counts;
        # words that one document has relate it to no other; words that more than half of them have tell none apart.
        self._tfidf: Any = text_module.TfidfVectorizer(
            analyzer=split_words, sublinear_tf=True, min_df=2, max_df=0.5, dtype=np.float32
        )
        counts = self._tfidf.fit_transform(texts)
        self._svd: Any = decomposition.TruncatedSVD(min(dim, min(counts.shape) - 1), random_state=seed)
        self.fitted: npt.NDArray[np.float32] = np.asarray(self._svd.fit_transform(counts), np.float32)
        terms = self._svd.components_.T
        lengths = np.linalg.norm(terms, axis=1, keepdims=True)
        self._terms = (terms / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)

    @property
    def dim(self) -> int:
        """How many numbers a vector has, of a text as of a word."""
        return int(self._terms.shape[1])

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the texts' places; zero where a text has no known word.

        Parameters
        ----------
        texts : list of str

        Returns
        -------
        ndarray of float32, (n, dim)
        """
        return np.asarray(self._svd.transform(self._tfidf.transform(texts)), np.float32)

    def words(self, text: str, most: int | None = None) -> list[str]:
        """Return a text's first distinct known words.

        Parameters
        ----------
        text : str
        most : int, optional
            All of them by default.

        Returns
        -------
        list of str
        """
        known = self._tfidf.vocabulary_
        return [word for word in dict.fromkeys(split_words(text)) if word in known][:most]

    def tokens(self, words: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the places of known words.

        Parameters
        ----------
        words : list of str

        Returns
        -------
        ndarray of float32, (m, dim)
            Of unit length.
        """
        rows: npt.NDArray[np.float32] = self._terms[self._numbers(words)]
        return rows

    def weights(self, words: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the inverse document frequencies of known words.

        Parameters
        ----------
        words : list of str

        Returns
        -------
        ndarray of float32, (m,)
            log((1 + n) / (1 + df)) + 1.
        """
        return np.asarray(self._tfidf.idf_[self._numbers(words)], np.float32)

    def _numbers(self, words: Sequence[str]) -> npt.NDArray[np.int64]:
        return np.array([self._tfidf.vocabulary_[word] for word in words], np.int64)
