"""Seconds until the ranks of a job know that something has gone wrong, with the switch and with gloo, as a Markdown table.

    python scripts/failures/failure_table.py [--cases SIGKILL,SIGSTOP] [--repeat 3] [--at-once 1]

Three ranks on this host wait in an all-reduce for the one that goes wrong. Cutting the network takes root, for namespaces.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from failing_rank import PAUSE, VICTIM, WAITING

from switchml.control import embedded
from switchml.switch_emulator.native_target import prepare_pipeline
from switchml.testbed import why_unavailable
from switchml.worker.worker import prepare_engine

RANK = Path(__file__).parent / "failing_rank.py"
WORLD = 3
CUT = 5.0
BACKENDS = ("switchml", "gloo")
CASES = {
    "exception": "an exception in one rank",
    "sys.exit": "`sys.exit`",
    "destroy_process_group": "`destroy_process_group`",
    "SIGKILL": "SIGKILL",
    "switch killed": "the switch is killed",
    "SIGSTOP": f"SIGSTOP, and SIGCONT {PAUSE} s later",
    "GIL held": f"a call of C holds the GIL for {PAUSE} s",
    "network cut": f"a rank's link is down for {CUT:.0f} s",
}
PATIENCE = 200.0
# One at a time: a port that is free may be taken by the next run that looks.
_port = threading.Lock()
_ports = iter(range(21000 + os.getpid() % 5000, 32000))


class Run:
    """One job that goes wrong."""

    def __init__(self, backend: str, case: str) -> None:
        self._backend, self._case = backend, case
        self._ranks: list[subprocess.Popen[str]] = []
        self._said: list[list[dict[str, Any]]] = [[] for _ in range(WORLD)]
        self._ready = threading.Barrier(WORLD + 1)

    def outcome(self) -> str:
        """Seconds until the last of the others knew, or that all went on."""
        with contextlib.ExitStack() as stack:
            environment = {"OMP_NUM_THREADS": "1", "SWITCHML_QUIET": "1", "WORLD_SIZE": str(WORLD)}
            star = switch = None
            if self._case == "network cut":
                from switchml.testbed.star import Star, worker_address

                star = stack.enter_context(Star(WORLD))
                environment |= {"MASTER_ADDR": worker_address(0), "GLOO_SOCKET_IFNAME": star.interface}
            else:
                environment |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
            if self._case == "switch killed":
                switch = stack.enter_context(embedded.start())
                environment |= {"SWITCHML_SWITCH": switch.address, "SWITCHML_TOKEN": switch.token}
            with _port:
                environment["MASTER_PORT"] = str(next(_ports))
            stack.callback(self._end)
            for rank in range(WORLD):
                start = subprocess.Popen if star is None else star.workers[rank].popen
                self._ranks.append(
                    start(
                        [sys.executable, "-P", str(RANK), self._backend, self._case],
                        env=os.environ | environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                        text=True,
                    )
                )
            listeners = [threading.Thread(target=self._listen, args=(rank,)) for rank in range(WORLD)]
            for listener in listeners:
                listener.start()
            self._ready.wait(PATIENCE)
            begun = None
            if star is not None or switch is not None:
                time.sleep(WAITING)
                begun = time.monotonic()
            if switch is not None:
                os.kill(switch.pid, signal.SIGKILL)
            if star is not None:
                with _cut(star):
                    time.sleep(CUT)
            for listener in listeners:
                listener.join(PATIENCE)
            return self._told(begun)

    def _listen(self, rank: int) -> None:
        stdout = self._ranks[rank].stdout
        assert stdout is not None
        for line in stdout:
            said = json.loads(line)
            self._said[rank].append(said)
            if "ready" in said:
                self._ready.wait(PATIENCE)
        if not self._said[rank]:
            self._ready.abort()

    def _told(self, begun: float | None) -> str:
        lasting = begun is not None
        if begun is None:
            begun = next(said["at"] for said in self._said[VICTIM] if "event" in said)
        others = [rank for rank in range(WORLD) if lasting or rank != VICTIM]
        last = [self._said[rank][-1] for rank in others]
        if all("went_on" in said for said in last):
            return "goes on"
        errors = [said for said in last if "error" in said]
        if len(errors) < len(last):
            return "unnoticed by some"
        return f"{max(said['at'] for said in errors) - begun:.2f}"

    def _end(self) -> None:
        for process in self._ranks:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _cut(star: Any) -> Iterator[None]:
    """The victim's link is down meanwhile."""
    from pyroute2 import IPRoute

    def turn(state: str) -> None:
        with IPRoute() as route:
            route.link("set", index=route.link_lookup(ifname=f"port{VICTIM}")[0], state=state)

    star.hub.call(turn, "down")
    try:
        yield
    finally:
        star.hub.call(turn, "up")


def prepare(cases: list[str]) -> None:
    """Compile beforehand: in a job it would count against the time that ranks have to become ready."""
    prepare_pipeline()
    prepare_engine()
    if "network cut" in cases:
        prepare_engine("udp")


def summary(outcomes: list[str]) -> str:
    """The median where all are seconds; else what there was."""
    try:
        seconds = sorted(map(float, outcomes))
    except ValueError:
        return ", ".join(sorted(set(outcomes)))
    middle = f"{statistics.median(seconds):.2f} s"
    return middle if len(seconds) == 1 else f"{middle} ({seconds[0]:.2f} to {seconds[-1]:.2f})"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="of " + ", ".join(CASES))
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=1, help="jobs at a time; for waits of many seconds")
    options = parser.parse_args()
    cases, backends = options.cases.split(","), options.backends.split(",")
    unknown = set(cases) - set(CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    reason = why_unavailable()
    if "network cut" in cases and reason is not None:
        print(f"no network is cut here: {reason}", file=sys.stderr)
        cases.remove("network cut")
    wanted = [
        (case, backend)
        for _ in range(options.repeat)
        for case in cases
        for backend in backends
        if (case, backend) != ("switch killed", "gloo")
    ]
    if "switchml" in backends:
        prepare(cases)
    with ThreadPoolExecutor(options.at_once) as threads:
        outcomes = list(threads.map(lambda one: Run(one[1], one[0]).outcome(), wanted))
    print("| what happens | " + " | ".join(backends) + " |")
    print("| --- |" + " --- |" * len(backends))
    for case in cases:
        cells = []
        for backend in backends:
            found = [outcome for one, outcome in zip(wanted, outcomes, strict=True) if one == (case, backend)]
            cells.append(summary(found) if found else "-")
        print(f"| {CASES[case]} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
