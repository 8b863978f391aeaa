"""DDP communication hook: gradients summed by the switch, while the process group keeps its own backend for the rest.

    from switchml.torch_backend.hooks import SwitchState, switchml_hook

    model = DistributedDataParallel(module)                     # gloo, NCCL, ...
    model.register_comm_hook(SwitchState(wire="int8"), switchml_hook)

`wire` says what a gradient is on the wire; see `hooks/lanes.py` for what the two short forms mean and what they cost.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from switchml.torch_backend.hooks.hook import switchml_hook as switchml_hook
    from switchml.torch_backend.hooks.state import SwitchState as SwitchState

_LAZY = {
    "SwitchState": "switchml.torch_backend.hooks.state",
    "switchml_hook": "switchml.torch_backend.hooks.hook",
}

__all__ = ["SwitchState", "switchml_hook"]


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)
