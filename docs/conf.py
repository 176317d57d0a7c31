"""How the site is built: `python -m sphinx -W --keep-going docs site`, as CONTRIBUTING has it.

Nothing is fetched, when the site is built or when it is read: the theme brings its own fonts, and
MathJax is copied out of a package.
"""

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.errors import ConfigError

import sparsegrad
from sparsegrad import registry
from sparsegrad.cli import main as command_line

HERE = Path(__file__).parent
NEEDED = ("numpydoc", "pydata_sphinx_theme", "myst_parser", "sphinx_gallery", "matplotlib",
          "sphinx-mathjax-offline")  # fmt: skip
if missing := [name for name in NEEDED if find_spec(name) is None]:
    raise ConfigError(
        f"the site needs what is not installed ({', '.join(missing)}): "
        "pip install 'sparsegrad-rtrl[docs]'"
    )

project = "sparsegrad"
author = "the sparsegrad developers"
copyright = f"2026, {author}"
version = release = sparsegrad.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["tutorials/*.rst"]  # the gallery's own header is read by the gallery
smartquotes = False  # h' is a new state, not a quotation
default_role = "py:obj"  # `reach` in a docstring is a link where there is such an object
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]  # the gallery's settings hold functions

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections have them, with shapes
numpydoc_show_class_members = False  # the page of a class shows them itself
numpydoc_class_members_toctree = False

html_theme = "pydata_sphinx_theme"
html_title = "sparsegrad"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_align": "left",
    "show_prev_next": True,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
# Pages without pages below them need no column for them.
html_sidebars = {page: [] for page in ("index", "claims", "glossary", "changelog", "contributing")}
mathjax_path = "mathjax/tex-chtml.js"

# What documents the embedding needs the frameworks; where one is missing, its page is thinner.
autodoc_mock_imports = [
    name for name in ("torch", "jax", "rustworkx", "onnx") if not find_spec(name)
]
autodoc_mock_imports.append("river")  # or what its classes hand on would be documented here

# A cell, method or optimiser with a row in the registry has its page.
for rows, title in ((registry.CELLS, "Built-in cells"), (registry.METHODS, "Built-in methods"),
                    (registry.OPTIMIZERS, "Built-in optimisers")):  # fmt: skip
    names = "".join(f"   {row.type_name}\n" for row in rows.values())
    page = HERE / "reference" / f"rows_{title.split()[1]}.rst"
    text = f"""{title}\n{"=" * len(title)}\n\n.. currentmodule:: sparsegrad\n
.. autosummary::\n   :toctree: generated\n\n{names}"""
    if not page.is_file() or page.read_text("utf-8") != text:
        page.write_text(text, "utf-8")

FRAMEWORKS = {"pytorch": "torch", "jax": "jax"}
RUN = [  # a tutorial whose framework is not here is shown, not run
    re.escape(path.stem) + r"\.py"
    for path in sorted((HERE / "tutorials").glob("*.py"))
    if find_spec(FRAMEWORKS.get(path.stem, "sparsegrad"))
]
sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "lessons",
    "filename_pattern": "|".join(RUN),
    "ignore_pattern": "^$",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "min_reported_time": 1e9,  # seconds differ from machine to machine
    "reset_modules": (),  # a tutorial sets no global state
    "capture_repr": (),  # what a tutorial prints is shown, not what its last line returns
    "abort_on_example_error": True,
}


def _copy_mathjax(app, exception):
    """Put the parts of MathJax that pages ask for beside the other static files."""
    if exception is not None or app.builder.format != "html":
        return
    source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    fonts = Path("output/chtml/fonts/woff-v2")
    shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)
    shutil.copy(source / "tex-chtml.js", target)


def _lead_back(app, pagename, templatename, context, doctree):
    """Lead a page of source back to names that are documented in a module below the package.

    viewcode takes them to be where the file's first name is; a page of ours is named as its object.
    """
    if pagename.startswith("_modules/"):
        wrong = r"(/(sparsegrad\.[\w.]+\.(\w+))\.html#)sparsegrad\.\3(?=[\".])"
        context["body"] = re.sub(wrong, r"\1\2", context["body"])


class CommandHelp(Directive):
    """`command-help`: the texts of --help of every command, as the parser writes them."""

    def run(self):
        """Return a section for each command."""
        os.environ["COLUMNS"] = "96"
        commands = next(a.choices for a in command_line._parser()._actions if a.choices)
        made = []
        for name, parser in commands.items():
            section = nodes.section(ids=[f"sparsegrad-{name}"])
            section += nodes.title(text=f"sparsegrad {name}")
            text = parser.format_help()
            section += nodes.literal_block(text, text, language="text")
            made.append(section)
        return made


def setup(app):
    """Tell Sphinx what is done beside its own extensions."""
    os.environ.setdefault("MPLBACKEND", "agg")
    app.add_directive("command-help", CommandHelp)
    app.connect("build-finished", _copy_mathjax)
    app.connect("html-page-context", _lead_back)
