"""Compiles the loops of switch and worker into the cache, by one collective of a job of one rank over each transport."""

from __future__ import annotations

import numpy as np

from switchml.switch_emulator import Emulator
from switchml.worker import Worker

with Emulator() as switch:
    for transport in ("memory", "udp"):
        with Worker.join(
            switch.control_address, job=transport, rank=0, world_size=1, transport=transport
        ) as worker:
            worker.allreduce(np.ones(1000, np.float32))
