"""Products of small tiles in vector registers, and what is done to a tile of logits.

A tile has one column for each of LANES queries, so that a query's numbers never meet another's: its result has the
same bits in any company, and neither keys nor values need to be transposed.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from attnbridge.kernels._jit import jit
from attnbridge.kernels.softmax import exp_nonpositive

# Queries of a tile: two AVX-512 vectors of float32, four of AVX2.
LANES = 32

# Tiles have a multiple of so many rows; the last ones may be of no use.
ROWS = 8

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)


@jit
def exp_nonpositive_float32(x: Any) -> Any:
    """Return exp(x) for x <= 0 in float32, branch-free so that loops over it vectorise; below -87 exactly 0.

    Cephes' polynomial of degree 5 on |r| <= ln(2)/2 (relative error below 3e-7).
    """
    y = max(x, np.float32(-87.0))
    n = np.floor(y * _LOG2E + np.float32(0.5))
    r = (y - n * _LN2_HIGH) - n * _LN2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * (r * r) + r + np.float32(1.0)
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return p * power if x >= np.float32(-87.0) else np.float32(0.0)


def exp_of(x: Any) -> Any:
    """Return exp(x) for x <= 0 in the precision of x."""
    return exp_nonpositive_float32(x) if isinstance(x, np.float32) else exp_nonpositive(x)


def tile_product(
    a: Any, start: Any, row_step: Any, step: Any, rows: Any, count: Any, b: Any, c: Any, factor: Any
) -> None:
    """Write c[i] = factor * c[i] + sum_k a[start + i row_step + k step] b[k] for i < rows, k < count.

    Parameters
    ----------
    a : array, C-contiguous; indices are of all its elements in order
    start, row_step, step, rows, count : int
    b : (count or more, LANES)
    c : (rows, LANES), rows rounded up to a multiple of ROWS; those beyond are overwritten
    factor : (LANES,) or None (0)
    """
    places = start + np.arange(rows)[:, None] * row_step + np.arange(count) * step
    product = a.reshape(-1)[places] @ b[:count]
    c[:rows] = product if factor is None else factor * c[:rows] + product


def row_dots(x: Any, a: Any, start: Any, row_step: Any, rows: Any, out: Any) -> None:
    """Write out[i] = sum_k x[k] a[start + i row_step + k] for i < rows.

    Parameters
    ----------
    x : (d,)
    a : array, C-contiguous; indices are of all its elements in order
    start, row_step, rows : int
    out : array, C-contiguous, `rows` elements rounded up to a multiple of LANES; those beyond are overwritten
    """
    places = start + np.arange(rows)[:, None] * row_step + np.arange(x.size)
    out.reshape(-1)[:rows] = a.reshape(-1)[places] @ x


def weighted_rows(
    weights: Any,
    weight_start: Any,
    weight_step: Any,
    rows: Any,
    a: Any,
    ids: Any,
    start: Any,
    row_step: Any,
    out: Any,
    out_start: Any,
    width: Any,
) -> None:
    """Write out[out_start + k] = sum_i w_i a[start + r_i row_step + k] over i < rows, k < width.

    w_i = weights[weight_start + i weight_step], r_i = ids[i], or i without ids.

    Parameters
    ----------
    weights, a, out : array, C-contiguous; indices are of all its elements in order
    ids : (rows or more,) int64, or None
    rows : int
        At least 1.
    """
    numbers = np.arange(rows) if ids is None else ids[:rows]
    places = start + numbers[:, None] * row_step + np.arange(width)
    shares = weights.reshape(-1)[weight_start + np.arange(rows) * weight_step]
    out.reshape(-1)[out_start : out_start + width] = shares @ a.reshape(-1)[places]


if not numba.config.DISABLE_JIT:

    @overload(exp_of)
    def _exp_of(x):  # type: ignore[no-untyped-def]
        if x == types.float32:
            return lambda x: exp_nonpositive_float32(x)
        return lambda x: exp_nonpositive(x)

    class _Block:
        """A block of c, `height` rows of two vectors, kept in registers while the sum over k runs.

        Eight rows by two vectors keep both multipliers of an AVX-512 core busy: 2 loads of b and 8 of a for 16
        multiply-adds, 16 sums that do not wait for each other. With half the registers, four rows.
        """

        def __init__(self, context: Any, builder: Any, dtype: Any) -> None:
            features = context.codegen().magic_tuple()[2]  # part of the key of Numba's cache, too
            size = 64 if "+avx512f" in features else 32 if "+avx2" in features else 16
            self.context, self.builder = context, builder
            self.element = context.get_value_type(dtype)
            self.bytes = 4 if dtype == types.float32 else 8
            self.width = size // self.bytes
            self.height = ROWS if size == 64 else 4
            self.vector = ir.VectorType(self.element, self.width)
            self.size = context.get_value_type(types.intp)
            kind = ir.FunctionType(self.vector, [self.vector] * 3)
            name = f"llvm.fmuladd.v{self.width}f{8 * self.bytes}"
            self.multiply_add = cgutils.get_or_insert_function(builder.module, kind, name)

        def number(self, value: int) -> Any:
            return ir.Constant(self.size, value)

        def place(self, pointer: Any, row: Any, column: int) -> Any:
            """Return where a vector of a tile starts."""
            at = self.builder.add(self.builder.mul(row, self.number(LANES)), self.number(column))
            return self.builder.bitcast(self.builder.gep(pointer, [at]), self.vector.as_pointer())

        def load(self, place: Any) -> Any:
            return self.builder.load(place, align=self.bytes)

        def spread(self, pointer: Any) -> Any:
            """Return a vector of one element, repeated."""
            none, word = ir.Constant(self.vector, ir.Undefined), ir.IntType(32)
            one = self.builder.insert_element(none, self.builder.load(pointer), word(0))
            return self.builder.shuffle_vector(one, none, ir.Constant(ir.VectorType(word, self.width), None))

        def sums(self, rows: list[Any], step: Any, count: Any, b: Any, columns: list[int]) -> list[list[Any]]:
            """Return sum_k a[rows[i] + k step] b[k, columns], a vector for each row and column."""
            builder, before = self.builder, self.builder.block
            body, after = builder.append_basic_block("sums"), builder.append_basic_block("sums.end")
            builder.cbranch(builder.icmp_signed(">", count, self.number(0)), body, after)
            builder.position_at_end(body)
            k = builder.phi(self.size)
            k.add_incoming(self.number(0), before)
            zero = ir.Constant(self.vector, None)
            sums = [[builder.phi(self.vector) for _ in columns] for _ in rows]
            vectors = [self.load(self.place(b, k, column)) for column in columns]
            at = builder.mul(k, step)
            new = []
            for row, line in zip(rows, sums, strict=True):
                x = self.spread(builder.gep(row, [at]))
                new.append([builder.call(self.multiply_add, [x, *pair]) for pair in zip(vectors, line, strict=True)])
            following = builder.add(k, self.number(1))
            k.add_incoming(following, body)
            builder.cbranch(builder.icmp_signed("<", following, count), body, after)
            builder.position_at_end(after)
            out: list[list[Any]] = []
            for line, added in zip(sums, new, strict=True):
                out.append([])
                for total, more in zip(line, added, strict=True):
                    total.add_incoming(zero, before)
                    total.add_incoming(more, body)
                    end = builder.phi(self.vector)
                    end.add_incoming(zero, before)
                    end.add_incoming(more, body)
                    out[-1].append(end)
            return out

    @intrinsic
    def tile_product(
        typingctx: Any,
        a: Any,
        start: Any,
        row_step: Any,
        step: Any,
        rows: Any,
        count: Any,
        b: Any,
        c: Any,
        factor: Any,
    ) -> Any:
        """Write c[i] = factor * c[i] + sum_k a[start + i row_step + k step] b[k] for i < rows, k < count."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            block = _Block(context, builder, signature.args[6].dtype)

            def pointer(which: int) -> Any:
                return context.make_array(signature.args[which])(context, builder, args[which]).data

            whole = [context.cast(builder, args[i], signature.args[i], types.intp) for i in range(1, 6)]
            start, row_step, step, rows, count = whole
            first, last = builder.gep(pointer(0), [start]), builder.sub(rows, block.number(1))
            scales = None if signature.args[8] == types.none else pointer(8)
            zero, height = block.number(0), block.number(block.height)
            with cgutils.for_range_slice(builder, zero, rows, height, block.size) as (top, _):
                lines, starts = [builder.add(top, block.number(i)) for i in range(block.height)], []
                for line in lines:  # beyond the last row, that again
                    row = builder.select(builder.icmp_signed("<", line, last), line, last)
                    starts.append(builder.gep(first, [builder.mul(row, row_step)]))
                for left in range(0, LANES, 2 * block.width):
                    columns = [left, left + block.width]
                    sums = block.sums(starts, step, count, pointer(6), columns)
                    for line, vectors in zip(lines, sums, strict=True):
                        for column, vector in zip(columns, vectors, strict=True):
                            there = block.place(pointer(7), line, column)
                            if scales is not None:
                                scale = block.load(block.place(scales, zero, column))
                                vector = builder.call(block.multiply_add, [scale, block.load(there), vector])
                            builder.store(vector, there, align=block.bytes)
            return context.get_dummy_value()

        return types.void(a, start, row_step, step, rows, count, b, c, factor), codegen

    class _Dots(_Block):
        """Products of a vector with `width` rows at a time, so that their sums are added up together."""

        def chunk(self, pointer: Any, at: Any) -> Any:
            return self.builder.bitcast(self.builder.gep(pointer, [at]), self.vector.as_pointer())

        def partial(self, x: Any, rows: list[Any], dim: Any) -> list[Any]:
            """Return for each row a vector whose elements add up to its product with x."""
            builder, before = self.builder, self.builder.block
            rest = builder.srem(dim, self.number(self.width))
            whole = builder.sub(dim, rest)
            body, tail, after = (builder.append_basic_block(f"dots.{name}") for name in ("body", "tail", "end"))
            zero = ir.Constant(self.vector, None)
            builder.cbranch(builder.icmp_signed(">", whole, self.number(0)), body, tail)
            builder.position_at_end(body)
            k = builder.phi(self.size)
            k.add_incoming(self.number(0), before)
            sums = [builder.phi(self.vector) for _ in rows]
            piece = self.load(self.chunk(x, k))
            more = [
                builder.call(self.multiply_add, [piece, self.load(self.chunk(row, k)), total])
                for row, total in zip(rows, sums, strict=True)
            ]
            following = builder.add(k, self.number(self.width))
            k.add_incoming(following, body)
            for total, new in zip(sums, more, strict=True):
                total.add_incoming(zero, before)
                total.add_incoming(new, body)
            builder.cbranch(builder.icmp_signed("<", following, whole), body, tail)
            builder.position_at_end(tail)
            totals = [builder.phi(self.vector) for _ in rows]
            for total, new in zip(totals, more, strict=True):
                total.add_incoming(zero, before)
                total.add_incoming(new, body)
            last = builder.append_basic_block("dots.rest")
            builder.cbranch(builder.icmp_signed(">", rest, self.number(0)), last, after)
            builder.position_at_end(last)
            there = self.first(rest)
            piece = self.load_some(self.chunk(x, whole), there)
            more = [
                builder.call(self.multiply_add, [piece, self.load_some(self.chunk(row, whole), there), total])
                for row, total in zip(rows, totals, strict=True)
            ]
            builder.branch(after)
            builder.position_at_end(after)
            out = [builder.phi(self.vector) for _ in rows]
            for end, total, new in zip(out, totals, more, strict=True):
                end.add_incoming(total, tail)
                end.add_incoming(new, last)
            return out

        def weighted(
            self, weights: Any, by: Any, count: Any, rows: Any, ids: Any, step: Any, vectors: int, there: Any
        ) -> list[Any]:
            """Return sum_i weights[i by] rows[r_i step], in some vectors, or one of which only `there` is."""
            builder, before = self.builder, self.builder.block
            body, after = builder.append_basic_block("weighted"), builder.append_basic_block("weighted.end")
            zero = ir.Constant(self.vector, None)
            builder.branch(body)
            builder.position_at_end(body)
            i = builder.phi(self.size)
            i.add_incoming(self.number(0), before)
            sums = [builder.phi(self.vector) for _ in range(vectors)]
            number = i if ids is None else builder.load(builder.gep(ids, [i]))
            weight = self.spread(builder.gep(weights, [builder.mul(i, by)]))
            row = builder.gep(rows, [builder.mul(number, step)])
            following = builder.add(i, self.number(1))
            i.add_incoming(following, body)
            new = []
            for part, total in enumerate(sums):
                place = self.chunk(row, self.number(part * self.width))
                piece = self.load(place) if there is None else self.load_some(place, there)
                new.append(builder.call(self.multiply_add, [weight, piece, total]))
                total.add_incoming(zero, before)
                total.add_incoming(new[-1], body)
            builder.cbranch(builder.icmp_signed("<", following, count), body, after)
            builder.position_at_end(after)
            return new

        def first(self, count: Any) -> Any:
            """Return a vector of bits, the first `count` of them set."""
            word = ir.IntType(32)
            words = ir.VectorType(word, self.width)
            none = ir.Constant(words, ir.Undefined)
            one = self.builder.insert_element(none, self.builder.trunc(count, word), word(0))
            every = self.builder.shuffle_vector(one, none, ir.Constant(words, None))
            return self.builder.icmp_signed("<", ir.Constant(words, list(range(self.width))), every)

        def load_some(self, place: Any, there: Any) -> Any:
            """Load what is set in `there`, zeros elsewhere."""
            word = ir.IntType(32)
            kind = ir.FunctionType(self.vector, [place.type, word, there.type, self.vector])
            name = f"llvm.masked.load.v{self.width}f{8 * self.bytes}.p0"
            load = cgutils.get_or_insert_function(self.builder.module, kind, name)
            return self.builder.call(load, [place, word(self.bytes), there, ir.Constant(self.vector, None)])

        def store_some(self, vector: Any, place: Any, there: Any) -> None:
            """Store what is set in `there`."""
            word = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [self.vector, place.type, word, there.type])
            name = f"llvm.masked.store.v{self.width}f{8 * self.bytes}.p0"
            store = cgutils.get_or_insert_function(self.builder.module, kind, name)
            self.builder.call(store, [vector, place, word(self.bytes), there])

        def added(self, vectors: list[Any]) -> Any:
            """Return a vector of the sums of the elements of each of `width` vectors."""
            words = ir.VectorType(ir.IntType(32), self.width)
            even, odd = (ir.Constant(words, list(range(start, 2 * self.width, 2))) for start in (0, 1))
            shuffle = self.builder.shuffle_vector
            while len(vectors) > 1:
                pairs = zip(vectors[::2], vectors[1::2], strict=True)
                vectors = [self.builder.fadd(shuffle(a, b, even), shuffle(a, b, odd)) for a, b in pairs]
            return vectors[0]

    @intrinsic
    def row_dots(typingctx: Any, x: Any, a: Any, start: Any, row_step: Any, rows: Any, out: Any) -> Any:
        """Write out[i] = sum_k x[k] a[start + i row_step + k] for i < rows."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            dots = _Dots(context, builder, signature.args[0].dtype)
            arrays = {i: context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 1, 5)}
            dim = builder.extract_value(arrays[0].shape, 0)
            start, row_step, rows = (context.cast(builder, args[i], signature.args[i], types.intp) for i in (2, 3, 4))
            first, last = builder.gep(arrays[1].data, [start]), builder.sub(rows, dots.number(1))
            step = dots.number(dots.width)
            with cgutils.for_range_slice(builder, dots.number(0), rows, step, dots.size) as (top, _):
                vectors = []
                for group in range(0, dots.width, ROWS):
                    starts = []
                    for i in range(group, min(group + ROWS, dots.width)):
                        row = builder.add(top, dots.number(i))
                        row = builder.select(builder.icmp_signed("<", row, last), row, last)
                        starts.append(builder.gep(first, [builder.mul(row, row_step)]))
                    vectors += dots.partial(arrays[0].data, starts, dim)
                builder.store(dots.added(vectors), dots.chunk(arrays[5].data, top), align=dots.bytes)
            return context.get_dummy_value()

        return types.void(x, a, start, row_step, rows, out), codegen

    @intrinsic
    def weighted_rows(
        typingctx: Any,
        weights: Any,
        weight_start: Any,
        weight_step: Any,
        rows: Any,
        a: Any,
        ids: Any,
        start: Any,
        row_step: Any,
        out: Any,
        out_start: Any,
        width: Any,
    ) -> Any:
        """Write out[out_start + k] = sum_i w_i a[start + r_i row_step + k] over i < rows, rows > 0, k < width."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            dots = _Dots(context, builder, signature.args[0].dtype)
            given = (0, 4, 8) if signature.args[5] == types.none else (0, 4, 5, 8)
            arrays = {i: context.make_array(signature.args[i])(context, builder, args[i]) for i in given}
            sizes = [context.cast(builder, args[i], signature.args[i], types.intp) for i in (1, 2, 3, 6, 7, 9, 10)]
            weight_start, by, rows, start, row_step, out_start, width = sizes
            first, ids = builder.gep(arrays[4].data, [start]), arrays[5].data if 5 in arrays else None
            weights, out = builder.gep(arrays[0].data, [weight_start]), builder.gep(arrays[8].data, [out_start])
            rest = builder.srem(width, dots.number(4 * dots.width))
            whole = builder.sub(width, rest)
            four = dots.number(4 * dots.width)
            with cgutils.for_range_slice(builder, dots.number(0), whole, four, dots.size) as (column, _):
                sums = dots.weighted(weights, by, rows, builder.gep(first, [column]), ids, row_step, 4, None)
                for number, vector in enumerate(sums):
                    place = dots.chunk(out, builder.add(column, dots.number(number * dots.width)))
                    builder.store(vector, place, align=dots.bytes)
            with cgutils.for_range_slice(builder, whole, width, dots.number(dots.width), dots.size) as (column, _):
                there = dots.first(builder.sub(width, column))
                sums = dots.weighted(weights, by, rows, builder.gep(first, [column]), ids, row_step, 1, there)
                dots.store_some(sums[0], dots.chunk(out, column), there)
            return context.get_dummy_value()

        whole = (weight_start, weight_step, rows), (start, row_step), (out_start, width)
        return types.void(weights, *whole[0], a, ids, *whole[1], out, *whole[2]), codegen
