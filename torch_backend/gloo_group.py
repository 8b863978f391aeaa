"""The plain gloo process group behind the collectives that the switch does not do."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

from switchml.errors import WorkerClosedError

_CPU = torch.device("cpu")
_GLOO = dist.ProcessGroup.BackendType.GLOO


class GlooGroup:
    """Owner of a gloo group. Made by all ranks at once, and at once: a send between two ranks could not make it later.

    It is a group of torch's own class, whose Python bindings release the GIL. The base-class methods of a Python
    process group hold it, and ranks that share a process would deadlock in them.
    """

    def __init__(
        self, store: Store, rank: int, world_size: int, timeout: timedelta, *, address: str = ""
    ) -> None:
        """Of one rank.

        Args:
            store: for gloo alone.
            rank: this process's.
            world_size: ranks of the group.
            timeout: deadline of a collective, and of the creation.
            address: local one, by which the others reach this rank; "" leaves it to torch, which asks for the host's name.
                GLOO_SOCKET_IFNAME goes before it.
        """
        gloo: Any = dist.ProcessGroupGloo  # torch's stubs lag behind
        options = gloo._Options()
        options._timeout = timeout
        interfaces = os.environ.get("GLOO_SOCKET_IFNAME", "")
        if interfaces:  # several, as for torch itself
            options._devices = [gloo.create_device(interface=name) for name in interfaces.split(",")]
        elif address:
            options._devices = [gloo.create_device(hostname=address)]
        else:
            options._devices = [gloo.create_default_device()]
        backend = gloo(store, rank, world_size, options)
        group = dist.ProcessGroup(store, rank, world_size)
        group._register_backend(_CPU, _GLOO, backend)
        group._set_default_backend(_GLOO)
        self._held: list[Any] = [group, backend]

    @property
    def group(self) -> dist.ProcessGroup:
        """The group; raises WorkerClosedError after `close`."""
        return self._item(0)  # type: ignore[no-any-return]

    @property
    def backend(self) -> dist.ProcessGroupGloo:
        """Its backend; raises WorkerClosedError after `close`."""
        return self._item(1)  # type: ignore[no-any-return]

    @property
    def timeout(self) -> float:
        """Deadline of a collective in seconds, as `torch.distributed` last set it."""
        return self.backend.options._timeout.total_seconds()

    def _item(self, index: int) -> Any:
        try:
            return self._held[index]
        except IndexError:
            raise WorkerClosedError("the process group was shut down; create it anew") from None

    def close(self, timeout: float) -> None:
        """Drop gloo within `timeout` seconds.

        Its destructor waits for collectives in flight up to their own deadline, so it runs on a thread beside.
        """
        held, self._held = self._held, []
        dropping = threading.Thread(target=held.clear, name="switchml-gloo-close", daemon=True)
        dropping.start()
        dropping.join(timeout)
