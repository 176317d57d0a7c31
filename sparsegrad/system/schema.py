"""What a file must hold, said once for each kind of file: rules, and records made of them.

A rule takes a place and a value, and returns the value or raises a ValueError of one line that
names the place. Numbers from a file become places in arrays: nothing is converted, and nothing is
believed that no rule has seen.
"""

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike, NDArray

Rule = Callable[[str, Any], Any]
COUNT = 2**62
"""Above any number of steps, tokens or updates; what is added to it still fits into 64 bits."""


def refuse(where: str, wanted: str, value: Any) -> NoReturn:
    """Raise the ValueError of a value that is not what was wanted."""
    raise ValueError(f"{where} must be {wanted}, got {reprlib.repr(value)}")


def _field(where: str, name: str) -> str:
    return f"{where} {name}" if where.endswith(":") else f"{where}.{name}"


def whole(low: int = 0, high: int = COUNT) -> Rule:
    """Return the rule of a whole number in [low, high]."""

    def rule(where: str, value: Any) -> Any:
        if type(value) is not int or not low <= value <= high:
            refuse(where, f"a whole number from {low} to {high}", value)
        return value

    return rule


def number(low: float = -math.inf) -> Rule:
    """Return the rule of a finite number of at least `low`."""

    def rule(where: str, value: Any) -> Any:
        if type(value) not in (int, float) or not math.isfinite(value) or value < low:
            least = "" if low == -math.inf else f" of at least {low:g}"
            refuse(where, f"a finite number{least}", value)
        return value

    return rule


def word(*allowed: str) -> Rule:
    """Return the rule of a string, one of those that are named or any."""

    def rule(where: str, value: Any) -> Any:
        if type(value) is not str or (allowed and value not in allowed):
            refuse(where, f"one of {', '.join(allowed)}" if allowed else "a string", value)
        return value

    return rule


def flag(where: str, value: Any) -> Any:
    """Take true or false."""
    if type(value) is not bool:
        refuse(where, "true or false", value)
    return value


def anything(where: str, value: Any) -> Any:
    """Take whatever stands there: it is the user's own, or compared as a whole."""
    return value


def maybe(of: Rule) -> Rule:
    """Return the rule of null, or what `of` takes."""
    return lambda where, value: None if value is None else of(where, value)


def listed(of: Rule, length: int | None = None) -> Rule:
    """Return the rule of a list of such values, of so many where `length` is given."""

    def rule(where: str, value: Any) -> Any:
        if type(value) is not list or (length is not None and len(value) != length):
            refuse(where, f"a list{'' if length is None else f' of {length}'}", value)
        return [of(f"{where}[{i}]", one) for i, one in enumerate(value)]

    return rule


def mapping(of: Rule) -> Rule:
    """Return the rule of a record with any names, whose values `of` takes."""

    def rule(where: str, value: Any) -> Any:
        if type(value) is not dict:
            refuse(where, "a record", value)
        return {name: of(_field(where, name), one) for name, one in value.items()}

    return rule


def record(rules: Mapping[str, Rule]) -> Rule:
    """Return the rule of a record with these fields, all of them and no other."""

    def rule(where: str, value: Any) -> Any:
        if type(value) is not dict or value.keys() != rules.keys():
            had = sorted(value) if type(value) is dict else value
            refuse(where, f"a record of {', '.join(sorted(rules))}", had)
        return {name: rules[name](_field(where, name), one) for name, one in value.items()}

    return rule


def require_array(
    where: str, value: Any, shape: tuple[int | None, ...], dtype: DTypeLike
) -> NDArray[Any]:
    """Return an array of exactly this shape and dtype, and of finite numbers.

    Parameters
    ----------
    where : str
        Its place, for the message.
    value : array, or None where it is missing
    shape : tuple of int or None
        None where any size will do.
    dtype : dtype
        Exactly, in the byte order of this machine; nothing is converted or broadcast.

    Raises
    ------
    ValueError
        If it is another, or holds NaN, infinity, or a truth value that is neither 0 nor 1.
    """
    dtype = np.dtype(dtype)
    fits = isinstance(value, np.ndarray) and value.ndim == len(shape) and value.dtype == dtype
    if not fits or any(n is not None and n != m for n, m in zip(shape, value.shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        came = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else "none"
        raise ValueError(f"{where} must be a {dtype} array of shape ({wanted}), got {came}")
    array: NDArray[Any] = value
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{where} must be finite, got NaN or infinity")
    if dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise ValueError(f"{where} must be of bytes 0 and 1, got {array.view(np.uint8).max()}")
    return array


def require_arrays(
    where: str, given: Mapping[str, NDArray[Any]], like: Mapping[str, NDArray[Any]]
) -> None:
    """Look whether arrays have the names, shapes and dtypes of others, no more and no fewer.

    Raises
    ------
    ValueError
        If they have not; it names the first that is wrong.
    """
    for name in sorted(given.keys() ^ like.keys()):
        here = "it was not expected" if name in given else "it is missing"
        raise ValueError(f"{where} must hold {', '.join(sorted(like))}; as to {name}: {here}")
    for name, array in like.items():
        require_array(f"{where}: {name}", given[name], array.shape, array.dtype)
