"""Attention, norms, dropout and residuals, one after the other."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from attnbridge.config import as_dropout
from attnbridge.errors import (
    DimensionMismatchError,
    InvalidConfigError,
    InvalidInputError,
    NumericalInstabilityError,
)
from attnbridge.layers import BatchNorm, Dropout, FeedForward, Layer, LayerNorm, RMSNorm
from attnbridge.mechanisms import Attention
from attnbridge.mechanisms.base import as_attention
from attnbridge.validation import Float, as_bool, as_choice, as_count, as_floats, require_finite

_NORMS: dict[str, Callable[..., Layer]] = {"layer": LayerNorm, "rms": RMSNorm, "batch": BatchNorm}


@dataclass(frozen=True)
class _Run:
    """A stream on its way through the steps, and what steps ask beside it."""

    stream: Float
    kept: Float  # what the next residual adds
    keys: Any
    values: Any
    mask: Any
    training: bool
    changed: str  # the step that last changed the stream's shape

    def to(self, stream: Float) -> "_Run":
        """Return the run with another stream."""
        return replace(self, stream=stream)


class _Step(ABC):
    """A step: its call in the pipeline's repr, and what it makes of a run."""

    call: str

    @property
    def part(self) -> Any:
        """What it was made of, where that is an object."""
        return None

    @abstractmethod
    def apply(self, run: _Run, seed: int | None) -> _Run:
        """Return the run after the step."""


@dataclass(frozen=True)
class _Attend(_Step):
    attention: Attention

    @property
    def call(self) -> str:  # type: ignore[override]
        return f"add_attention({self.attention!r})"

    @property
    def part(self) -> Attention:
        return self.attention

    def apply(self, run: _Run, seed: int | None) -> _Run:
        keys = run.stream if run.keys is None else run.keys
        values = keys if run.values is None else run.values
        made = self.attention.forward(run.stream, keys, values, run.mask, training=run.training, seed=seed)
        return run.to(made.output)


@dataclass(frozen=True)
class _Pass(_Step):
    layer: Layer
    call: str

    @property
    def part(self) -> Layer:
        return self.layer

    def apply(self, run: _Run, seed: int | None) -> _Run:
        return run.to(self.layer.forward(run.stream, training=run.training, seed=seed))


@dataclass(frozen=True)
class _PlainNorm(_Step):
    """A norm without parameters, of whatever dimension comes."""

    name: str
    call: str
    eps: float | None

    def layer(self, dim: int) -> Layer:
        settings = {} if self.eps is None else {"eps": self.eps}
        return _NORMS[self.name](dim, elementwise_affine=False, **settings)

    def apply(self, run: _Run, seed: int | None) -> _Run:
        return run.to(self.layer(run.stream.shape[-1]).forward(run.stream, training=run.training))


@dataclass(frozen=True)
class _Residual(_Step):
    call: str = "add_residual()"

    def apply(self, run: _Run, seed: int | None) -> _Run:
        if run.stream.shape != run.kept.shape:
            raise DimensionMismatchError(
                f"add_residual must find the shape that it adds, {run.kept.shape}: {run.changed} has made it "
                f"{run.stream.shape}; keep the shape, or mark() after that step"
            )
        with np.errstate(over="ignore"):
            summed: Float = run.kept + run.stream
        if not np.isfinite(summed).all():
            raise NumericalInstabilityError(f"add_residual must stay within {summed.dtype}; rescale the stream")
        return replace(run, stream=summed, kept=summed)


@dataclass(frozen=True)
class _Mark(_Step):
    call: str = "mark()"

    def apply(self, run: _Run, seed: int | None) -> _Run:
        return replace(run, kept=run.stream)


@dataclass(frozen=True)
class _Custom(_Step):
    function: Callable[[Float], npt.ArrayLike]

    @property
    def call(self) -> str:  # type: ignore[override]
        return f"add_custom({getattr(self.function, '__name__', repr(self.function))})"

    def apply(self, run: _Run, seed: int | None) -> _Run:
        given = self.function(run.stream.copy())  # it may write in place; others hold the stream
        if given is None:
            raise InvalidInputError(f"{self.call} must return an array, got None")
        made = as_floats(given, f"what {self.call} returns", keep_float64=True).copy()  # the function may keep its own
        if made.ndim == 0 or made.shape[-1] == 0:
            raise DimensionMismatchError(f"{self.call} must return (..., d), got shape {made.shape}")
        if not np.isfinite(made).all():
            rows = made if made.ndim == 1 else made.reshape(-1, made.shape[-1])
            require_finite(rows, f"what {self.call} returns")
        return run.to(made)


class AttentionPipeline:
    """Steps that a stream of vectors goes through: attention, norms, dropout, residuals, feed-forward networks.

    A pipeline is never changed: each `add_` returns a new one. The stream begins as the query.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> block = ab.AttentionPipeline().add_norm("layer").add_attention(ab.ScaledDotProductAttention()).add_residual()
    >>> x = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    >>> block.run(x).round(2)
    array([[ 1.89, -0.89],
           [-0.89,  2.89]], dtype=float32)
    >>> ab.AttentionPipeline().add_dropout(0.1).add_residual()
    AttentionPipeline().add_dropout(0.1).add_residual()
    """

    def __init__(self) -> None:
        self._steps: tuple[_Step, ...] = ()

    def _with(self, step: _Step) -> Self:
        made = type(self)()
        made._steps = (*self._steps, step)
        return made

    def add_norm(self, norm: str | Layer = "layer", dim: int | None = None, *, eps: float | None = None) -> Self:
        """Return the pipeline with a norm at its end.

        Parameters
        ----------
        norm : {"layer", "rms", "batch"} or Layer, default "layer"
            A layer has its own parameters, and may be shared.
        dim : int, optional
            Of the stream; then the norm has parameters. Without it a layer or RMS norm has none and takes any
            dimension. A batch norm, which keeps running statistics, must have it.
        eps : float, optional
            By default as `LayerNorm`, `RMSNorm` and `BatchNorm` have it.

        Returns
        -------
        AttentionPipeline

        Raises
        ------
        InvalidConfigError
            An unknown name (the known ones are listed), a batch norm without dim, a layer with dim or eps, or a layer
            that is no norm: a feed-forward network, dropout.
        """
        for kind, other in ((FeedForward, "add_feed_forward"), (Dropout, "add_dropout")):
            if isinstance(norm, kind):
                raise InvalidConfigError(f"norm must be a norm, got {norm!r}; {other} adds it")
        if isinstance(norm, Layer):
            if dim is not None or eps is not None:
                raise InvalidConfigError(f"dim and eps must be left out with a layer, which has its own: {norm!r}")
            return self._with(_Pass(norm, f"add_norm({norm!r})"))
        name = as_choice(norm, "norm", _NORMS)
        given = {"dim": dim, "eps": eps}
        call = f"add_norm({', '.join([repr(name), *(f'{k}={v!r}' for k, v in given.items() if v is not None)])})"
        settings = {} if eps is None else {"eps": eps}
        if dim is not None:
            return self._with(_Pass(_NORMS[name](as_count(dim, "dim"), **settings), call))
        if name == "batch":
            raise InvalidConfigError('dim must be given with "batch", whose running statistics have a dimension')
        step = _PlainNorm(name, call, eps)
        step.layer(1)  # checks eps
        return self._with(step)

    def add_attention(self, attention: Attention) -> Self:
        """Return the pipeline with an attention at its end.

        The stream attends to the keys and values of the run, or to itself, as it is there, where none are given.

        Parameters
        ----------
        attention : Attention

        Returns
        -------
        AttentionPipeline

        Raises
        ------
        InvalidConfigError
        """
        return self._with(_Attend(as_attention(attention)))

    def add_dropout(self, p: float | Dropout = 0.1) -> Self:
        """Return the pipeline with dropout at its end, which acts in training only.

        Parameters
        ----------
        p : float or Dropout, default 0.1
            Rate, [0, 1).

        Returns
        -------
        AttentionPipeline

        Raises
        ------
        InvalidConfigError
        """
        layer = p if isinstance(p, Dropout) else Dropout(p)
        return self._with(_Pass(layer, f"add_dropout({layer.p})"))

    def add_residual(self) -> Self:
        """Return the pipeline with a residual connection at its end.

        It adds the stream as it was at the start, after the residual before it, or at the last `mark`, whichever came
        last.

        Returns
        -------
        AttentionPipeline

        References
        ----------
        He et al. 2016, Deep Residual Learning for Image Recognition, equation 1.
        """
        return self._with(_Residual())

    def mark(self) -> Self:
        """Return the pipeline with a mark at its end: the next residual adds the stream as it is here.

        Returns
        -------
        AttentionPipeline
        """
        return self._with(_Mark())

    def add_feed_forward(self, feed_forward: FeedForward | int) -> Self:
        """Return the pipeline with a feed-forward network at its end.

        Parameters
        ----------
        feed_forward : FeedForward or int
            A number is its d_ff; d_model is then that of the last attention before it.

        Returns
        -------
        AttentionPipeline

        Raises
        ------
        InvalidConfigError
            A number where the last attention before it has no d_model.
        """
        if not isinstance(feed_forward, FeedForward):
            d_ff = as_count(feed_forward, "feed_forward")
            attentions = [step.attention for step in self._steps if isinstance(step, _Attend)]
            d_model = getattr(attentions[-1], "d_model", None) if attentions else None
            if d_model is None:
                raise InvalidConfigError(
                    f"feed_forward must be a FeedForward unless the last attention has a d_model, got {d_ff}; "
                    f"give FeedForward(d_model, {d_ff})"
                )
            feed_forward = FeedForward(d_model, d_ff)
        return self._with(_Pass(feed_forward, f"add_feed_forward({feed_forward!r})"))

    def add_custom(self, function: Callable[[Float], npt.ArrayLike]) -> Self:
        """Return the pipeline with a function of one's own at its end.

        Parameters
        ----------
        function : callable
            (stream) -> stream, of any shape and dtype that the steps after it take; it is given a copy.

        Returns
        -------
        AttentionPipeline

        Raises
        ------
        InvalidConfigError
        """
        if not callable(function):
            raise InvalidConfigError(f"function must be callable with the stream, got {function!r}")
        return self._with(_Custom(function))

    @property
    def parts(self) -> list[Any]:
        """Each step's attention or layer, whose `set_parameters` then acts here; None where a step has neither."""
        return [step.part for step in self._steps]

    def seeds(self, seed: int | None) -> list[int | None]:
        """Return the seed that each step of a run with a seed draws from, in their order; None draws afresh.

        Parameters
        ----------
        seed : int or None

        Returns
        -------
        list of int or None
        """
        if seed is None:
            return [None] * len(self._steps)
        whole = as_count(seed, "seed", least=0)
        return [int(np.random.default_rng([whole, number]).integers(2**63)) for number in range(len(self._steps))]

    def run(
        self,
        query: npt.ArrayLike,
        keys: npt.ArrayLike | None = None,
        values: npt.ArrayLike | None = None,
        mask: Any = None,
        *,
        training: bool = False,
        seed: int | None = None,
    ) -> Float:
        """Return the stream after the last step.

        Parameters
        ----------
        query : array_like, (..., L, d)
            Or (d,), with keys.
        keys : array_like, (..., S, d), optional
            What every attention attends to; by default each attends to the stream itself.
        values : array_like, (..., S, dv), optional
            By default the keys.
        mask : array_like or SparseMask, broadcastable to (..., L, S), optional
            Of every attention.
        training : bool, default False
            Apply what acts in training only.
        seed : int, optional
            What is random in training is drawn from it, another number for each step (`seeds`); by default fresh.

        Returns
        -------
        ndarray, (..., L, d) where no step changes the shape

        Raises
        ------
        InvalidConfigError
            No attention among the steps.
        DimensionMismatchError, InvalidInputError, InvalidMaskError
            Of a step; the error's note names it, as that of an error of a function of one's own.
        """
        if not any(isinstance(step, _Attend) for step in self._steps):
            raise InvalidConfigError("pipeline must have an attention to run; add_attention(...) adds one")
        if keys is None and values is not None:
            raise InvalidConfigError("keys must be given with values")
        stream = as_floats(query, "query", keep_float64=True)
        if stream.ndim == 0 or stream.shape[-1] == 0:
            raise DimensionMismatchError(f"query must be (d,) or (..., L, d), got shape {stream.shape}")
        run = _Run(stream, stream, keys, values, mask, as_bool(training, "training"), "")
        for number, (step, own) in enumerate(zip(self._steps, self.seeds(seed), strict=True), 1):
            before = run.stream.shape
            try:
                run = step.apply(run, own)
            except Exception as error:
                error.add_note(f"in step {number} of the pipeline, {step.call}")
                raise
            if run.stream.shape != before:
                run = replace(run, changed=f"step {number}, {step.call},")
        return run.stream.copy() if run.stream is stream else run.stream

    def __len__(self) -> int:
        return len(self._steps)

    def __repr__(self) -> str:
        return ".".join([f"{type(self).__name__}()", *(step.call for step in self._steps)])


def _as_dropout(dropout: float | Dropout) -> Dropout:
    """Return the layer of a block's dropout."""
    return dropout if isinstance(dropout, Dropout) else Dropout(as_dropout(dropout))


def transformer_block(
    attention: Attention, dropout: float | Dropout = 0.1, *, feed_forward: FeedForward | int | None = None
) -> AttentionPipeline:
    """Return a post-norm block: attention, dropout, residual, layer norm; with a network the same once more.

    Parameters
    ----------
    attention : Attention
    dropout : float or Dropout, default 0.1
    feed_forward : FeedForward or int, optional
        A network, or its d_ff where the attention has a d_model. After it dropout, residual and layer norm.

    Returns
    -------
    AttentionPipeline

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Vaswani et al. 2017, Attention Is All You Need, section 3.1.

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.transformer_block(ab.FlashAttention(128, causal=True), 0.0).run([[1.0, 2.0], [3.0, 4.0]]).round(2)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """
    drop = _as_dropout(dropout)
    block = AttentionPipeline().add_attention(attention).add_dropout(drop).add_residual().add_norm("layer")
    if feed_forward is None:
        return block
    return block.mark().add_feed_forward(feed_forward).add_dropout(drop).add_residual().add_norm("layer")


def prenorm_transformer_block(
    attention: Attention, dropout: float | Dropout = 0.1, *, feed_forward: FeedForward | int | None = None
) -> AttentionPipeline:
    """Return a pre-norm block: layer norm, attention, dropout, residual; with a network the same once more.

    Parameters
    ----------
    attention : Attention
    dropout : float or Dropout, default 0.1
    feed_forward : FeedForward or int, optional
        A network, or its d_ff where the attention has a d_model. Before it a layer norm, after it dropout and residual.

    Returns
    -------
    AttentionPipeline

    Raises
    ------
    InvalidConfigError

    References
    ----------
    Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, table 1.

    Examples
    --------
    >>> import attnbridge as ab
    >>> block = ab.prenorm_transformer_block(ab.MultiHeadAttention(4, 2), 0.1, feed_forward=16)
    >>> len(block), block.run([[1.0, 2.0, 3.0, 4.0]]).shape
    (8, (1, 4))
    """
    drop = _as_dropout(dropout)
    block = AttentionPipeline().add_norm("layer").add_attention(attention).add_dropout(drop).add_residual()
    if feed_forward is None:
        return block
    return block.add_norm("layer").add_feed_forward(feed_forward).add_dropout(drop).add_residual()
