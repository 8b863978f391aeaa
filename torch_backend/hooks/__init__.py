"""DDP communication hook: gradients summed by the switch, while the process group keeps its own backend for the rest.

    from switchml.torch_backend.hooks import SwitchState, switchml_hook

    model = DistributedDataParallel(module)                     # gloo, NCCL, ...
    model.register_comm_hook(SwitchState(wire="int8"), switchml_hook)

`wire` says what a gradient is on the wire: docs/hooks.md.
"""

from __future__ import annotations

from switchml.torch_backend.hooks.hook import switchml_hook
from switchml.torch_backend.hooks.state import SwitchState

__all__ = ["SwitchState", "switchml_hook"]
