"""`attnbridge demo`: a question to the docstrings of the installed packages, ranked by attention and measured."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbridge.cli.output import print_json, print_table, shown, table
from attnbridge.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from attnbridge.bootstrap import Interval
    from attnbridge.demo_corpus import Document
    from attnbridge.demo_vectors import WordSpace
    from attnbridge.hits import Hits
    from attnbridge.integrations import AttentionVectorBridge
    from attnbridge.rerank import Stage

_QUESTION = "shortest path between two nodes"

# A document's first so many distinct words become its token vectors.
_TOKENS = 120
_MIX = 0.7

# Queries for the recall against exact search, and for comparing the reopened index.
_SAMPLE = 200
_BATCH = 256


@click.command()
@click.argument("question", default=_QUESTION)
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many hits.")
@click.option("--save", "folder", metavar="FOLDER", type=click.Path(path_type=Path), help="Keep the index there.")
@click.option("--evaluate/--no-evaluate", default=True, help="Measure on the See Also sections. [default: yes]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def demo(question: str, k: int, folder: Path | None, evaluate: bool, as_json: bool) -> None:
    """Ask the docstrings of the installed packages a QUESTION.

    Plain order stands beside attention order (late interaction), with the words that drew each hit up. Then both are
    measured on the See Also sections, whose text is not indexed. Nothing is downloaded.
    """
    from attnbridge.validation import require

    started = time.perf_counter()
    require("sklearn", "demo")
    if folder is not None:
        from attnbridge.integrations.snapshot import check_target

        check_target(folder)  # before the work, not after it
    say = (lambda part: None) if as_json else (lambda part: part())
    library = _build()
    report: dict[str, Any] = {"documents": len(library.documents), "packages": _by_package(library.documents)}
    say(lambda: _show_library(library))
    report |= _ask(library, question, k)
    say(lambda: _show_answer(report))
    report["evaluation"] = _evaluate(library) if evaluate else None
    say(lambda: _show_evaluation(report["evaluation"]))
    report["reopened"] = _reopen(library, question, k, folder)
    report["seconds"] = {**library.seconds, "total": time.perf_counter() - started}
    if as_json:
        print_json(report)
    else:
        _show_end(report)


@dataclass
class _Library:
    """The documents, their words' space and their index."""

    documents: "list[Document]"
    space: "WordSpace"
    bridge: "AttentionVectorBridge"
    seconds: dict[str, float] = field(default_factory=dict)

    def words(self, document: "Document") -> list[str]:
        """Return the words whose vectors are the document's tokens."""
        return self.space.words(_indexed(document), _TOKENS)


@contextmanager
def _step(seconds: dict[str, float], name: str, total: int = 1) -> Iterator[Any]:
    """Time a step of the demo and show it on stderr, where that is a terminal."""
    from attnbridge.progress import progress_bar

    started = time.perf_counter()
    with progress_bar(total, name) as advance:
        yield advance
    seconds[name] = time.perf_counter() - started


def _indexed(document: "Document") -> str:
    return f"{document.id}\n{document.text}"


def _build() -> _Library:
    """Gather the documents, place them and their words, and index them."""
    from attnbridge.integrations import AttentionVectorBridge

    seconds: dict[str, float] = {}
    documents, space, vectors = placed_documents(seconds)
    with _step(seconds, "tokens"):
        tokens = [space.tokens(space.words(_indexed(document), _TOKENS)) for document in documents]
    with _step(seconds, "indexing"):
        # One thread: the same graph, and the same figures, each time. Batches are searched with all of them.
        bridge = AttentionVectorBridge(space.dim, metric="cosine", threads=1)
        bridge.add(vectors, [document.id for document in documents], tokens=tokens, progress=False)
    return _Library(documents, space, bridge, seconds)


def placed_documents(
    seconds: dict[str, float],
) -> "tuple[list[Document], WordSpace, npt.NDArray[np.float32]]":
    """Return the docstrings of the installed packages, the space of their words, and their vectors (n, d).

    Parameters
    ----------
    seconds : dict
        Gets the time that each step took.

    Returns
    -------
    tuple of list of Document, WordSpace and ndarray of float32

    Raises
    ------
    MissingDependencyError
        scikit-learn is not installed.
    """
    import numpy as np

    from attnbridge.demo_corpus import gather
    from attnbridge.demo_vectors import WordSpace

    with _step(seconds, "gathering"):
        documents = gather()
    with _step(seconds, "vectors"):
        space = WordSpace([_indexed(document) for document in documents])
        # Where all of a document's words are its own or everyone's, it has no place; rare, but cosine refuses zeros.
        placed = np.flatnonzero(np.linalg.norm(space.fitted, axis=1) > 1e-6)
        return [documents[i] for i in placed], space, space.fitted[placed]


def _by_package(documents: "Sequence[Document]") -> dict[str, int]:
    from collections import Counter

    return dict(Counter(document.id.partition(".")[0] for document in documents).most_common())


@dataclass(frozen=True)
class _Queries:
    """Questions in words as the bridge takes them.

    Parameters
    ----------
    vectors : (b, d) float32
    tokens : list of (m, d) float32
    weights : list of (m,) float32
    """

    vectors: "npt.NDArray[np.float32]"
    tokens: "list[npt.NDArray[np.float32]]"
    weights: "list[npt.NDArray[np.float32]]"

    @classmethod
    def of(cls, space: "WordSpace", texts: Sequence[str]) -> "_Queries":
        """Return the texts' vectors, the tokens of their words and the words' idf."""
        words = [space.words(text) for text in texts]
        return cls(space.vectors(texts), [space.tokens(w) for w in words], [space.weights(w) for w in words])

    def search(
        self, bridge: "AttentionVectorBridge", k: int, stages: "Sequence[Stage]" = (), exact: bool = False
    ) -> "list[Hits]":
        """Search all of them on all cores."""
        from attnbridge.threads import usable_threads

        reads = any(stage.requires_tokens for stage in stages)
        return bridge.search_batch(
            self.vectors,
            k,
            exact=exact,
            rerank=stages,
            query_tokens=self.tokens if reads else None,
            query_token_weights=self.weights if reads else None,
            threads=usable_threads(None),
        )


def _ask(library: _Library, question: str, k: int) -> dict[str, Any]:
    """Answer the question in plain order and in attention order."""
    from attnbridge.rerank import LateInteraction

    if not library.space.words(question):
        raise InvalidInputError(
            f"QUESTION must hold a word of the documents, got {question!r}; try {_QUESTION!r}, or other words"
        )
    queries = _Queries.of(library.space, [question])
    stages = [LateInteraction(mix=_MIX)]
    queries.search(library.bridge, k, stages)  # compiles the kernels where no cache holds them: not to be timed below
    (plain,) = queries.search(library.bridge, k)
    (attention,) = queries.search(library.bridge, k, stages)
    with _step(library.seconds, "recall"):
        recall = _recall(library)
    return {
        "question": question,
        "plain": [{"id": hit.id, "score": hit.score} for hit in plain],
        "attention": _explained(library, question, attention),
        "timings": dict(attention.timings),
        "candidates": attention.candidates,
        "recall_at_10": recall,
    }


def _explained(library: _Library, question: str, hits: "Hits") -> list[dict[str, Any]]:
    """Return the hits with the words that drew them up: the terms of each one's MaxSim, which they sum to."""
    documents: dict[Any, Document] = {document.id: document for document in library.documents}
    words = library.space.words(question)
    queries = library.space.tokens(words)
    weights = library.space.weights(words)
    weights = weights / weights.sum()
    out = []
    for hit, tokens, maxsim in zip(
        hits, library.bridge.get_tokens(hits.ids), hits.parts["late_interaction"], strict=True
    ):
        alike = queries @ tokens.astype("float32").T
        best = alike.argmax(axis=1)
        own = library.words(documents[hit.id])
        drawn = [
            {"query": word, "document": own[best[i]], "contribution": float(weights[i] * alike[i, best[i]])}
            for i, word in enumerate(words)
        ]
        out.append(
            {
                "id": hit.id,
                "score": hit.score,
                "weight": hit.weight,
                "rank_before": hit.rank_before,
                "maxsim": float(maxsim),
                "words": drawn,
                "summary": documents[hit.id].summary,
            }
        )
    return out


def _recall(library: _Library) -> float:
    """Return the share of exact search's first ten that the graph search finds, over a sample of summaries."""
    import numpy as np

    texts = [f"{document.id} {document.summary}" for document in library.documents]
    chosen = np.random.default_rng(0).permutation(len(texts))
    sample = [texts[i] for i in chosen if library.space.words(texts[i])][:_SAMPLE]
    queries = _Queries.of(library.space, sample)
    pairs = zip(queries.search(library.bridge, 10), queries.search(library.bridge, 10, exact=True), strict=True)
    return float(np.mean([len(set(found.ids) & set(true.ids)) / len(true.ids) for found, true in pairs]))


def _evaluate(library: _Library) -> dict[str, Any] | None:
    """Measure nDCG@10 over every document that links to others: its name and summary must find them."""
    import numpy as np

    from attnbridge.bootstrap import mean_intervals
    from attnbridge.rerank import LateInteraction, QueryExpansion, default_stages

    judged = _judged(library)
    if not judged:
        return None
    systems: dict[str, list[Stage]] = {
        "plain": [],
        "expansion": [QueryExpansion()],
        "late_interaction": [LateInteraction(mix=_MIX)],
        "default": list(default_stages(tokens=True)),
    }
    values: dict[str, npt.NDArray[np.float64]] = {}
    with _step(library.seconds, "evaluating", len(systems) * len(judged)) as advance:
        for name, stages in systems.items():
            values[name] = np.array(_ndcgs(library, judged, stages, advance))
    report: dict[str, Any] = {"queries": len(judged), "links": sum(len(relevant) for _, relevant in judged)}
    found = dict(zip(values, mean_intervals(np.stack(list(values.values()), axis=1)), strict=True))
    report["ndcg_at_10"] = {name: _as_dict(interval) for name, interval in found.items()}
    gains = {name: value - values["plain"] for name, value in values.items() if name != "plain"}
    intervals = mean_intervals(np.stack(list(gains.values()), axis=1))
    report["gain"] = {name: _as_dict(interval) for name, interval in zip(gains, intervals, strict=True)}
    return report


def _judged(library: _Library) -> "list[tuple[Document, set[str]]]":
    """Return the documents that link to others that are indexed, and those."""
    known = {document.id for document in library.documents}
    judged = [(document, known.intersection(document.relevant)) for document in library.documents]
    return [
        (document, relevant)
        for document, relevant in judged
        if relevant and library.space.words(f"{document.id} {document.summary}")
    ]


def _ndcgs(
    library: _Library, judged: "list[tuple[Document, set[str]]]", stages: "list[Stage]", advance: Any
) -> list[float]:
    from attnbridge.rerank.judged import ndcg

    out = []
    for start in range(0, len(judged), _BATCH):
        batch = judged[start : start + _BATCH]
        queries = _Queries.of(library.space, [f"{document.id} {document.summary}" for document, _ in batch])
        # One more than is judged: the query's own document is no answer to it, and is left out.
        for (document, relevant), hits in zip(batch, queries.search(library.bridge, 11, stages), strict=True):
            out.append(ndcg([id for id in hits.ids if id != document.id], dict.fromkeys(relevant, 1.0)))
        advance(len(batch))
    return out


def _as_dict(interval: "Interval") -> dict[str, float]:
    return interval._asdict()


def _reopen(library: _Library, question: str, k: int, folder: Path | None) -> dict[str, Any]:
    """Save, reopen, and refuse to end well where the hits are not the same to the bit."""
    with tempfile.TemporaryDirectory(prefix="attnbridge-demo-", ignore_cleanup_errors=True) as temporary:
        where = Path(temporary) if folder is None else folder
        with _step(library.seconds, "saving and reopening"):
            compared = _compare(library, question, k, where)
    return {"folder": None if folder is None else str(folder), "same_hits": True, "queries": compared}


def _compare(library: _Library, question: str, k: int, folder: Path) -> int:
    from attnbridge.integrations import AttentionVectorBridge
    from attnbridge.rerank import LateInteraction

    summaries = [document.summary for document in library.documents]
    texts = [question, *(text for text in summaries if library.space.words(text))][: _SAMPLE + 1]
    queries = _Queries.of(library.space, texts)
    stages = [LateInteraction(mix=_MIX)]
    before = queries.search(library.bridge, k, stages)
    library.bridge.save(folder)
    after = queries.search(AttentionVectorBridge.open(folder), k, stages)
    for text, first, second in zip(texts, before, after, strict=True):
        if first != second:
            raise click.ClickException(
                f"the reopened index ranks {text!r} differently: {first.ids} became {second.ids}; please report this"
            )
    return len(texts)


# ---- what a person sees


def _show_library(library: _Library) -> None:
    counts = ", ".join(f"{name} {count:,}" for name, count in _by_package(library.documents).items())
    click.echo(f"{len(library.documents):,} docstrings: {counts}")
    click.echo(f"{library.bridge}\n")


def _show_answer(report: dict[str, Any]) -> None:
    click.echo(f"Question: {shown(report['question'])}\n")
    made = table("rank", "plain order", "attention order", "plain rank", left=1)
    made.columns[2].justify = "left"
    for rank, (plain, hit) in enumerate(zip(report["plain"], report["attention"], strict=True), 1):
        made.add_row(str(rank), plain["id"], hit["id"], str(hit["rank_before"] + 1))
    print_table(made)
    click.echo("\nWhat drew each hit up: word asked (~ word found), and its share of MaxSim, most first\n")
    made = table("attention order", "MaxSim", "words", left=0)
    made.columns[2].justify = "left"
    for hit in report["attention"]:
        drawn = sorted(hit["words"], key=lambda word: -word["contribution"])
        made.add_row(hit["id"], f"{hit['maxsim']:.3f}", ", ".join(map(_drawn, drawn)))
    print_table(made)
    steps = ", ".join(f"{name} {1e3 * seconds:.2f}" for name, seconds in report["timings"].items())
    click.echo(f"\nMilliseconds, over {report['candidates']} candidates: {steps}")
    click.echo(f"recall@10 against exact search, {_SAMPLE} summaries as queries: {report['recall_at_10']:.3f}\n")


def _drawn(word: dict[str, Any]) -> str:
    found = "" if word["document"] == word["query"] else f" ~ {word['document']}"
    return f"{word['query']}{found} {word['contribution']:.3f}"


def _show_evaluation(evaluation: dict[str, Any] | None) -> None:
    if evaluation is None:
        return
    click.echo(
        f"Measured on {evaluation['queries']:,} docstrings with a See Also section: name and summary must find the\n"
        f"{evaluation['links']:,} functions linked there. That section is not part of the indexed text, and a\n"
        "docstring is no hit for its own query. 95 % intervals by bootstrap over the queries, gains paired.\n"
    )
    names = {
        "plain": "plain",
        "expansion": "query expansion",
        "late_interaction": "late interaction",
        "default": 'rerank="default"',
    }
    made = table("ranking", "nDCG@10", "95 %", "gain", "95 %", left=0)
    for key, name in names.items():
        mean, gain = evaluation["ndcg_at_10"][key], evaluation["gain"].get(key)
        made.add_row(
            name,
            f"{mean['mean']:.3f}",
            f"{mean['low']:.3f} to {mean['high']:.3f}",
            "" if gain is None else f"{gain['mean']:+.3f}",
            "" if gain is None else f"{gain['low']:+.3f} to {gain['high']:+.3f}",
        )
    print_table(made)
    click.echo()


def _show_end(report: dict[str, Any]) -> None:
    reopened = report["reopened"]
    click.echo(f"Saved, reopened, and asked again: the same hits to the bit for {reopened['queries']} queries.")
    if reopened["folder"] is not None:
        click.echo(
            f"The index is in {reopened['folder']}; try: "
            f"attnbridge search {reopened['folder']} --like {report['attention'][0]['id']}"
        )
    click.echo("Seconds: " + ", ".join(f"{name} {taken:.1f}" for name, taken in report["seconds"].items()))
