"""Ours as programs of torch see it: the backend switchml of torch.distributed. What has no way over the switch goes by gloo."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from typing_extensions import override

from switchml.bench.systems.catalogue import Place
from switchml.bench.systems.ddp import tell_backend
from switchml.bench.systems.gloo import TorchBackend
from switchml.protocol.messages import wire_lanes

# No element of `verification.table` is larger: of full mantissas, and of the integers that narrow wires round as well.
_MANTISSA, _INTEGER = 8.0, 1024.0


class TorchSwitchML(TorchBackend):
    """One rank of a group. Options: those of the worker library."""

    @override
    def open(self, place: Place) -> None:
        tell_backend(place.options)
        self._wire, self._size = place.options["wire"], place.world_size
        super().open(place)

    @override
    def error_bound(self) -> float:
        # The backend does not say the library's own. n integers of `bits` at most are summed, each rounded, and the sum may be.
        bits = 32 // wire_lanes(self._wire)
        largest = _MANTISSA if bits == 32 else _INTEGER
        return self._size**2 * largest / 2.0 ** (bits - 2)

    @override
    def counters(self) -> dict[str, int]:
        group: Any = self._group or dist.group.WORLD
        return dict(group.switch_counters())
