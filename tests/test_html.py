"""`--html`: pages that stand alone, looked at in a browser: hover, sort, choices."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sparsegrad.cli.main import main

pytest.importorskip("bokeh", reason="bokeh is not installed")
PROFILE = ["profile", "--units", "16", "32", "--sparsity", "0.5", "0.9", "--inputs", "3", "--n",
           "1", "2", "--dry-run"]  # fmt: skip
COMPARE = ["compare", "copy", "--units", "8", "--tokens", "2k", "--batch", "2", "--report", "500"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of each command."""
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in ("profile", "compare", "passive")}
    assert main([*PROFILE, "--html", str(found["profile"])]) == 0
    methods = ["--methods", "snap:1", "--rates", "1e-3", "--seeds", "0", "--jobs", "1"]
    out = "--out", str(folder / "runs")
    assert main([*COMPARE, *methods, *out, "--html", str(found["compare"])]) == 0
    out = "--out", str(folder / "along")
    passive = ["--passive", "--methods", "snap:1"]
    assert main([*COMPARE, *passive, *out, "--html", str(found["passive"])]) == 0
    return found


class Loads(HTMLParser):
    """What a page would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        values = dict(attributes)
        if tag in ("script", "img", "iframe", "link"):
            self.found += [values[key] for key in ("src", "href") if values.get(key)]


@pytest.mark.parametrize("name", ["profile", "compare", "passive"])
def test_a_page_names_nothing_to_fetch(pages: dict[str, Path], name: str) -> None:
    text = pages[name].read_text()
    assert Loads(text).found == []
    assert "<title>" in text


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no Chromium to look with: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    user = tmp_path_factory.mktemp("user")
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run",
                 "disable-background-networking", "window-size=1280,1400",
                 f"user-data-dir={user}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    chromium = webdriver.Chrome(options, webdriver.ChromeService(driver))
    chromium.set_script_timeout(60)
    yield chromium
    chromium.quit()


READY = """
const done = arguments[0];
const look = () => window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle
  ? done(true) : setTimeout(look, 50);
look();
"""
MODELS = "const d = Bokeh.documents[0]; const all = type => [...d._all_models.values()].filter("
MODELS += "m => m.type == type);"


def opened(browser: Any, path: Path) -> None:
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.as_uri())
    assert browser.execute_async_script(READY)


def cells(browser: Any) -> list[list[str]]:
    """The rows of the table as they are painted, from Bokeh's shadow trees."""
    return browser.execute_script("""
        const found = [];
        const walk = root => { for (const e of root.querySelectorAll("*")) {
          if (e.classList.contains("slick-row"))
            found.push([parseFloat(e.style.top) || 0,
                        [...e.querySelectorAll(".slick-cell")].map(c => c.innerText.trim())]);
          if (e.shadowRoot) walk(e.shadowRoot); } };
        walk(document);
        return found.sort((a, b) => a[0] - b[0]).map(pair => pair[1]);
    """)


@pytest.mark.parametrize("name", ["profile", "compare", "passive"])
def test_a_page_is_drawn_without_a_fault_and_asks_nobody(browser: Any, pages: Any, name: str):
    opened(browser, pages[name])
    assert cells(browser)
    faults = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert not faults
    urls = [
        message["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    ]
    assert [url for url in urls if not url.startswith(("file:", "data:", "blob:", "chrome:"))] == []
    wide = browser.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wide <= 1


def test_choices_filter_table_and_plot(browser: Any, pages: dict[str, Path]) -> None:
    opened(browser, pages["profile"])
    assert len(cells(browser)) == 8
    browser.execute_script(
        MODELS + "all('MultiChoice').find(m => m.name == '_units').value = ['16'];"
        "all('MultiChoice').find(m => m.name == '_n').value = ['2'];"
    )
    counts = browser.execute_script(MODELS + "return all('CDSView').map(v => v.indices.count)")
    assert sorted(counts)[-2:] == [2, 2]  # dots and rows; the lines are one for each net
    shown = cells(browser)
    assert [row[1] for row in shown] == ["16", "16"]
    assert len(shown) == 2


def test_a_click_sorts_and_the_pointer_is_answered(browser: Any, pages: dict[str, Path]) -> None:
    opened(browser, pages["profile"])
    column = browser.execute_script(MODELS + "return all('DataTable')[0].columns"
                                    ".findIndex(c => c.field == 'multiply_adds')")  # fmt: skip
    browser.execute_script("""
        const walk = root => { for (const e of root.querySelectorAll("*")) {
          if (e.classList.contains("slick-header-column") && e.innerText.includes("multiply_adds"))
            e.click();
          if (e.shadowRoot) walk(e.shadowRoot); } };
        walk(document);
    """)
    sizes = [int(row[column]) for row in cells(browser)]
    assert sizes == sorted(sizes)
    assert len({*sizes}) > 4
    from selenium.webdriver import ActionChains

    place = browser.execute_script(
        MODELS
        + """
        const dots = all("GlyphRenderer").find(r => r.glyph.type == "Scatter");
        const view = Object.values(Bokeh.index.roots ?? {})[0] ?? [...Bokeh.index][0];
        const find = v => v.model === dots ? v : [...(v.children ? v.children() : [])]
          .map(find).find(x => x);
        const glyph = find(view), box = glyph.plot_view.canvas_view.el.getBoundingClientRect();
        return [box.left + glyph.glyph.sx[0], box.top + glyph.glyph.sy[0]];
    """
    )
    pointer = ActionChains(browser)
    pointer.w3c_actions.pointer_action.move_to_location(*map(round, place))
    pointer.perform()
    text = browser.execute_async_script("""
        const done = arguments[0];
        const look = n => { const found = [];
          const walk = root => { for (const e of root.querySelectorAll("*")) {
            if (e.classList.contains("bk-Tooltip")) found.push(e.shadowRoot
              ? e.shadowRoot.textContent : e.innerText);
            if (e.shadowRoot) walk(e.shadowRoot); } };
          walk(document);
          const text = found.join(" ");
          text.includes("entries") || !n ? done(text) : setTimeout(() => look(n - 1), 100); };
        look(50);
    """)
    assert re.search(r"entries:?\s*\d+", text), text


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path, capsys: Any) -> None:
    for path in (tmp_path, tmp_path / "none" / "page.html"):
        assert main([*PROFILE, "--html", str(path)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("sparsegrad: --html must be a file in a folder that is there")


def test_without_bokeh_one_line_says_what_to_install(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("sparsegrad.cli.pages.find_spec", lambda name: None)
    assert main([*PROFILE, "--html", "page.html"]) == 2
    assert capsys.readouterr().err == (
        "sparsegrad: --html needs Bokeh, which is not installed: "
        "pip install 'sparsegrad-rtrl[html]'\n"
    )
