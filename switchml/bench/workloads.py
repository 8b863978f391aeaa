"""The trainings of docs/workloads.md: each a program of examples/, its ranks on links of one rate."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switchml.bench.allreduce import Plan
from switchml.bench.script_ranks import run_script
from switchml.bench.units import parse_rate
from switchml.errors import UsageError
from switchml.testbed.shape import LinkShape

_TIMEOUT = 3600.0


@dataclass(frozen=True)
class Workload:
    """One of them.

    Attributes:
        name: of it, and of its files.
        program: in the folder of examples.
        workers: ranks.
        rate: of every rank's link; "": they run on this machine as they are.
        arguments: of the program.
        few: ranks of the small form.
        small: further arguments of the small form.
        plot: whether it draws.
    """

    name: str
    program: str
    workers: int
    rate: str
    arguments: str = ""
    few: int = 2
    small: str = ""
    plot: bool = True

    def words(self, *, small: bool) -> list[str]:
        """The program's arguments."""
        return shlex.split(f"{self.arguments} {self.small}" if small else self.arguments)

    def command(self, *, small: bool = False, links: bool = True) -> str:
        """What runs it by itself."""
        start = f"switchml bench script --workers {self.few if small else self.workers}"
        if links and self.rate:
            start = f"sudo {start} --rate {self.rate}"
        return " ".join([start, "--", f"examples/{self.program}", *self.words(small=small)])

    def plan(self, *, small: bool, links: bool) -> Plan:
        """Its ranks and their network."""
        shape = LinkShape(rate=parse_rate(self.rate)) if links and self.rate else None
        return Plan(
            workers=[self.few if small else self.workers],
            sizes=[],
            dtype="float32",
            op="sum",
            variants=[],
            baselines=[],
            shape=shape,
            timeout=_TIMEOUT,
        )


_WORKERS = "--workers 1,2"
WORKLOADS = {
    one.name: one
    for one in (
        Workload(
            "scaling",
            "scaling.py",
            8,
            "1gbit",
            "--workers 1,2,4,5,8 --steps 2 --rounds 2",
            small=f"{_WORKERS} --steps 1 --rounds 1 --batch 8 --systems gloo,int8",
        ),
        Workload(
            "scaling-stretched",
            "scaling.py",
            8,
            "100mbit",
            "--workers 1,2,4,5,8 --slower 10 --steps 2 --rounds 1",
            small=f"{_WORKERS} --steps 1 --batch 1 --systems int8",
        ),
        Workload(
            "words",
            "words.py",
            4,
            "200mbit",
            "--workers 1,2,4",
            small=f"{_WORKERS} --every 40 --outputs 1024 --samples 4096 --timed 2",
        ),
        Workload(
            "words-trained",
            "words.py",
            2,
            "",
            "--epochs 2 --systems float32",
            small="--epochs 1 --every 40 --outputs 1024 --samples 4096",
            plot=False,
        ),
        Workload(
            "recommender",
            "recommender.py",
            8,
            "200mbit",
            "--workers 1,2,4,8 --epochs 5",
            small=f"{_WORKERS} --epochs 1",
        ),
        *(
            Workload(
                f"resnet-{backend}",
                "digits.py",
                4,
                "200mbit",
                f"--model resnet --backend {backend}",
                small="--epochs 1",
                plot=False,
            )
            for backend in ("gloo", "switchml")
        ),
        *(
            Workload(
                name,
                "characters.py",
                4,
                "200mbit",
                f"--wires gloo,float32,int8 --steps 100{shard}",
                small="--steps 4 --every 2",
            )
            for name, shard in (("characters", ""), ("characters-sharded", " --shard"))
        ),
    )
}


def chosen(names: Iterable[str]) -> list[Workload]:
    """Those of these names.

    Raises:
        UsageError: there is none of a name.
    """
    if unknown := [name for name in names if name not in WORKLOADS]:
        raise UsageError(f"{', '.join(unknown)}: choose from {', '.join(WORKLOADS)}")
    return [WORKLOADS[name] for name in names]


def carry_out(one: Workload, out: Path, examples: Path, *, small: bool, links: bool) -> Any:
    """Run a workload, unless its results are there.

    Args:
        one: the workload.
        out: folder of results and pictures.
        examples: folder of the programs.
        small: whether only to show that it runs.
        links: whether on shaped links; otherwise on this machine as it is.

    Returns:
        What its program wrote.

    Raises:
        UsageError: there is no such program, or no such links can be made here.
        BenchError: it failed.
    """
    found = out / f"{one.name}.json"
    if not found.exists():
        print(f"== {one.command(small=small, links=links)}", flush=True)
        partial = out / f"{one.name}.part"
        files = ["--json", str(partial), *(["--plot", str(out / f"{one.name}.png")] if one.plot else [])]
        run_script(
            examples / one.program, [*one.words(small=small), *files], one.plan(small=small, links=links)
        )
        partial.rename(found)
    return json.loads(found.read_text())
