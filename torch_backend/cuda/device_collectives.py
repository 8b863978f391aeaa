"""The collectives of a process group for tensors on GPUs.

Sums and averages of float32, float16 and bfloat16 are quantized on the GPU (reductions.py), unless the wire is a narrow one.
Everything else is copied to pinned memory, done by a group of its own as for CPU tensors (on the switch or over gloo, as the
routing table says), and copied back.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, Work
from typing_extensions import override

from switchml.errors import CollectiveTimeoutError
from switchml.protocol.messages import FLOAT32
from switchml.torch_backend.cuda.reductions import DeviceReductions, Flight
from switchml.torch_backend.cuda.side_stream import Gate, Mark
from switchml.torch_backend.job_pair import JobPair
from switchml.torch_backend.kept_handles import KeptHandle, KeptHandles
from switchml.torch_backend.membership import OpenWorker, join_switch
from switchml.torch_backend.options import Options
from switchml.torch_backend.reduction import operation, seconds
from switchml.torch_backend.tensors import tensors_in

_QUANTIZED = (torch.float32, torch.float16, torch.bfloat16)
_UNLIMITED = timedelta(0)


class DeviceWork(KeptHandle):
    """Handle of a collective of tensors on a GPU. `wait` makes the caller's stream wait, and not the caller."""

    def __init__(
        self, name: str, outputs: list[torch.Tensor], flight: Flight, keeper: KeptHandles | None = None
    ) -> None:
        super().__init__(outputs, keeper)
        self._name, self._flight = name, flight

    @override
    def is_over(self) -> bool:
        return self.is_completed()

    @override
    def shed(self) -> bool:
        return False  # its future has the tensors

    def wait(self, timeout: timedelta = _UNLIMITED) -> bool:
        """Let the current stream wait for the result. With a timeout, block until the network is done with it as well.

        Raises:
            SwitchMLError: the collective is known to have failed. One that fails later makes the next call raise.
            CollectiveTimeoutError: `timeout` has passed; the collective goes on.
        """
        limit = seconds(timeout)
        if limit is not None and not self._flight.ended.wait(limit):
            raise CollectiveTimeoutError(
                f"{self._name} is not over after the {limit} s given to wait(); it goes on until its own deadline: "
                "wait again, or see the other ranks"
            )
        self._raise()
        self._flight.future.wait()
        return True

    @override
    def synchronize(self) -> None:
        self.wait()

    def is_completed(self) -> bool:
        """Is the network done with it?"""
        return self._flight.ended.is_set()

    @override
    def is_success(self) -> bool:
        return self.is_completed() and self._flight.error is None

    @override
    def exception(self) -> BaseException | None:
        return self._flight.error if self.is_completed() else None

    @override
    def result(self) -> list[torch.Tensor]:
        return self.outputs()

    @override
    def source_rank(self) -> int:
        raise RuntimeError(f"{self._name} has no single source rank")

    def get_future(self) -> Any:
        """Its value is the list of result tensors; who waits for it makes their stream wait."""
        return self._flight.future

    def _raise(self) -> None:
        if self.is_completed() and self._flight.error is not None:
            raise self._flight.error


class DeviceCollectives:
    """One rank's, of one group.

    Args:
        reductions: of quantized tensors; used by nobody else.
        host_group: a process group of the same ranks, used by nobody else: calls to it are made on the ordered thread of
            the reductions' jobs, in the order of the calls here.
    """

    def __init__(self, reductions: DeviceReductions, host_group: dist.ProcessGroup) -> None:
        self._reductions, self._jobs, self._host_group = reductions, reductions.jobs, host_group
        self._lock = threading.Lock()
        self._kept = KeptHandles()
        self._gates: dict[
            torch.device, list[Gate]
        ] = {}  # idle ones; never dropped, for the device may still look

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Work:
        """As the group's method of this name, with at least one argument on a GPU.

        Raises:
            SwitchMLError: a collective before this one failed.
            UsageError: what the method itself refuses.
        """
        outputs = list(tensors_in(args[0]))
        if method == "allreduce" and len(outputs) == 1:
            options = args[1] if len(args) > 1 else kwargs.get("opts")
            reduction = operation(options)
            tensor = outputs[0]
            if (
                self._jobs.wire == FLOAT32
                and tensor.dtype in _QUANTIZED
                and tensor.layout is torch.strided
                and reduction in ("sum", "avg")
                and tensor.numel()
            ):
                flight = self._reductions.reduce(tensor, average=reduction == "avg", value=outputs)
                return DeviceWork(method, outputs, flight, self._kept)
        return self._through_host(method, outputs, args, kwargs)

    def close(self) -> None:
        """Leave the switch, and shut the host's group down; what is in flight fails."""
        self._jobs.close()
        self._kept.clear()
        self._host_group.shutdown()

    def _through_host(
        self, method: str, outputs: list[torch.Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Work:
        reductions = self._reductions
        reductions.check()
        device = next(tensors_in(*args)).device
        streams = reductions.streams(device)
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

        def host_side(argument: Any) -> Any:
            if isinstance(argument, torch.Tensor):
                mine = argument.detach()
                host = streams.down.pinned(tuple(mine.shape), mine.dtype)
                pairs.append((mine, host))
                return host
            if isinstance(argument, list | tuple):
                return [host_side(item) for item in argument]
            return argument

        host_args = [host_side(argument) for argument in args]
        # Every method writes to its first argument alone, and those with a second one read nothing of the first.
        written = pairs[: len(outputs)] if method != "send" else []
        read = pairs[len(outputs) :] or pairs

        def down() -> None:
            for there, host in read:
                host.copy_(there, non_blocking=True)

        def up() -> None:
            for there, host in written:
                there.copy_(host, non_blocking=True)

        for there, _ in pairs:
            streams.down.uses(there)
            streams.up.uses(there)
        streams.down.follow_caller()
        streams.down.run(down)
        copied = streams.down.mark()
        with self._lock:
            idle = self._gates.setdefault(device, [])
            gate = idle.pop() if idle else streams.up.gate()
        gate.close()
        streams.up.run(up)
        future = streams.up.future()
        flight = Flight(future, threading.Event())
        streams.up.run(functools.partial(future.set_result, outputs))
        call = functools.partial(getattr(self._host_group, method), *host_args, **kwargs)

        def end(error: BaseException | None) -> None:
            if error is not None:
                flight.error = error
                reductions.failed(error)
                for _, host in written:
                    if host.is_floating_point() or host.is_complex():
                        host.fill_(torch.nan)
            gate.open()
            with self._lock:
                idle.append(gate)
            flight.ended.set()

        self._jobs.ordered.submit(functools.partial(self._start, copied, call, end))
        return DeviceWork(method, outputs, flight, self._kept)

    def _start(
        self, copied: Mark, call: Callable[[], Work], end: Callable[[BaseException | None], None]
    ) -> None:
        """Calls in order; waits for each on a thread of its own, as a receive may be for a later send."""
        copied.synchronize()
        try:
            work = call()
        except Exception as error:
            end(error)
            return

        def wait() -> None:
            try:
                work.wait()
            except Exception as error:
                end(error)
            else:
                end(None)

        self._jobs.pool.submit(wait)


def open_device_collectives(
    store: Store,
    rank: int,
    world_size: int,
    make_group: Callable[[Store], dist.ProcessGroup],
    *,
    timeout: timedelta,
    options: Options,
    open_worker: OpenWorker = join_switch,
) -> DeviceCollectives:
    """Made by all ranks of a group at their first collective of tensors on a GPU.

    Args:
        store: the group's.
        rank: this process's in the group.
        world_size: ranks of the group.
        make_group: makes the group for what goes through the host, over a store of its own.
        timeout: deadline of a collective.
        options: the group's.
        open_worker: joins a job.

    Raises:
        SwitchMLError: a job could not be joined.
    """
    own = PrefixStore("device", store)
    jobs = JobPair(
        PrefixStore("quantized", own),
        rank,
        world_size,
        timeout=timeout,
        options=options,
        open_worker=open_worker,
    )
    return DeviceCollectives(DeviceReductions(jobs), make_group(PrefixStore("host", own)))
