"""Arrays without reference counts, for loops that hand many of them from function to function.

Numba counts a reference, atomically, whenever an array is taken out of a tuple, sliced or passed
on: a time step over some forty arrays made a thousand such counts, 3 µs of them. An array whose
owner is unknown (NULL) has nothing to count, and where a function is inlined even the test goes.
"""

from typing import Any

from numba import types

from .operation import compiled


def borrow(x: Any) -> Any:
    """Return an array, or a tuple with arrays at any depth, without owners.

    The caller's own arrays must outlive the result: borrow at the head of the outermost loop.
    """
    return x


def _strip(context: Any, builder: Any, kind: Any, x: Any) -> Any:
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, x)
        array.meminfo = array.meminfo.type(None)
        array.parent = array.parent.type(None)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        parts = [
            _strip(context, builder, part, builder.extract_value(x, i))
            for i, part in enumerate(kind.types)  # type: ignore[attr-defined]  # all have it
        ]
        return context.make_tuple(builder, kind, parts)
    return x


@compiled(borrow, lambda x: True)
def _borrow(typingctx: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _strip(context, builder, signature.args[0], args[0])

    return x(x), codegen
