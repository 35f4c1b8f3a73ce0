"""Attention heads over whole sequences: projections, each head's attention, their outputs side by side."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.config import heads_divide
from attnbridge.errors import NumericalInstabilityError
from attnbridge.masks import SparseMask
from attnbridge.mechanisms.base import Attended, Batch, RotaryAttention, scale_rows, with_eps
from attnbridge.mechanisms.dense import attend_dense
from attnbridge.mechanisms.head_logits import NONE, Parameters, head_mean_logits, log_mean_weights
from attnbridge.mechanisms.listed import PairLogits
from attnbridge.mechanisms.neighbors import attend_nodes
from attnbridge.mechanisms.pairs import Pairs, attend_sparse
from attnbridge.mechanisms.row import Ids, Logits, Options, scale_or_default
from attnbridge.mechanisms.standard import ScaledDotProductAttention
from attnbridge.metric import Keys
from attnbridge.validation import Float, all_finite
from attnbridge.workspace import Lend, Workspaces


class Heads(RotaryAttention):
    """Heads over columns, projected or as they are."""

    num_heads: int
    scale: float | None
    score: str = "logits"
    _held: Parameters = NONE

    def _options(self, held: Parameters) -> Options:
        """Return the row's options."""
        return {"num_heads": self.num_heads, "scale": self.scale, "score": self.score, "parameters": held or None}

    def _logits(self, batch: Batch) -> Logits:
        """Return the mean over heads of their logits, as the row of the registry has it."""
        if self.rotary is not None:  # the row has no places
            parts = list(self._parts(self._project(batch, self._held)))
            mean: Logits = np.mean([head._logits(part) for head, part in parts], axis=0)
            return mean
        out, options = batch.new_logits(), self._options(self._held) | {"score": "logits"}  # type: ignore[operator]
        for problem, (q, k, _) in enumerate(batch.which):
            keys = Keys(batch.key[k])
            for i, query in enumerate(batch.query[q]):
                head_mean_logits(query, 0.0, keys, None, options, out[problem, i])
        return out

    def _masked_logits(self, batch: Batch) -> Logits:
        if self.score == "logits":
            return super()._masked_logits(batch)
        parts = self._parts(self._project(batch, self._held))
        return log_mean_weights(np.stack([head._masked_logits(part) for head, part in parts]))

    def _all_weights(self, batch: Batch) -> Float:
        mean: Float = np.mean(self._head_weights(batch), axis=0).astype(batch.key.dtype, copy=False)
        return mean

    def _head_weights(self, batch: Batch) -> list[Logits]:
        """Return each head's weights (P, L, S)."""
        parts = self._parts(self._project(batch, self._held))
        made = [head._weights(part, head._masked_logits(part)) for head, part in parts]
        if self._softmax_eps == 0.0:
            return [weights for weights, _ in made]
        return [weights * with_eps(total, self._softmax_eps)[0][..., None] for weights, total in made]

    def _attend(
        self,
        batch: Batch,
        need_weights: bool = False,
        need_context: bool = False,
        training: bool = False,
        seed: int | None = None,
    ) -> Attended:
        output, heads, total = self._attend_heads(batch, need_weights, need_context, training, seed)
        return Attended(output, None if heads is None else mean_over_heads(heads), total)

    def _attend_heads(
        self, batch: Batch, need_weights: bool, need_totals: bool, training: bool, seed: int | None
    ) -> tuple[Float, Float | None, Logits | None]:
        """Return outputs (P, L, dv), each head's weights (P, H, L, S) and log-normalisers (P, H, L) if needed."""
        assert batch.value is not None
        held, drawn = self._held, self._draw(training, seed)
        with Workspaces(batch.query.size + batch.key.size) as lend:
            projected = self._project(batch, held, lend)
            output, kept, totals = self._attend_projected(
                projected, need_weights, *drawn, lend if "W_o" in held else np.empty
            )
            if self._softmax_eps > 0.0:
                factors, totals = with_eps(totals, self._softmax_eps)  # (P, H, L)
                by_head = output.reshape(*output.shape[:2], self.num_heads, -1)
                shares = np.moveaxis(factors, 1, 2)[..., None]
                scale_rows(by_head, shares)
                kept = None if kept is None else (kept * factors[..., None]).astype(kept.dtype)
            output = self._projected_back(batch, held, output, totals)
            return output, kept, totals.copy() if need_totals else None

    def _attend_projected(
        self, projected: Batch, need_weights: bool, rate: float, draw: int, lend: Lend
    ) -> tuple[Float, Float | None, Logits]:
        """Return what `_attend_heads` does, before W_o, with eps = 0; outputs and log-normalisers may be lent."""
        if isinstance(projected.mask, SparseMask):
            return self._attend_listed(projected, projected.mask, need_weights, rate, draw)
        heads = self.num_heads
        scale = scale_or_default(projected.query.shape[-1] // heads, self.scale)
        output, weights, total = attend_dense(
            projected, scale=scale, heads=heads, need_weights=need_weights, rate=rate, draw=draw, lend=lend
        )
        assert total is not None
        kept = None if weights is None else weights.reshape(-1, heads, *projected.shape[1:])
        return output, kept, total.reshape(-1, heads, projected.shape[1])

    def _attend_edges(self, batch: Batch, pairs: Pairs) -> tuple[Float, Float]:
        held = self._held
        projected = self._project(batch, held)
        parts = (part for _, part in self._parts(projected))
        outputs, weights, totals = zip(
            *(attend_nodes(part, pairs, self.scale, self._softmax_eps) for part in parts), strict=True
        )
        output = self._projected_back(batch, held, np.concatenate(outputs, axis=1)[None], np.stack(totals)[None])
        mean: Float = np.stack(weights).mean(axis=0, dtype=np.float64).astype(output.dtype)
        return output[0], mean

    def _projected_back(self, batch: Batch, held: Parameters, output: Float, totals: Logits) -> Float:
        """Return the output of heads side by side (P, L, dv) times W_o, with their log-normalisers (P, H, L)."""
        assert batch.value is not None
        if "W_o" in held:
            rows = output
            with np.errstate(over="ignore", invalid="ignore"):
                output = _linear(rows, held["W_o"], held.get("b_o"), rows.dtype)
            if not all_finite(output):
                output = _linear(rows, held["W_o"], held.get("b_o"), np.float64)
            output[(totals == -np.inf).all(axis=1)] = 0.0  # nothing to attend to: not the bias either
        if held:
            with np.errstate(over="ignore"):
                output = output.astype(batch.value.dtype, copy=False)
        if held and not all_finite(output):
            batch.require_finite()
            raise NumericalInstabilityError("output must be within float32 (3.4e38); rescale value, or give float64")
        return output

    def _attend_listed(
        self, projected: Batch, mask: SparseMask, need_weights: bool, rate: float, draw: int
    ) -> tuple[Float, Float | None, Logits]:
        """Return what `_attend_heads` does, before W_o, over the pairs of a mask."""
        made = [
            attend_sparse(
                part,
                mask,
                scale=self.scale,
                rate=rate,
                draw=draw,
                need_weights=need_weights,
                head=h,
                heads=self.num_heads,
            )
            for h, (_, part) in enumerate(self._parts(projected))
        ]
        weights = [head.weights for head in made if head.weights is not None]
        totals = [head.logsumexp for head in made if head.logsumexp is not None]
        kept = np.stack(weights, axis=1) if need_weights else None
        return np.concatenate([head.output for head in made], axis=-1), kept, np.stack(totals, axis=1)

    def _pair_logits(self, batch: Batch) -> PairLogits:
        """Return what fills the logarithms of the mean of the heads' weights over the listed keys."""
        projected = self._project(batch, self._held)
        parts = [(part.query, part.key) for _, part in self._parts(projected)]
        scale = scale_or_default(projected.query.shape[-1] // self.num_heads, self.scale)

        def fill(problem: int, i: int, ids: Ids, out: Logits) -> None:
            q, k, _ = batch.which[problem]
            heads = np.empty((len(parts), 1, 1, len(ids)))
            for (queries, keys), head in zip(parts, heads, strict=True):
                kernels.dot(queries[q, i], 0.0, keys[k], None, None, ids, scale, head[0, 0])
            out[:] = log_mean_weights(heads)[0, 0]

        return fill

    def _project(self, batch: Batch, held: Parameters, lend: Lend = np.empty) -> Batch:
        """Return the batch of the projected queries, keys and values, in arrays that may be lent."""
        if held:
            with np.errstate(over="ignore", invalid="ignore"):
                made = _projections(batch, held, batch.query.dtype, lend)
            if not all(all_finite(array) for array in made if array is not None):
                batch.require_finite()
                made = _projections(batch, held, np.float64, lend)
            batch = replace(batch, query=made[0], key=made[1], value=made[2])
        if batch.query.shape[-1] % self.num_heads:
            heads_divide(batch.query.shape[-1], self.num_heads)
        if batch.value is not None and batch.value.shape[-1] % self.num_heads:
            heads_divide(batch.value.shape[-1], self.num_heads, "Value dimension")
        return self._rotated(batch, self.num_heads)

    def _parts(self, batch: Batch) -> Iterator[tuple[ScaledDotProductAttention, Batch]]:
        """Yield, head by head, an attention and its share of the columns."""
        head = ScaledDotProductAttention(scale=self.scale)

        def share(array: Float, h: int) -> Float:
            width = array.shape[-1] // self.num_heads
            return np.ascontiguousarray(array[..., h * width : (h + 1) * width])

        for h in range(self.num_heads):
            value = None if batch.value is None else share(batch.value, h)
            yield head, replace(batch, query=share(batch.query, h), key=share(batch.key, h), value=value)


def mean_over_heads(weights: Float) -> Float:
    """Return the mean of weights (P, H, L, S) in their precision."""
    mean: Float = weights.mean(axis=1, dtype=np.float64).astype(weights.dtype, copy=False)
    return mean


def _projections(batch: Batch, held: Parameters, dtype: npt.DTypeLike, lend: Lend) -> tuple[Float, Float, Float | None]:
    """Return the projected queries, keys and values, all of one dtype; values may have no projection."""
    value = batch.value
    if value is not None:
        value = (
            _linear(value, held["W_v"], held.get("b_v"), dtype, lend)
            if "W_v" in held
            else value.astype(dtype, copy=False)
        )
    return (
        _linear(batch.query, held["W_q"], held.get("b_q"), dtype, lend),
        _linear(batch.key, held["W_k"], held.get("b_k"), dtype, lend),
        value,
    )


def _linear(
    rows: Float,
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    dtype: npt.DTypeLike,
    lend: Lend = np.empty,
) -> Float:
    """Return rows W^T + b."""
    rows, columns = rows.astype(dtype, copy=False), weight.T.astype(dtype, copy=False)
    out: Float
    if lend is np.empty:
        out = rows @ columns
    else:
        out = np.matmul(rows, columns, out=lend((*rows.shape[:-1], len(weight)), dtype))
    if bias is not None:
        out += bias
    return out
