"""Ours and gloo on slow and ordinary networks, case by case: a Markdown table and pictures for docs/networks.md.

    sudo python scripts/networks/network_table.py OUT [--only 'star 100M*,delay *'] [--rounds 5]
    python scripts/networks/network_table.py OUT --list | --show [--pictures docs]

Each case is one run of `switchml bench allreduce`, whose JSON goes to OUT. What is there already is not measured again, so that a
run may be ended at any time and gone on with.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from switchml.bench.plots import draw, draw_along
from switchml.bench.results import Measurement

GLOO = "gloo"


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        name: of the case and, with "_" for what a file's name cannot have, of its file.
        options: of `switchml bench allreduce`, without dashes.
        times_gloo: what ours shall reach at least; 0 = nothing is asked.
        share: of the link's goodput, likewise.
        again: largest part of the packets that may be sent again.
        base: name of the case whose time this one's is compared with.
        times_base: how many times that it may take at most.
        part: of what is shared, the least for each.
    """

    name: str
    options: dict[str, str] = field(default_factory=dict)
    times_gloo: float = 0.0
    share: float = 0.0
    again: float = 1.0
    base: str = ""
    times_base: float = 0.0
    part: float = 0.0

    @property
    def file(self) -> str:
        """Of its JSON."""
        return self.name.replace(" ", "_").replace("%", "percent").replace("/", "-") + ".json"

    def command(self, rounds: int) -> list[str]:
        """What measures it, but for where the result goes."""
        options = {**DEFAULTS, "rounds": str(rounds), **self.options}
        program = [sys.executable, "-m", "switchml.cli", "bench", "allreduce"]
        return [*program, *(word for name, value in options.items() for word in (f"--{name}", value))]


DEFAULTS = {
    "workers": "4",
    "sizes": "16M",
    "rate": "100mbit",
    "transport": "udp",
    "baseline": GLOO,
    "warmup": "1",
    "timeout": "60",
}


def _star() -> Iterator[Case]:
    asked = {2: 1.0, 4: 1.47, 8: 1.7}
    for rate, size in (("10mbit", "1M"), ("100mbit", "16M"), ("1gbit", "16M")):
        for queue in ("64K", "256K", "4M"):
            for workers, times in asked.items():
                slow = rate != "1gbit"
                yield Case(
                    f"star {rate} {queue} {workers}",
                    {"rate": rate, "sizes": size, "queue": queue, "workers": str(workers)},
                    times_gloo=times if slow or workers < 8 else 1.6,
                    share=0.97 if slow else 0.0,
                    again=0.001,
                )


def _equal_hosts() -> Iterator[Case]:
    for workers in (4, 8):
        for wire, times in (("float32", 0.97), ("int16", 1.9), ("int8", 3.4)):
            options = {"rate": "200mbit", "switches": "each", "transport": "auto", "wire": wire}
            yield Case(f"equal {wire} {workers}", {**options, "workers": str(workers)}, times_gloo=times)


CASES = [
    *_star(),
    Case("loss none"),
    Case("loss 0.1%", {"loss": "0.001"}, base="loss none", times_base=1.03),
    Case("loss 1%", {"loss": "0.01"}, base="loss none", times_base=1.12),
    Case("delay none"),
    Case("delay 2ms", {"delay": "2ms"}),
    Case("delay 20ms", {"delay": "20ms"}, share=0.95),
    Case("delay 50ms", {"delay": "50ms"}),
    Case("beside tcp", {"sizes": "4M", "beside": "tcp"}, part=1 / 3),
    Case("beside tcp-cubic", {"sizes": "4M", "beside": "tcp-cubic"}, part=1 / 3),
    Case("jobs 2", {"sizes": "4M", "jobs": "2"}, part=0.4),
    *_equal_hosts(),
    Case("wire int16", {"workers": "8", "wire": "int16"}, times_gloo=3.3),
    Case("wire int8", {"workers": "8", "wire": "int8"}, times_gloo=6.0),
    Case("sizes", {"sizes": "16K:16M:4"}),
    *(
        Case(f"window {slots}", {"sizes": "4M", "window": slots})
        for slots in ("16", "64", "256", "1024", "4096")
    ),
    Case("window default", {"sizes": "4M"}),
]


def _named(prefix: str) -> dict[str, str]:
    """Cases of one kind, by what stands behind the prefix."""
    return {case.name: case.name.removeprefix(prefix) for case in CASES if case.name.startswith(prefix)}


LINKS = "links of 100 Mbit/s, 4 workers, 16 MiB"
ALONG = {
    "workers": ("workers", _named("star 100mbit 256K "), "links of 100 Mbit/s, queues of 256 KiB, 16 MiB"),
    "loss": ("of packets lost on every link, each way", _named("loss "), LINKS),
    "delay": ("round trip to the switch; between two workers twice as long", _named("delay "), LINKS),
    "window": ("slots", _named("window "), "links of 100 Mbit/s, 4 workers, 4 MiB"),
}
"""Pictures by their name: what lies along the bottom, the cases with their marks, and the title's last line."""


def results(case: Case, out: Path) -> list[Measurement]:
    """What was found; nothing when it was not measured yet."""
    path = out / case.file
    if not path.exists():
        return []
    return [Measurement.from_json(one) for one in json.loads(path.read_text())["results"]]


def measure(case: Case, out: Path, rounds: int) -> bool:
    """Run one case; returns whether it came to its end."""
    partial = out / (case.file + ".part")
    done = subprocess.run([*case.command(rounds), "--json", str(partial)], check=False)
    if partial.exists():  # wrong sums end it with an error, after they were written
        partial.rename(out / case.file)
    return done.returncode == 0


def _again(one: Measurement) -> float | None:
    sent = one.counters.get("packets_sent", 0)
    return one.counters["retransmissions"] / sent if sent else None


def _percent(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{100 * value:.{digits}f} %"


def _found(value: float | None, shown: str, good: Callable[[float], bool], asked: str) -> str:
    """A figure, and what was asked for where it is not reached."""
    return shown if value is None or good(value) else f"**{shown}** (asked: {asked})"


def row(case: Case, one: Measurement, base: Measurement | None) -> list[str]:
    """Of the table."""
    ratio = one.ratios.get(GLOO)
    times = ratio.median if ratio is not None else None
    shown = "" if ratio is None else f"{ratio.median:.2f} [{ratio.minimum:.2f} {ratio.maximum:.2f}]"
    again = _again(one)
    parts = ", ".join(f"{name} {_percent(part.median)}" for name, part in one.shares.items())
    if one.shares and case.options.get("beside") and one.of_limit is not None:
        parts += f", ours {_percent(one.of_limit)}"
    least = min((part.median for part in one.shares.values()), default=None)
    if least is not None and case.options.get("beside") and one.of_limit is not None:
        least = min(least, one.of_limit)
    longer = None if base is None else one.time.median / base.time.median
    return [
        case.name if one.system == "udp" or one.system == "auto" else f"{case.name}, {one.system}",
        f"{1e3 * one.time.median:.4g} [{1e3 * one.time.minimum:.4g} {1e3 * one.time.maximum:.4g}]",
        _found(times, shown, lambda value: value >= case.times_gloo, f"{case.times_gloo:g}"),
        _found(
            one.of_limit, _percent(one.of_limit), lambda value: value >= case.share, _percent(case.share, 0)
        ),
        _found(again, _percent(again, 2), lambda value: value <= case.again, _percent(case.again)),
        _found(
            longer,
            "" if longer is None else f"{longer:.2f} times {case.base}",
            lambda value: value <= case.times_base,
            f"{case.times_base:g}",
        )
        + _found(least, parts, lambda value: value >= case.part, _percent(case.part, 0)),
    ]


HEAD = ["case", "ms [min max]", "times gloo [min max]", "of the link", "sent again", "compared, shared"]


def table(out: Path) -> list[str]:
    """Lines of Markdown: ours in every case that was measured, and gloo where it has something to compare."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + " --- |" * len(HEAD)]
    by_name = {case.name: case for case in CASES}
    for case in CASES:
        found = results(case, out)
        for one in found:
            if one.system == GLOO and not case.base and not case.part:
                continue
            bases = results(by_name[case.base], out) if case.base else []
            base = next((other for other in bases if other.system == one.system), None)
            asked = (
                case
                if GLOO not in one.system
                else Case(case.name, case.options, base=case.base, times_base=1e9)
            )
            size = f" {one.size >> 10} KiB" if len({other.size for other in found}) > 1 else ""
            cells = row(asked, one, base)
            lines.append(f"| {' | '.join([cells[0] + size, *cells[1:]])} |")
    return lines


def pictures(out: Path, folder: Path) -> list[Path]:
    """Draw what was measured."""
    by_name = {case.name: case for case in CASES}
    drawn = []
    for name, (label, cases, conditions) in ALONG.items():
        found = {mark: results(by_name[case], out) for case, mark in cases.items()}
        runs = {mark: measured for mark, measured in found.items() if measured}
        if runs:
            drawn.append(folder / f"networks_{name}.png")
            draw_along(label, runs, [GLOO], drawn[-1], conditions=conditions)
    sizes = results(by_name["sizes"], out)
    if sizes:
        drawn.append(folder / "networks_size.png")
        draw(sizes, [GLOO], drawn[-1], conditions="links of 100 Mbit/s")
    return drawn


def main() -> int:
    """Measure what is missing, then write table and pictures."""
    parser = argparse.ArgumentParser(description="What docs/networks.md shows, case by case.")
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--only", default="*", help="patterns of names, with commas between them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--list", action="store_true", help="name the cases, and say which are done")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--pictures", type=Path, help="folder of the pictures; default: that of the results")
    options = parser.parse_args()
    patterns = options.only.split(",")
    chosen = [case for case in CASES if any(fnmatch.fnmatchcase(case.name, one) for one in patterns)]
    if options.list:
        for case in chosen:
            print(f"{'done' if (options.out / case.file).exists() else '    '}  {case.name}")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for case in chosen if not options.show else ():
        if (options.out / case.file).exists():
            continue
        print(f"== {case.name}", flush=True)
        if not measure(case, options.out, options.rounds):
            failed.append(case.name)
    lines = table(options.out)
    (options.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    for path in pictures(options.out, options.pictures or options.out):
        print(path)
    if failed:
        print("failed: " + ", ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
