"""A live bar on a terminal, where rich is there; elsewhere it shows nothing."""

from typing import Any, TextIO


class Bar:
    """How far something is, in one line that goes away at its end.

    Parameters
    ----------
    file : text file or None
        stdout or stderr.
    total : float
        What `show` counts up to.
    width : int
        Characters of the bar itself.
    counted : bool
        Show ``3/12`` beside it.

    Attributes
    ----------
    shown : bool
        Whether there is a bar: on a terminal, with rich.
    """

    def __init__(
        self, file: TextIO | None, total: float, width: int, counted: bool = False
    ) -> None:
        self._width = width
        self._progress: Any = None
        if file is None or not file.isatty():  # None: closed by whoever started this process
            return
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        except ImportError:
            return
        count = (MofNCompleteColumn(),) if counted else ()
        self._progress = Progress(
            BarColumn(width), *count, TextColumn("{task.description}"),
            console=Console(file=file), transient=True, refresh_per_second=4,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=total)
        from sparsegrad.system.compiling import compiling

        self._compiling, self._shown_before = compiling, compiling.show

    def __enter__(self) -> "Bar":
        if self._progress is not None:
            self._progress.start()
            self._compiling.show = lambda text: self.show(text) if text else None
        return self

    def __exit__(self, *exception: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._compiling.show = self._shown_before

    @property
    def shown(self) -> bool:
        """Whether there is one."""
        return self._progress is not None

    @property
    def room(self) -> int:
        """Characters for text beside the bar; rich would cut a longer one, and take the bar."""
        return 0 if self._progress is None else self._progress.console.width - self._width - 1

    def show(self, text: str, done: float | None = None) -> None:
        """Show a text, and how much is done."""
        if self._progress is not None:
            self._progress.update(self._task, description=text, completed=done)
