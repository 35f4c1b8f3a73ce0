"""Hits explained: the text and the picture of a search's trace."""

import pickle
import re
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from click.testing import CliRunner

import attnbridge as ab
from attnbridge import drawing, explain, validation, whole_file
from attnbridge.cli import cli
from attnbridge.labels import columns, middle_cut
from attnbridge.slope_chart import spread
from attnbridge.trace import Attended

ROWS, DIM, TOKEN_DIM = 101, 7, 5


def made(ids, **options):
    rng = np.random.default_rng(17)
    vectors = rng.standard_normal((len(ids), DIM))
    tokens = [rng.standard_normal((2 + i % 3, TOKEN_DIM)) for i in range(len(ids))]
    bridge = ab.AttentionVectorBridge(dim=DIM, index="exact")
    bridge.add(vectors, ids, tokens=tokens, **options)
    return bridge


@pytest.fixture(scope="module")
def bridge():
    years = [None if i == 3 else 1900 + i for i in range(ROWS)]
    return made([f"doc{i}" for i in range(ROWS)], payload={"year": years, "note": ["two\nlines"] * ROWS})


@pytest.fixture(scope="module")
def query():
    rng = np.random.default_rng(19)
    return {"query": rng.standard_normal(DIM), "query_tokens": rng.standard_normal((3, TOKEN_DIM))}


@pytest.fixture(scope="module")
def hits(bridge, query):
    rerank = [ab.QueryExpansion(top=3), ab.LateInteraction()]
    return bridge.search(**query, k=10, candidates=53, rerank=rerank)


class Matches:
    """A stage that leaves the order and tells tokens of each document."""

    name, level, requires_tokens = "matches", "scores", True

    def apply(self, pool):
        pool.attended = lambda row: [Attended("token", 1, 0.625, query=2), Attended("token", 0, 0.25, query=0)]


class Brings:
    """A stage that brings row 0 in, best of all."""

    name, level, requires_tokens = "brings", "candidates", False

    def __init__(self, origin=None):
        self.origin = origin

    def apply(self, pool):
        assert 0 not in pool.rows
        pool.rows = np.append(pool.rows, 0)
        pool.scores = np.append(pool.scores, pool.scores.max() + 1)
        if self.origin is not None:
            pool.origins[0] = self.origin


# ---- text


def steps_of(text):
    """Return {step: (score, rank, move)} of a block."""
    lines = text.splitlines()
    (head,) = (i for i, line in enumerate(lines) if re.match(r" +step +score", line))
    found = {}
    for line in lines[head + 1 :]:
        cells = re.split(r" {2,}", line.strip())
        if not line.startswith("      "):
            found[cells[0]] = (cells[1], cells[2], cells[3] if len(cells) == 5 else "")
    return found


def test_every_hit_is_told_with_its_rank_and_score_after_every_step(hits):
    scores = [hits.parts["scaled_dot"], hits.parts["expansion"], hits.scores]
    for place, hit in enumerate(hits):
        text = hits.explain(place)
        assert text.splitlines()[0] == f"{place + 1}. {hit.id}"
        assert f"score {hit.score:#.6g}, weight {hit.weight:.4f}, distance {hit.distance:#.6g}" in text
        told = steps_of(text)
        assert list(told) == ["by distance", "scaled_dot", "expansion", "late_interaction"]
        last = hit.rank_before
        assert told["by distance"] == ("-", str(last + 1), "")
        ranks = [step.ranks(hits.trace.rows)[place] for step in hits.trace.steps]
        assert ranks[-1] == place
        for name, values, rank in zip(list(told)[1:], scores, ranks, strict=True):
            move = "" if rank == last else f"up {last - rank}" if rank < last else f"down {rank - last}"
            assert told[name] == (f"{values[place]:#.6g}", str(rank + 1), move)
            last = rank


def test_moves_go_both_ways_in_these_hits(hits):
    told = "\n".join(hits.explain(i) for i in range(len(hits)))
    assert "up " in told
    assert "down " in told


def test_what_a_stage_attended_to_is_told(hits, bridge, query):
    best = bridge.search(query["query"], k=3)
    (line,) = (line for line in hits.explain(0).splitlines() if "attends to" in line)
    assert re.findall(r"'(\w+)' (0\.\d\d)", line) == [
        (one.name, f"{one.weight:.2f}") for one in hits.trace.steps[1].attended(hits.trace.rows[0])
    ]
    assert re.findall(r"'(\w+)'", line) == best.ids
    many = bridge.search(query["query"], rerank=ab.QueryExpansion(top=11)).explain(0)
    assert many.count("'doc") == 5
    assert "and 6 more" in many


def test_where_a_hit_came_from(bridge, query):
    plain = bridge.search(query["query"], k=13)
    assert "   from: the index, 1st of its candidates by distance" in plain.explain(0).splitlines()
    for place, ending in ((1, "2nd"), (2, "3rd"), (3, "4th"), (10, "11th"), (11, "12th"), (12, "13th")):
        assert f"the index, {ending} of" in plain.explain(place)
    assert 0 not in bridge.search(query["query"], candidates=29, k=29).trace.rows
    told = bridge.search(query["query"], candidates=29, rerank=Brings("a neighbour of 'doc3'")).explain(0)
    assert "   from: a neighbour of 'doc3'" in told.splitlines()
    assert steps_of(told)["scaled_dot"] == ("-", "-", "")
    assert steps_of(told)["brings"][1:] == ("1", "new")
    unsaid = bridge.search(query["query"], candidates=29, rerank=Brings())
    assert "   from: brings, which brought it in" in unsaid.explain(0).splitlines()
    assert unsaid.explain().splitlines()[-1] == "doc0: brings, which brought it in"


def test_a_plain_search_is_a_trace_of_one_step(bridge, query):
    plain = bridge.search(query["query"], k=5, offset=2)
    assert steps_of(plain.explain(-1)) == {
        "by distance": ("-", "7", ""),
        "scaled_dot": (f"{plain.scores[4]:#.6g}", "7", ""),
    }
    assert plain.explain(-1) == plain.explain(4)
    batch = bridge.search_batch(np.stack([query["query"]] * 2), k=5)
    assert steps_of(batch[1].explain(2)) == steps_of(bridge.search(query["query"], k=5).explain(2))


def test_a_table_of_all_hits(hits):
    head, names, *lines = hits.explain().splitlines()
    assert head.startswith("10 hits of 53 candidates, ")
    assert names.split() == [
        *("rank", "id", "score", "weight", "distance"),
        *("by", "distance", "scaled_dot", "expansion", "late_interaction"),
    ]
    assert [line.split()[:2] for line in lines] == [[str(i), id] for i, id in enumerate(hits.ids, 1)]
    ranks = [[step.ranks(hits.trace.rows)[i] for step in hits.trace.steps] for i in range(10)]
    for line, hit, after in zip(lines, hits, ranks, strict=True):
        bare = re.sub(r" (up|down) \d+", "", line).split()
        assert list(map(int, bare[5:])) == [hit.rank_before + 1, *(rank + 1 for rank in after)]


def test_payload_is_told_in_a_line(bridge, query):
    found = bridge.search(query["query"], k=ROWS)
    assert f"   payload: year {1900 + int(found.ids[0][3:])}, note two lines" in found.explain(0).splitlines()
    assert "   payload: note two lines" in found.explain(found.ids.index("doc3")).splitlines()


def test_tokens_are_told_by_place_or_by_their_texts(bridge, query):
    found = bridge.search(**query, k=3, rerank=Matches())
    count = 2 + found.trace.rows[0] % 3
    assert "      matches query token 2 ~ token 1 0.62, query token 0 ~ token 0 0.25" in found.explain(0).splitlines()
    texts, query_texts = ["air", "foil\n", "x", "y"][:count], ["the", "of", "wing"]
    told = found.explain(0, tokens=texts, query_tokens=query_texts)
    assert "      matches query 'wing' ~ 'foil\\n' 0.62, query 'the' ~ 'air' 0.25" in told.splitlines()
    again = pickle.loads(pickle.dumps(found))
    assert again.explain(0, tokens=texts, query_tokens=query_texts) == told
    for name, wrong, count_told in (("tokens", [*texts, "more"], count), ("query_tokens", ["the", "of"], 3)):
        rule = rf"{name} must be one text for each of the \w+'s {count_told} tokens, got {len(wrong)}"
        with pytest.raises(ab.InvalidInputError, match=rule):
            found.explain(0, **{name: wrong})
    for name in ("tokens", "query_tokens"):
        for wrong in ("wing", [1, 2], 5):
            with pytest.raises(ab.InvalidInputError, match=f"{name} must be a list of texts, one a token, got"):
                found.explain(0, **{name: wrong})
        with pytest.raises(ab.InvalidInputError, match=f"{name} must be left out without i"):
            found.explain(**{name: texts})


def test_texts_that_no_step_would_tell_are_refused(bridge, query):
    found = bridge.search(query["query"], k=3, rerank=ab.QueryExpansion())
    with pytest.raises(ab.InvalidInputError, match="query_tokens must be left out: no step of this search tells which"):
        found.explain(0, query_tokens=["a", "b", "c"])


def test_a_token_beyond_the_texts_is_an_error(bridge, query):
    found = bridge.search(**query, k=1, rerank=Matches())
    found.trace = found.trace._replace(token_count=None)
    with pytest.raises(ab.InvalidInputError, match="tokens must have the text of every token: number 1 is asked for"):
        found.explain(0, tokens=["one"])


@pytest.mark.parametrize("i", [10, -11, 10**30])
def test_a_hit_that_is_not_there_is_an_error(hits, i):
    with pytest.raises(ab.InvalidInputError, match=f"i must be the place of one of 10 hits, -10 to 9, got {i}"):
        hits.explain(i)


@pytest.mark.parametrize("i", ["doc3", 1.0, True])
def test_a_hit_is_named_by_its_place(hits, i):
    with pytest.raises(ab.InvalidInputError, match=f"i must be the place of a hit, a whole number from 0, got {i!r}"):
        hits.explain(i)


def test_no_hits(bridge, query):
    none = bridge.search(query["query"], where="year > 3000")
    assert re.fullmatch(r"0 hits of 0 candidates(, .* ms)?", none.explain())
    with pytest.raises(ab.InvalidInputError, match="i must be the place of a hit, but there are none"):
        none.explain(0)
    with pytest.raises(ab.InvalidInputError, match="hits must be at least one to be drawn"):
        none.plot()


def test_hits_made_by_hand_have_no_story(hits):
    hand = ab.Hits(["a"], np.ones(1), np.ones(1), np.ones(1, np.float32), np.zeros(1, np.int64), {}, {}, 1)
    for call in (hand.explain, lambda: hand.explain(0), hand.plot):
        with pytest.raises(ab.InvalidInputError, match="hits must come from a bridge's search to be explained"):
            call()


def test_a_search_cut_short_says_so(hits):
    cut = ab.Hits(*hits.__reduce__()[1])
    cut.complete = False
    assert cut.explain(0).splitlines()[-1] == "   time was over before all was done that was asked for"
    assert "time was over" in cut.explain().splitlines()[0]


def test_control_characters_are_escaped():
    odd = made(["a\x1b[31mred", "tab\there", "\u202eright"], payload={"k": ["\x1b]0;t\x07", "b", "c"]})
    found = odd.search(np.ones(DIM), rerank=ab.QueryExpansion())
    told = found.explain() + "".join(found.explain(i) for i in range(3))
    assert all(line.isprintable() for line in told.splitlines())
    assert r"'a\x1b[31mred'" in told


def test_a_search_does_not_pay_for_the_story(bridge, query):
    """Nothing of it is imported, and no rank is counted, before it is asked for."""
    code = (
        "import sys, numpy as np, attnbridge as ab\n"
        "b = ab.AttentionVectorBridge(dim=2, index='exact'); b.add(np.eye(2))\n"
        "b.search([1.0, 0.0], rerank=ab.QueryExpansion())\n"
        "print([m for m in ('attnbridge.explain', 'attnbridge.drawing', 'matplotlib', 'plotly') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    with mock.patch("attnbridge.trace.Step.ranks", side_effect=AssertionError):
        bridge.search(**query, rerank=[ab.QueryExpansion(), ab.LateInteraction()])


def test_shortening_keeps_both_ends():
    assert middle_cut("short", 5) == "short"
    cut = middle_cut("0123456789" * 10, 20)
    assert cut == "01234567890...456789"
    wide = middle_cut("翼型の空力特性の研究", 12)
    assert columns(wide) <= 12
    assert wide[0] == "翼" and wide[-1] == "究"  # noqa: PT018
    assert columns("e\u0301") == 1


# ---- the command line


@pytest.fixture(scope="module")
def folder(bridge, tmp_path_factory):
    path = tmp_path_factory.mktemp("explain") / "index"
    bridge.save(path)
    return path


def test_the_command_line_explains(folder, bridge):
    done = CliRunner().invoke(
        cli, ["search", str(folder), "--like", "doc5", "-k", "3", "--rerank", "expansion", "--explain"]
    )
    assert done.exit_code == 0, done.stderr
    hits = bridge.search(id="doc5", k=3, rerank=ab.QueryExpansion())
    blocks = done.stdout.split("\n\n")[-3:]
    for i, block in enumerate(blocks):
        assert block.splitlines()[:3] == hits.explain(i).splitlines()[:3]
        assert steps_of(block) == steps_of(hits.explain(i))
    assert done.stdout.count("attends to") == 3
    several = CliRunner().invoke(
        cli, ["search", str(folder), "--vector-json", str(np.eye(DIM)[:2].tolist()), "-k", "2", "--explain"]
    )
    assert several.stdout.count("   from: the index, 1st of its candidates") == 2


def test_the_command_line_explains_to_people_only(folder):
    done = CliRunner().invoke(cli, ["search", str(folder), "--like", "doc5", "--explain", "--json"])
    assert done.exit_code == 2
    assert "--explain is for people to read: give it without --json" in done.stderr


# ---- the picture


def texts_of(figure):
    """Return every visible text of a figure."""
    from matplotlib.text import Text

    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    hidden = {id(label) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in _unused(axis)}
    return [text for text in shown if id(text) not in hidden]


def _unused(axis):
    low, high = sorted(axis.get_view_interval())
    for tick in axis.get_major_ticks():
        if not low <= tick.get_loc() <= high:
            yield from (tick.label1, tick.label2)


def require_readable(figure):
    """Nothing outside the canvas, no text over another."""
    figure.draw_without_rendering()
    whole = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts_of(figure)]
    assert boxes
    for text, box in boxes:
        assert box.x0 >= whole.x0 - 1 and box.y0 >= whole.y0 - 1, text  # noqa: PT018
        assert box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1, text  # noqa: PT018
    for i, (text, box) in enumerate(boxes):
        for other, below in boxes[i + 1 :]:
            across = min(box.x1, below.x1) - max(box.x0, below.x0)
            down = min(box.y1, below.y1) - max(box.y0, below.y0)
            assert across <= 1 or down <= 2, (text, other)


def test_lines_are_ranks_and_bars_are_weights(hits):
    pytest.importorskip("matplotlib")
    left, right = hits.plot().axes
    paths = [line for line in left.lines if len(line.get_xdata()) == 4]
    wanted = [[rank + 1 for rank in of] for _, of in explain.ranks_by_step(hits, hits.trace)]
    np.testing.assert_array_equal([line.get_ydata() for line in paths], np.transpose(wanted))
    assert [bar.get_width() for bar in right.patches] == hits.weights.tolist()
    np.testing.assert_allclose([bar.get_y() + bar.get_height() / 2 for bar in right.patches], range(1, 11))
    assert [label.get_text() for label in right.get_yticklabels()] == hits.ids
    names = [label.get_text() for label in left.get_xticklabels()]
    assert names == ["by distance", "scaled_dot", "expansion", "late_interaction"]
    finals = {text.xy[1]: text.get_text() for text in left.texts if hasattr(text, "xy")}
    assert finals == {rank: str(rank) for rank in range(1, 11)}
    firsts = sorted(int(text.get_text()) for text in left.texts if not hasattr(text, "xy"))
    assert firsts == sorted((hits.ranks_before + 1).tolist())


def test_risers_and_fallers_differ_in_more_than_colour(hits, bridge, query):
    pytest.importorskip("matplotlib")
    looks = set()
    for found in (hits, bridge.search(query["query"], candidates=29, rerank=Brings())):
        figure = found.plot()
        way = {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}
        looks |= {(name, line.get_linestyle(), line.get_marker(), line.get_color()) for name, line in way.items()}
        for line in figure.axes[0].lines:
            ranks = line.get_ydata()
            if len(ranks) < 3:
                continue
            if np.isnan(ranks[0]):
                assert line.get_marker() == "D"
            else:
                assert line.get_marker() == ("^" if ranks[-1] < ranks[0] else "v" if ranks[-1] > ranks[0] else "o")
    assert {name for name, *_ in looks} >= {"up", "down", "came in later"}
    for part in range(4):
        assert len({look[part] for look in looks}) == len(looks)


@pytest.mark.parametrize("k", [1, 3, 10, 20, 50])
@pytest.mark.parametrize("stages", [0, 1, 5])
def test_every_text_is_inside_the_picture_and_over_no_other(bridge, query, k, stages):
    pytest.importorskip("matplotlib")
    rerank = [ab.QueryExpansion(mix=0.9), *(ab.LateInteraction(0.1 + 0.2 * i) for i in range(4))][:stages]
    asked = {"query": query["query"]} if stages < 2 else query
    found = bridge.search(**asked, k=k, candidates=ROWS, rerank=rerank)
    figure = found.plot()
    require_readable(figure)
    assert len(figure.axes[1].patches) == min(k, 20)
    assert ("the first 20 of 50 hits" in figure.get_suptitle()) == (k == 50)


def test_a_later_page_of_hits_is_drawn_at_its_ranks(bridge, query):
    pytest.importorskip("matplotlib")
    found = bridge.search(**query, k=11, offset=23, candidates=97, rerank=ab.LateInteraction())
    figure = found.plot()
    require_readable(figure)
    assert [line.get_ydata()[-1] for line in figure.axes[0].lines if len(line.get_xdata()) == 3] == [*range(24, 35)]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".PNG"])
def test_odd_ids_are_drawn(suffix, query, tmp_path):
    """Long ones are cut; what no font has is escaped; a dollar is a dollar."""
    pytest.importorskip("matplotlib")
    odd = [
        "翼型の空力特性",
        "Аэродинамика крыла",
        "$x_1$ and $",
        "a\nb",
        "https://example.org/" + "very/long/" * 9 + "7",
        "",
        "\ue123",
    ]
    found = made(odd).search(query["query"], rerank=ab.QueryExpansion())
    figure = found.plot(tmp_path / f"odd{suffix}")  # a glyph that is missing would be a warning, here an error
    labels = {label.get_text() for label in figure.axes[1].get_yticklabels()}
    assert {"Аэродинамика крыла", "$x_1$ and $", r"'a\nb'"} <= labels
    (long,) = (label for label in labels if label.startswith("https://"))
    assert len(long) == 28 and long.endswith("long/7")  # noqa: PT018
    assert any(label in labels for label in (r"\ue123", r"'\ue123'"))
    require_readable(figure)
    start = (tmp_path / f"odd{suffix}").read_bytes()[:5]
    assert start == (b"<?xml" if suffix == ".svg" else b"\x89PNG\r")


def test_a_character_that_no_font_has_is_escaped(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(drawing, "_font_of", lambda code: None)
    assert drawing.drawable(["翼a", "é"], 20)[0] == [r"\u7ffca", r"\xe9"]


def test_another_suffix_is_refused_before_anything_is_drawn(hits, tmp_path):
    for name in ("hits.gif", "hits", "hits.html"):
        with pytest.raises(ab.InvalidInputError, match=rf"path must end in .png or .svg, got '{name}'"):
            hits.plot(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_remedy_is_named(hits, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        ab.MissingDependencyError, match=r"matplotlib is not installed; pip install 'attnbridge\[viz\]'"
    ):
        hits.plot()
    assert validation.require("math", "viz")


def test_a_full_disk_leaves_what_was_there(hits, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    file = tmp_path / "hits.png"
    file.write_bytes(b"before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(whole_file.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            hits.plot(file)
    assert file.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["hits.png"]
    link = tmp_path / "link.png"
    link.symlink_to(file)
    hits.plot(link)
    assert link.is_symlink()
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("seed", range(5))
def test_labels_keep_their_gap_their_order_and_their_ends(seed):
    places = np.random.default_rng(seed).uniform(0.0, 20.0, 13)
    out = spread(places, 1.1)
    order = np.argsort(places)
    assert (np.diff(out[order]) >= 1.1 - 1e-9).all()
    assert out.min() >= places.min() - 1e-9
    assert out.max() <= places.max() + 1e-9
    far = np.arange(5) * 3.0
    np.testing.assert_allclose(spread(far, 1.0), far)
    assert len(spread(np.empty(0), 1.0)) == 0
