"""A least score, between stages."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnbridge.rerank.pool import Pool
from attnbridge.validation import as_number


@dataclass(frozen=True)
class Threshold:
    """Rule out candidates whose score so far is below a number.

    The search's own `threshold` holds the final scores against it; this stage those of the stages before it, so that
    what orders hits anew (`MMR`) chooses among the good ones only.

    Parameters
    ----------
    score : float
        The least score that stays, in the units of the stage before: the attention's logit, or z-scores where stages
        have mixed.

    Raises
    ------
    InvalidConfigError
        `score` is not a finite number.

    Notes
    -----
    A hit's part is the score that was held against the number.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], ids=["a", "b", "c"])
    >>> bridge.search([1.0, 0.0], rerank=[ab.Threshold(10.0), ab.MMR(0.0)]).ids
    ['a', 'b']
    """

    score: float
    name: ClassVar[str] = "threshold"
    level: ClassVar[str] = "selection"
    requires_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "score", as_number(self.score, "score"))

    def apply(self, pool: Pool) -> None:
        """Rule out what is below.

        Parameters
        ----------
        pool : Pool
        """
        pool.parts[self.name] = pool.scores
        pool.scores = np.where(pool.scores >= self.score, pool.scores, -np.inf)
