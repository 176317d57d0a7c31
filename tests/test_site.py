"""The site as a reader meets it: built with warnings as errors, offline, looked at in a browser."""

import functools
import http.server
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="docs/ is not here")
HERE = "http://site/"  # the links of a page are resolved against it
SIZES = {"desktop": (1280, 900, False), "phone": (390, 844, True)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site, by the command that CONTRIBUTING gives."""
    for name in ("sphinx", "numpydoc", "pydata_sphinx_theme", "myst_parser", "sphinx_gallery",
                 "sphinx-mathjax-offline", "torch", "jax"):  # fmt: skip
        pytest.importorskip(name, reason=f"{name} is not installed")
    command = re.search(
        r"^python (-m sphinx .*) docs site$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, *shlex.split(command[1]), "-q", "-d", folder / "trees", "docs",
         folder / "html"], capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


def test_without_the_extra_one_line_says_what_to_install(tmp_path):
    pytest.importorskip("sphinx", reason="sphinx is not installed")
    code = (
        "import importlib.util as u, sys; find = u.find_spec;"
        "u.find_spec = lambda name, *rest: None if name == 'numpydoc' else find(name, *rest);"
        "from sphinx.cmd.build import main;"
        "sys.exit(main(['docs', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode != 0
    assert "the site needs what is not installed (numpydoc): pip install" in done.stderr
    assert "Traceback (most recent call last)" not in done.stderr


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.places = [], [], {""}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.places |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "index", "search"):
            self.loads.append(values["href"])
        elif tag in ("img", "script", "source", "iframe") and values.get("src"):
            self.loads.append(values["src"])


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site).as_posix(): Page(path.read_text()) for path in
            site.rglob("*.html") if "_static" not in path.parts}  # fmt: skip


def test_no_link_is_dead_and_nothing_is_loaded_from_outside(site, pages):
    assert len(pages) > 50
    dead = []
    for name, page in pages.items():
        for link in page.links + page.loads:
            target, place = urldefrag(urljoin(HERE + name, link))
            if not target.startswith(HERE):
                if link in page.loads and not link.startswith("data:"):
                    dead.append((name, link, "is loaded from outside"))
                continue
            target = unquote(target.removeprefix(HERE).partition("?")[0])
            target += "index.html" if target.endswith("/") or not target else ""
            if not (site / target).is_file():
                dead.append((name, link, "no such file"))
            elif target in pages and unquote(place) not in pages[target].places:
                dead.append((name, link, "no such place"))
    assert not dead, dead


def test_every_public_name_can_be_found(site):
    from test_docs import public_names

    inventory = pytest.importorskip("sphinx.util.inventory").InventoryFile
    with open(site / "objects.inv", "rb") as file:
        found = inventory.load(file, "", "{}{}".format)
    names = {name.rpartition(".")[2] for kind in found if kind.startswith("py:")
             for name in found[kind]}  # fmt: skip
    assert not {*public_names()} - names


@pytest.fixture(scope="module")
def browser(site, tmp_path_factory):
    """A headless Chromium, and the address of the site on this machine."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no Chromium to look with: apt-get install chromium chromium-driver")
    handler = functools.partial(Quiet, directory=site)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    user = tmp_path_factory.mktemp("user")
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
                 "disable-background-networking", "disable-component-update", "disable-sync",
                 "disable-dev-shm-usage", f"user-data-dir={user}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    chromium = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chromium, f"http://127.0.0.1:{server.server_port}/"
    chromium.quit()
    server.shutdown()
    server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that says nothing."""

    def log_message(self, *arguments):
        pass


FAULTS = """
const done = arguments[0];
const ready = window.MathJax && MathJax.startup ? MathJax.startup.promise : Promise.resolve();
ready.then(() => {
  const faults = [];
  const within = element => {  // what scrolls or is cut off within an element of the page is none
    for (let e = element; e.tagName != "ARTICLE"; e = e.parentElement)
      if (getComputedStyle(e).overflowX != "visible" || getComputedStyle(e).position == "absolute")
        return true;
    return false;
  };
  for (const element of document.querySelectorAll("article *")) {
    const wide = element.getBoundingClientRect().right - document.documentElement.clientWidth;
    if (wide > 1 && !within(element))
      faults.push(`${element.outerHTML.slice(0, 60)} is ${wide} px wider than the window`);
  }
  for (const image of document.querySelectorAll("article img"))
    if (!image.complete || !image.naturalWidth) faults.push(`${image.src} did not load`);
  for (const formula of document.querySelectorAll(".math"))
    if (!formula.querySelector("mjx-container")) faults.push(`not set: ${formula.textContent}`);
  for (const error of document.querySelectorAll("mjx-merror"))
    faults.push(`wrong: ${error.textContent}`);
  if (!document.querySelector("article h1")) faults.push("no title");
  done(faults);
});
"""


@pytest.mark.parametrize("size", SIZES)
def test_pages_in_a_browser(browser, pages, size):
    chromium, address = browser
    width, height, mobile = SIZES[size]
    chromium.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile},
    )
    named = ("generated/sparsegrad.OnlineLearner", "generated/sparsegrad.GRU")
    skipped = ("_modules", "generated", "genindex", "search", "py-modindex")
    shown = [name for name in pages
             if any(x in name for x in named) or not any(x in name for x in skipped)]  # fmt: skip
    assert len(shown) > 25
    faults = defaultdict(list)
    for name in shown:
        chromium.get(address + name)
        faults[name] += chromium.execute_async_script(FAULTS)
        faults[name] += [
            x["message"] for x in chromium.get_log("browser") if x["level"] == "SEVERE"
        ]
    for entry in chromium.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith((address, "data:", "blob:", "chrome:")):
                faults["network"].append(url)
    assert not {name: found for name, found in faults.items() if found}


def test_search_finds_a_page(browser):
    from selenium.webdriver.support.ui import WebDriverWait

    chromium, address = browser
    chromium.get(address + "search.html?q=supernode")
    WebDriverWait(chromium, 30).until(  # results come one by one
        lambda page: "finished" in page.find_element("id", "search-results").text.lower()
    )
    results = chromium.find_elements("css selector", "#search-results li a")
    titles = [result.text for result in results]
    assert "Panels" in " ".join(titles)
    chromium.get(results[0].get_attribute("href"))
    assert "supernode" in chromium.find_element("tag name", "article").text.lower()
