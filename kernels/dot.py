"""Dot products of one query with many rows, and weighted sums of rows.

Rows are float32, float64, int8, or float16 given as the uint16 view of their bits (`bits_of_half`).
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from attnbridge.kernels._jit import jit

# A float32 dot product beyond this (after scaling) is redone in float64: a logit's error then stays far below
# 1e-5, and what overflows float32 comes out finite. The rule looks at one pair alone, so that a pair has the
# same logit in any company.
FLOAT32_LIMIT = 16.0

# Rows ahead of the current ones that are asked into the cache: a gather is bound by memory latency.
AHEAD = 8


def load(value: Any) -> Any:
    """Return a stored element as a number: uint16 holds the bits of a float16, int8 becomes float32."""
    if isinstance(value, np.uint16):
        return np.float32(value.view(np.float16))
    return np.float32(value) if isinstance(value, np.int8) else value


def prefetch(rows: Any, row: Any, column: Any) -> Any:
    """Ask for the cache line of rows[row, column], or rows[row]; without the compiler, do nothing."""


def chunk_dots(queries: Any, number: Any, rows: Any, a: Any, b: Any, c: Any, e: Any) -> Any:
    """Return queries[number] . rows[i] over whole chunks of int8 columns, i in (a, b, c, e), and where those end.

    What LLVM makes of the plain loop multiplies in 32 bits; processors have an instruction that multiplies in 16 and
    adds pairs: 1.5 times as fast at 384 columns. Without the compiler, there are no chunks.
    """
    return 0, 0, 0, 0, 0


if not numba.config.DISABLE_JIT:

    @intrinsic
    def _half_to_float(typingctx: Any, bits: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

        return types.float32(types.uint16), codegen

    @overload(load)
    def _load(value):  # type: ignore[no-untyped-def]
        if value == types.uint16:
            return lambda value: _half_to_float(value)
        if value == types.int8:
            return lambda value: np.float32(value)
        return lambda value: value

    @intrinsic
    def prefetch(typingctx: Any, rows: Any, row: Any, column: Any) -> Any:
        """Ask for the cache line of rows[row, column], or rows[row]."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array_type, row_type, column_type = signature.args
            array = context.make_array(array_type)(context, builder, args[0])
            index = [
                context.cast(builder, args[1], row_type, types.intp),
                context.cast(builder, args[2], column_type, types.intp),
            ][: array_type.ndim]
            pointer = cgutils.get_item_pointer(
                context, builder, array_type, array, index, wraparound=False, boundscheck=False
            )
            byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            # arguments: address, read, keep in all cache levels, data
            builder.call(function, [builder.bitcast(pointer, byte), word(0), word(3), word(1)])
            return context.get_dummy_value()

        return types.void(rows, row, column), codegen

    def _pairs(context: Any, builder: Any) -> tuple[int, Any, Any]:
        """Return how many int8 are multiplied at a time, the type of their sums, and what multiplies and adds them."""
        features = context.codegen().magic_tuple()[2]  # part of the key of Numba's cache, too
        wide = "+avx512bw" in features
        count = 32 if wide or "+avx2" not in features else 16
        words = ir.VectorType(ir.IntType(16), count)
        sums = ir.VectorType(ir.IntType(32), count // 2)
        if wide or count == 16:
            name = "llvm.x86.avx512.pmaddw.d.512" if wide else "llvm.x86.avx2.pmadd.wd"
            kind = ir.FunctionType(sums, [words, words])
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return count, sums, lambda x, y: builder.call(function, [x, y])
        lanes = ir.VectorType(ir.IntType(32), count)
        halves = [ir.Constant(sums, list(range(start, count, 2))) for start in (0, 1)]

        def multiply(x: Any, y: Any) -> Any:
            product = builder.mul(builder.sext(x, lanes), builder.sext(y, lanes))
            return builder.add(*(builder.shuffle_vector(product, product, half) for half in halves))

        return count, sums, multiply

    @intrinsic
    def chunk_dots(typingctx: Any, queries: Any, number: Any, rows: Any, a: Any, b: Any, c: Any, e: Any) -> Any:
        """Return the products of one query with four rows as far as whole chunks go, and where those end."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            count, sums, multiply = _pairs(context, builder)
            chunk, words = (ir.VectorType(ir.IntType(bits), count) for bits in (8, 16))
            size = context.get_value_type(types.intp)

            def begin(which: int, place: int) -> Any:
                array = context.make_array(signature.args[which])(context, builder, args[which])
                row = context.cast(builder, args[place], signature.args[place], types.intp)
                at = [row, ir.Constant(size, 0)]
                return cgutils.get_item_pointer(
                    context, builder, signature.args[which], array, at, wraparound=False, boundscheck=False
                )

            def part(pointer: Any, at: Any) -> Any:
                there = builder.bitcast(builder.gep(pointer, [at]), chunk.as_pointer())
                return builder.sext(builder.load(there, align=1), words)

            query, four = begin(0, 1), [begin(2, place) for place in (3, 4, 5, 6)]
            totals = [cgutils.alloca_once_value(builder, ir.Constant(sums, None)) for _ in four]
            shape = context.make_array(signature.args[2])(context, builder, args[2]).shape
            chunks = builder.sdiv(builder.extract_value(shape, 1), ir.Constant(size, count))
            with cgutils.for_range(builder, chunks) as loop:
                at = builder.mul(loop.index, ir.Constant(size, count))
                x = part(query, at)
                for row, total in zip(four, totals, strict=True):
                    builder.store(builder.add(builder.load(total), multiply(x, part(row, at))), total)
            kind = ir.FunctionType(ir.IntType(32), [sums])
            add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.add.v{count // 2}i32")
            out = [builder.call(add, [builder.load(total)]) for total in totals]
            done = builder.mul(chunks, ir.Constant(size, count))
            out.append(builder.trunc(done, ir.IntType(32)))
            return context.make_tuple(builder, signature.return_type, out)

        return numba.types.containers.UniTuple(types.int32, 5)(queries, number, rows, a, b, c, e), codegen


@jit
def term(x: Any, y: Any, difference: Any) -> Any:
    """Return a coordinate's share of a pair's product: x y, or -(x - y)^2 where `difference` is not None.

    None has a type of its own, so that each of the two is compiled without the other.
    """
    if difference is None:
        return x * y
    gap = x - y
    return -(gap * gap)


@jit
def four_dots(query: Any, rows: Any, a: Any, b: Any, c: Any, e: Any, difference: Any = None) -> Any:
    """Return query . rows[i] (or -|query - rows[i]|^2) for i in (a, b, c, e), in the query's precision.

    Four rows a pass: the query is read once and four streams of memory are under way at a time.
    """
    zero = query.dtype.type(0)
    s0 = zero
    s1 = zero
    s2 = zero
    s3 = zero
    for j in range(query.shape[0]):
        x = query[j]
        s0 += term(x, load(rows[a, j]), difference)
        s1 += term(x, load(rows[b, j]), difference)
        s2 += term(x, load(rows[c, j]), difference)
        s3 += term(x, load(rows[e, j]), difference)
    return s0, s1, s2, s3


@jit
def dot_float64(query: Any, rows: Any, row: Any) -> Any:
    """Return query . rows[row], accumulated in float64."""
    total = 0.0
    for j in range(query.shape[0]):
        total += np.float64(query[j]) * np.float64(load(rows[row, j]))
    return total


@jit
def _products(query: Any, rows: Any, ids: Any, out: Any, difference: Any) -> Any:
    """Write out[i] = query . rows[ids[i]] (or rows[i]; or minus the squared difference), in the query's precision.

    The last pass repeats a row instead of running a second loop, so that a pair's product has the same bits
    wherever it stands.
    """
    count = out.shape[0]
    last = count - 1
    if ids is None:
        for i in range(0, count, 4):
            i1 = min(i + 1, last)
            i2 = min(i + 2, last)
            i3 = min(i + 3, last)
            out[i], out[i1], out[i2], out[i3] = four_dots(query, rows, i, i1, i2, i3, difference)
        return
    step = max(1, 64 // rows.itemsize)
    for i in range(min(AHEAD, count)):
        for column in range(0, query.shape[0], step):
            prefetch(rows, ids[i], column)
    for i in range(0, count, 4):
        for ahead in range(i + AHEAD, min(count, i + AHEAD + 4)):
            for column in range(0, query.shape[0], step):
                prefetch(rows, ids[ahead], column)
        i1 = min(i + 1, last)
        i2 = min(i + 2, last)
        i3 = min(i + 3, last)
        out[i], out[i1], out[i2], out[i3] = four_dots(query, rows, ids[i], ids[i1], ids[i2], ids[i3], difference)


@jit
def dot(
    query: Any,
    query_bias: Any,
    rows: Any,
    row_scale: Any,
    row_bias: Any,
    ids: Any,
    scale: Any,
    out: Any,
    difference: Any = None,
) -> Any:
    """Write out[i] = (row_scale[r] * query . rows[r] + row_bias[r] + query_bias) * scale, r = ids[i] (or i).

    With `difference`, out[i] = -query_bias * row_scale[r] * |query - rows[r]|^2 * scale.

    Parameters
    ----------
    query : (d,) float32 or float64
    query_bias : float
        With `difference` a factor.
    rows : (n, d) float32, float64, int8 or uint16 (bits of float16)
    row_scale, row_bias : (n,) float64 or None (1 and 0)
    ids : (m,) int64 or None for all rows
    scale : float
    out : (m,) float64
    difference : True or None

    Notes
    -----
    Rows are read in place. The float32 product of a pair beyond FLOAT32_LIMIT is redone in float64; a sum of squared
    differences cannot cancel, and keeps float32's relative accuracy at any size.
    """
    _products(query, rows, ids, out, difference)
    for i in range(out.shape[0]):
        row = i
        if ids is not None:
            row = ids[i]
        factor = scale
        if row_scale is not None:
            factor *= row_scale[row]
        if difference is None:
            value = out[i] * factor
            if not abs(value) <= FLOAT32_LIMIT:
                value = dot_float64(query, rows, row) * factor
            bias = query_bias
            if row_bias is not None:
                bias += row_bias[row]
            out[i] = value + bias * scale
        else:
            out[i] *= factor * query_bias


@jit
def weighted_sum(weights: Any, rows: Any, row_scale: Any, ids: Any, out: Any) -> Any:
    """Write out = sum_i weights[i] * row_scale[r] * rows[r], r = ids[i] (or i), accumulated in float64.

    Parameters
    ----------
    weights : (m,) float64
    rows : (n, d) float32, float64, int8 or uint16 (bits of float16)
    row_scale : (n,) float64 or None (1)
    ids : (m,) int64 or None for all rows
    out : (d,) float64
    """
    out[:] = 0.0
    for i in range(weights.shape[0]):
        row = i
        if ids is not None:
            row = ids[i]
        weight = weights[i]
        if row_scale is not None:
            weight *= row_scale[row]
        for j in range(out.shape[0]):
            out[j] += weight * np.float64(load(rows[row, j]))


@jit
def row_squares(rows: Any, out: Any) -> Any:
    """Write out[i] = |rows[i]|^2, accumulated in float64.

    Parameters
    ----------
    rows : (n, d) float32, float64, int8 or uint16 (bits of float16)
    out : (n,) float64
    """
    for i in range(rows.shape[0]):
        total = 0.0
        for j in range(rows.shape[1]):
            x = np.float64(load(rows[i, j]))
            total += x * x
        out[i] = total
