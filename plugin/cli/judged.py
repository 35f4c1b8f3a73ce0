"""What `evaluate` and `tune-rerank` share: judged queries and a bridge, of an evaluation folder or a saved index."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from attnbridge.cli.inputs import FILE, FOLDER, opened, read_array, read_queries
from attnbridge.errors import InvalidInputError

if TYPE_CHECKING:
    from attnbridge.integrations import AttentionVectorBridge, Collection

# What only a saved index takes, whose folder holds no queries; and what only an evaluation folder takes.
_FOR_INDEX = ("queries", "query_ids", "query_tokens", "query_token_offsets")
_FOR_FOLDER = ("index", "metric")

_OPTIONS = (
    click.argument("folder", type=FOLDER),
    click.option("--qrels", metavar="FILE", type=FILE, help="Judgements: TREC qrels, or tab-separated with a header."),
    click.option("--split", metavar="NAME", help="Which judgements, where there are several. [default: test]"),
    click.option("--queries", metavar="FILE", type=FILE, help="Saved index: query vectors, .npy."),
    click.option(
        "--query-ids", metavar="FILE", type=FILE, help="Saved index: .jsonl with ids and texts, .json list, or lines."
    ),
    click.option("--query-tokens", metavar="FILE", type=FILE, help="Saved index: .npy, (b, m, dt) or (T, dt)."),
    click.option(
        "--query-token-offsets", metavar="FILE", type=FILE, help="Saved index: .npy (b + 1,), for tokens (T, dt)."
    ),
    click.option(
        "--index",
        type=click.Choice(["auto", "hnsw", "exact"]),
        help="Evaluation folder: how documents are searched. [default: auto, hnsw where hnswlib runs]",
    ),
    click.option("--metric", type=click.Choice(["cosine", "ip", "l2"]), help="Evaluation folder. [default: cosine]"),
    click.option("-k", type=click.IntRange(min=1), default=100, show_default=True, help="Hits of a query."),
    click.option(
        "--candidates", type=click.IntRange(min=1), help="Rows that are ranked; by default as the index is set."
    ),
    click.option(
        "--ignore-unknown", is_flag=True, help="Leave out judgements of queries and documents that are not there."
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all random draws."),
    click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the searches."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    click.option("-q", "--quiet", is_flag=True, help="Show no progress bar."),
)


def judged_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that name judged queries.

    Parameters
    ----------
    command : callable

    Returns
    -------
    callable
    """
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class Needs(NamedTuple):
    """What stages read besides vectors, each with the name of one that does.

    Parameters
    ----------
    tokens, text : str or None
        A stage's name; "" where it is not sure.
    """

    tokens: str | None = None
    text: str | None = None


def needs_of(systems: Iterable[Any]) -> Needs:
    """Return what systems' stages read.

    Parameters
    ----------
    systems : iterable
        Checked stages, or "default", which reads tokens where there are some.

    Returns
    -------
    Needs

    Examples
    --------
    >>> import attnbridge as ab
    >>> from attnbridge.cli.judged import needs_of
    >>> needs_of([[ab.QueryExpansion()], [ab.LateInteraction()]]).tokens
    'late_interaction'
    """
    from attnbridge.rerank.sequence import takes_tokens

    rerank = list(systems)
    stages = [stage for one in rerank if one != "default" for stage in one]
    some = "" if "default" in rerank or any(map(takes_tokens, stages)) else None  # where there are any
    tokens = next((stage.name for stage in stages if stage.requires_tokens), some)
    text = next((stage.name for stage in stages if getattr(stage, "requires_text", False)), None)
    return Needs(tokens, text)


@contextmanager
def judged(
    folder: Path,
    needs: Needs,
    *,
    qrels: Path | None,
    split: str | None,
    quiet: bool,
    **options: Any,
) -> "Iterator[tuple[AttentionVectorBridge, dict[str, Any], dict[str, Any]]]":
    """Open what a command measures.

    Parameters
    ----------
    folder : Path
    needs : Needs
        What the stages read besides vectors.
    qrels, split, quiet, **options
        As the shell gave them.

    Yields
    ------
    tuple of (AttentionVectorBridge, dict, dict)
        The bridge; queries and judgements as `evaluate` takes them; and the options that are left.
    """
    from attnbridge.integrations.snapshot import is_index

    saved = is_index(folder)
    taken = {name: options.pop(name) for name in (*_FOR_INDEX, *_FOR_FOLDER)}
    for name in _FOR_FOLDER if saved else _FOR_INDEX:
        if taken[name] is not None:
            kind = "an evaluation folder, this is a saved index" if saved else "a saved index, which this folder is not"
            raise click.UsageError(f"--{name.replace('_', '-')} is for {kind}")
    if saved:
        if qrels is None or taken["queries"] is None or taken["query_ids"] is None:
            raise click.UsageError("a saved index needs --qrels, --queries and --query-ids")
        inputs = _of_index(qrels, split, **{name: taken[name] for name in _FOR_INDEX})
        with opened(folder, write=False) as bridge:
            bridge.link(progress=not quiet)
            yield bridge, inputs, options
        return
    from attnbridge.integrations import read_collection

    collection = read_collection(folder, split=split, qrels=qrels)
    _require(collection, needs, folder)
    bridge = collection.bridge(
        taken["index"] or "auto",
        taken["metric"] or "cosine",
        tokens=needs.tokens is not None,
        text=needs.text is not None,
        progress=not quiet,
    )
    inputs = {
        "queries": collection.queries,
        "qrels": collection.qrels,
        "query_ids": collection.query_ids,
        "query_tokens": collection.query_tokens,
        "query_text": collection.query_texts,
    }
    yield bridge, inputs, options


def _require(collection: "Collection", needs: Needs, folder: Path) -> None:
    """Refuse stages that read what the folder does not hold."""
    if needs.tokens and collection.tokens is None:
        raise InvalidInputError(
            f"{needs.tokens} needs token vectors, {folder} has none: doc_tokens.npy (or doc_tokens_i8.npy), "
            "doc_token_offsets.npy, query_tokens.npy and query_token_offsets.npy"
        )
    if needs.text and (collection.texts is None or collection.query_texts is None):
        raise InvalidInputError(
            f"{needs.text} needs texts, {folder} has only ids: corpus.jsonl and queries.jsonl hold both"
        )


def _of_index(
    qrels: Path,
    split: str | None,
    queries: Path,
    query_ids: Path,
    query_tokens: Path | None,
    query_token_offsets: Path | None,
) -> dict[str, Any]:
    """Return queries and judgements out of files of their own."""
    from attnbridge.integrations import read_qrels
    from attnbridge.integrations.collection import read_ids, read_texts, split_tokens
    from attnbridge.integrations.trec import lines_of

    texts: list[str] | None = None
    if query_ids.suffix == ".jsonl":
        ids, texts = read_texts(query_ids)
    elif query_ids.suffix == ".json":
        ids = read_ids(query_ids)
    else:
        ids = [line.strip() for _, line in lines_of(query_ids)]
    tokens: Any = None
    if query_token_offsets is not None and query_tokens is None:
        raise click.UsageError("--query-token-offsets needs --query-tokens")
    if query_tokens is not None:
        tokens = (
            list(read_array(query_tokens))
            if query_token_offsets is None
            else split_tokens(query_tokens, query_token_offsets, len(ids))
        )
    return {
        "queries": read_queries(queries),
        "qrels": read_qrels(qrels, split),
        "query_ids": ids,
        "query_tokens": tokens,
        "query_text": texts,
    }
