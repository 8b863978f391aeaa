"""`switchml experiment`: a figure from a file that says what is measured, what is varied and what is drawn."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from switchml.errors import BenchError, UsageError
from switchml.experiment.saved import Experiment, figures, find, load
from switchml.progress import Bar, progress_bar
from switchml.termination import orderly_end

if TYPE_CHECKING:
    from switchml.bench.findings import Finding
    from switchml.experiment.campaign import Run, Runner, Store

_MINUTE, _HOUR = 60.0, 3600.0


def experiment(
    figure: Annotated[
        str | None,
        typer.Argument(
            metavar="FIGURE",
            help="A name, or a file that ends in .toml; without it, the names.",
            show_default=False,
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE[,VALUE]]...",
            help="Settings in place of the file's: workers=2,4 rate=1gbit rounds=9 baseline=none.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where all goes.  [default: a folder of the figure's name]"),
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="Show in a minute that it works; the figures say little.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check everything, tell the runs and how long they take; run nothing."
        ),
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Measure also what was measured before.")] = False,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print the file, to begin one of your own with.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Measure a figure: every combination of some settings, gloo and MPI beside, drawn as .svg and .png.

    The folder has each run's samples, results.json with all of them, and the figure. What is measured already is not measured
    again: a run that was ended goes on where it was, and changed settings add what is missing.
    """
    if figure is None:
        _list()
        return
    path = find(figure)
    if toml:
        print(path.read_text(), end="")
        return
    from switchml.experiment.runners import runner_of

    one = load(path, changes or (), small=small)
    runner = runner_of(one)
    runner.check(list(one.points()))
    _check_matplotlib()
    folder = output or Path(one.name)
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"{folder}: the folder that it would be in does not exist")
    carried_out = _dry_run if dry_run else _carry_out
    if not carried_out(one, runner, folder, again, as_json):
        raise typer.Exit(1)


def _list() -> None:
    from rich.table import Table

    shown = Table("figure", "", box=None, pad_edge=False, header_style="dim")
    for name, path in figures().items():
        shown.add_row(name, load(path).title)
    Console().print(shown)
    print(
        "\nA file of your own: switchml experiment FIGURE --toml > mine.toml; switchml experiment mine.toml"
    )


def _check_matplotlib() -> None:
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("a figure is drawn by matplotlib: pip install 'switchml[bench]'")


def _facts() -> dict[str, Any]:
    """Machine and versions."""
    from switchml.bench.output import machine_facts
    from switchml.version import STANDS_ON, installed_version

    return {**machine_facts(), "versions": {name: installed_version(name) for name in STANDS_ON}}


def _dry_run(one: Experiment, runner: Runner, folder: Path, again: bool, as_json: bool) -> bool:
    from switchml.experiment.campaign import missing, wanted

    store = _store(folder, {})
    runs = wanted(one.points(), runner)
    to_do = {run.canonical for run in (runs if again else missing(runs, store))}
    ahead = sum(runner.seconds(run) for run in runs if run.canonical in to_do)
    if as_json:
        told = [
            {
                "run": runner.words(run),
                "done": run.canonical not in to_do,
                "seconds": runner.seconds(run),
                "settings": run.settings,
            }
            for run in runs
        ]
        print(json.dumps({"experiment": one.name, "seconds": ahead, "runs": told}, indent=2))
        return True
    print(f"{one.title}\n")
    for run in runs:
        state = show_duration(runner.seconds(run)) if run.canonical in to_do else "is there"
        print(f"{state:>10}  {runner.words(run)}")
    print(
        f"\n{_counted(len(to_do))} to do, about {show_duration(ahead)}; {len(runs) - len(to_do)} there, in {folder}"
    )
    return True


def _carry_out(one: Experiment, runner: Runner, folder: Path, again: bool, as_json: bool) -> bool:
    """Returns whether all was measured and every sum was right."""
    from switchml.bench.output import show, text_console, write_json
    from switchml.experiment.campaign import carry_out, found_at, missing, wanted
    from switchml.experiment.outcome import document, draw, table

    machine = _facts()
    store = _store(folder, machine)
    runs = wanted(one.points(), runner)
    to_do = runs if again else missing(runs, store)
    with orderly_end(), progress_bar(len(to_do)) as bar:
        seconds = sum(map(runner.seconds, to_do))
        bar.note(
            f"{one.title}: {_counted(len(to_do))}, about {show_duration(seconds)}"
            + (f"; {len(runs) - len(to_do)} are there" if len(to_do) < len(runs) else "")
        )
        failed = carry_out(to_do, runner, store, _Shown(bar, len(to_do), one.y[0]))
    found = found_at(one.points(), runner, store)
    for line in _elsewhere(runs, store, machine):
        print(line, file=sys.stderr)
    if not found:
        return False
    told = document(one, found, machine)
    write_json(told, str(folder / "results.json"))
    files = [folder / "results.json", *draw(one, found, machine, folder)]
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        show(text_console(""), [one.title], table(one, found), [f"written: {', '.join(map(str, files))}"])
    wrong = [
        each for _, findings in found for each in findings if (each.detail.get("verdict") or {}).get("wrong")
    ]
    for each in wrong:
        print(f"switchml: {each.system}: sums were wrong", file=sys.stderr)
    return not failed and not wrong


def _store(folder: Path, machine: dict[str, Any]) -> Store:
    from switchml.experiment.campaign import Store

    return Store(folder / "runs", machine)


def _elsewhere(runs: Sequence[Run], store: Store, machine: dict[str, Any]) -> list[str]:
    """What to say of runs that were made with another version or on another machine."""
    names = ("switchml", "processor", "cores", "kernel")
    kept = [each for each in map(store.load, runs) if each is not None]
    others = [each for each in kept if any(each.machine.get(name) != machine[name] for name in names)]
    if not others:
        return []
    differing = sorted({name for each in others for name in names if each.machine.get(name) != machine[name]})
    return [
        f"{_counted(len(others))} of {len(kept)} were measured with another {', '.join(differing)}; --again measures all anew"
    ]


def _counted(runs: int) -> str:
    return f"{runs} run{'s'[: runs != 1]}"


def show_duration(seconds: float) -> str:
    """Roughly: "12 s", "3 min", "1.5 h"."""
    if seconds < 1.5 * _MINUTE:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < 1.5 * _HOUR else f"{seconds / _HOUR:.1f} h"


class _Shown:
    """A campaign's progress: a bar, and a line a run."""

    def __init__(self, bar: Bar, total: int, quantity: str) -> None:
        """Of `total` runs, of which one quantity is shown."""
        self._bar, self._total, self._quantity = bar, total, quantity
        self._done = 0
        self._left = ""

    def phase(self, text: str) -> None:
        """Beside the bar."""
        self._bar.phase(f"{self._left}{text}")

    def done(self, words: str, findings: Sequence[Finding], left: float) -> None:
        """A line that stays."""
        from switchml.bench.findings import QUANTITIES
        from switchml.bench.results import Spread

        self._done += 1
        known = QUANTITIES.get(self._quantity)
        told = [
            f"{one.system} {Spread.of(one.samples[self._quantity]).median * (known.factor if known else 1):.4g}"
            for one in findings
            if self._quantity in one.samples
        ]
        self._left = f"about {show_duration(left)} left, " if self._done < self._total else ""
        unit = " ms" if self._quantity == "time" else ""
        self._bar.step()
        self._bar.note(
            f"{self._done} of {self._total}  {words}: {', '.join(told)}{unit}"
            + (f"  ({self._left.removesuffix(', ')})" if self._left else "")
        )

    def failed(self, words: str, error: BenchError) -> None:
        """A line that stays; tried again by the next call."""
        self._bar.step()
        self._bar.note(f"failed  {words}: {error}")
