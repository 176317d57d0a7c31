"""What decides a run: settings from flags, a TOML file or a run's own folder."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

from sparsegrad.registry import CELLS, OPTIMIZERS, parse_method
from sparsegrad.runs.masks import (
    check_masks,
    pruning,
    resolved_prune,
    resolved_rewire,
    rewiring,
)
from sparsegrad.system.quantities import parse_number
from sparsegrad.system.reading import read_plain

if TYPE_CHECKING:  # imported where it is used: `--help` reads the defaults and must answer at once
    from sparsegrad.cells import Cell, Stack
    from sparsegrad.learning.learner import OnlineLearner
    from sparsegrad.learning.rewiring import Pruning, Rewiring
    from sparsegrad.methods import Method
    from sparsegrad.tasks import Task

TASKS = ("copy", "chars", "stream")
CHANGEABLE = ("tokens", "seconds", "threads", "save")
"""Settings that a resumed run may have anew: no number of the run depends on them."""
MOVABLE = ("text", "data")
"""Files that a resumed run may find elsewhere: a checkpoint knows them by their content."""
TOKENS = 1_000_000
REPORTS = 100
"""Reports of a run whose tokens are limited."""
_ONE_LAYER = ("uoro", "rflo")


@dataclass(frozen=True)
class Settings:
    """All that decides a run, checked.

    Parameters
    ----------
    task : {"copy", "chars", "stream"}
    text : str, optional
        File for ``chars``; default: a text that Python brings along.
    data : str, optional
        File for ``stream``; ``-`` for the rows of standard input as they come.
    inputs : str, optional
    targets : str
        Columns of `data`, by names or numbers; of targets, a number alone counts the last columns,
        and 0 predicts the next row.
    horizon : str, optional
        Rows that the targets are ahead: ``1,5,10``.
    missing : {"refuse", "hold", "mask"}
    scale : {"online", "none"}
        What a missing value of `data` does, and whether its numbers are scaled as they come.
    decimal : {"point", "comma"}, optional
        Decimal mark of `data`; default: found by its numbers.
    crop : bool
        ``chars`` by random crops instead of reading on.
    steps : int
        Time steps of a draw of ``chars`` and ``stream``.
    cell, units, layers, sparsity, input_sparsity, gate_masks, hidden, dtype
        The net; `layers` of such cells on top of each other, J across them but for ``snap:1``;
        `hidden` is the width of the readout's hidden layer, 0 for none. By default the input
        weights are as sparse as the others, and those of ``stream`` all there.
    method : str
        One of `sparsegrad.registry.METHOD_WORDS`: ``snap:N``, ``rtrl``, ``bptt``, …
    storage : {"bfloat16", "float16"}, optional
        Of J, for ``snap:N`` and ``rtrl``; default: `dtype`.
    update : {"step", "sequence"}
        When the weights change.
    optimizer, rate, clip
        How they change; `clip` 0 clips nothing.
    batch : int, optional
        Default 16, and 1 for ``stream``.
    tokens, seconds : optional
        Budget; a token is one step of one sequence. Default: 1M tokens, or one pass of ``stream``.
    report : int, optional
        Tokens from report to report.
    save : float
        Seconds from checkpoint to checkpoint.
    prune, rewire : str, optional
        How the masks change; see :data:`sparsegrad.runs.masks.PRUNE` and ``REWIRE``. Steps are
        those of a sequence.
    seed, threads : int
        Seed of masks, weights, task and method; `threads` 0 takes all.

    Raises
    ------
    ValueError
        If a setting is out of range, or two do not go together.
    """

    task: str
    text: str | None = None
    data: str | None = None
    inputs: str | None = None
    targets: str = "1"
    horizon: str | None = None
    missing: str = "refuse"
    scale: str = "online"
    decimal: str | None = None
    crop: bool = False
    steps: int = 128
    cell: str = "gru"
    units: int = 64
    layers: int = 1
    sparsity: float = 0.9375
    input_sparsity: float | None = None
    gate_masks: str = "independent"
    hidden: int = 0
    dtype: str = "float32"
    method: str = "snap:2"
    storage: str | None = None
    update: str = "step"
    optimizer: str = "adam"
    rate: float = 0.001
    clip: float = 0.0
    batch: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    report: int | None = None
    save: float = 30.0
    prune: str | None = None
    rewire: str | None = None
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        _choice("task", self.task, TASKS)
        _choice("cell", self.cell, tuple(CELLS))
        _choice("optimizer", self.optimizer, tuple(OPTIMIZERS))
        _choice("gate-masks", self.gate_masks, ("independent", "shared"))
        _choice("update", self.update, ("step", "sequence"))
        _choice("dtype", self.dtype, ("float32", "float64"))
        for name in ("units", "layers", "steps", "batch", "tokens", "report"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        _choice("missing", self.missing, ("refuse", "hold", "mask"))
        _choice("scale", self.scale, ("online", "none"))
        _choice("decimal", self.decimal or "point", ("point", "comma"))
        for name in ("hidden", "seed", "threads", "clip", "save"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("rate", "seconds"):
            number = getattr(self, name)
            if number is not None and not number > 0:
                raise ValueError(f"{name} must be above 0, got {number}")
        if self.task == "stream" and self.data is None:
            raise ValueError("task stream must have a table: name it with --data FILE.npy or .csv")
        if self.storage is not None:
            _choice("storage", self.storage, ("bfloat16", "float16"))
            if self.dtype != "float32":
                raise ValueError(
                    f"storage must go with dtype float32, got {self.storage} and {self.dtype}"
                )
        self._check_layers()
        check_masks(self.prune, self.rewire)
        method = self.method.lower()
        whole = self.task == "copy" or (self.task == "chars" and self.crop)
        if method == "bptt" and not whole:
            raise ValueError(
                f"method bptt must have sequences that end, and {self.task} reads on: "
                f"use bptt:T, or --crop with chars"
            )
        if self.update == "sequence" and not whole:
            raise ValueError(f"update sequence must have sequences that end; {self.task} reads on")
        if self.update == "sequence" and method.startswith("bptt:"):
            raise ValueError("update sequence goes with bptt, not with bptt:T")
        if self.update == "sequence" and "@" in method:
            raise ValueError(f"update must be step where windows decide, got sequence and {method}")
        if self.data == "-" and self.batch not in (None, 1):
            raise ValueError(f"batch must be 1 for the rows of standard input, got {self.batch}")
        if self.input_sparsity is None and self.task == "stream":
            object.__setattr__(self, "input_sparsity", 0.0)  # a table has few columns
        if self.batch is None:
            object.__setattr__(self, "batch", 1 if self.task == "stream" else 16)

    @classmethod
    def read(cls, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return settings by their field's name and type, from words or from numbers.

        Parameters
        ----------
        given : mapping
            Names with ``-`` or ``_``.
        where : str
            Where they come from, for the message.

        Raises
        ------
        ValueError
            If a name is unknown or a value of the wrong kind.
        """
        kinds = {field.name: get_args(field.type) or (field.type,) for field in fields(cls)}
        read = {}
        for key, value in given.items():
            name = key.replace("-", "_")
            if name not in kinds:
                raise ValueError(f"{where} must name settings, got {key!r}; see train --help")
            spare = value is None and len(kinds[name]) > 1
            read[name] = None if spare else _value(name, kinds[name][0], value)
        return read

    @classmethod
    def from_toml(cls, path: Path) -> dict[str, Any]:
        """Return the settings in a TOML file, as :meth:`read` does.

        Raises
        ------
        OSError
            If it cannot be read.
        ValueError
            If it is no TOML, or a setting is wrong.
        """
        content = read_plain(path)
        try:
            given = tomllib.loads(content.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} must be TOML: {error}") from None
        try:
            return cls.read(given, str(path))
        except ValueError as error:
            said = str(error)
            raise ValueError(said if str(path) in said else f"{path}: {said}") from None

    def as_dict(self) -> dict[str, Any]:
        """Return all settings by name."""
        return asdict(self)

    def resolved(self, task: "Task") -> Self:
        """Return the settings with a budget, a distance of reports, and all steps of schedules."""
        tokens, report = self.tokens, self.report
        if tokens is None and self.seconds is None:
            tokens = getattr(task, "tokens", TOKENS)  # a stream knows how long a pass is
        if report is None:
            report = max(1, (tokens or TOKENS) // REPORTS)
        steps = None if tokens is None else tokens // (self.batch or 1)
        return replace(
            self,
            tokens=tokens,
            report=report,
            prune=resolved_prune(self.prune, steps),
            rewire=resolved_rewire(self.rewire, steps),
        )

    def make_task(self) -> "Task":
        """Return the task at its beginning."""
        from sparsegrad.tasks import Chars, Copy, Pipe, Stream
        from sparsegrad.tasks.chars import default_text

        batch = self.batch or 1
        seed = self._seeds()[2]
        if self.task == "copy":
            return Copy(batch, seed, self.dtype)
        if self.task == "chars":
            text = default_text() if self.text is None else Path(self.text)
            return Chars(text, batch, self.steps, self.crop, seed, self.dtype)
        if self.data == "-":
            return Pipe(
                self.targets, self.dtype, self.inputs, self.horizon, self.scale, self.missing,
                self.decimal,
            )  # fmt: skip
        return Stream(
            Path(self.data or ""), self.targets, batch, self.steps, self.dtype, self.inputs,
            self.horizon, self.scale, self.missing, self.decimal,
        )  # fmt: skip

    def make_learner(self, task: "Task", comm: Any = None) -> "OnlineLearner":
        """Return the learner at its beginning; `comm` as of `OnlineLearner`."""
        from sparsegrad.learning.learner import OnlineLearner
        from sparsegrad.learning.readout import MLP, Linear

        seeds = self._seeds()
        if self.hidden:
            readout: Linear | MLP = MLP(self.hidden, task.outputs, task.loss, seed=seeds[1])
        else:
            readout = Linear(task.outputs, task.loss, seed=seeds[1])
        return OnlineLearner(
            self._net(task.inputs, seeds[0]),
            readout,
            self.make_method(seeds[3]),
            OPTIMIZERS[self.optimizer].load()(self.rate, clip=self.clip or None),
            self.batch or 1,
            threads=self.threads or None,
            comm=comm,
        )

    def make_schedules(self) -> "tuple[Pruning | None, Rewiring | None]":
        """Return how the masks change; of settings that are resolved."""
        return (
            None if self.prune is None else pruning(self.prune),
            None if self.rewire is None else rewiring(self.rewire, self._seeds()[3]),
        )

    def make_method(self, seed: int) -> "Method":
        """Return the method with its storage.

        Raises
        ------
        ValueError
            If there is no such method, or it carries no J that could be stored so.
        """
        method: Method = parse_method(self.method, seed)
        if self.storage is None:
            return method
        if not hasattr(method, "storage"):
            raise ValueError(f"storage must go with snap:N or rtrl, got {self.method}")
        stored: Method = replace(method, storage=self.storage)  # type: ignore[type-var]
        return stored

    def _check_layers(self) -> None:
        """Check the method, and that it and what changes the masks can learn in layers."""
        method: Any = self.make_method(0)
        word = self.method.lower()
        rolls = getattr(method, "update_every", None) is not None
        if self.layers > 1 and (rolls or word.partition("@")[0].partition(":")[0] in _ONE_LAYER):
            raise ValueError(
                f"layers must be 1 with {self.method}, got {self.layers}: more of them learn by "
                "snap:N, rtrl or bptt"
            )
        if self.layers > 1 and (self.rewire or "").lower().startswith("rigl"):
            raise ValueError(f"layers must be 1 with rewire {self.rewire}, got {self.layers}")

    def _net(self, inputs: int, seed: int) -> "Cell | Stack":
        from sparsegrad.cells.stack import Stack

        if self.layers == 1:
            return self._cell(inputs, seed)
        widths = [inputs, *[self.units] * (self.layers - 1)]
        cells = [self._cell(width, (seed + k) % 2**32) for k, width in enumerate(widths)]
        # SnAp-1 has nothing that crosses; in a window it takes what comes before from each layer
        return Stack(cells, across=self.method.lower().partition("@")[0] != "snap:1")

    def _cell(self, inputs: int, seed: int) -> "Cell":
        made: Cell = CELLS[self.cell].load()(
            inputs,
            self.units,
            sparsity=self.sparsity,
            input_sparsity=self.input_sparsity,
            gate_masks=self.gate_masks,
            seed=seed,
            dtype=self.dtype,
        )
        return made

    def _seeds(self) -> list[int]:
        """Seeds of cell, readout, task and method."""
        import numpy as np

        return [int(seed) for seed in np.random.SeedSequence(self.seed).generate_state(4)]


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run as it had them, those too that came after it was written."""
    scale = "none" if stored.get("task") == "stream" else "online"
    later: dict[str, Any] = {
        "inputs": None,
        "horizon": None,
        "missing": "refuse",
        "scale": scale,
        "decimal": None,
    }
    later |= {"prune": None, "rewire": None, "storage": None, "layers": 1}
    kept = later | dict(stored)
    if type(kept.get("targets", "1")) is int:
        kept["targets"] = str(kept["targets"])
    if scale == "none" and "scale" not in stored and kept.get("input_sparsity") is None:
        kept["input_sparsity"] = kept.get("sparsity")
    return kept


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _value(name: str, kind: Any, value: Any) -> Any:
    """Convert a word or a number to the type of a field."""
    shown = name.replace("_", "-")
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{shown} must be true or false, got {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{shown} must be a number or a word, got {value!r}")
    if kind is str:
        return str(value)
    if kind is int:
        if re.fullmatch(r"[+-]?[0-9]{1,30}", str(value)):  # a float would round what is long
            return _small(shown, int(value))
        number = parse_number(shown, str(value))
        if number != int(number):
            raise ValueError(f"{shown} must be a whole number, got {value!r}")
        return _small(shown, int(number))
    return parse_number(shown, str(value))


def _small(shown: str, number: int) -> int:
    if abs(number) > 2**62:
        raise ValueError(f"{shown} must be a number of at most 2**62, got {number:.3g}")
    return number
