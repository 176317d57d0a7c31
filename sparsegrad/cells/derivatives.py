"""Partial derivatives of straight-line code, as straight-line code: reverse mode on its symbols."""

from collections.abc import Iterator, Sequence

from sparsegrad.cells.symbols import Condition, Symbol, add, divide, multiply, subtract


def needed(symbol: Symbol) -> tuple[Symbol, ...]:
    """Return the arguments that a symbol's value is made of; a surrogate slope is none."""
    if symbol.operation == "spike":
        return (symbol.arguments[0],)
    return tuple(a for a in symbol.arguments if isinstance(a, Symbol))


def in_order(roots: Sequence[Symbol]) -> list[Symbol]:
    """Return all that some symbols are made of, and them, arguments first."""
    done: dict[int, Symbol] = {}
    for root in roots:
        stack = [(root, False)]
        while stack:
            symbol, ready = stack.pop()
            if symbol.number in done:
                continue
            if ready:
                done[symbol.number] = symbol
                continue
            stack.append((symbol, True))
            stack.extend((argument, False) for argument in reversed(needed(symbol)))
    return list(done.values())


def partials(results: Sequence[Symbol], inputs: Sequence[Symbol]) -> list[list[Symbol]]:
    """Return the symbols of ∂y/∂x of all results by all inputs.

    They are the number 0 where a result cannot depend on an input. A result that is made of another
    one, as an LSTM's h' of its c', takes that one's partials in: ∂y/∂x + ∂y/∂c' ∂c'/∂x.
    """
    wanted = {y.number: y for y in results}
    given = {x.number for x in inputs}
    known: dict[int, list[Symbol]] = {}
    for y in in_order(results):
        if y.number not in wanted:
            continue
        others = [wanted[number] for number in known if number not in given]
        slopes = _reverse(y, [*inputs, *others])
        found = slopes[: len(inputs)]
        for other, slope in zip(others, slopes[len(inputs) :], strict=True):
            found = [
                add(x, multiply(slope, share))
                for x, share in zip(found, known[other.number], strict=True)
            ]
        known[y.number] = found
    return [known[y.number] for y in results]


def _reverse(y: Symbol, leaves: Sequence[Symbol]) -> list[Symbol]:
    """Return the symbols of ∂y/∂x of all leaves, beside the ways that lead through others."""
    zero, one = y.steps.lift(0), y.steps.lift(1)
    ends = {x.number for x in leaves}
    adjoint = {y.number: one}
    for symbol in reversed(in_order([y])):
        if symbol.number in adjoint and symbol.number not in ends:
            for argument, share in _shares(symbol, adjoint[symbol.number]):
                adjoint[argument.number] = add(adjoint.get(argument.number, zero), share)
    return [adjoint.get(x.number, zero) for x in leaves]


def _shares(symbol: Symbol, adjoint: Symbol) -> Iterator[tuple[Symbol, Symbol]]:
    """Yield each argument that a gradient goes to, and how much of `adjoint` goes there."""
    if symbol.operation.startswith("where_"):
        relation, x, y, a, b = symbol.operation.removeprefix("where_"), *symbol.arguments
        zero = symbol.steps.lift(0)
        yield a, Condition(relation, x, y).choose(adjoint, zero)
        yield b, Condition(relation, x, y).choose(zero, adjoint)
        return
    for argument, slope in _slopes(symbol):
        yield argument, multiply(adjoint, slope)


def _slopes(symbol: Symbol) -> list[tuple[Symbol, Symbol]]:
    """Return each argument of an operation and the derivative by it."""
    one = symbol.steps.lift(1)
    if symbol.operation in ("input", "number", "stop"):
        return []
    if symbol.operation in "+-*/":
        x, y = symbol.arguments
        if symbol.operation == "+":
            return [(x, one), (y, one)]
        if symbol.operation == "-":
            return [(x, one), (y, -one)]
        if symbol.operation == "*":
            return [(x, y), (y, x)]
        return [(x, divide(one, y)), (y, divide(-symbol, y))]
    x = symbol.arguments[0]
    if symbol.operation == "spike":
        return [(x, symbol.arguments[1])]
    if symbol.operation == "tanh":
        return [(x, subtract(one, multiply(symbol, symbol)))]
    if symbol.operation == "sigmoid":
        return [(x, multiply(symbol, subtract(one, symbol)))]
    if symbol.operation == "exp":
        return [(x, symbol)]
    if symbol.operation == "log":
        return [(x, divide(one, x))]
    if symbol.operation == "sin":
        return [(x, x.steps.step("cos", x))]
    if symbol.operation == "cos":
        return [(x, -x.steps.step("sin", x))]
    if symbol.operation == "sqrt":
        return [(x, divide(symbol.steps.lift(0.5), symbol))]
    if symbol.operation == "magnitude":
        zero = symbol.steps.lift(0)
        return [(x, (x > 0).choose(one, (x < 0).choose(-one, zero)))]
    raise NotImplementedError(f"no derivative of {symbol.operation} is known")
