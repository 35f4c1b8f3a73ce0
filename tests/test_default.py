"""rerank="default": which stages it stands for, and where."""

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.rerank import default_stages


@pytest.fixture
def made(rng):
    """Return rows, tokens and a bridge that holds both; more rows than a search ranks by default."""
    rows = rng.standard_normal((250, 7)).astype(np.float32)
    tokens = [rng.standard_normal((3, 5)).astype(np.float32) for _ in rows]
    bridge = ab.AttentionVectorBridge(dim=7, index="exact", token_dtype="int8")
    bridge.add(rows, tokens=tokens)
    return rows, tokens, bridge


def test_with_tokens_it_is_late_interaction_and_feedback(made):
    rows, tokens, bridge = made
    stages = [ab.LateInteraction(mix=0.7, soft=10.0, weighting="distinct"), ab.Feedback(top=5, scale=3.0, mix=0.2)]
    assert list(default_stages(tokens=True)) == stages
    hits = bridge.search(rows[3], rerank="default", query_tokens=tokens[8])
    assert hits.candidates == 200
    assert hits == bridge.search(rows[3], rerank=stages, query_tokens=tokens[8], candidates=200)
    assert bridge.search(rows[3], rerank=["default"], query_tokens=tokens[8]) == hits
    few = bridge.search(rows[3], rerank="default", query_tokens=tokens[8], candidates=30)
    assert few == bridge.search(rows[3], rerank=stages, query_tokens=tokens[8], candidates=30)
    batch = bridge.search_batch(rows[3:5], rerank="default", query_tokens=[tokens[8], tokens[9]])
    assert batch[0] == hits


def test_a_stored_document_as_query_brings_its_tokens(made):
    _, _, bridge = made
    assert "late_interaction" in bridge.search(id=5, rerank="default").parts


def test_without_tokens_it_is_expansion_where_the_first_stand_out(made, rng):
    rows, _, bridge = made
    (gated,) = default_stages(tokens=False)
    assert gated == ab.Gated(ab.QueryExpansion(top=3, scale=40.0, mix=0.15), "gap", 2.5)
    assert bridge.search(rows[3], rerank="default") == bridge.search(rows[3], rerank=gated)  # the query has no tokens
    bare = ab.AttentionVectorBridge(dim=61, index="exact")
    many = rng.standard_normal((250, 61))
    many[:40] = many[0] + 0.1 * many[:40]
    bare.add(many)
    queries = np.concatenate([many[40:50], many[:10] + 0.3 * many[50:60]])  # to the last, forty are near
    found = bare.search_batch(queries, rerank="default")
    assert found == bare.search_batch(queries, rerank=gated)
    assert [not np.isnan(hits.parts["expansion"][0]) for hits in found] == [True] * 10 + [False] * 10
    assert "expansion" in bare.search(id=5, rerank="default").parts


def test_tokens_that_nothing_can_be_compared_with(made):
    rows, tokens, _ = made
    bare = ab.AttentionVectorBridge(dim=7, index="exact")
    bare.add(rows)
    with pytest.raises(
        ab.InvalidInputError, match="query_tokens are given, but this bridge stores no tokens; give them"
    ):
        bare.search(rows[0], rerank="default", query_tokens=tokens[0])


def test_an_empty_bridge():
    bridge = ab.AttentionVectorBridge(dim=2)
    assert len(bridge.search([1.0, 0.0], rerank="default")) == 0
    assert len(bridge.search([1.0, 0.0], rerank="default", query_tokens=[[1.0, 2.0]])) == 0


def test_distinct_query_tokens_weigh_more(made, rng):
    """Against the formula: weights times 1 - the mean cosine with the query's other tokens."""
    rows, _, bridge = made
    query_tokens = rng.standard_normal((6, 5)).astype(np.float32)
    query_tokens[1] = 3.0 * query_tokens[0]  # says the same again
    unit = query_tokens / np.linalg.norm(query_tokens, axis=1, keepdims=True)
    own = 1.0 - (unit.astype(np.float64) @ unit.sum(axis=0) - 1.0) / 5
    for given in (None, [1, 2, 3, 4, 5, 6]):
        distinct = bridge.search(
            rows[0],
            rerank=ab.LateInteraction(weighting="distinct"),
            query_tokens=query_tokens,
            query_token_weights=given,
        )
        by_hand = own if given is None else own * np.array(given)
        same = bridge.search(
            rows[0], rerank=ab.LateInteraction(), query_tokens=query_tokens, query_token_weights=by_hand
        )
        assert distinct.ids == same.ids
        np.testing.assert_allclose(distinct.scores, same.scores, rtol=1e-5)
    plain = bridge.search(rows[0], rerank=ab.LateInteraction(), query_tokens=query_tokens)
    assert distinct.scores.tolist() != plain.scores.tolist()


@pytest.mark.parametrize("query_tokens", [np.ones((1, 5)), np.ones((4, 5)), np.zeros((3, 5))])
def test_tokens_that_are_all_alike_weigh_the_same(made, query_tokens):
    rows, _, bridge = made
    distinct = bridge.search(rows[0], rerank="late_interaction(weighting='distinct')", query_tokens=query_tokens)
    given = bridge.search(rows[0], rerank="late_interaction", query_tokens=query_tokens)
    assert distinct.ids == given.ids
    np.testing.assert_allclose(distinct.scores, given.scores, rtol=1e-6)


def test_an_unknown_weighting():
    with pytest.raises(ab.InvalidConfigError, match="weighting must be one of distinct, given; got 'idf'"):
        ab.LateInteraction(weighting="idf")


def test_graph_adaptive_is_guided_by_late_interaction(made):
    rows, tokens, bridge = made
    stages = [ab.GraphAdaptive(budget=20, guide=ab.LateInteraction()), ab.LateInteraction()]
    hits = bridge.search(rows[0], k=10, candidates=10, rerank=stages, query_tokens=tokens[9])
    assert hits.candidates == 30
    origins = hits.trace.origins
    assert len(origins) == 20
    assert all(text.startswith("neighbour of ") for text in origins.values())
