"""Kills the switch of a training at a random moment, and looks at how the training ends.

    python scripts/failures/killed_switch.py --trials 100 --transport udp

One trial is one training of examples/digits.py's network by ranks that are forked from this process, which has everything loaded.
The switch gets SIGKILL, and a supervisor starts it again at the same address. What must not be: parameters that differ, by their
SHA-256, from those of a training whose switch lives, or a rank that does not come to the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import select
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import digits as example
import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from switchml.switch_emulator import Emulator
from switchml.switch_emulator.native_target import prepare_pipeline
from switchml.worker.worker import prepare_engine

RECOVER = 60.0
"""Seconds for which ranks try to go on."""
PATIENCE = 180.0


def fork(work: Callable[[], object]) -> int:
    """A child that does `work` and nothing else."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(f"killed_switch.py: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return pid


class Supervised:
    """A switch in a process of its own, started again at its address when it has ended."""

    def __init__(self) -> None:
        self._port = 0
        self.address = ""
        self._pid = self._start()

    def _start(self) -> int:
        reader, writer = os.pipe()

        def serve() -> None:
            os.close(reader)
            with Emulator(control_port=self._port) as emulator:
                os.write(writer, f"{emulator.control_address}\n".encode())
                os.close(writer)
                signal.pause()

        pid = fork(serve)
        os.close(writer)
        with os.fdopen(reader) as said:
            self.address = said.readline().strip()
        self._port = int(self.address.rpartition(":")[2])
        return pid

    def kill(self, again: bool) -> None:
        """End it as nothing can be prepared for. again: start it anew."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        if again:
            self._pid = self._start()


def be_a_rank(given: argparse.Namespace, address: str, meeting: str, rank: int, results: int) -> None:
    """Train, and report how that went."""
    os.environ |= {
        "SWITCHML_SWITCH": address, "SWITCHML_RECOVER": str(RECOVER), "SWITCHML_TRANSPORT": given.transport,
        "SWITCHML_QUIET": "1", "SWITCHML_LOG": "error",
    }  # fmt: skip
    dist.init_process_group("switchml", init_method=f"file://{meeting}", rank=rank, world_size=given.ranks)
    torch.manual_seed(1)
    data = example.digits(1)
    model = DistributedDataParallel(example.conv())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    dist.barrier()
    os.write(results, json.dumps({"begun": rank}).encode() + b"\n")
    begun, longest = time.monotonic(), 0.0
    for epoch in range(given.epochs):
        for index in example.batches(len(data.train_labels), rank, given.ranks, epoch):
            before = time.monotonic()
            optimizer.zero_grad()
            functional.cross_entropy(model(data.train_images[index]), data.train_labels[index]).backward()
            optimizer.step()
            longest = max(longest, time.monotonic() - before)
    ended = time.monotonic()
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    report = {"digest": digest.hexdigest(), "longest": longest, "seconds": ended - begun, "ended": ended}
    os.write(results, json.dumps(report).encode() + b"\n")
    time.sleep(0.2)  # for a rank that has yet to take its last result
    os._exit(0)


def train(given: argparse.Namespace, moment: float | None) -> dict[str, Any]:
    """One training.

    Args:
        given: the options.
        moment: seconds from its begin until its switch is killed; None = it is not.

    Returns:
        "digests", "longest" (step, in seconds), "seconds", "in_time" (the kill was before the end), "wrong" (a sentence, or "").
    """
    switch = Supervised()
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"{folder}/meeting"
        pids = [
            fork(lambda rank=rank: be_a_rank(given, switch.address, meeting, rank, writer))
            for rank in range(given.ranks)
        ]
        os.close(writer)
        lines: list[dict[str, Any]] = []
        text = b""
        killed = None
        kill_at = deadline = time.monotonic() + PATIENCE
        try:
            while len(lines) < 2 * given.ranks and (now := time.monotonic()) < deadline:
                if killed is None and moment is not None and now >= kill_at:
                    killed = now
                    switch.kill(again=True)
                wait = deadline if killed is not None or moment is None else min(kill_at, deadline)
                if select.select([reader], [], [], max(0.0, wait - now))[0]:
                    more = os.read(reader, 65536)
                    if not more:
                        break
                    *whole, text = (text + more).split(b"\n")
                    lines += map(json.loads, whole)
                    if (
                        kill_at == deadline
                        and moment is not None
                        and sum("begun" in x for x in lines) == given.ranks
                    ):
                        kill_at = time.monotonic() + moment
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            switch.kill(again=False)
            os.close(reader)
    ends = [line for line in lines if "digest" in line]
    return {
        "digests": sorted({line["digest"] for line in ends}),
        "longest": max((line["longest"] for line in ends), default=0.0),
        "seconds": max((line["seconds"] for line in ends), default=0.0),
        "in_time": killed is not None and all(killed < line["ended"] for line in ends),
        "wrong": "" if len(ends) == given.ranks else f"{len(ends)} of {given.ranks} ranks came to the end",
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--transport", default="udp", help="udp, shm or memory")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the trials as JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    prepare_engine(given.transport)
    prepare_pipeline()
    dice = random.Random(given.seed)
    began = time.monotonic()
    undisturbed = train(given, None)
    if undisturbed["wrong"] or len(undisturbed["digests"]) != 1:
        print(f"the undisturbed training: {undisturbed}", file=sys.stderr)
        return 1
    trials = []
    while len(trials) < given.trials:
        moment = dice.uniform(0, undisturbed["seconds"])
        trial = train(given, moment)
        if trial["digests"] != undisturbed["digests"] and not trial["wrong"]:
            trial["wrong"] = "other parameters"
        # A kill after the end says nothing.
        if trial["in_time"] or trial["wrong"]:
            trials.append({"moment": moment, **trial})
    wrong = [trial for trial in trials if trial["wrong"]]
    longest = [trial["longest"] for trial in trials]
    summary = {
        "trials": len(trials), "wrong": len(wrong), "ranks": given.ranks, "transport": given.transport,
        "sha256": undisturbed["digests"][0], "longest_pause": max(longest), "median_pause": statistics.median(longest),
        "longest_step_undisturbed": undisturbed["longest"], "seconds": time.monotonic() - began,
    }  # fmt: skip
    if given.json:
        print(json.dumps({**summary, "each": trials}))
    else:
        print(
            f"{len(trials)} trainings of {given.ranks} ranks by {given.transport} whose switch was killed at a random moment: "
            f"{len(trials) - len(wrong)} ended with SHA-256 {undisturbed['digests'][0][:16]}..., that of one undisturbed, "
            f"{len(wrong)} did not. Longest pause {max(longest):.2f} s, median {statistics.median(longest):.2f} s (longest step "
            f"undisturbed {undisturbed['longest']:.2f} s). {summary['seconds']:.0f} s in all"
        )
        for trial in wrong:
            print(trial)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
