"""Tasks: what a run learns from, where it stands in it, and how well it does."""

from sparsegrad.tasks.chars import Chars
from sparsegrad.tasks.copy import Copy
from sparsegrad.tasks.forecast import Forecast
from sparsegrad.tasks.pipe import Pipe
from sparsegrad.tasks.sequences import Sequences, Task
from sparsegrad.tasks.stream import Stream

__all__ = ["Chars", "Copy", "Forecast", "Pipe", "Sequences", "Stream", "Task"]
