"""The kernels from C: compile stream.c, hand it the function pointers, let it own the loop."""

import ctypes
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import sparsegrad
from sparsegrad.interop.c import CProgram, functions, header

STEPS, SEED = 50, 7


def build(folder: Path) -> ctypes.CDLL:
    """Compile stream.c into a library."""
    library = folder / "stream.so"
    source = Path(__file__).with_name("stream.c")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O2", "-std=c99", "-Wall", "-Wextra", "-Werror",
         "-I", str(header()), str(source), "-o", str(library)],
        check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(library))


def main() -> tuple[sparsegrad.ReachPattern, np.ndarray, np.ndarray]:
    """Run the C loop; return the pattern, J's values and the gradient."""
    rng = np.random.default_rng(0)
    units, weights = 40, 300
    dynamics = rng.random((units, units)) < 0.1
    immediate = np.zeros((units, weights), bool)
    immediate[rng.integers(0, units, weights), np.arange(weights)] = True
    pattern = sparsegrad.reach(dynamics, immediate, n=2)
    influence = sparsegrad.Influence(pattern, dtype="float64")
    program = CProgram(influence)
    grad = np.zeros(weights)
    with tempfile.TemporaryDirectory() as folder:
        failed = build(Path(folder)).stream(
            ctypes.byref(program.struct),
            ctypes.byref(functions("float64")),
            ctypes.c_int64(STEPS),
            ctypes.c_uint64(SEED),
            ctypes.c_void_p(influence.panels.ctypes.data),
            ctypes.c_void_p(grad.ctypes.data),
        )
    if failed:
        raise MemoryError("the C program found no memory")
    return pattern, influence.to_scipy().data, grad


if __name__ == "__main__":
    pattern, values, grad = main()
    print(f"{STEPS} steps in C on {pattern}: |grad| = {np.linalg.norm(grad):.6f}")
