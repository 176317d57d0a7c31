"""What the library must agree with: dense, slow, plain. Imports NumPy and nothing else."""

import numpy as np


def reach(dynamics, immediate, n, own=None):
    """Boolean (units, weights) pattern of J by repeated boolean products; n=None: to a fixed point.

    Counts paths nowhere: any() of a boolean outer product, so nothing can wrap. Links of `own` cost
    no step.
    """
    links = np.asarray(dynamics) != 0
    free = np.zeros_like(links) if own is None else np.asarray(own) != 0

    def follow(kept):
        for _ in range(len(free)):
            for target, source in zip(*np.nonzero(free), strict=True):
                kept[target] |= kept[source]
        return kept

    first = follow(np.array(np.asarray(immediate) != 0))
    kept = first.copy()
    step = 1
    while n is None or step < n:
        grown = first.copy()
        for target in range(links.shape[0]):
            for source in range(links.shape[0]):
                if links[target, source]:
                    grown[target] |= kept[source]
        follow(grown)
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


def cell_step(kind, p, state, x, read=None):
    """One step of torch's RNNCell, GRUCell or LSTMCell, (..., components, units); complex passes.

    `read` is what the matrices see as h, where that shall differ from the state. Parameters and
    states may have axes in front, for many steps at once.
    """
    h = state[..., 0, :] if read is None else read
    from_x = p["weight_ih"] @ x + p["bias_ih"]
    from_h = (p["weight_hh"] @ h[..., None])[..., 0] + p["bias_hh"]

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    if kind == "RNN":
        return np.tanh(from_x + from_h)[..., None, :]
    if kind == "GRU":
        x_r, x_z, x_n = np.split(from_x, 3, -1)
        h_r, h_z, h_n = np.split(from_h, 3, -1)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        return ((1 - z) * np.tanh(x_n + r * h_n) + z * state[..., 0, :])[..., None, :]
    i, f, g, o = np.split(from_x + from_h, 4, -1)
    c = sigmoid(f) * state[..., 1, :] + sigmoid(i) * np.tanh(g)
    return np.stack([sigmoid(o) * np.tanh(c), c], -2)


def existing(masks):
    """List the weights that exist, as (name, flat position)."""
    return [(name, at) for name in masks for at in np.flatnonzero(masks[name])]


def cell_jacobians(kind, p, weights, state, x):
    """D, I and the leak part of D by complex steps, exact to rounding: f'(v) = Im f(v + iε) / ε."""
    tiny = 1e-30

    def partials(after, count=state.size):
        return np.broadcast_to(after.imag, (count, *state.shape)).reshape(count, -1).T / tiny

    moved = state + 1j * tiny * np.eye(state.size).reshape(-1, *state.shape)
    D = partials(cell_step(kind, p, moved, x))
    leak = partials(cell_step(kind, p, moved, x, read=state[0]))
    immediate = [np.empty((state.size, 0))]
    for name in dict.fromkeys(name for name, _ in weights):
        places = [at for of, at in weights if of == name]
        moved = np.repeat(p[name].astype(complex)[None], len(places), 0)
        moved.reshape(len(places), -1)[np.arange(len(places)), places] += 1j * tiny
        immediate.append(partials(cell_step(kind, p | {name: moved}, state, x), len(places)))
    return D, np.concatenate(immediate, 1), leak


def online(kind, p, masks, xs, targets, kept, rate=0.0, every=1, leak_only=False, resets=None):
    """J = P ∘ (I + D J) along a batch of streams under squared error, with SGD every few steps.

    `p` holds the cell's arrays and readout.weight, readout.bias; returns the losses, the final
    parameters, and the gradient summed over all steps. The weights may change: J goes on, stale.
    """
    p = {name: np.array(values) for name, values in p.items()}
    weights = existing(masks)
    batch, units = xs.shape[1], p["weight_hh"].shape[1]
    components = 2 if kind == "LSTM" else 1
    state = np.zeros((batch, components, units))
    J = np.zeros((batch, components * units, len(weights)))
    losses = []
    total = {name: np.zeros(values.shape) for name, values in p.items()}
    pending = {name: np.zeros(values.shape) for name, values in p.items()}
    for t in range(len(xs)):
        loss = 0.0
        for b in range(batch):
            if resets is not None and resets[t, b]:
                state[b], J[b] = 0, 0
            D, immediate, leak = cell_jacobians(kind, p, weights, state[b], xs[t, b])
            J[b] = np.where(kept, immediate + (leak if leak_only else D) @ J[b], 0)
            state[b] = cell_step(kind, p, state[b], xs[t, b])
            h = state[b, 0]
            error = p["readout.weight"] @ h + p["readout.bias"] - targets[t, b]
            loss += 0.5 * error @ error / batch
            signal = np.zeros(components * units)
            signal[:units] = p["readout.weight"].T @ error / batch
            pending["readout.weight"] += np.outer(error, h) / batch
            pending["readout.bias"] += error / batch
            for (name, at), value in zip(weights, signal @ J[b], strict=True):
                pending[name].flat[at] += value
        losses.append(loss)
        if (t + 1) % every == 0:
            for name, grad in pending.items():
                p[name] -= rate * grad
                total[name] += grad
                grad[...] = 0
    return np.array(losses), p, total


def windows(
    kind, p, masks, xs, targets, kept, window, rate=0.0, leak_only=False, resets=None, scales=None
):
    """Windows of steps along a batch of streams, squared error, SGD at each window's end, dense.

    λ_T = δ_T, λ_t = δ_t + D_{t+1}ᵀ λ_{t+1};  gradient = Σ_t I_tᵀ λ_t + J_0ᵀ (D_1ᵀ λ_1);  J_T from
    J_0 by T steps of J = P ∘ (I + D J). A stream that resets at a step cuts λ there and restarts J.
    Returns the losses, the final parameters, the gradient summed over all windows, and J.
    """
    p = {name: np.array(values) for name, values in p.items()}
    weights = existing(masks)
    batch, units = xs.shape[1], p["weight_hh"].shape[1]
    states = units * (2 if kind == "LSTM" else 1)
    state = np.zeros((batch, states // units, units))
    J = np.zeros((batch, states, len(weights)))
    losses = np.zeros(len(xs))
    total = {name: np.zeros(values.shape) for name, values in p.items()}
    for start in range(0, len(xs), window):
        grads = {name: np.zeros(values.shape) for name, values in p.items()}
        stop = min(start + window, len(xs))
        for b in range(batch):
            D, immediate, carry, signal = [], [], [], []
            for t in range(start, stop):
                if resets is not None and resets[t, b]:
                    state[b] = 0
                one, direct, leak = cell_jacobians(kind, p, weights, state[b], xs[t, b])
                state[b] = cell_step(kind, p, state[b], xs[t, b])
                h, scale = state[b, 0], (1.0 if scales is None else scales[t, b]) / batch
                error = p["readout.weight"] @ h + p["readout.bias"] - targets[t, b]
                losses[t] += scale * 0.5 * error @ error
                grads["readout.weight"] += scale * np.outer(error, h)
                grads["readout.bias"] += scale * error
                delta = np.zeros(states)
                delta[:units] = scale * p["readout.weight"].T @ error
                cut = resets is not None and resets[t, b]
                D.append(0 * one if cut else one)
                carry.append(0 * one if cut else leak if leak_only else one)
                immediate.append(direct)
                signal.append(delta)
            along = np.zeros(states)
            grad = np.zeros(len(weights))
            for t in range(stop - start - 1, -1, -1):
                along = signal[t] + along
                grad += immediate[t].T @ along
                along = D[t].T @ along
            grad += J[b].T @ along
            for t in range(stop - start):
                J[b] = np.where(kept, immediate[t] + carry[t] @ J[b], 0)
            for (name, at), value in zip(weights, grad, strict=True):
                grads[name].flat[at] += value
        for name, grad in grads.items():
            p[name] -= rate * grad
            total[name] += grad
    return losses, p, total, J


def rolling(kind, p, masks, xs, targets, length, rate, resets):
    """At each step the last `length` steps again, and SGD on the newest squared error through them.

    The state before them is as it was last computed. Returns the losses and the final parameters.
    """
    p = {name: np.array(values) for name, values in p.items()}
    weights = existing(masks)
    batch, units = xs.shape[1], p["weight_hh"].shape[1]
    components = 2 if kind == "LSTM" else 1
    starts = np.zeros((batch, components, units))
    losses = np.zeros(len(xs))
    for t in range(len(xs)):
        first = max(0, t - length + 1)
        grads = {name: np.zeros(values.shape) for name, values in p.items()}
        for b in range(batch):
            state, J, after = starts[b], np.zeros((components * units, len(weights))), None
            for s in range(first, t + 1):
                if resets[s, b]:
                    state, J = 0 * state, 0 * J
                D, immediate, _ = cell_jacobians(kind, p, weights, state, xs[s, b])
                J = immediate + D @ J
                state = cell_step(kind, p, state, xs[s, b])
                after = state if after is None else after
            error = p["readout.weight"] @ state[0] + p["readout.bias"] - targets[t, b]
            losses[t] += 0.5 * error @ error / batch
            grads["readout.weight"] += np.outer(error, state[0]) / batch
            grads["readout.bias"] += error / batch
            signal = np.zeros(components * units)
            signal[:units] = p["readout.weight"].T @ error / batch
            for (name, at), value in zip(weights, signal @ J, strict=True):
                grads[name].flat[at] += value
            if t + 1 >= length:
                starts[b] = after
        for name, grad in grads.items():
            p[name] -= rate * grad
    return losses, p


def stack_step(kinds, p, states, x, delay):
    """One step of cells on top of each other: the new states, lowest first, and D, E and I.

    D is ∂s'/∂s and E ∂s'/∂s', (states, states); I is a dict of (states, size) by name. The states
    of all layers follow each other, components first.
    """
    tiny = 1e-30
    sizes = [state.size for state in states]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    D, E = np.zeros((2, starts[-1], starts[-1]))
    immediate, new = {}, []
    for k, (kind, state) in enumerate(zip(kinds, states, strict=True)):
        lead = f"layer{k}."
        own = {n.removeprefix(lead): v for n, v in p.items() if n.startswith(lead)}
        rows = slice(starts[k], starts[k + 1])
        reads = x if k == 0 else (states if delay else new)[k - 1][0]
        weights = existing({name: np.ones(values.shape) for name, values in own.items()})
        D[rows, rows], by_weight, _ = cell_jacobians(kind, own, weights, state, reads)
        if k:
            moved = reads + 1j * tiny * np.eye(reads.size)
            by_input = np.array([cell_step(kind, own, state, one).imag.ravel() for one in moved]).T
            to = D if delay else E
            to[rows, starts[k - 1] : starts[k - 1] + reads.size] = by_input / tiny
        for (name, at), column in zip(weights, by_weight.T, strict=True):
            array = immediate.setdefault(lead + name, np.zeros((starts[-1], own[name].size)))
            array[rows, at] = column
        new.append(cell_step(kind, own, state, reads))
    return new, D, E, immediate


def stack_patterns(kinds, p, masks, units, inputs, delay, across, n):
    """Where J of a stack is kept, (states, weights): within n maps, or its own layer alone."""
    rng = np.random.default_rng(0)
    states = [
        rng.standard_normal((2 if kind == "LSTM" else 1, width))
        for kind, width in zip(kinds, units, strict=True)
    ]
    _, D, E, immediate = stack_step(kinds, p, states, rng.standard_normal(inputs), delay)
    if not across:
        E[:] = 0
    by_weight = np.stack([immediate[name][:, at] for name, at in existing(masks)], 1)
    return reach((D != 0) | (E != 0), by_weight, n)


def stack(kinds, p, masks, xs, targets, kept, delay, across, window=1, rate=0.0, resets=None):
    """J' = P ∘ (I + D J + E J') along a batch of streams, in windows of steps, SGD after each.

    λ_t = δ_t + D_{t+1}ᵀ λ_{t+1}, λ'_t = λ_t + Eᵀ λ'_t;  gradient = Σ_t I_tᵀ λ'_t + J_0ᵀ D_1ᵀ λ'_1.
    A window of one step is J_1ᵀ δ_1, where δ goes down by Eᵀ first if J does not go across. Squared
    error; `resets` fall on the first steps of windows. Returns losses and final parameters.
    """
    p = {name: np.array(values) for name, values in p.items()}
    weights = existing(masks)
    batch, sizes = xs.shape[1], [p[f"layer{k}.weight_hh"].shape[1] for k in range(len(kinds))]
    components = [2 if kind == "LSTM" else 1 for kind in kinds]
    top = sum(c * u for c, u in zip(components, sizes, strict=True)) - components[-1] * sizes[-1]
    streams = [
        [np.zeros((c, u)) for c, u in zip(components, sizes, strict=True)] for _ in range(batch)
    ]
    J = np.zeros((batch, *kept.shape))
    level = np.repeat(np.arange(len(kinds)), np.multiply(components, sizes))
    apart = (level[:, None] == level) if not across else np.ones((level.size, level.size))
    losses = np.zeros(len(xs))
    for start in range(0, len(xs), window):
        grads = {name: np.zeros(values.shape) for name, values in p.items()}
        for b in range(batch):
            if resets is not None and resets[start, b]:
                streams[b], J[b] = [0 * state for state in streams[b]], 0
            held = []
            for t in range(start, min(start + window, len(xs))):
                new, D, E, immediate = stack_step(kinds, p, streams[b], xs[t, b], delay)
                h = new[-1][0]
                error = p["readout.weight"] @ h + p["readout.bias"] - targets[t, b]
                losses[t] += 0.5 * error @ error / batch
                grads["readout.weight"] += np.outer(error, h) / batch
                grads["readout.bias"] += error / batch
                delta = np.zeros(level.size)
                delta[top : top + h.size] = p["readout.weight"].T @ error / batch
                by_weight = np.stack([immediate[name][:, at] for name, at in weights], 1)
                held.append((D, E, by_weight, delta))
                streams[b] = new
            grad, along = np.zeros(len(weights)), np.zeros(level.size)
            down = np.eye(level.size)
            if window > 1:
                for D, E, by_weight, delta in reversed(held):
                    along = np.linalg.solve(down - E.T, along + delta)
                    grad += by_weight.T @ along
                    along = D.T @ along
                grad += J[b].T @ along
            for D, E, by_weight, delta in held:
                old, J[b] = J[b].copy(), 0
                for k in range(len(kinds)):
                    rows = level == k
                    now = by_weight + (D * apart) @ old + (E * apart) @ J[b]
                    J[b][rows] = np.where(kept, now, 0)[rows]
                if window == 1:
                    grad += J[b].T @ (delta if across else np.linalg.solve(down - E.T, delta))
            for (name, at), value in zip(weights, grad, strict=True):
                grads[name].flat[at] += value
        for name, grad in grads.items():
            p[name] -= rate * grad
    return losses, p
