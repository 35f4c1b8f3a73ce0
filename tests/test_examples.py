"""The examples run, and what they print is true: each figure is checked against something that they do not use."""

import re
import runpy
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

# One asks for a corpus, one takes long, one asks for scikit-learn: they have tests of their own.
ELSEWHERE = {
    "embed_text.py": "test_embed_text.py",
    "sql_analytics.py": "test_sql_example.py",
    "walk_nouns.py": "test_graph_search.py",
}


@pytest.fixture
def run(capsys):
    """Return a function that runs an example and returns its variables and what it printed, in blocks of lines."""

    def run(name):
        names = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return names, [block.splitlines() for block in capsys.readouterr().out.strip().split("\n\n")]

    return run


def cells(line):
    return re.split(r" {2,}", line.strip())


def numbers(line):
    """Return the numbers at the end of a line."""
    found = []
    for word in reversed(line.split()):
        if not re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", word):
            break
        found.insert(0, float(word))
    return found


def test_each_example_is_run_by_a_test():
    tests = {path.name: path.read_text() for path in Path(__file__).parent.glob("test_*.py")}
    for path in EXAMPLES.glob("*.py"):
        assert path.stem in tests[ELSEWHERE.get(path.name, "test_examples.py")], path.name


def test_basic_attention(run):
    _, (by_hand, memory) = run("basic_attention")
    root = 2**0.5
    weights = np.exp([root, root / 2, 0.0])
    weights /= weights.sum()
    for line, logit, weight, value in zip(by_hand[1:4], [root, root / 2, 0.0], weights, [10, 20, 30], strict=True):
        assert numbers(line.partition("]")[2]) == pytest.approx([logit, weight, value], abs=0.00051)
    assert numbers(by_hand[4]) == pytest.approx([weights @ [10, 20, 30]], abs=0.00051)

    (formula,), returned, scaled, flash, (output,) = (numbers(line) for line in memory[1:])
    assert output == pytest.approx(2_000 * 64 * 4 / 2**20, abs=0.051)
    assert formula > 2 * 2_000 * 2_000 * 4 / 2**20  # logits and weights
    assert returned[0] > 2_000 * 2_000 * 4 / 2**20 > 10 * max(scaled[0], flash[0])
    assert max(returned[1], scaled[1], flash[1]) < 1e-4


def test_multihead_attention(run):
    _, (_, table, output, parameters) = run("multihead_attention")
    # Logits 9 / sqrt(4) of what agrees with the query in a head's half; of one head 9 / sqrt(8) for either half.
    two, one = np.exp(4.5), np.exp(9 / 8**0.5)
    colour = np.array([two, two, 1, 1, 1, 1]) / (2 * two + 4)
    shape = np.array([1, 1, two, two, 1, 1]) / (2 * two + 4)
    alone = np.array([one, one, one, one, 1, 1]) / (4 * one + 2)
    assert cells(table[0]) == ["thing", "head 0", "head 1", "one head"]
    for line, *due in zip(table[1:], colour, shape, alone, strict=True):
        assert numbers(line) == pytest.approx(due, abs=0.00051)
    heads, single = (dict(zip(output[0].split()[1:], numbers(line), strict=True)) for line in output[1:])
    assert heads["red"] == pytest.approx(2 * two / (2 * two + 4), abs=0.0051)
    assert heads["ball"] == heads["red"]
    assert single["red"] == pytest.approx(2 * one / (4 * one + 2), abs=0.0051)
    assert re.match(r"288 parameters .* by up to 0\.[1-9]", parameters[0])


def test_graph_attention(run):
    names, (_, table, same, within, question) = run("graph_attention")
    graph, vectors = names["G"], names["vectors"]
    units = {name: vector / np.linalg.norm(vector) for name, vector in vectors.items()}

    def attended(name):
        logits = {other: 10 * units[name] @ units[other] for other in graph[name]}
        total = sum(np.exp(logit) for logit in logits.values())
        return {other: np.exp(logit) / total for other, logit in logits.items()}

    due = attended("Marius")
    assert [cells(line)[0] for line in table[1:]] == sorted(due, key=due.get, reverse=True)[:5]
    for line in table[1:]:
        name, weight, group = line.split()
        assert float(weight) == pytest.approx(due[name], abs=0.00051)
        assert (group == "yes") == (names["group"][name] == names["group"]["Marius"])
    assert numbers(same[0])[0] < 1e-6

    shares = [sum(w for other, w in attended(n).items() if names["group"][other] == names["group"][n]) for n in graph]
    even = [np.mean([names["group"][other] == names["group"][n] for other in graph[n]]) for n in graph]
    assert [int(n) for n in re.findall(r"(\d+)%", within[0])] == [round(100 * np.mean(x)) for x in (even, shares)]
    assert np.mean(shares) > np.mean(even) + 0.05

    ball = nx.single_source_shortest_path_length(graph, "Marius", cutoff=2)
    scores = {name: 10 * units["Gavroche"] @ units[name] for name in ball}
    best = sorted(scores.values(), reverse=True)[:5]
    for line, score in zip(question[2:], best, strict=True):
        name, printed, path = cells(line)
        assert float(printed) == pytest.approx(score, abs=0.00051)
        assert float(printed) == pytest.approx(scores[name], abs=0.00051)
        way = path.split(" > ")
        assert nx.is_path(graph, way)
        assert (way[0], way[-1], len(way) - 1) == ("Marius", name, ball[name])


def test_geometric_attention(run):
    names, (counts, table) = run("geometric_attention")
    points = names["points"]
    assert all(np.linalg.norm(point) < 1 for point in points.values())

    def share(distance):
        """Return how many of the leaves have their parent nearest, in per cent."""
        leaves = [kind for kind in points if not any(other.__bases__[-1] is kind for other in points)]
        nearest = {a: min((b for b in points if b is not a), key=lambda b, a=a: distance(a, b)) for a in leaves}
        return 100 * np.mean([nearest[kind] is kind.__bases__[-1] for kind in leaves])

    def poincare(a, b):
        x, y = points[a], points[b]
        return 1 + 2 * ((x - y) ** 2).sum() / ((1 - x @ x) * (1 - y @ y))

    def cosine(a, b):
        x, y = points[a], points[b]
        return -(x @ y) / (np.linalg.norm(x) * np.linalg.norm(y) + 1e-300)

    printed = {line.split()[0]: float(line.split()[1].rstrip("%")) for line in counts[1:]}
    assert printed["hyperbolic"] == 100.0 == share(poincare)
    assert printed["euclidean"] == pytest.approx(share(lambda a, b: ((points[a] - points[b]) ** 2).sum()), abs=0.051)
    assert printed["cosine"] == pytest.approx(share(cosine), abs=0.051)
    assert max(printed["euclidean"], printed["cosine"]) < 50
    by_name = {kind.__name__: kind for kind in points}
    assert len(table) == 7
    for line in table[1:]:
        leaf, hyperbolic, other = line.split()
        assert by_name[leaf].__bases__[-1].__name__ == hyperbolic != other


def test_vector_search(run):
    pytest.importorskip("sklearn")
    names, (_, plain, reranked, only, explained) = run("vector_search")
    space, ids = names["space"], [document.id for document in names["documents"]]
    query = names["query"] / np.linalg.norm(names["query"])
    cosines = (space.fitted / np.linalg.norm(space.fitted, axis=1, keepdims=True)) @ query
    order = [ids[i] for i in np.argsort(-cosines, kind="stable")]
    rank = {id: place for place, id in enumerate(order, 1)}

    found = [line.split()[1] for line in plain[1:]]
    assert found == order[:5]
    assert [line.split()[-1] for line in plain[1:]] == ["1", "2", "3", "4", "5"]
    after = [line.split()[1] for line in reranked[1:]]
    assert [int(line.split()[-1]) for line in reranked[1:]] == [rank[id] for id in after]
    assert after != found
    scores = [numbers(line)[0] for line in reranked[1:]]
    assert scores == sorted(scores, reverse=True)

    # The best of them has a word of its own for each word asked for.
    asked = names["tokens"](names["QUESTION"])

    def matched(id):
        document = next(document for document in names["documents"] if document.id == id)
        return (asked @ names["tokens"](f"{id}\n{document.text}").T).max(axis=1).mean()

    assert np.mean([matched(id) for id in after]) > np.mean([matched(id) for id in found])
    numpy = [id for id in order if id.startswith("numpy.")]
    assert only == [f"in numpy alone: {numpy[0]}, {numpy[1]}"]
    assert explained[0] == f"2. {after[1]}"


def test_late_interaction(run):
    names, ((plain, late),) = run("late_interaction")
    query, documents = names["query_tokens"], dict(zip(names["DOCUMENTS"], names["token_lists"], strict=True))
    assert plain.split(" ", 1)[1].strip() == str(["lists", "lookup"])
    assert late == f"late interaction {['lookup', 'lists']}"
    matches = {id: (query @ rows.T).max(axis=1).mean() for id, rows in documents.items()}
    assert matches["lookup"] == pytest.approx(max(matches.values()))
