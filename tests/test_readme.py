"""README's examples run as they stand, each in a process of its own as a user would run it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def test_there_are_examples():
    assert len(EXAMPLES) >= 4


@pytest.mark.skipif(INTERPRETED, reason="takes 36 s and proves nothing more than compiled")
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs(number, tmp_path):
    if "import torch" in EXAMPLES[number]:
        pytest.importorskip("torch", reason="torch is not installed")
    script = tmp_path / "example.py"  # a file: Numba caches only what has one
    script.write_text(EXAMPLES[number])
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_commands_are_those_that_the_package_has():
    """Every `sparsegrad X --option` that README shows is known to the command line."""
    text = README.read_text()
    commands = set(re.findall(r"sparsegrad (profile|train|compare)", text))
    assert "profile" in commands
    for command in sorted(commands):
        shown = set(re.findall(rf"sparsegrad {command}[^\n`]*", text))
        options = {option for line in shown for option in re.findall(r"--[a-z-]+", line)}
        done = subprocess.run(
            [sys.executable, "-m", "sparsegrad.cli", command, "--help"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        missing = {option for option in options if option not in done.stdout}
        assert not missing
