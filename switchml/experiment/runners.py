"""What carries out the runs of an experiment: the benchmark of collectives, and programs of torch.distributed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from switchml.bench.allreduce import Plan, measure
from switchml.bench.findings import Finding, findings_of
from switchml.bench.script_ranks import run_script
from switchml.bench.settings import SETTINGS, Point, called, plan_fields
from switchml.bench.systems.catalogue import BASELINES, VARIANTS, find
from switchml.control.target import TRANSPORTS
from switchml.errors import UsageError
from switchml.experiment.campaign import Phase, Run, Runner
from switchml.experiment.saved import PROGRAM, Experiment
from switchml.testbed.probe import why_unavailable

_START_SECONDS = 1.5  # of a system's ranks
_LOOPBACK_BYTES = 3e8  # a second, of an all-reduce on this machine; guessed, until runs have been seen
_PROGRAM_SECONDS = 15.0  # likewise, of a program
_WARM_UPS = 3  # batches that are not rounds, about
_NOT_OUTCOME = ("timeout",)
OURS = "switchml"


def runner_of(experiment: Experiment) -> Runner:
    """The one that can carry out an experiment."""
    if experiment.measure == PROGRAM:
        return ProgramRunner(experiment)
    return CollectiveRunner(experiment)


def _check_network(points: Sequence[Point]) -> None:
    """Whether the links that points ask for can be made here.

    Raises:
        UsageError: they cannot.
    """
    asked = {name: any(point[name] for point in points) for name in ("rate", "loss", "delay")}
    if any(asked.values()):
        reason = why_unavailable(**asked)
        if reason is not None:
            names = " and ".join(name for name, wanted in asked.items() if wanted)
            raise UsageError(
                f"{names} need network namespaces: {reason}. Without links: rate=none loss=0 delay=none"
            )


class CollectiveRunner:
    """Runs of `switchml bench`: all systems in turns at one point."""

    def __init__(self, experiment: Experiment) -> None:
        """Of an experiment that measures a collective."""
        self._experiment = experiment
        self._options = experiment.options
        self._varied = experiment.varied

    def runs(self, point: Point) -> list[Run]:
        """One."""
        options = {name: value for name, value in self._options.items() if name not in _NOT_OUTCOME}
        return [Run({"measure": self._experiment.measure, **point, **options})]

    def check(self, points: Sequence[Point]) -> None:
        """Whether the benchmark can carry out all points, and the network can be made.

        Raises:
            UsageError: no.
        """
        for point in points:
            try:
                self._plan([self.runs(point)[0]]).validate()
            except UsageError as error:
                where = called(point, self._varied)
                raise UsageError(f"{where}: {error}" if where else str(error)) from None
        _check_network(points)

    def words(self, run: Run) -> str:
        """What differs between runs."""
        return called(run.settings, self._varied) or self._experiment.name

    def seconds(self, run: Run) -> float:
        """Of what the links or this machine can do, and what batches last at least."""
        point, options = run.settings, self._options
        speed = point["rate"] / 8 if point["rate"] else _LOOPBACK_BYTES
        once = point["jobs"] * point["sizes"] / speed + 2 * point["delay"]
        batch = options["iterations"] * once or max(_min_time(options, point), 1.5 * once)
        systems = len(options["variants"]) + len(options["baseline"])
        return float(systems * (_START_SECONDS + (options["rounds"] + _WARM_UPS) * batch))

    def batches(self, runs: Sequence[Run]) -> Iterable[Sequence[Run]]:
        """Those that differ in size alone, which the same ranks do."""
        grouped: dict[str, list[Run]] = {}
        for run in runs:
            grouped.setdefault(Run({**run.settings, "sizes": 0}).canonical, []).append(run)
        return list(grouped.values())

    def measure(self, batch: Sequence[Run], phase: Phase) -> Iterator[tuple[Run, list[Finding]]]:
        """In one go, each size told when it is done."""
        plan = self._plan(batch)
        baselines = [entry.name for entry in plan.baselines]
        measured = measure(plan, _Phases(phase))
        for run in batch:
            here = [next(measured) for _ in plan.entries for _ in range(plan.jobs)]
            yield run, findings_of(here, baselines)
        for _ in measured:  # what was started is ended
            raise AssertionError("more was measured than asked for")

    def _plan(self, batch: Sequence[Run]) -> Plan:
        point, options = {name: batch[0].settings[name] for name in SETTINGS}, self._options
        return Plan(
            **{
                **plan_fields(point),
                "workers": [point["workers"]],
                "sizes": [run.settings["sizes"] for run in batch],
            },
            collective=self._experiment.measure,
            variants=find(options["variants"], VARIANTS, "variant"),
            baselines=find(options["baseline"], BASELINES, "baseline"),
            rounds=options["rounds"],
            iterations=options["iterations"],
            warm_up=options["warmup"],
            min_time=_min_time(options, point),
            check=options["check"],
            switch=options["switch"],
            timeout=options["timeout"],
        )


def _min_time(options: Mapping[str, Any], point: Point) -> float:
    """Flows that share a link need some time to agree."""
    return max(float(options["min_time"]), 3.0 if point["beside"] or point["jobs"] > 1 else 0.0)


class _Phases:
    """The benchmark's observer, of which phases alone are passed on."""

    def __init__(self, phase: Phase) -> None:
        self.phase = phase

    def step(self) -> None:
        """Nothing."""


class ProgramRunner:
    """A program of torch.distributed, once with each seed; every system is a run of its own.

    The program takes `--backend gloo` or `switchml`, `--seed N`, `--json FILE` and the experiment's arguments, and writes an
    object (or a list of one) whose numbers are what it found.
    """

    def __init__(self, experiment: Experiment) -> None:
        """Of an experiment that runs a program.

        Raises:
            UsageError: it names a system that programs do not run over.
        """
        assert experiment.program is not None
        self._experiment = experiment
        self._program = experiment.program
        self._options = experiment.options
        if unknown := [name for name in self._options["variants"] if name not in TRANSPORTS]:
            raise UsageError(f"variant {', '.join(unknown)}: a program runs over {', '.join(TRANSPORTS)}")
        if unknown := [name for name in self._options["baseline"] if name != "gloo"]:
            raise UsageError(f"baseline {', '.join(unknown)}: a program runs beside gloo, or none")
        if not (self._options["variants"] or self._options["baseline"]):
            raise UsageError("nothing to run: name a variant or a baseline")

    def runs(self, point: Point) -> list[Run]:
        """One a system; a baseline's knows nothing of what is ours."""
        common = {
            "measure": PROGRAM,
            "program": self._program.name,
            "sha256": hashlib.sha256(self._program.read_bytes()).hexdigest(),
            "rounds": self._options["rounds"],
            "seed": self._options["seed"],
        }
        plain = {
            name: SETTINGS[name].parse(SETTINGS[name].default)
            for name in point
            if name in SETTINGS and SETTINGS[name].ours
        }
        return [
            *(Run({**common, **point, "system": name}) for name in self._options["variants"]),
            *(Run({**common, **point, **plain, "system": name}) for name in self._options["baseline"]),
        ]

    def check(self, points: Sequence[Point]) -> None:
        """Whether the network can be made, and the wire is one.

        Raises:
            UsageError: no.
        """
        for point in points:
            for run in self.runs(point):
                plan = self._plan(run)
                # What it says of sizes and systems means nothing to a program.
                plan_of_one = Plan(
                    **{**vars(plan), "sizes": [4], "variants": find(["auto"], VARIANTS, "variant")}
                )
                plan_of_one.validate()
        _check_network(points)

    def words(self, run: Run) -> str:
        """System, and what differs."""
        return ", ".join(filter(None, (called(run.settings, self._experiment.varied), self._name(run))))

    def _is_baseline(self, run: Run) -> bool:
        return run.settings["system"] in self._options["baseline"]

    def _name(self, run: Run) -> str:
        """Of its system; the transport is told where there are several."""
        if self._is_baseline(run):
            return str(run.settings["system"])
        return OURS if len(self._options["variants"]) == 1 else f"{OURS}, {run.settings['system']}"

    def seconds(self, run: Run) -> float:
        """A guess."""
        return float(run.settings["rounds"] * _PROGRAM_SECONDS)

    def batches(self, runs: Sequence[Run]) -> Iterable[Sequence[Run]]:
        """Each by itself."""
        return [[run] for run in runs]

    def measure(self, batch: Sequence[Run], phase: Phase) -> Iterator[tuple[Run, list[Finding]]]:
        """Start the program with each seed, one after the other."""
        for run in batch:
            settings = run.settings
            told = []
            for seed in range(settings["seed"], settings["seed"] + settings["rounds"]):
                phase(f"{self.words(run)}: seed {seed}")
                told.append(self._start(run, seed))
            numbers = [name for name, value in told[0].items() if _is_number(value)]
            samples = {name: [float(each[name]) for each in told] for name in numbers}
            yield run, [Finding(self._name(run), self._is_baseline(run), samples, {}, {"told": told})]

    def _start(self, run: Run, seed: int) -> dict[str, Any]:
        settings = run.settings
        baseline = self._is_baseline(run)
        own = [word for name in self._experiment.arguments for word in (f"--{name}", str(settings[name]))]
        with TemporaryDirectory(prefix="switchml-experiment-") as folder:
            file = Path(folder) / "found.json"
            backend = settings["system"] if baseline else OURS
            words = ["--backend", backend, "--seed", str(seed), "--json", str(file), *own]
            transport = "auto" if baseline else settings["system"]
            run_script(self._program, words, self._plan(run), transport, shown=False)
            try:
                told = json.loads(file.read_text())
            except (OSError, ValueError) as error:
                raise UsageError(f"{self._program.name} has written no JSON to its --json: {error}") from None
        if isinstance(told, list) and len(told) == 1:
            (told,) = told
        if not isinstance(told, dict) or (absent := set(self._experiment.y) - told.keys()):
            what = f"{', '.join(absent)} among {', '.join(told)}" if isinstance(told, dict) else "an object"
            raise UsageError(f"{self._program.name}: its JSON has not {what}, which is to be drawn")
        return told

    def _plan(self, run: Run) -> Plan:
        point = {name: run.settings[name] for name in SETTINGS if name in run.settings}
        return Plan(
            **{**plan_fields(point), "workers": [point["workers"]]},
            sizes=[],
            dtype="float32",
            op="sum",
            variants=[],
            baselines=[],
            timeout=self._options["timeout"],
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
