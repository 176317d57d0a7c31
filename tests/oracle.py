"""What the library must agree with: dense, slow, plain. Imports NumPy and nothing else."""

import numpy as np


def reach(dynamics, immediate, n):
    """Boolean (units, weights) pattern of J by repeated boolean products; n=None: to a fixed point.

    Counts paths nowhere: any() of a boolean outer product, so nothing can wrap.
    """
    links = np.asarray(dynamics) != 0
    first = np.asarray(immediate) != 0
    kept = first.copy()
    step = 1
    while n is None or step < n:
        grown = first.copy()
        for target in range(links.shape[0]):
            for source in range(links.shape[0]):
                if links[target, source]:
                    grown[target] |= kept[source]
        if (grown == kept).all():
            break
        kept = grown
        step += 1
    return kept


def is_saturated(dynamics, immediate, n):
    """Whether one more step of reach adds nothing."""
    return bool((reach(dynamics, immediate, n) == reach(dynamics, immediate, n + 1)).all())


def influence(kept, dynamics, immediate, before):
    """One step of J = P ∘ (I + D·J), dense, in the dtype of its arguments."""
    return np.where(kept, dynamics @ before + immediate, 0)


def multiply_adds(dynamics, kept):
    """Multiply-adds of one step, counted one by one."""
    units, weights = kept.shape
    count = 0
    for weight in range(weights):
        for target in range(units):
            if kept[target, weight]:
                for source in range(units):
                    if dynamics[target, source] and kept[source, weight]:
                        count += 1
    return count


def supernodes(kept):
    """Each weight's supernode, equal columns alike, numbered by first appearance."""
    seen = {}
    return [seen.setdefault(column.tobytes(), len(seen)) for column in kept.T]
