"""Attention matrices as pictures and pages."""

import base64
import json
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner

import attnbridge as ab
from attnbridge import heat_maps, whole_file
from attnbridge.cli import cli

pytest.importorskip("matplotlib")
L, S, D = 11, 7, 6
TYPES = {
    "scaled_dot": {},
    "multi_head": {"num_heads": 3},
    "flash_v2": {"block_size": 5},
    "linear": {},
    "gat": {},
    "sparse": {"top_k": 2},
    "moe": {},
    "cross": {"scale": 2.0},
    "sliding": {"window": 2},
    "poincare": {"map": "expmap0"},
}


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(23).standard_normal((L, D)).astype(np.float32)


@pytest.fixture(scope="module")
def keys():
    return np.random.default_rng(29).standard_normal((S, D)).astype(np.float32)


def drawn(figure):
    """Return the weights of each panel of a picture."""
    return [axes.images[0].get_array().filled(0.0) for axes in figure.axes if axes.images]


def ticks(figure, panel=0):
    axes = figure.axes[panel]
    return [[label.get_text() for label in axis.get_ticklabels()] for axis in (axes.yaxis, axes.xaxis)]


# ---- values


@pytest.mark.parametrize("name", [row["name"] for row in ab.attention_types()])
def test_a_picture_shows_the_weights_of_every_type(rows, name):
    options = TYPES[name]
    (*_, weights) = drawn(ab.visualize(rows, None, name, **options))
    if name == "cross":
        wanted = [ab.attention_scores(row, rows, name, **options) for row in rows]
    elif name == "sliding":
        wanted = ab.attention_scores(rows, rows, name, position=list(range(L)), **options)
    else:
        wanted = ab.attention_scores(rows, rows, name, **options)
    np.testing.assert_allclose(weights, wanted, rtol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-5)


def test_queries_are_rows_and_keys_columns(rows, keys):
    figure = ab.visualize(rows, keys, scale=1.5)
    np.testing.assert_allclose(drawn(figure)[0], ab.attention_scores(rows, keys, scale=1.5))
    assert (figure.axes[0].get_xlim(), figure.axes[0].get_ylim()) == ((-0.5, S - 0.5), (L - 0.5, -0.5))
    assert [figure.get_supylabel(), figure.get_supxlabel()] == ["query", "key"]
    assert figure.get_suptitle() == "scaled_dot, scale 1.5"


def test_a_head_has_a_panel_and_so_has_their_mean(rows, keys):
    panels = drawn(ab.visualize(rows, keys, "multi_head", num_heads=3))
    attention = ab.MultiHeadAttention(D, 3, projections=False)
    _, heads, _ = attention.forward(rows, keys, keys, need_weights=True, average_attn_weights=False)
    np.testing.assert_allclose(panels, [*heads, heads.mean(axis=0)], rtol=1e-5)
    np.testing.assert_allclose(drawn(ab.visualize(rows, keys, "mha", num_heads=3, head=1)), heads[1:2], rtol=1e-5)
    np.testing.assert_allclose(
        drawn(ab.visualize(rows, keys, "mha", num_heads=3, head="mean")), heads.mean(axis=0)[None], rtol=1e-5
    )
    titles = [axes.get_title() for axes in ab.visualize(rows, keys, "multi_head", num_heads=3).axes if axes.images]
    assert titles == ["head 0", "head 1", "head 2", "mean"]


def test_masks_leave_grey(rows):
    causal = ab.visualize(rows, is_causal=True)
    hidden = causal.axes[0].images[0].get_array().mask
    np.testing.assert_array_equal(hidden, ~np.tri(L, dtype=bool))
    assert "grey: weight 0" in causal.get_suptitle()
    masked = ab.visualize(rows, mask=np.tri(L, dtype=bool))
    np.testing.assert_allclose(drawn(masked), drawn(causal))
    assert "grey" not in ab.visualize(rows).get_suptitle()


def test_queries_of_several_tokens(rows, keys):
    queries, documents = rows[:10].reshape(5, 2, D), keys[:6].reshape(2, 3, D)
    weights = drawn(ab.visualize(queries, documents, "cross"))[0]
    np.testing.assert_allclose(weights, [ab.attention_scores(q, documents, "cross") for q in queries])


def test_panels_share_one_scale_of_colours(rows):
    figure = ab.visualize(rows, None, "multi_head", num_heads=3, scale=4.0)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert {image.get_clim() for image in images} == {(0.0, max(panel.max() for panel in drawn(figure)))}
    assert {image.get_cmap().name for image in images} == {"viridis"}
    assert figure.axes[-1].get_ylabel() == "weight"


# ---- labels


def require_readable(figure):
    """Nothing is outside the canvas; no label of an axis touches the next."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        for axis, low, high in ((axes.xaxis, "x0", "x1"), (axes.yaxis, "y0", "y1")):
            first, last = sorted(axis.get_view_interval())
            inside = [tick for tick in axis.get_major_ticks() if first <= tick.get_loc() <= last]
            both = [label for tick in inside for label in (tick.label1, tick.label2)]
            labels = [label for label in both if label.get_visible() and label.get_text()]
            boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: getattr(box, low))
            for before, after in pairwise(boxes):
                assert getattr(before, high) <= getattr(after, low) + 0.5
            for box in boxes:
                assert box.x0 >= -1 and box.y0 >= -1  # noqa: PT018
                assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1  # noqa: PT018
    for text in (figure._suptitle, figure._supxlabel, figure._supylabel):
        box = text.get_window_extent()
        assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1, text  # noqa: PT018
        assert box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1, text  # noqa: PT018


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (11, 7), (3, 200), (200, 3), (120, 120)])
@pytest.mark.parametrize("panels", [1, 3])
def test_labels_are_readable(shape, panels):
    weights = np.random.default_rng(0).dirichlet(np.ones(shape[1]), (panels, shape[0]))
    for label in (None, "token"):
        named = [None if label is None else [f"{label} number {i}" for i in range(size)] for size in shape]
        figure = ab.plot_attention(weights, query_labels=named[0], key_labels=named[1], title="a title " * 20)
        require_readable(figure)
        for texts, size in zip(ticks(figure, panels - 1), shape, strict=True):
            assert texts[0] == ("0" if label is None else "token number 0")
            assert len(texts) >= min(size, 5)


def test_labels_of_self_attention_are_those_of_both_axes(rows):
    words = [f"word{i}" for i in range(L)]
    assert ticks(ab.visualize(rows, query_labels=words)) == [words, words]
    other = [f"other{i}" for i in range(L)]
    assert ticks(ab.visualize(rows, query_labels=words, key_labels=other)) == [words, other]
    assert ticks(ab.visualize(rows, key_labels=other))[0] == [str(i) for i in range(L)]


def test_odd_labels_are_drawn():
    odd = ["翼型", "$x$", "a\nb", "long " * 20, "\ue123"]
    figure = ab.plot_attention(np.eye(5), query_labels=odd, key_labels=odd)
    assert ticks(figure)[0][1:3] == ["$x$", r"'a\nb'"]
    assert len(ticks(figure)[0][3]) == 18
    require_readable(figure)


# ---- large matrices


def test_a_large_matrix_is_averaged_and_says_so():
    weights = np.random.default_rng(0).random((2501, 3))
    figure = ab.plot_attention(weights)
    (small,) = drawn(figure)
    wanted = [weights[start : start + 3].mean(axis=0) for start in range(0, 2501, 3)]
    np.testing.assert_allclose(small, wanted)
    assert "2,501 x 3 weights, each cell the mean of 3 x 1" in figure.get_suptitle()
    assert ticks(figure)[0][0] == "0 to 2"
    both = np.random.default_rng(0).random((2, 401, 801))
    panels = drawn(ab.plot_attention(both))
    assert panels[0].shape == (201, 267)
    np.testing.assert_allclose(panels[1][200, 266], both[1, 400, 798:].mean())


def test_more_weights_than_memory_should_hold_are_refused():
    with pytest.raises(ab.InputTooLargeError, match=r"at most 50,000,000 weights .*, got 64,000,000; cut query or key"):
        ab.visualize(np.ones((8000, 2)))
    with pytest.raises(ab.InputTooLargeError, match="got 72,000,000"):
        ab.visualize(np.ones((6000, 2)), None, "multi_head", num_heads=2)


# ---- pages


class Page(HTMLParser):
    """What a page asks of elsewhere, and its title and script."""

    def __init__(self, text):
        super().__init__()
        self.asked, self.title, self.script, self.open = [], "", "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.open = tag
        self.asked += [(tag, name, value) for name, value in attributes if name in ("src", "href", "data", "action")]

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        if self.open == "title":
            self.title += data
        if self.open == "script" and "Plotly.newPlot(" in data:
            self.script = data


def page_of(path):
    """Return a page, its traces and its layout."""
    page = Page(path.read_text(encoding="utf-8"))
    arguments = page.script[page.script.rindex("Plotly.newPlot(") :]
    decoder, found, place = json.JSONDecoder(), [], arguments.index("[")
    while len(found) < 3:
        value, place = decoder.raw_decode(arguments, place)
        found.append(value)
        place += re.match(r"[,\s]*", arguments[place:]).end()
    return page, *found


def values_of(array):
    values = np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"])
    return values.reshape([int(size) for size in array["shape"].split(",")])


@pytest.fixture
def _pages():
    pytest.importorskip("plotly")


@pytest.mark.usefixtures("_pages")
def test_a_page_holds_the_weights_and_asks_for_nothing(rows, keys, tmp_path):
    words = ["the", "the", "</script><b>", "<a href=http://x>", "$x$", "翼", "a\nb", 'say "hi"', *"ijk"]
    file = tmp_path / "page.html"
    figure = ab.visualize(rows, keys, "multi_head", file, num_heads=3, query_labels=words, is_causal=True)
    page, traces, layout, settings = page_of(file)
    assert page.asked == []
    assert page.title == "multi_head, num_heads 3, is_causal True"
    assert "cloud" not in json.dumps(settings).lower()
    assert settings["modeBarButtons"] == [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]]
    wanted = drawn(ab.visualize(rows, keys, "multi_head", num_heads=3, is_causal=True))
    np.testing.assert_allclose([values_of(trace["z"]) for trace in traces], wanted, rtol=1e-6)
    for trace in traces:
        assert trace["y"][:4] == ["0 the", "1 the", "2 &lt;/script&gt;&lt;b&gt;", "3 &lt;a href=http://x&gt;"]
        assert trace["y"][7] == '7 say "hi"'  # plotly knows no names of quotes
        assert trace["hovertemplate"].startswith("query %{y}<br>key %{x}<br>weight %{z:.4g}<extra>")
    assert [trace["hovertemplate"].partition("<extra>")[2] for trace in traces] == [
        f"{name}</extra>" for name in ("head 0", "head 1", "head 2", "mean")
    ]
    assert layout["coloraxis"]["colorscale"][0][1] == heat_maps.NOTHING
    assert "grey: weight 0" in layout["title"]["text"]
    assert type(figure).__module__.startswith("plotly")


@pytest.mark.usefixtures("_pages")
def test_a_page_stays_small(tmp_path):
    file = tmp_path / "page.html"
    weights = np.random.default_rng(0).random((4, 1300, 1100)).astype(np.float32)
    ab.plot_attention(weights, file)
    _, traces, layout, _ = page_of(file)
    first = values_of(traces[0]["z"])
    assert first.shape == (434, 367)
    np.testing.assert_allclose(first[1, 2], weights[0, 3:6, 6:9].mean(), rtol=1e-6)
    assert traces[0]["y"][:2] == ["0 to 2", "3 to 5"]
    assert "each cell the mean of 3 x 3" in layout["title"]["text"]
    assert file.stat().st_size < 12e6


@pytest.mark.usefixtures("_pages")
def test_without_plotly_the_remedy_is_named(rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(ab.MissingDependencyError, match=r"plotly is not installed; pip install 'attnbridge\[viz\]'"):
        ab.visualize(rows, path=tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_remedy_is_named(rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        ab.MissingDependencyError, match=r"matplotlib is not installed; pip install 'attnbridge\[viz\]'"
    ):
        ab.visualize(rows)


# ---- files


@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
def test_a_file_is_written_whole_or_not_at_all(rows, suffix, tmp_path, monkeypatch):
    pytest.importorskip("plotly")
    file = tmp_path / f"out{suffix}"
    file.write_text("before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(whole_file.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            ab.visualize(rows, path=file)
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]
    ab.visualize(rows, path=str(file))
    head = {".png": b"\x89png", ".svg": b"<?xm", ".html": b"<!do"}[suffix]
    assert file.read_bytes()[:4].lower() == head
    assert list(tmp_path.iterdir()) == [file]


# ---- bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"path": "x.gif"}, ab.InvalidInputError, r"path must end in .png, .svg or .html, got 'x.gif'"),
        ({"query": np.ones(3)}, ab.DimensionMismatchError, r"query must be rows \(n, d\), got shape \(3,\)"),
        (
            {"query": np.ones((2, 3, 4))},
            ab.DimensionMismatchError,
            r"query must be rows \(n, d\), got shape \(2, 3, 4\)",
        ),
        ({"query": np.ones((0, 3))}, ab.InvalidInputError, "query must not be empty: there is nothing to draw"),
        ({"key": np.ones((4, 3))}, ab.DimensionMismatchError, "Query and key dimensions must match: 6 vs 3"),
        ({"query": np.full((2, 3), np.nan)}, ab.InvalidInputError, "query must be finite: row 0, column 0 is nan"),
        ({"attention_type": "dots"}, ab.InvalidConfigError, "attention type must be one of .*; got 'dots'"),
        ({"window": 3}, ab.InvalidConfigError, "scaled_dot has no option 'window'; its options are: scale"),
        ({"head": 0}, ab.InvalidConfigError, "head must be left out with scaled_dot, which has none; multi_head has"),
        ({"attention_type": "mha", "num_heads": 4}, ab.AttentionError, "6 must be divisible by num_heads 4"),
        ({"attention_type": "mha", "num_heads": 3, "head": 3}, ab.InvalidConfigError, "head must be at most 2, got 3"),
        (
            {"attention_type": "cross", "mask": np.ones((L, L), bool)},
            ab.InvalidConfigError,
            "mask must be left out with",
        ),
        ({"attention_type": "cross", "is_causal": True}, ab.InvalidConfigError, "is_causal must be False"),
        ({"query_labels": ["a"]}, ab.DimensionMismatchError, "query_labels must be one for each of 11 queries, got 1"),
        ({"key_labels": ["a"]}, ab.DimensionMismatchError, "key_labels must be one for each of 11 keys, got 1"),
        ({"key_labels": "a"}, ab.InvalidInputError, "key_labels must be a list of texts, got 'a'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(rows, change, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        ab.visualize(**{"query": rows} | change)
    assert list(tmp_path.iterdir()) == []


def test_too_many_heads_are_not_drawn_at_once():
    with pytest.raises(ab.InvalidConfigError, match="head must be given where there are more than 24 heads, here 25"):
        ab.visualize(np.ones((2, 25)), None, "multi_head", num_heads=25)
    assert len(drawn(ab.visualize(np.ones((2, 25)), None, "multi_head", num_heads=25, head=24))) == 1


@pytest.mark.parametrize(
    ("weights", "options", "error", "message"),
    [
        (np.ones(3), {}, ab.DimensionMismatchError, r"weights must be \(queries, keys\) or .*, got shape \(3,\)"),
        (np.ones((2, 0)), {}, ab.DimensionMismatchError, r"none of them 0, got shape \(2, 0\)"),
        (
            -np.eye(2),
            {},
            ab.InvalidInputError,
            "weights must not be negative, got -1; logits become weights by softmax",
        ),
        (np.full((1, 2), np.inf), {}, ab.InvalidInputError, "weights must be finite"),
        (np.eye(2), {"panels": ["a", "b"]}, ab.DimensionMismatchError, "panels must be one title for each of 1 panels"),
    ],
)
def test_what_are_no_weights_is_refused(weights, options, error, message):
    with pytest.raises(error, match=message):
        ab.plot_attention(weights, **options)


def test_weights_of_nothing_are_grey():
    figure = ab.plot_attention(np.zeros((2, 3)))
    assert figure.axes[0].images[0].get_array().mask.all()


# ---- the command line


def run(*args):
    done = CliRunner().invoke(cli, ["visualize", *map(str, args)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.fixture
def files(rows, keys, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "both.npz", query=rows, key=keys, value=np.ones((S, 2)))
    np.savez(tmp_path / "other.npz", vectors=rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows.tolist()))
    (tmp_path / "both.json").write_text(json.dumps({"query": rows.tolist(), "key": keys.tolist()}))
    (tmp_path / "words.txt").write_text("".join(f"word{i}\n" for i in range(L)))
    (tmp_path / "words.json").write_text(json.dumps([f"word{i}" for i in range(L)]))
    (tmp_path / "apart.json").write_text(json.dumps({"query": list("abcdefghijk"), "key": list("tuvwxyz")}))
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    return tmp_path


@pytest.mark.usefixtures("_pages")
@pytest.mark.parametrize(
    ("source", "labels", "first"),
    [
        ("rows.npy", "words.txt", ("0 word0", "0 word0")),
        ("rows.json", "words.json", ("0 word0", "0 word0")),
        ("both.npz", "apart.json", ("0 a", "0 t")),
        ("both.json", None, (0, 0)),
    ],
)
def test_the_command_line_draws_what_the_function_does(files, rows, keys, source, labels, first):
    out = files / "out.html"
    given = [] if labels is None else ["--labels", files / labels]
    done = run(
        "--input", files / source, "--attention-type", "scaled_dot", "--output", out, "--option", "scale=0.5", *given
    )
    assert (done.exit_code, done.output) == (0, "")
    _, (trace,), layout, _ = page_of(out)
    wanted = ab.attention_scores(rows, rows if "rows" in source else keys, scale=0.5)
    np.testing.assert_allclose(values_of(trace["z"]), wanted, rtol=1e-5)
    assert layout["title"]["text"] == "scaled_dot, scale 0.5"
    if labels is not None:
        assert (trace["y"][0], trace["x"][0]) == first


@pytest.mark.usefixtures("_pages")
def test_the_command_line_takes_heads_and_causality(files, rows):
    out = files / "out.html"
    base = ["--input", files / "rows.npy", "--attention-type", "multi_head", "--option", "num_heads=2", "--output", out]
    assert run(*base, "--causal", "--head", "1").exit_code == 0
    _, (trace,), _, _ = page_of(out)
    (wanted,) = drawn(ab.visualize(rows, None, "multi_head", num_heads=2, head=1, is_causal=True))
    np.testing.assert_allclose(values_of(trace["z"]), wanted, rtol=1e-5)
    assert run(*base, "--head", "mean").exit_code == 0
    assert len(page_of(out)[1]) == 1
    assert run(*base).exit_code == 0
    assert len(page_of(out)[1]) == 3


@pytest.mark.parametrize("name", list(TYPES))
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_command_line_draws_every_type(files, name, suffix):
    options = [part for option, value in TYPES[name].items() for part in ("--option", f"{option}={value}")]
    out = files / f"out.{suffix}"
    assert run("--input", files / "rows.npy", "--attention-type", name, "--output", out, *options).exit_code == 0
    assert out.read_bytes()[:4] == {"png": b"\x89PNG", "svg": b"<?xm"}[suffix]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--output", "out.gif"], "--output must end in .png, .svg or .html, got 'out.gif'"),
        (["--output", "nowhere/out.png"], "--output must be in a folder that is there, got "),
        (["--input", "nothing.npy"], "cannot be read: "),
        (["--input", "words.txt"], "--input must be a .npy, .npz or .json file, got words.txt"),
        (["--input", "bad.json"], "must be JSON in UTF-8"),
        (["--input", "words.json"], "query must be real numbers"),
        (["--input", "other.npz"], "must hold an array named query, and key where it is another; it has: vectors"),
        (["--attention-type", "dots"], "attention type must be one of"),
        (["--option", "head=1"], "scaled_dot has no option 'head'; its options are: scale"),
        (["--option", "scale"], "--option must be NAME=VALUE, got 'scale'"),
        (["--option", "scale=1", "--option", "scale=2"], "--option gives scale twice"),
        (["--option", "scale=none"], "scale must be a finite number > 0, got 'none'"),
        (["--head", "first"], "--head must be the number of a head or 'mean', got 'first'"),
        (["--head", "1"], "head must be left out with scaled_dot"),
        (["--labels", "bad.txt"], "must be text in UTF-8"),
        (["--labels", "apart.json"], "key_labels must be one for each of 11 keys, got 7"),
        (["--labels", "both.json"], "query_labels must be one for each of 11 queries"),
        (
            ["--input", "both.npz", "--labels", "words.txt"],
            "must say whose labels they are, where queries and keys are",
        ),
        (["--attention-type", "poincare"], "must lie inside the ball"),
    ],
)
def test_the_command_line_says_what_is_wrong(files, args, message):
    if args == ["--labels", "both.json"]:
        (files / "both.json").write_text(json.dumps({"query": ["a"]}))
    given = {"--input": "rows.npy", "--output": "out.png"}
    rest = []
    for option, value in zip(args[::2], args[1::2], strict=True):
        if option in given:
            given[option] = value
        else:
            rest += [option, files / value if option == "--labels" else value]
    done = run(*(part for option, value in given.items() for part in (option, files / value)), *rest)
    assert done.exit_code in (1, 2)
    assert message in done.stderr
    assert not list(files.glob("out*"))


def test_labels_must_be_a_list(files):
    (files / "odd.json").write_text('{"rows": []}')
    done = run("--input", files / "rows.npy", "--output", files / "out.png", "--labels", files / "odd.json")
    assert "must hold a list of labels, or an object of query and key with a list each" in done.stderr


def test_one_array_is_no_archive(files):
    (files / "rows.npz").write_bytes((files / "rows.npy").read_bytes())
    done = run("--input", files / "rows.npz", "--output", files / "out.png")
    assert "must be an archive of arrays (.npz), it is one array: call it .npy" in done.stderr


def test_labels_that_are_cut_to_the_same_letters_are_numbered(rows):
    long = [f"the same beginning {i} and the same end" for i in range(len(rows))]
    figure = ab.visualize(rows, query_labels=long)
    texts = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(set(texts)) == len(texts) > 1
