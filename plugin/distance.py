"""An attention type as a dissimilarity between two vectors."""

from functools import partial
from typing import Any

from attnbridge.errors import InvalidConfigError
from attnbridge.functional import attention_score
from attnbridge.mechanisms.base import Attention
from attnbridge.scoring import resolve


class AttentionDistance:
    """A callable dissimilarity: minus the logit, or the type's largest logit minus the logit where there is one.

    For brute-force use, for instance scikit-learn's ``metric=callable`` with ``algorithm="brute"``. It is no metric
    in the mathematical sense: it can be negative and need not satisfy the triangle inequality.

    Parameters
    ----------
    attention_type : str, default "scaled_dot"
        A pairwise type from `attention_types`.
    **options : object
        Options of the type.

    Raises
    ------
    InvalidConfigError
        Unknown type or option, or a type that is not pairwise.

    Examples
    --------
    >>> import attnbridge as ab
    >>> distance = ab.AttentionDistance("scaled_dot", scale=1.0)
    >>> distance([1.0, 2.0], [3.0, 4.0])
    -11.0
    """

    def __init__(self, attention_type: str | Attention = "scaled_dot", **options: Any) -> None:
        self._type, self._options = resolve(attention_type, options)
        if not self._type.is_pairwise(self._options):
            raise InvalidConfigError(
                f"attention_type must be pairwise for a distance, got {self._type.name!r}, whose logit of a pair "
                "depends on the other keys"
            )

    def __call__(self, a: Any, b: Any) -> float:
        """Return the dissimilarity of two vectors.

        Parameters
        ----------
        a, b : array_like, (d,)

        Returns
        -------
        float
        """
        logit = attention_score(a, b, self._type.name, **self._options)
        largest = self._type.largest_logit
        return -logit if largest is None else largest - logit

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(AttentionDistance, **self._options), (self._type.name,)

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self._options.items())
        return f"AttentionDistance({self._type.name!r}{options})"
