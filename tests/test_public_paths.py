"""Names that users import, and the modules they import them from: none may go."""

import importlib

import pytest

PATHS = {  # as version 0.1.0 had them
    "sparsegrad": """BPTT GRU LSTM MLP RFLO RNN RTRL SGD UORO Adam AdamW Cell CellKind Influence
        RMSprop Linear Map OnlineLearner ReachPattern SnAp check_cell reach kernels __version__""",
    "sparsegrad.kernels": """csr_contract csr_update csr_update_and_contract panels_contract
        panels_update panels_update_and_contract""",
    "sparsegrad.influence": "Influence",
    "sparsegrad.cells": "Cell CellKind GRU LSTM Map RNN check_cell",
    "sparsegrad.methods": "BPTT Engine Layout Method Outcome RFLO RTRL SnAp UORO",
    "sparsegrad.tasks": "Chars Copy Sequences Stream Task",
    "sparsegrad.interop.torch": "SnApGRU SnApLSTM SnApRNN",
    "sparsegrad.interop.torch_any": "Patterns SnApModule probe",
    "sparsegrad.interop.jax": "Carry SnapStep",
    "sparsegrad.interop.c": "CProgram Functions Struct functions header",
}
NEEDS = {"sparsegrad.interop.torch": "torch", "sparsegrad.interop.torch_any": "rustworkx",
         "sparsegrad.interop.jax": "jax"}  # fmt: skip


@pytest.mark.parametrize("module", PATHS)
def test_a_public_path_stays(module):
    if module in NEEDS:
        pytest.importorskip(NEEDS[module])
    found = importlib.import_module(module)
    assert [name for name in PATHS[module].split() if not hasattr(found, name)] == []


def test_public_names_are_listed():
    for module, names in PATHS.items():
        if module in NEEDS:
            pytest.importorskip(NEEDS[module])
        listed = getattr(importlib.import_module(module), "__all__", names.split())
        assert {name for name in names.split() if name[0] != "_"} - {"kernels"} <= set(listed)
