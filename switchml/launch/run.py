"""Carries out a run: switch, training, readings of the switch's counters, account."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rich.console import Console
from typing_extensions import override

from switchml.cli_options import NATIVE
from switchml.closing import Closing
from switchml.control import embedded
from switchml.control.named_switches import parse_switches
from switchml.errors import SwitchMLError
from switchml.launch.plan import LOOPBACK, Faults, RunPlan
from switchml.launch.screen import Progress, summary
from switchml.launch.throughput import SENT_AGAIN, Meter, Traffic
from switchml.launch.training import Training
from switchml.outlook import Steps

if TYPE_CHECKING:
    from switchml.control.client import ControlClient
    from switchml.control.tls import TlsFiles

_EVERY = 1.0  # seconds between readings
_ANSWER = 2.0  # seconds that the switch has to answer one
_CLOSE = 1.0  # the workers are gone by then: nothing to wait for


@dataclass(frozen=True)
class Account:
    """What came of a run. `traffic` None = the switch could not be asked."""

    plan: RunPlan
    exit_code: int
    seconds: float
    traffic: Traffic | None
    steps: Steps | None = None  # where --data-parallel has measured them

    def as_json(self) -> dict[str, Any]:
        """Plain values: seconds, bytes."""
        traffic = self.traffic
        return {
            "script": [self.plan.script, *self.plan.arguments],
            "workers": self.plan.world_size,
            "transport": self.plan.transport,
            "pipeline": self.plan.pipeline,
            "faults": asdict(self.plan.faults),
            "exit_code": self.exit_code,
            "seconds": self.seconds,
            "steps": self.steps and asdict(self.steps),
            "traffic": traffic
            and {
                "bytes": traffic.bytes,
                "retransmissions": traffic.retransmissions,
                "elements": traffic.elements,
                "active_seconds": traffic.active,
                "elements_per_second": traffic.elements_per_second,
                "counters": traffic.named(""),
                "sent_again": traffic.counters.get(SENT_AGAIN, 0),
                "sentences": traffic.sentences,
            },
        }


def carry_out(plan: RunPlan, *, account_file: Path | None = None) -> int:
    """Run the plan to its end. Leaves no process behind.

    Args:
        plan: the run.
        account_file: where the closing summary goes as JSON; None = nowhere.

    Returns:
        The training's exit code.

    Raises:
        UsageError: it cannot be started as it is.
        SwitchUnreachableError: its switch does not start.
    """
    plan.check()
    console = Console(stderr=True)
    with (
        _switch(plan) as (address, token),
        Progress(console) as progress,
        _folder(plan) as folder,
    ):
        begin = time.monotonic()
        environment = plan.environment(address, token, str(folder or ""))
        with Training(plan.command(), environment, piped=progress.piped) as training:
            progress.relay((training.process.stdout, training.process.stderr))
            with _Readings(address, token, plan.tls, plan.world_size) as readings:
                exit_code = training.wait(
                    _EVERY, lambda: progress.show(time.monotonic() - begin, readings.take())
                )
                seconds = time.monotonic() - begin
                readings.take()
        account = Account(plan, exit_code, seconds, readings.traffic, steps_of(folder, plan))
    console.print(
        summary(account.traffic, workers=plan.world_size, seconds=seconds, exit_code=exit_code),
        soft_wrap=True,
    )
    for sentence in readings.traffic.sentences if readings.traffic is not None else []:
        console.print(sentence, soft_wrap=True, markup=False, highlight=False)
    if account.steps is not None:
        console.print(account.steps.sentence, soft_wrap=True, markup=False, highlight=False)
    if account_file is not None:
        account_file.write_text(json.dumps(account.as_json(), indent=2) + "\n")
    return exit_code


@contextlib.contextmanager
def _folder(plan: RunPlan) -> Iterator[Path | None]:
    """Where ranks write how long their steps took, if they measure it."""
    if not plan.data_parallel:
        yield None
        return
    with TemporaryDirectory(prefix="switchml-steps-") as folder:
        yield Path(folder)


def steps_of(folder: Path | None, plan: RunPlan) -> Steps | None:
    """What this machine's ranks have written of their steps; None where they have not."""
    if folder is None:
        return None
    told = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    told = [each for each in told if each["batches"]]
    if len(told) < plan.workers:
        return None
    batches = told[0]["batches"]
    seconds, waited, network = (
        [each[name] / batches for each in told] for name in ("seconds", "input", "network")
    )
    # Who comes last waits for the network alone.
    return Steps(
        workers=plan.world_size,
        seconds=sum(seconds) / len(told),
        input=sum(waited) / len(told),
        network=min(network),
        ranks=sum(network) / len(told) - min(network),
        cores=len(os.sched_getaffinity(0)),
        here=plan.workers,
    )


@contextlib.contextmanager
def _switch(plan: RunPlan) -> Iterator[tuple[str, str]]:
    """Control address and token of the switch given, or of one that lives as long as the run; "" where ranks start some."""
    if plan.switch or plan.nodes.count > 1:
        yield plan.switch, plan.token
        return
    switch = embedded.start(
        LOOPBACK, command=emulator(plan.faults, plan.pipeline, plan.capture), tls=plan.tls
    )
    try:
        yield switch.address, switch.token
        if not switch.running():
            print(f"switchml: the switch ended before the run did. It said:\n{switch.log()}", file=sys.stderr)
    finally:
        switch.close(_CLOSE)


def emulator(faults: Faults, pipeline: str = NATIVE, capture: str = "") -> list[str]:
    """The command of an emulator that ends with its starter.

    Args:
        faults: what it does to packets.
        pipeline: "native" or the file of a P4 program.
        capture: pcap file for all packets, "" = none.
    """
    return [
        *embedded.emulator(LOOPBACK),
        *(["--pipeline", pipeline] if pipeline != NATIVE else []),
        *(faults.options() if faults else []),
        *(["--capture", capture] if capture else []),
    ]


class _Readings(Closing):
    """The switches' counters together, read over their control services. One that does not answer is asked again later."""

    def __init__(self, address: str, token: str, tls: TlsFiles, world_size: int) -> None:
        self._address, self._token, self._tls = address, token, tls
        self._clients: dict[str, ControlClient] = {}
        self._meter: Meter | None = None
        self._world_size = world_size
        self.take()

    @property
    def traffic(self) -> Traffic | None:
        return None if self._meter is None else self._meter.traffic

    def take(self) -> Traffic:
        with contextlib.suppress(SwitchMLError):
            counters, sharing = self._ask()
            now = time.monotonic()
            if self._meter is None:
                self._meter = Meter(counters, now, self._world_size)
            else:
                return self._meter.read(counters, now, sharing)
        return self.traffic or Traffic({}, self._world_size)

    @override
    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _ask(self) -> tuple[dict[str, int], float]:
        """Counters, and workers on the link to a switch."""
        # gRPC is loaded once the training runs: a fork with its threads around is not safe.
        from switchml.control.client import ControlClient

        total: Counter[str] = Counter()
        sharing = [0.0]
        switches = parse_switches(self._address)
        for one in switches:
            if one.first not in self._clients:
                self._clients[one.first] = ControlClient(
                    one.first, token=self._token, timeout=_ANSWER, tls=self._tls.client()
                )
            answer = self._clients[one.first].status()
            total.update(answer.counters)
            total[SENT_AGAIN] = answer.sent_again
            sharing += [answer.sharing(job) / len(switches) for job in answer.jobs]
        return total, max(sharing)
