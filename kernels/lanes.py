"""Vectors of LANES numbers that stay in registers: what a compiler does not make of short loops over arrays.

Stores to one array may change another one for all that a compiler knows, so it keeps to one number at a time.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

LANES = 8


def lanes_at(a: Any, at: Any) -> Any:
    """Return LANES elements of a C-contiguous array from one on; the index is of all its elements in order."""
    return a.reshape(-1)[at : at + LANES].copy()


def put_lanes(a: Any, at: Any, x: Any) -> None:
    """Write LANES elements of a C-contiguous array from one on; the index is of all its elements in order."""
    a.reshape(-1)[at : at + LANES] = x


def lanes_sum(x: Any, y: Any) -> Any:
    """Return x + y."""
    return x + y


def lanes_less(x: Any, y: Any) -> Any:
    """Return x - y."""
    return x - y


def lanes_product(x: Any, y: Any) -> Any:
    """Return x * y, one by one."""
    return x * y


def lanes_max(x: Any, y: Any) -> Any:
    """Return the larger one of each pair."""
    return np.maximum(x, y)


def lanes_times(factor: Any, x: Any) -> Any:
    """Return factor * x for one number, of the same dtype."""
    return factor * x


def lanes_beyond(x: Any, limit: Any) -> Any:
    """Return 1 where not abs(x) <= limit, NaN among them, else 0."""
    return (~(np.abs(x) <= limit)).astype(x.dtype)


def lanes_wide(x: Any) -> Any:
    """Return x in float64."""
    return x.astype(np.float64)


if not numba.config.DISABLE_JIT:

    class Lanes(types.Type):
        """A vector of LANES numbers."""

        def __init__(self, dtype: Any) -> None:
            self.dtype = dtype
            super().__init__(name=f"Lanes({dtype})")

    def _vector(dtype: Any) -> Any:
        return ir.VectorType(ir.FloatType() if dtype == types.float32 else ir.DoubleType(), LANES)

    @register_model(Lanes)
    class _Model(models.PrimitiveModel):  # type: ignore[misc]
        def __init__(self, manager: Any, kind: Any) -> None:
            super().__init__(manager, kind, _vector(kind.dtype))

    def _place(context: Any, builder: Any, kinds: Any, args: Any) -> Any:
        """Return where the lanes of an array are, and how they are aligned."""
        data = context.make_array(kinds[0])(context, builder, args[0]).data
        at = context.cast(builder, args[1], kinds[1], types.intp)
        kind = _vector(kinds[0].dtype)
        return builder.bitcast(builder.gep(data, [at]), kind.as_pointer()), kinds[0].dtype.bitwidth // 8

    def _spread(builder: Any, x: Any) -> Any:
        word, none = ir.IntType(32), ir.Constant(ir.VectorType(x.type, LANES), ir.Undefined)
        one = builder.insert_element(none, x, word(0))
        return builder.shuffle_vector(one, none, ir.Constant(ir.VectorType(word, LANES), None))

    @intrinsic
    def lanes_at(typingctx: Any, a: Any, at: Any) -> Any:
        """Return LANES elements of a C-contiguous array from one on."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place, align = _place(context, builder, signature.args, args)
            return builder.load(place, align=align)

        return Lanes(a.dtype)(a, at), codegen

    @intrinsic
    def put_lanes(typingctx: Any, a: Any, at: Any, x: Any) -> Any:
        """Write LANES elements of a C-contiguous array from one on."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place, align = _place(context, builder, signature.args, args)
            builder.store(args[2], place, align=align)
            return context.get_dummy_value()

        return types.void(a, at, x), codegen

    def _of_two(operation: Callable[[Any, Any, Any], Any]) -> Any:
        """Return what compiles to an operation on two vectors of one dtype."""

        def of_two(typingctx: Any, x: Any, y: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                return operation(builder, *args)

            return x(x, y), codegen

        return intrinsic(of_two)

    lanes_sum = _of_two(lambda builder, x, y: builder.fadd(x, y, flags=("contract",)))
    lanes_less = _of_two(lambda builder, x, y: builder.fsub(x, y))
    lanes_product = _of_two(lambda builder, x, y: builder.fmul(x, y, flags=("contract",)))
    lanes_max = _of_two(lambda builder, x, y: builder.select(builder.fcmp_ordered(">", x, y), x, y))

    @intrinsic
    def lanes_times(typingctx: Any, factor: Any, x: Any) -> Any:
        """Return factor * x for one number, of the same dtype."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.fmul(_spread(builder, args[0]), args[1], flags=("contract",))

        return x(x.dtype, x), codegen

    @intrinsic
    def lanes_beyond(typingctx: Any, x: Any, limit: Any) -> Any:
        """Return 1 where not abs(x) <= limit, NaN among them, else 0."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = args[0].type
            name = f"llvm.fabs.v{LANES}f{signature.args[0].dtype.bitwidth}"
            absolute = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name)
            size = builder.call(absolute, [args[0]])
            return builder.uitofp(builder.fcmp_unordered(">", size, _spread(builder, args[1])), kind)

        return x(x, x.dtype), codegen

    @intrinsic
    def lanes_wide(typingctx: Any, x: Any) -> Any:
        """Return x in float64."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = _vector(types.float64)
            return args[0] if args[0].type == kind else builder.fpext(args[0], kind)

        return Lanes(types.float64)(x), codegen
