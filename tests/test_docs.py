"""README and docs: every block of code runs, every command is one, every public name has a page."""

import ast
import functools
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import sparsegrad
from sparsegrad import registry
from sparsegrad.cli import main as command_line

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# a regular install without the repository has no docs/
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="docs/ is not here")
MADE = {DOCS / "lessons", DOCS / "reference" / "generated"}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PAGES = [page for page in PAGES if not MADE & {*page.parents}]
FENCE = re.compile(r"^```([a-z]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IN_ORDER = DOCS / "tutorials" / "command_line.md"  # its commands run, one after the other
OURS = (  # commands of other programs that the pages name
    "python3 -m venv .venv && . .venv/bin/activate",
    "pre-commit install",
    """echo 'eval "$(sparsegrad --print-completion bash)"' >> ~/.bashrc""",
    ".ci/run",
    "pip install --no-deps flyvis",
    "dask scheduler --port 8786",
    "dask worker node1:8786 --nworkers 16 --nthreads 1",
)


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    return [text for found, text in FENCE.findall(page.read_text("utf-8")) if found == language]


def commands(page):
    """Every command of a page's shell blocks, a list of words each."""
    for text in blocks(page, "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            line = re.split(r"\s+#", line)[0].strip()
            if line and line not in OURS:
                for command in re.split(r"&&|\|", line):
                    yield shlex.split(command)


def run(command, folder, **environment):
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, **environment}
    )


def test_the_pages_are_found():
    assert len(PAGES) > 25
    assert sum(bool(blocks(page, "python")) for page in PAGES) >= 7


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python") and page != IN_ORDER], ids=name_of
)
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path):
    text = "\n".join(blocks(page, "python"))
    for framework in ("torch", "jax", "river", "gymnasium"):
        named = re.search(rf"^(import|from) {framework}\b", text, re.MULTILINE)
        if named and find_spec(framework) is None:
            pytest.skip(f"{framework} is not installed")
    script = tmp_path / "page.py"  # a file: Numba caches only what has one
    script.write_text(text, "utf-8")
    done = run([sys.executable, script], tmp_path)
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"^```python\n[^`]*^```\n\n```text\n(.*?)^```$", page.read_text("utf-8"),
                       re.MULTILINE | re.DOTALL)  # fmt: skip
    for output in shown:
        assert output in done.stdout


def test_the_tutorial_of_the_command_line_runs_in_its_order(tmp_path):
    for language, text in FENCE.findall(IN_ORDER.read_text("utf-8")):
        if language == "python":
            exec(compile(text.replace('"sensors', f'"{tmp_path}/sensors'), IN_ORDER, "exec"), {})
        elif language == "toml":
            (tmp_path / text.splitlines()[0].strip("# ")).write_text(text)
        elif language == "sh" and not text.startswith("pip "):
            words = shlex.split(text.replace("\\\n", " "))
            done = run([sys.executable, "-m", "sparsegrad.cli", *words[1:]], tmp_path)
            assert done.returncode == 0, (text, done.stderr)
    folder = tmp_path / "runs" / "copy"
    files = re.findall(r"^\| `([a-z.]+)`", IN_ORDER.read_text("utf-8"), re.MULTILINE)
    assert {*files} == {path.name for path in folder.iterdir() if path.name[0] != "."}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_counts_that_a_page_shows_are_those_that_its_command_prints(page, tmp_path):
    pattern = r"^```sh\n(sparsegrad [^`]*--dry-run)\n```\n\n```text\n(.*?)^```$"
    shown = re.findall(pattern, page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for command, output in shown:
        words = shlex.split(command)[1:]
        done = run([sys.executable, "-m", "sparsegrad.cli", *words], tmp_path)
        assert done.stdout == output
    assert shown or page.name != "idea.md"


@functools.cache
def options_of(script):
    done = run([sys.executable, ROOT / script, "--help"], ROOT)
    missing = re.search(r"No module named '(\w+)'", done.stderr)
    if missing and missing[1] not in ("sparsegrad", "perf"):
        pytest.skip(f"{missing[1]} is not installed: {script} needs it")
    return {*re.findall(r"--[a-z0-9-]+", done.stdout)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_one_that_its_program_takes(page, capsys):
    for words in commands(page):
        words = words[3:] if words[:2] == ["mpirun", "-n"] else words
        if words[0] == "sparsegrad":
            command_line._parser().parse_args(words[1:])
        elif words[0] == "python" and words[1] != "-m":
            assert (ROOT / words[1]).is_file()
            if words[2:]:
                options = {word for word in words if word.startswith("--")}
                assert options <= options_of(words[1]), words
        elif words[:2] == ["pip", "install"]:
            extras = re.search(r"\[(.*)\]", words[-1])[1].split(",")
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert {*extras} <= {*project["optional-dependencies"]}
        elif words[:2] == ["python", "-m"]:
            assert words[2] in ("sphinx", "build")
        else:
            program = [word for word in words if not re.match(r"SPARSEGRAD_\w+=", word)]
            assert program[0] == "pytest", f"what is {words}?"
            assert all((ROOT / path).exists() for path in program[1:]), words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_named_in_the_text_exist(page):
    choices = next(a.choices for a in command_line._parser()._actions if a.choices)
    for command, rest in re.findall(r"`sparsegrad ([a-z]+)([^`\n]*)`", page.read_text("utf-8")):
        known = choices[command].format_help()
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in known, f"{command} has no {option}"


def test_tests_that_a_page_names_are_there():
    files = [path for path in (ROOT / "tests").rglob("*.py")]
    defined = {name for path in files for name in re.findall(r"def (\w+)\(", path.read_text())}
    defined |= {path.name for path in files}
    named = set()
    for page in PAGES:
        for file, name in re.findall(r"`(?:tests/)?(?:fuzz/)?(test_\w+\.py)?:*(test_\w+)?`",
                                     page.read_text("utf-8")):  # fmt: skip
            assert {file, name} - {""} <= defined, f"{page.name} names {file}::{name}"
            named |= {file, name}
    assert len(named) > 40


def test_links_between_files_of_readme_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (ROOT / target).is_file(), target


def test_a_package_index_gets_no_link_that_it_cannot_follow():
    fit = runpy.run_path(str(ROOT / "setup.py"))["for_an_index"]
    readme = (ROOT / "README.md").read_text("utf-8")
    links = r"\]\((?!https?:)"
    assert re.search(links, readme)
    assert not re.search(links, fit(readme))
    assert "A weight of a sparse net reaches" in fit(readme)
    with_address = fit(readme, "https://example.org/raw/")
    assert "](https://example.org/raw/docs/pictures/reach.png)" in with_address
    assert not re.search(links, with_address)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["readme"]


def public_names():
    """Every name that a package hands on, and those of the modules that are called by path."""
    yield from sparsegrad.__all__
    files = [*(ROOT / "sparsegrad").rglob("*.py"), ROOT / "kernels" / "__init__.py"]
    called_by_path = ("jax", "c", "river")
    for path in files:
        tree = ast.parse(path.read_text("utf-8"))
        listed = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            if node.targets[0].id == "__all__"
        ]
        if listed and path.name == "__init__.py":
            yield from listed[0]
        elif path.parent.name == "interop" and (listed or path.stem in called_by_path):
            definitions = (ast.ClassDef, ast.FunctionDef)
            here = [node.name for node in tree.body if isinstance(node, definitions)]
            yield from listed[0] if listed else [name for name in here if name[0] != "_"]


def documented_names():
    for rows in (registry.CELLS, registry.METHODS, registry.OPTIMIZERS):  # docs/conf.py has them
        yield from (row.type_name for row in rows.values())
    for page in (DOCS / "reference").glob("*.md"):
        for listing in re.findall(r":toctree: generated\n\n(.*?)```", page.read_text(), re.DOTALL):
            yield from (line.strip().rpartition(".")[2] for line in listing.split())


def test_every_public_name_has_a_page():
    public, documented = {*public_names()}, {*documented_names()}
    assert {"reach", "SnApGRU", "SnapStep", "CProgram", "panels_update", "Copy"} <= public
    missing = sorted(public - documented)
    assert not missing, f"write these into a page of docs/reference: {missing}"


def test_every_word_of_the_glossary_is_one_of_the_code():
    text = (DOCS / "glossary.md").read_text("utf-8")
    words = re.findall(r"^([a-z][a-z_ -]*)\n  ", text, re.MULTILINE)
    assert {"reach", "supernode", "panel", "segment", "member", "run", "lane", "abreast",
            "trace"} <= {*words}  # fmt: skip
    assert words == sorted(words, key=lambda word: word.replace("_", "").replace("-", ""))
    code = "".join(
        path.read_text("utf-8")
        for folder in ("sparsegrad", "kernels")
        for path in (ROOT / folder).rglob("*.py")
    ).lower()
    for word in words:
        assert re.search(rf"\b{word}", code), f"no {word!r} in the code"


def test_the_pictures_are_those_that_their_script_draws(tmp_path):
    images = pytest.importorskip("matplotlib.testing.compare", reason="matplotlib is missing")
    done = run([sys.executable, DOCS / "draw.py", tmp_path], tmp_path, MPLBACKEND="agg")
    assert done.returncode == 0, done.stderr
    drawn = sorted(tmp_path.glob("*.png"))
    assert {path.stem for path in drawn} == {"reach", "matrices", "history"}
    for path in drawn:
        different = images.compare_images(str(DOCS / "pictures" / path.name), str(path), tol=12)
        assert different is None, f"{different}: python docs/draw.py draws them anew"


def test_releases_agree():
    """The version stands in four places."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[([^\]]*)\]", changelog, re.MULTILINE)[:2] == ["Unreleased", version]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert (ROOT / "perf" / "history" / f"{version}.json").is_file()
