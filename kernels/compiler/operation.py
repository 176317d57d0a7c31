"""Plain Python functions that compiled code replaces by LLVM instructions.

Numba's `overload` would do, but it compiles a function of its own for each operation and each type
of its arguments: a sixth of what a user waited for the first step of the engine.
"""

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core.typing.templates import infer, infer_global, make_intrinsic_template


def compiled(
    function: Callable[..., Any], takes: Callable[[Any], bool], **options: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate an intrinsic's definition: what `function` is in compiled code.

    Parameters
    ----------
    function : function
        The plain twin, which interpreted code calls.
    takes : function
        Whether the operation takes a first argument of this Numba type; beside it the definition
        may return None.
    **options
        Those of `numba.extending.intrinsic`, such as ``prefer_literal=True``.
    """

    def register(define: Callable[..., Any]) -> Callable[..., Any]:
        def checked(typingctx: Any, first: Any, *others: Any) -> Any:
            return define(typingctx, first, *others) if takes(first) else None

        checked.__wrapped__ = define  # type: ignore[attr-defined]  # its signature names them
        # What `intrinsic` does for the name of an intrinsic.
        template = make_intrinsic_template(function, checked, function.__name__, **options)
        infer(template)
        infer_global(function, types.Function(template))
        return define

    return register
