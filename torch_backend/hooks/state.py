"""The state of the hook: what the user chose, and from the first bucket on the jobs on the switch."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore

from switchml.errors import UsageError
from switchml.protocol.messages import WIRES
from switchml.torch_backend.hooks.averager import Averager
from switchml.torch_backend.job_pair import JobPair
from switchml.torch_backend.options import Options

_TIMEOUT = timedelta(minutes=30)  # torch's own default


class SwitchState:
    """State of `switchml_hook`. Joins the switch at the first bucket, so it may be made before the process group.

    Args:
        process_group: the one that DDP uses; None = the default group. Used for the rendezvous alone.
        wire: "float32", "int16" (half the bytes) or "int8" (a quarter); "" takes that of the options. The narrow ones take
            gradients of any floating dtype through float32, and round them stochastically (hooks/rounded.py).
        error_feedback: for the narrow wires: add what rounding took to the bucket's next gradient. DDP lays its buckets out
            anew after the first step; what is kept of that step is then dropped.
        seed: of the stochastic rounding.
        options: switch, token, transport and so on; default: the environment's.

    Raises:
        UsageError: an unknown wire.
    """

    def __init__(
        self,
        process_group: dist.ProcessGroup | None = None,
        *,
        wire: str = "",
        error_feedback: bool = True,
        seed: int = 0,
        options: Options | None = None,
    ) -> None:
        if wire and wire not in WIRES:
            raise UsageError(f"wire {wire!r}: one of {', '.join(WIRES)} is meant")
        self.wire = wire
        self.error_feedback = error_feedback
        self.seed = seed
        self._process_group = process_group
        self._options = options
        self._averager: Averager | None = None

    def averager(self) -> Averager:
        """What averages on the switch; the first call joins it, together with all other ranks of the group.

        Raises:
            SwitchMLError: joining failed.
        """
        if self._averager is None:
            group = self._process_group or dist.group.WORLD
            if group is None:
                raise UsageError("switchml_hook needs a process group: call init_process_group first")
            options = self._options or Options()
            if self.wire:
                options = replace(options, wire=self.wire)
            jobs = JobPair(
                PrefixStore("switchml-hook", dist.distributed_c10d._get_process_group_store(group)),
                dist.get_rank(group),
                dist.get_world_size(group),
                timeout=options.timeout or _TIMEOUT,
                options=options,
            )
            self._averager = Averager(jobs, feedback=self.error_feedback, seed=self.seed)
        return self._averager

    def counters(self) -> dict[str, int]:
        """This rank's packets, bytes and retransmissions, as `switchml.worker.Worker.counters`; empty before the first bucket."""
        return {} if self._averager is None else self._averager.counters()

    def close(self) -> None:
        """Leave the switch; buckets in flight fail. Idempotent. The end of the program does it as well."""
        averager, self._averager = self._averager, None
        if averager is not None:
            averager.close()
