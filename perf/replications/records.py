"""Finished runs, one line of JSON each: what is there is not run again."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Setting = dict[str, Any]


class Records:
    """The finished runs of a table.

    Parameters
    ----------
    path : Path
        A file of JSON lines, made when the first run is done. A last line that was cut off by an
        interruption is dropped, its run is made again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Setting] = []
        if path.is_file():
            text = path.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            if whole != text:
                path.write_bytes(whole)
            self.lines = [json.loads(line) for line in whole.splitlines()]
        self._done = {_key(line["setting"]) for line in self.lines}

    def once(self, setting: Setting, run: Callable[..., Setting], *arguments: Any) -> None:
        """Keep what ``run(*arguments)`` gives for a setting, unless it has been run."""
        if _key(setting) in self._done:
            return
        line = {"setting": setting, **run(*arguments)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)
        self._done.add(_key(setting))

    def where(self, **setting: Any) -> Iterator[Setting]:
        """Yield the runs whose setting has these values."""
        for line in self.lines:
            if all(line["setting"].get(name) == value for name, value in setting.items()):
                yield line


def mean_and_spread(values: Iterable[float], digits: int = 3) -> str:
    """Return mean ± deviation in words, without the leading 0; a dash for none."""
    found = [value for value in values if np.isfinite(value)]
    if not found:
        return "–"
    mean = f"{np.mean(found):.{digits}f}".removeprefix("0")
    return mean if len(found) == 1 else f"{mean} ± {np.std(found, ddof=1):.{digits}f}"


def row(cells: Iterable[object]) -> str:
    """Return a row of a table in Markdown."""
    return "| " + " | ".join(map(str, cells)) + " |"


def _key(setting: Setting) -> str:
    return json.dumps(setting, sort_keys=True)
