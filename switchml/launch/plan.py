"""What a run consists of, as the command line gave it, and the commands that follow from it."""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path

from switchml.cli_options import NATIVE
from switchml.control.target import TRANSPORTS
from switchml.control.tls import TlsFiles
from switchml.errors import UsageError
from switchml.p4runtime.p4info_files import refuse_source
from switchml.protocol.messages import WIRES

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Faults:
    """Probabilities, 0 to 1, with which the emulator mistreats a packet, and the seed of its choices."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    seed: int = 0

    def __bool__(self) -> bool:
        return any((self.loss, self.duplicate, self.reorder))

    def options(self) -> list[str]:
        """The emulator's options."""
        return [
            *("--loss", str(self.loss), "--duplicate", str(self.duplicate)),
            *("--reorder", str(self.reorder), "--seed", str(self.seed)),
        ]


@dataclass(frozen=True)
class Nodes:
    """This machine's place among those that run the script together."""

    count: int = 1
    rank: int = 0
    master_addr: str = LOOPBACK
    master_port: int = 29500


@dataclass(frozen=True)
class RunPlan:
    """One run of a training script. `payload` (bytes) and `window` (slots): 0 = the switch's default."""

    script: str
    arguments: tuple[str, ...] = ()
    workers: int = 1  # on this machine
    module: bool = False
    nodes: Nodes = field(default_factory=Nodes)
    switch: str = ""  # "" = one of our own; over several nodes, one on each, which torch's ranks start
    token: str = ""
    tls: TlsFiles = field(default_factory=TlsFiles)
    transport: str = "auto"
    payload: int = 0
    window: int = 0
    wire: str = ""  # "" = float32
    pipeline: str = NATIVE  # of a switch of our own: this, or a P4 program's file
    faults: Faults = field(default_factory=Faults)
    capture: str = ""  # pcap file of our own switch's packets; ranks' have their names put before the ending
    backend_for: str = ""  # names with commas between them, in whose place the script takes our backend
    data_parallel: str = (
        ""  # "1": the script knows nothing of ranks; "every-rank": all of them print and write
    )

    @property
    def world_size(self) -> int:
        """Workers on all machines."""
        return self.workers * self.nodes.count

    def check(self) -> None:
        """Before anything is started: whether the run can work.

        Raises:
            UsageError: it can't.
        """
        if self.workers < 1 or self.nodes.count < 1 or not 0 <= self.nodes.rank < self.nodes.count:
            raise UsageError(
                f"{self.workers} workers on node {self.nodes.rank} of {self.nodes.count}: use at least 1 worker, "
                "and node ranks from 0 to one less than the number of nodes"
            )
        if self.transport not in TRANSPORTS:
            raise UsageError(f"transport {self.transport!r}: use one of {', '.join(TRANSPORTS)}")
        if self.wire and self.wire not in WIRES:
            raise UsageError(f"wire {self.wire!r}: use one of {', '.join(WIRES)}")
        if self.backend_for and not all(name.strip().isalpha() for name in self.backend_for.split(",")):
            raise UsageError(f"--backend-for {self.backend_for!r}: use names as in gloo,nccl")
        for name in ("loss", "duplicate", "reorder"):
            probability = getattr(self.faults, name)
            if not 0 <= probability < 1:
                raise UsageError(f"--{name} {probability:g}: use a probability from 0 to below 1")
        if self.switch and self.faults:
            raise UsageError(
                "faults are made by the switch that this command starts; leave --switch out, or give --loss, "
                "--duplicate and --reorder to the `switchml switch` at the other end"
            )
        if self.pipeline != NATIVE:
            if self.switch:
                raise UsageError(
                    "the pipeline is that of the switch this command starts; leave --switch out, or give --pipeline to the "
                    "`switchml switch` at the other end"
                )
            if self.transport in ("shm", "memory"):
                raise UsageError(
                    f"a P4 program takes packets, not shared memory: leave --transport {self.transport} out"
                )
            refuse_source(Path(self.pipeline))
            if not Path(self.pipeline).is_file():
                raise UsageError(
                    f"--pipeline {self.pipeline}: there is no such file; give a P4 program's JSON"
                )
        if self.capture and self.transport == "memory":
            raise UsageError("--capture: there are no packets in memory; leave --transport memory out")
        if self.nodes.count > 1 and not self.switch and (self.faults or self.pipeline != NATIVE):
            raise UsageError(
                "over several nodes, faults and a pipeline are those of a switch that runs: start it with `switchml switch` and "
                "these options on a machine that all nodes reach, and give its control address to every node with --switch"
            )
        if importlib.util.find_spec("torch") is None:
            raise UsageError("torch is not installed here; install switchml[torch]")
        if not self.module and not Path(self.script).is_file():
            raise UsageError(f"there is no script {self.script!r} here")

    def command(self) -> list[str]:
        """The command of torch's elastic launcher with the script."""
        if self.nodes.count == 1:
            meeting = ["--standalone", "--local-addr", LOOPBACK]
        else:
            meeting = [
                *("--nnodes", str(self.nodes.count), "--node-rank", str(self.nodes.rank)),
                *("--master-addr", self.nodes.master_addr, "--master-port", str(self.nodes.master_port)),
            ]
        return [
            # -P: a folder of the user's named like a package must not be imported in its place.
            *(sys.executable, "-P", "-m", "torch.distributed.run"),
            *meeting,
            *("--nproc-per-node", str(self.workers)),
            *(["--module"] if self.module else []),
            *(self.script, *self.arguments),
        ]

    def environment(self, address: str, token: str, steps: str = "") -> dict[str, str]:
        """What the workers are told about the switch; added to the environment they inherit.

        Args:
            address: the switch's.
            token: its join token.
            steps: folder for the times of their steps; "" = nowhere.
        """
        settings = {
            "SWITCHML_SWITCH": address,
            "SWITCHML_TOKEN": token,
            **self.tls.environment(),
            # Where the caller's environment has another, "auto" was asked for.
            "SWITCHML_TRANSPORT": self.transport
            if self.transport != "auto" or "SWITCHML_TRANSPORT" in os.environ
            else "",
            "SWITCHML_PAYLOAD": str(self.payload or ""),
            "SWITCHML_WINDOW": str(self.window or ""),
            "SWITCHML_WIRE": self.wire,
            "SWITCHML_BACKEND_FOR": self.backend_for,
            "SWITCHML_DATA_PARALLEL": self.data_parallel,
            "SWITCHML_STEPS": steps,
            "SWITCHML_CAPTURE": self.capture,
            # Sets of strings must come in one order on all ranks.
            "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", str(secrets.randbits(32)))
            if self.data_parallel
            else "",
            # torch's launcher does the same, with a warning that fills the screen.
            "OMP_NUM_THREADS": "1" if self.workers > 1 and "OMP_NUM_THREADS" not in os.environ else "",
        }
        return {name: value for name, value in settings.items() if value}
