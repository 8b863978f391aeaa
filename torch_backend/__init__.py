"""`torch.distributed` backend "switchml".

Importing this package registers the backend and nothing more; torch does it by itself through the entry point
`torch.backends`. With `TORCH_DEVICE_BACKEND_AUTOLOAD=0` write `import switchml.torch_backend`.

    torch.distributed.init_process_group("switchml")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from switchml.torch_backend.autoload import register

if TYPE_CHECKING:
    from switchml.torch_backend.options import Options as Options
    from switchml.torch_backend.process_group import SwitchProcessGroup as SwitchProcessGroup
    from switchml.torch_backend.routing import routing_table as routing_table

# Loaded when asked for: torch imports this package in every process, also where the backend is never used.
_LAZY = {
    "Options": "switchml.torch_backend.options",
    "SwitchProcessGroup": "switchml.torch_backend.process_group",
    "routing_table": "switchml.torch_backend.routing",
}

__all__ = ["Options", "SwitchProcessGroup", "register", "routing_table"]


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


register()
