"""The kernels as C functions: the header against the signatures, and a compiled C program."""

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import sparsegrad
from sparsegrad.interop.c import CProgram, Struct, _compiled, functions, header
from sparsegrad.kernels.interop.c_api import c_contract, c_step, c_update, c_update_and_contract

EXAMPLES = Path(__file__).parent.parent / "examples"
FUNCTIONS = (c_update, c_contract, c_update_and_contract, c_step)
compiled = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="there are no C functions when interpreted"
)


def header_text():
    return (header() / "sparsegrad.h").read_text()


def test_the_headers_struct_is_ours():
    body = re.search(r"typedef struct \{\n(.*?)\} sparsegrad_program;", header_text(), re.S)[1]
    fields = re.findall(r"^\s*(const )?(int(?:64|32)_t) (\*?)(\w+);", body, re.M)
    assert [name for *_, name in fields] == [name for name, _ in Struct._fields_]
    influence = sparsegrad.Influence(sparsegrad.reach(np.eye(3), np.eye(3), 1))
    program = influence.program
    for const, kind, star, name in fields:
        assert bool(const) == bool(star)
        assert (ctypes.c_void_p if star else ctypes.c_int64) is dict(Struct._fields_)[name]
        if star:
            assert f"{getattr(program, name).dtype}_t" == kind
        else:
            assert kind == "int64_t"


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_headers_arguments_are_ours(function):
    name = function.__name__.removeprefix("c_")
    text = header_text().replace("\\\n", " ")
    arguments = re.search(rf"\(\*NAME##_{name}\)\((.*?)\);", text, re.S)[1]
    names = [argument.split()[-1].lstrip("*") for argument in arguments.split(",")]
    assert names == list(function.__annotations__)[:-1]


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_compiled_signature_is_the_headers(dtype):
    text = header_text().replace("\\\n", " ")
    words = {"const sparsegrad_program *": "int64*", "int64_t ": "int64"}
    words["const sparsegrad_cell *"] = "int64*"
    for function, made in zip(FUNCTIONS, _compiled(dtype), strict=True):
        name = function.__name__.removeprefix("c_")
        arguments = re.search(rf"\(\*NAME##_{name}\)\((.*?)\);", text, re.S)[1]
        kinds = [re.sub(r"\w+$", "", argument.strip()) for argument in arguments.split(",")]
        expected = [words.get(kind, f"{dtype}*") for kind in kinds]
        assert [str(a) for a in made._sig.args] == expected


@compiled
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_c_compiler_lays_the_struct_out_as_we_do(tmp_path):
    names = [name for name, _ in Struct._fields_]
    offsets = "\n".join(f'printf("%zu\\n", offsetof(sparsegrad_program, {n}));' for n in names)
    source = tmp_path / "layout.c"
    source.write_text(
        f'#include <stdio.h>\n#include <stddef.h>\n#include "sparsegrad.h"\n'
        f"int main(void) {{ {offsets} return 0; }}\n"
    )
    program = tmp_path / "layout"
    subprocess.run(["cc", "-I", header(), source, "-o", program], check=True)
    found = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    assert [int(offset) for offset in found] == [getattr(Struct, name).offset for name in names]


@pytest.mark.parametrize("standard", "c89 gnu89 c99 c11 c17 c++98 c++11 c++14 c++17 c++20".split())
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_header_is_c_and_cpp_of_every_standard(tmp_path, standard):
    source = tmp_path / ("use.cpp" if "+" in standard else "use.c")
    source.write_text(
        '#include "sparsegrad.h"\n#include "sparsegrad.h"\n'
        "int main(void) { sparsegrad_program program; (void) program; return 0; }\n"
    )
    strict = "-Wall", "-Wextra", "-Werror", "-pedantic-errors", f"-std={standard}"
    run = subprocess.run(
        ["cc", *strict, "-I", header(), "-c", source, "-o", tmp_path / "use.o"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def uniform(state, count):
    """Make the numbers of stream.c."""
    out = np.empty(count)
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out[i] = (state >> 11) / 2.0**53 - 0.5
    return out, state


@compiled
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples/ is not here")
def test_the_c_program_finds_what_influence_finds(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import stream

    pattern, values, grad = stream.main()
    ours = sparsegrad.Influence(pattern, dtype="float64")
    expected, state = np.zeros(pattern.shape[0]), stream.SEED
    for _ in range(stream.STEPS):
        D, state = uniform(state, pattern.dynamics_indices.size)
        immediate, state = uniform(state, pattern.immediate_indices.size)
        signal, state = uniform(state, pattern.shape[1])
        expected += ours.update_and_contract(D, immediate, signal)
    np.testing.assert_array_equal(values, ours.to_scipy().data)
    np.testing.assert_allclose(grad, expected, rtol=1e-13)
    assert np.abs(grad).max() > 1


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_dense_product_through_the_pointers(dtype):
    rng = np.random.default_rng(0)
    pattern = sparsegrad.reach(np.ones((24, 24)), np.kron(np.eye(24), np.ones((1, 5))), 2)
    ours, theirs = (sparsegrad.Influence(pattern, batch=2, dtype=dtype) for _ in range(2))
    program = CProgram(theirs)
    D, immediate, signal = (
        rng.standard_normal((2, size)).astype(dtype)
        for size in (24 * 24, pattern.immediate_indices.size, 24)
    )
    grad = np.zeros(pattern.shape[0], dtype)
    scratch = np.zeros(program.struct.scratch_size, dtype)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 6)(
        functions(dtype).update_and_contract
    )
    arrays = (D, immediate, signal, theirs.panels, grad, scratch)
    for _ in range(3):
        expected = ours.update_and_contract(D, immediate, signal)
        call(ctypes.addressof(program.struct), 2, *[a.ctypes.data for a in arrays])
    np.testing.assert_array_equal(grad, expected)
    np.testing.assert_array_equal(theirs.panels, ours.panels)


def test_bad_requests_are_refused():
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got int32"):
        functions("int32")


@compiled
def test_importing_compiles_nothing():
    code = "import sparsegrad.interop.c as c; assert c._compiled.cache_info().currsize == 0"
    subprocess.run([sys.executable, "-c", code], check=True)
