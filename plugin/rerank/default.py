"""The stages of rerank="default": fixed, for any collection, without judgements."""

from typing import Any

from attnbridge.rerank.expansion import QueryExpansion
from attnbridge.rerank.feedback import Feedback
from attnbridge.rerank.gated import Gated
from attnbridge.rerank.late_interaction import LateInteraction
from attnbridge.rerank.pool import Stage

DEFAULT = "default"

# Candidates of a search with late interaction that is not told how many.
CANDIDATES = 200


def is_default(rerank: Any) -> bool:
    """Return whether "default" is asked for, alone or as the only entry of a list.

    Parameters
    ----------
    rerank : object
        As for `AttentionVectorBridge.search`.

    Returns
    -------
    bool

    Examples
    --------
    >>> from attnbridge.rerank.default import is_default
    >>> is_default("default"), is_default(["default"]), is_default("expansion")
    (True, True, False)
    """
    if isinstance(rerank, list | tuple) and len(rerank) == 1:
        (rerank,) = rerank
    return isinstance(rerank, str) and rerank.strip() == DEFAULT


def default_stages(tokens: bool) -> tuple[Stage, ...]:
    """Return what rerank="default" stands for.

    With token vectors: soft late interaction, then feedback from what it found best. Without: a little query expansion,
    for queries whose first candidates stand out only. The settings of the first are the best of 320 on six collections
    (weaknesses, symptoms, techniques, function pages, manual pages, FAQs) by the mean gain in nDCG@10, and were then
    tried on five others; those of the second are cautious ones on all eleven.

    Parameters
    ----------
    tokens : bool
        Whether documents and query have token vectors.

    Returns
    -------
    tuple of Stage

    Examples
    --------
    >>> from attnbridge.rerank import default_stages
    >>> [stage.name for stage in default_stages(tokens=True)]
    ['late_interaction', 'feedback']
    """
    if tokens:
        return LateInteraction(mix=0.7, soft=10.0, weighting="distinct"), Feedback(top=5, scale=3.0, mix=0.2)
    return (Gated(QueryExpansion(top=3, scale=40.0, mix=0.15), "gap", 2.5),)
