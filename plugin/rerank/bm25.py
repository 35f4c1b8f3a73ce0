"""BM25 over a payload column: the candidates' words against the query's."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.rerank.pool import Pool, PoolIndex, mixed
from attnbridge.validation import as_choice, as_count, as_number, as_text, require

# Languages that bm25s has stop words of.
LANGUAGES = (
    "danish",
    "dutch",
    "english",
    "french",
    "german",
    "italian",
    "norwegian",
    "portuguese",
    "russian",
    "spanish",
    "swedish",
    "turkish",
)

# Indexes that are kept for one state of the documents: of several columns or settings.
_MOST_INDEXES = 4

_building = threading.Lock()


class WordIndex:
    """bm25s's index over the texts of some rows.

    Parameters
    ----------
    texts : list of str or None
        None is an empty text.
    rows : ndarray of int64, (m,)
        Which row each text is of.
    stage : BM25
        Whose settings count.

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.rerank.bm25 import BM25, WordIndex
    >>> index = WordIndex(["a red fox", "the red door"], np.array([0, 2]), BM25("text"))
    >>> (index.scores("foxes or a fox", 3) > 0).tolist()
    [True, False, False]
    """

    def __init__(self, texts: Sequence[str | None], rows: npt.NDArray[np.int64], stage: "BM25") -> None:
        self._bm25s = require("bm25s", "text")
        # It logs each step at a level that it sets itself, so that an application's root logger prints them all.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self._rows, self._stage = rows, stage
        words = self._tokens(["" if text is None else text for text in texts], return_ids=True)
        self._model = None
        if any(words.ids):
            self._model = self._bm25s.BM25(k1=stage.k1, b=stage.b)
            self._model.index(words, show_progress=False)

    def _tokens(self, texts: list[str], return_ids: bool) -> Any:
        stage = self._stage
        stop = list(stage.stopwords) if isinstance(stage.stopwords, tuple) else stage.stopwords or []
        stem = stage.stemmer
        stemmer = None if stem is None else lambda words: [stem(word) for word in words]
        return self._bm25s.tokenize(texts, stopwords=stop, stemmer=stemmer, return_ids=return_ids, show_progress=False)

    def scores(self, text: str, count: int) -> npt.NDArray[np.float64]:
        """Return the BM25 score of each of `count` rows, 0 for one with none of the text's words.

        Parameters
        ----------
        text : str
        count : int

        Returns
        -------
        ndarray of float64, (count,)
        """
        out = np.zeros(count)
        if self._model is not None:
            known = self._model.get_tokens_ids(self._tokens([text], return_ids=False)[0])
            if known:
                out[self._rows] = self._model.get_scores_from_ids(known)
        return out


@dataclass(frozen=True)
class BM25:
    """Mix BM25 over a text column of the payload into the scores.

    BM25 = sum over the query's words of idf(w) * tf / (tf + k1 (1 - b + b length / mean length)), idf(w) = ln(1 +
    (N - df + 0.5) / (df + 0.5)), as in Lucene and, without its constant factor k1 + 1, Robertson and Zaragoza 2009
    (equation 3.15); the index is bm25s's (Lu 2024), extra `text`. Both the scores so far and BM25 are z-normalised over
    the candidates before they are mixed. Inside `Fusion` it also brings its own best documents in: hybrid search.

    Parameters
    ----------
    column : str
        A text column of the payload; NULL is an empty document.
    k1 : float, default 1.5
        How late a word that comes again and again stops to count; 0 counts it once.
    b : float, default 0.75
        How much long documents are held to account for their length, 0 to 1.
    mix : float, default 1.0
        Share of BM25 in the new score, 0 to 1.
    depth : int, default 100
        How many of its best documents it brings into a fusion.
    stopwords : str, list of str or None, default "english"
        Words left out: a language's short list (danish, dutch, english, french, german, italian, norwegian, portuguese,
        russian, spanish, swedish, turkish), one's own in lower case, or none.
    stemmer : callable, optional
        word -> stem, such as ``snowballstemmer.stemmer("english").stemWord``; by default words stay as they are.

    Raises
    ------
    InvalidConfigError
        `column` no text, `k1` < 0, `b` or `mix` outside 0 to 1, `depth` < 1, an unknown language, or a stemmer that
        cannot be called.

    Notes
    -----
    Words are runs of at least two letters, digits or underscores, in lower case. The index is made in the first search
    after the documents have changed, and serves all searches, in all threads, until they change again.

    References
    ----------
    Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009.
    Lu, BM25S: Orders of magnitude faster lexical search via eager sparse scoring, 2024.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> texts = ["wing flutter", "heat transfer", "flutter of a panel"]
    >>> _ = bridge.add([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2]], ids=["a", "b", "c"], payload={"text": texts})
    >>> bridge.search([1.0, 0.0], query_text="panel flutter", rerank=ab.BM25("text")).ids
    ['c', 'a', 'b']
    """

    column: str
    k1: float = 1.5
    b: float = 0.75
    mix: float = 1.0
    depth: int = 100
    stopwords: str | Sequence[str] | None = "english"
    stemmer: Callable[[str], str] | None = None
    name: ClassVar[str] = "bm25"
    level: ClassVar[str] = "scores"
    requires_tokens: ClassVar[bool] = False
    requires_text: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "column", as_text(self.column, "column"))
        object.__setattr__(self, "k1", as_number(self.k1, "k1", least=0.0))
        object.__setattr__(self, "b", as_number(self.b, "b", least=0.0, most=1.0))
        object.__setattr__(self, "mix", as_number(self.mix, "mix", least=0.0, most=1.0))
        object.__setattr__(self, "depth", as_count(self.depth, "depth"))
        object.__setattr__(self, "stopwords", _as_stopwords(self.stopwords))
        if self.stemmer is not None and not callable(self.stemmer):
            raise InvalidConfigError(f"stemmer must be a function word -> stem, or None, got {self.stemmer!r}")

    @property
    def replaces(self) -> bool:
        """Whether nothing is left of the scores so far."""
        return self.mix == 1.0

    def apply(self, pool: Pool) -> None:
        """Replace the pool's scores.

        Parameters
        ----------
        pool : Pool
        """
        scores = self.scores(pool)[pool.rows]
        pool.scores = mixed(pool.scores, scores, self.mix)
        pool.parts[self.name] = scores

    def scores(self, pool: Pool) -> npt.NDArray[np.float64]:
        """Return every row's BM25 score to the pool's query text; 0 for one with none of its words.

        Parameters
        ----------
        pool : Pool

        Returns
        -------
        ndarray of float64, (n,)

        Raises
        ------
        InvalidInputError
            A pool without query text, or a column that is none of the payload's or not of text.
        MissingDependencyError
            bm25s is not installed.
        """
        if pool.query_text is None:
            raise InvalidInputError("bm25 needs the query's text; pass query_text=...")
        index = self._index(pool.require_index(self.name))
        return index.scores(pool.query_text, len(pool.keys.data))

    def _index(self, source: PoolIndex) -> WordIndex:
        """Return the index of the column as it is now, made where there is none yet."""
        indexes: dict[Any, WordIndex] = source.cache.setdefault(self.name, {})
        key = (self.column, self.k1, self.b, self.stopwords, self.stemmer)
        index = indexes.get(key)
        if index is None:
            with _building:
                index = indexes.get(key)
                if index is None:
                    index = self._built(source)
                    for oldest in list(indexes)[: 1 - _MOST_INDEXES]:
                        del indexes[oldest]
                    indexes[key] = index
        return index

    def _built(self, source: PoolIndex) -> WordIndex:
        rows = source.live_rows()
        texts = source.column(self.column, rows)
        for row, text in zip(rows.tolist(), texts, strict=True):
            if text is not None and not isinstance(text, str):
                (id,) = source.ids_of(np.array([row]))
                raise InvalidInputError(
                    f"bm25 needs a column of text: {self.column!r} of {id!r} is {text!r}; name another column"
                )
        return WordIndex(texts, rows, self)


def _as_stopwords(stopwords: Any) -> str | tuple[str, ...] | None:
    """Return a language, words, or None for no stop words."""
    if stopwords is None:
        return None
    if isinstance(stopwords, str):
        return as_choice(stopwords, "stopwords", LANGUAGES)
    if not isinstance(stopwords, Sequence) or not all(isinstance(word, str) for word in stopwords):
        raise InvalidConfigError(f"stopwords must be a language, a list of words or None, got {stopwords!r}")
    return tuple(stopwords)


def _forget_lock() -> None:
    """In a forked child: the thread that held the lock is not there any more."""
    global _building
    _building = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)
