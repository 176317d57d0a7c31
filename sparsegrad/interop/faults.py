"""What a step of a host found wrong, in words."""


def raise_fault(outcome: int, batch: int) -> None:
    """Say what `host_step` or `find_starts` has found.

    Raises
    ------
    ValueError, FloatingPointError
        Always.
    """
    kind, b = divmod(outcome, batch)
    if kind == 0:
        raise ValueError(f"x must be finite, got NaN or infinity in batch element {b}")
    if kind == 1:
        raise FloatingPointError(
            f"the state must stay finite, it became NaN or infinite in batch element {b}"
            "; lower the rate or clip"
        )
    if kind == 2:
        raise ValueError(
            f"the state must be the one that the last step returned, or zeros where a sequence "
            f"begins, got another in batch element {b}, whose J is not here: save() J and "
            "restore() it, carry it through step(x, h, J), or reset() to begin at this state"
        )
    if kind == 3:
        raise ValueError(
            f"a state of zeros after a state of zeros must say whether it begins a sequence, got "
            f"one in batch element {b}: call reset(which), of no element if none begins"
        )
    raise ValueError(
        f"the state that begins a sequence must not want a gradient, got one that does in batch "
        f"element {b}: none flows into it; detach() it, or give what it knows as input"
    )
