"""Compiles the loops of switch and worker into the cache, by a collective of a job of one rank: in memory, and in packets with
faults and captures, which are compiled on demand, as racks are.
"""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory

import numpy as np

from switchml.switch_emulator import Emulator
from switchml.switch_emulator.faults import new_faults
from switchml.switch_emulator.native_target import prepare_racks
from switchml.worker import Worker


def _sum_over(switch: Emulator, transport: str) -> None:
    place = {"job": "compile", "rank": 0, "world_size": 1}
    with Worker.join(switch.control_address, **place, transport=transport) as worker:
        worker.allreduce(np.ones(1000, np.float32))


prepare_racks()
with Emulator() as plain:
    _sum_over(plain, "memory")
with TemporaryDirectory() as folder:
    os.environ["SWITCHML_CAPTURE"] = f"{folder}/worker.pcap"
    with Emulator(faults=new_faults(loss=1e-9), capture=f"{folder}/switch.pcap") as faulty:
        _sum_over(faulty, "udp")
