"""Kills and stops ranks of jobs whose switch is in memory, at random moments, and looks at what the others get.

    python scripts/failures/killed_in_memory.py --trials 1000 --together 4

One trial is one job: two to four ranks, forked from this process, which has everything loaded, sum vectors whose sums are
known, and one of them gets SIGKILL, or SIGSTOP and after a while SIGCONT. What must not be: a sum that is wrong, a rank that
waits past the timeout of its collective, an error that does not name the rank, a short stop that ends the job, memory that the
switch keeps.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from switchml.errors import JobAbortedError
from switchml.switch_emulator import Emulator
from switchml.switch_emulator.native_target import prepare_pipeline
from switchml.worker import Worker
from switchml.worker.worker import prepare_engine

TIMEOUT = 20.0
"""Seconds of a collective."""
GRACE = 10.0
"""Seconds that a busy machine may add."""
COLLECTIVES = 60
KILL, STOP, LONG_STOP = "killed", "stopped", "stopped past the lease"


def be_a_rank(address: str, job: str, rank: int, size: int, count: int, results: int) -> None:
    """Sum until all is done or something goes wrong, and report that."""
    report: dict[str, Any] = {"rank": rank, "done": 0, "wrong": 0, "longest": 0.0, "error": "", "kind": ""}
    try:
        with Worker.join(
            address, job=job, rank=rank, world_size=size, transport="memory", timeout=TIMEOUT
        ) as worker:
            os.write(results, b"joined\n")
            values, total = np.empty(count, np.float32), np.empty(count, np.float32)
            for number in range(COLLECTIVES):
                values.fill((rank + 1) * (number % 7 + 1))
                total.fill(size * (size + 1) // 2 * (number % 7 + 1))
                begin = time.monotonic()
                try:
                    result = worker.allreduce(values).wait()
                finally:
                    report["longest"] = max(report["longest"], time.monotonic() - begin)
                report["wrong"] += int(np.count_nonzero(result != total))
                report["done"] += 1
    except JobAbortedError as error:
        report["error"], report["kind"] = str(error), "aborted"
    except BaseException as error:
        report["error"], report["kind"] = repr(error), "other"
    os.write(results, json.dumps(report).encode() + b"\n")


def fork(work: Any) -> int:
    """A child that does `work` and nothing else."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


class Trial:
    """One job of which a rank goes wrong."""

    def __init__(self, address: str, name: str, dice: random.Random, lease: float, long_stops: float) -> None:
        self._dice = dice
        self._size = dice.randint(2, 4)
        self._victim = dice.randrange(self._size)
        self.what = KILL if dice.random() < 0.5 else LONG_STOP if dice.random() < long_stops else STOP
        self._pause = 1.5 * lease if self.what == LONG_STOP else dice.expovariate(1 / 0.03)
        self._count = dice.choice([1, 1000, 100_000, 400_000])
        self._reader, writer = os.pipe()
        self._pids = [
            fork(lambda rank=rank: be_a_rank(address, name, rank, self._size, self._count, writer))
            for rank in range(self._size)
        ]
        os.close(writer)
        self._text = b""

    def _read(self, wanted: int, deadline: float) -> bool:
        """Until there are that many lines; False when there will not be."""
        while self._text.count(b"\n") < wanted:
            if not select.select([self._reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return False
            more = os.read(self._reader, 65536)
            if not more:
                return False
            self._text += more
        return True

    def run(self) -> list[str]:
        """What was wrong."""
        wrong = []
        pid = self._pids[self._victim]
        try:
            if not self._read(self._size, time.monotonic() + 60):
                return [f"the ranks did not join: {self._text!r}"]
            # From the first collective to a little after the last one.
            time.sleep(self._dice.random() * 0.03 * (1 + self._count / 100_000))
            os.kill(pid, signal.SIGKILL if self.what == KILL else signal.SIGSTOP)
            if self.what != KILL:
                time.sleep(self._pause)
                os.kill(pid, signal.SIGCONT)
            reports = self._size - (self.what == KILL)
            whole = self._read(self._size + reports, time.monotonic() + TIMEOUT + 3 * GRACE)
            lines = [json.loads(line) for line in self._text.split(b"\n") if line.startswith(b"{")]
            if not whole and self._victim not in {line["rank"] for line in lines}:
                whole = len(lines) == reports
            if not whole:
                wrong.append(f"only {len(lines)} of {reports} ranks have come to an end")
            for line in lines:
                wrong += self._judge(line)
        finally:
            for each in self._pids:
                os.kill(each, signal.SIGKILL)
                os.waitpid(each, 0)
            os.close(self._reader)
        return [
            f"{self._size} ranks, {self._count} elements, rank {self._victim} {self.what}: {why}"
            for why in wrong
        ]

    def _judge(self, line: dict[str, Any]) -> list[str]:
        wrong = []
        if line["wrong"]:
            wrong.append(f"rank {line['rank']} got {line['wrong']} wrong elements")
        if line["longest"] > TIMEOUT + GRACE:
            wrong.append(f"rank {line['rank']} waited {line['longest']:.1f} s")
        if line["kind"] == "other" or (line["kind"] and self.what == STOP):
            wrong.append(f"rank {line['rank']}: {line['error']}")
        if line["kind"] == "aborted" and f"rank {self._victim} " not in line["error"] and self.what == KILL:
            wrong.append(f"rank {line['rank']} was not told which rank died: {line['error']}")
        if not line["kind"] and line["done"] != COLLECTIVES:
            wrong.append(f"rank {line['rank']} ended after {line['done']} collectives")
        return wrong


def left_behind(pid: int) -> int:
    """Memories of jobs that a switch holds still."""
    maps = Path(f"/proc/{pid}/maps").read_text().count("memfd:switchml-job")
    held = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held += "memfd:switchml-job" in os.readlink(each)
        except FileNotFoundError:  # closed since
            continue
    return maps + held


def be_a_switch(lease: float, address: int, until: int) -> None:
    """Serve until the other end of a pipe is closed."""
    with Emulator(lease=lease) as emulator:
        os.write(address, f"{emulator.control_address}\n".encode())
        os.close(address)
        os.read(until, 1)


def be_a_driver(
    number: int, trials: int, seed: int, lease: float, long_stops: float
) -> tuple[Counter[str], list[str]]:
    """Trials one after the other, on a switch of their own."""
    dice = random.Random(f"{seed} {number}")
    address, told = os.pipe()
    until, hold = os.pipe()

    def serve() -> None:
        os.close(hold)
        be_a_switch(lease, told, until)

    switch = fork(serve)
    os.close(told)
    os.close(until)
    with os.fdopen(address) as said:
        where = said.readline().strip()
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    for index in range(trials):
        trial = Trial(where, f"trial-{index}", dice, lease, long_stops)
        wrong += [f"seed {seed}, driver {number}, trial {index}: {why}" for why in trial.run()]
        seen[trial.what] += 1
    deadline = time.monotonic() + 2 * lease + GRACE
    while left_behind(switch) and time.monotonic() < deadline:
        time.sleep(0.1)
    if left_behind(switch):
        wrong.append(f"driver {number}: the switch still holds memory of {left_behind(switch)} jobs")
    os.close(hold)
    os.waitpid(switch, 0)
    return seen, wrong


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--together", type=int, default=2, help="jobs at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lease", type=float, default=5.0, help="of the switch, in seconds")
    parser.add_argument(
        "--long-stops", type=float, default=0.05, help="of all stops, how many outlast the lease"
    )
    given = parser.parse_args()
    prepare_engine()
    prepare_pipeline()
    began = time.monotonic()
    readers = []
    for number in range(given.together):
        reader, writer = os.pipe()
        share = given.trials // given.together + (number < given.trials % given.together)

        def drive(number: int = number, share: int = share, writer: int = writer) -> None:
            seen, wrong = be_a_driver(number, share, given.seed, given.lease, given.long_stops)
            with os.fdopen(writer, "w") as file:
                json.dump([seen, wrong], file)

        fork(drive)
        os.close(writer)
        readers.append(reader)
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    for reader in readers:
        with os.fdopen(reader) as file:
            text = file.read()
        some, more = json.loads(text) if text else ({}, ["a driver has ended early"])
        seen.update(some)
        wrong += more
        os.wait()
    told = ", ".join(f"{count} {what}" for what, count in sorted(seen.items()))
    seconds = time.monotonic() - began
    print(
        f"{seen.total()} jobs in each of which a rank was lost or late ({told}), {seconds:.0f} s: {len(wrong)} wrong"
    )
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
