"""What the programs here compare: gloo, and switchml with each form that a gradient may travel as.

A program is started once. Each system is a process group of its own among the same ranks, and they take turns, so that what the
machine does meanwhile falls on all alike.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from switchml.torch_backend import Options

GLOO = "gloo"
WIRES = ("float32", "int16", "int8")
SYSTEMS = (GLOO, *WIRES)
DATA = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "switchml-examples"
Arrays = dict[str, npt.NDArray[Any]]


def parser(about: str | None) -> ArgumentParser:
    """With the options that all programs have.

    Args:
        about: the program's docstring.
    """
    options = ArgumentParser(description=about, formatter_class=RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    options.add_argument("--data", type=Path, default=DATA, help="folder of data that were converted once")
    options.add_argument("--plot", type=Path, metavar="FILE", help="draw it there")
    return options


def names(text: str, known: Sequence[str] = SYSTEMS) -> list[str]:
    """Names with commas between them, all of them `known`."""
    chosen = text.split(",")
    if unknown := set(chosen) - set(known):
        sys.exit(f"{', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    return chosen


def join(start: str) -> None:
    """Join the other ranks, in a default group of gloo's.

    Args:
        start: how this program is started.
    """
    if "RANK" not in os.environ:
        sys.exit(f"start me through a launcher: {start}, or torchrun")
    torch.set_num_threads(1)
    dist.init_process_group(GLOO)


def group_of(system: str, ranks: Iterable[int] | None = None) -> Any:
    """A process group of a system; called by all ranks, whether they are in it or not.

    Args:
        system: gloo, or what switchml lets gradients travel as.
        ranks: in it; None = all.
    """
    own = None if ranks is None else list(ranks)
    if system == GLOO:
        return dist.new_group(own, backend=GLOO)
    return dist.new_group(own, backend="switchml", pg_options=Options(wire=system))


def members(system: str, workers: int) -> Any:
    """The group of the first `workers` ranks; None where one alone needs none. Called by all ranks."""
    return group_of(system, range(workers)) if workers > 1 else None


def leave(group: Any) -> None:
    """The end of a group, for ranks that are in it."""
    if group is not None and group != dist.GroupMember.NON_GROUP_MEMBER:
        dist.destroy_process_group(group)


def sum_gradients(parameters: Iterable[torch.nn.Parameter], group: Any) -> None:
    """Over the ranks of a group, sparse ones as they are; None: there is nobody else."""
    works = []
    for parameter in parameters:
        if group is not None and parameter.grad is not None:
            works.append(dist.all_reduce(parameter.grad, group=group, async_op=True))
    for work in works:
        if work is not None:
            work.wait()


def slowest(seconds: float) -> float:
    """Of all ranks, those that had nothing to do included. Called by all."""
    told = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return told.item()


def kept(file: Path, make: Callable[[], Arrays]) -> Arrays:
    """Arrays that are made once and then lie in a file. Called by all ranks: the first one makes them.

    Args:
        file: of them, .npz.
        make: them.
    """
    if dist.get_rank() == 0 and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}.npz")
        np.savez(partial, allow_pickle=False, **make())
        partial.rename(file)
    dist.barrier()
    with np.load(file) as found:
        return dict(found)


def link_bytes() -> int:
    """Bytes out of and into this rank's own interface so far, headers included; 0 where it has none but the machine's."""
    name = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        interface, _, counted = line.partition(":")
        if interface.strip() == name != "lo":
            numbers = counted.split()
            return int(numbers[0]) + int(numbers[8])
    return 0


def links(slower: float = 1.0) -> str:
    """The network, in words; `slower`: what all time is divided by."""
    rate = float(os.environ.get("TESTBED_RATE", "0")) * slower
    if not rate:
        return "one machine, no links"
    scale, unit = (1e9, "Gbit/s") if rate >= 1e9 else (1e6, "Mbit/s")
    return f"links of {rate / scale:g} {unit}"


def say(line: str) -> None:
    """Print a line, on rank 0 only."""
    if dist.get_rank() == 0:
        print(line, flush=True)


def write(file: Path | None, **found: Any) -> None:
    """What was found, as JSON, on rank 0 only."""
    if file is not None and dist.get_rank() == 0:
        file.write_text(json.dumps(found, indent=2) + "\n")
