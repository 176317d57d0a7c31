"""Strange things: what a file may hold that nobody meant, by a seed."""

import os

import numpy as np

CASES = int(os.environ.get("SPARSEGRAD_FUZZ", 0))
"""Cases of each test, to be had by ``SPARSEGRAD_FUZZ=20000 pytest tests/fuzz``; 0: a minute's."""
NUMBERS = (
    0, 1, -1, 2, 3, 4, 7, 8, 16, 255, 2**15, 2**31 - 1, 2**31, -(2**31), 10**9, -(10**9), 2**62,
    2**63 - 1, 2**63, 2**64, 2**200, -(2**200), 0.5, -0.5, 1e-300, 1e300, 1e-3,
    float("nan"), float("inf"), -float("inf"),
)  # fmt: skip
OTHERS = (None, True, False, "", "x", "4", "snap:2", "Linear", "SGD", "../../etc", "\0", "\ud800",
          "a" * 10_000, [], [1], {}, {"a": 1}, [[[[[[]]]]]])  # fmt: skip


def cases(usual):
    """Return the seeds of a test's cases: always the same ones first."""
    return range(CASES or usual)


def value(rng):
    """Return something that JSON can hold."""
    pool = NUMBERS if rng.random() < 0.6 else OTHERS
    return pool[rng.integers(len(pool))]


def places(content, at=()):
    """Return the ways to every value inside JSON content."""
    found = []
    keys = content if isinstance(content, dict) else range(len(content))
    for key in keys:
        found.append((*at, key))
        if isinstance(content[key], dict | list):
            found += places(content[key], (*at, key))
    return found


def strange_json(rng, content):
    """Change one value of JSON content, leave it out, or add one beside it."""
    ways = places(content)
    if not ways or rng.random() < 0.02:
        return value(rng)
    way = ways[rng.integers(len(ways))]
    holder = content
    for key in way[:-1]:
        holder = holder[key]
    last, what = way[-1], rng.random()
    if what < 0.75:
        old = holder[last]
        if type(old) in (int, float) and rng.random() < 0.3:
            holder[last] = old + int(rng.integers(-3, 4))
        else:
            holder[last] = value(rng)
    elif what < 0.9:
        del holder[last]
    elif isinstance(holder, dict):
        holder["stranger"] = value(rng)
    else:
        holder.insert(last, value(rng))
    return content


def strange_array(rng, array):
    """Return another array: shape, dtype, or a few numbers of it changed."""
    what = rng.integers(10)
    flat = array.reshape(-1)
    if what == 0:
        return flat
    if what == 1:
        return array[..., None]
    if what == 2:
        return np.concatenate([flat, flat[:1]]) if flat.size else np.zeros(1, array.dtype)
    if what == 3:
        return flat[:-1]
    if what == 4:
        kind = rng.choice(["f4", "f8", "i4", "i8", "u8", "u1", "f2", "?"])
        with np.errstate(all="ignore"):
            return array.astype(kind)
    if what == 5:
        return np.zeros((0, *array.shape[1:]), array.dtype)
    if what == 6:
        return array.T.copy() if array.ndim > 1 else array[::-1].copy()
    changed = array.copy()
    if changed.size:
        raw = changed.reshape(-1).view(np.uint8)
        if what == 7:  # any bits at all
            raw[rng.integers(raw.size)] ^= np.uint8(1 << rng.integers(8))
        elif what == 8:
            spot = rng.integers(changed.size) * array.itemsize
            raw[spot : spot + array.itemsize] = rng.integers(0, 256, array.itemsize)
        else:
            number = NUMBERS[rng.integers(len(NUMBERS))]
            with np.errstate(all="ignore"):
                try:
                    changed.reshape(-1)[rng.integers(changed.size)] = number
                except (OverflowError, ValueError):
                    changed.reshape(-1)[rng.integers(changed.size)] = -1
    return changed


def strange_bytes(rng, content):
    """Return other bytes: a few changed, cut, doubled, put in another place, or all anew."""
    what, size = rng.integers(7), len(content)
    changed = bytearray(content)
    if what == 0 or not size:
        return rng.bytes(int(rng.integers(0, 400)))
    if what == 1:
        return content[: rng.integers(size)]
    if what == 2:
        return content.replace(b"\n", b"\r\n")
    if what == 3:
        at = int(rng.integers(size))
        return content[:at] + rng.bytes(int(rng.integers(1, 20))) + content[at:]
    if what == 4:
        lines = content.splitlines(keepends=True)
        return b"".join(lines[i] for i in rng.integers(len(lines), size=len(lines)))
    for _ in range(rng.integers(1, 4)):
        if what == 5:
            changed[rng.integers(size)] ^= 1 << int(rng.integers(8))
        else:
            changed[rng.integers(size)] = int(rng.choice(list(b'0123456789-+eE.,"[]{}:\n\r\t naf')))
    return bytes(changed)
