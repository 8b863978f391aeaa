"""A script that names another backend gets ours: `switchml run --backend-for gloo,nccl`, or SWITCHML_BACKEND_FOR.

torch makes a `Backend` of every name it meets: that of `init_process_group`, `new_group` and device meshes, each part of
"cpu:gloo,cuda:nccl", and its own default for a device. So it is this one function of torch's that is wrapped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from switchml.errors import UsageError
from switchml.torch_backend.backend_name import BACKEND_NAME
from switchml.variables import quiet


def substitute(names: Sequence[str]) -> Callable[[], None]:
    """From now on these names mean our backend; rank 0 says so when it first happens.

    Args:
        names: torch's names of backends, in small letters.

    Returns:
        What undoes it.

    Raises:
        UsageError: torch knows no such backend.
    """
    import torch.distributed as dist

    backend: Any = dist.Backend
    known = [name for name in backend.backend_list if name not in ("undefined", BACKEND_NAME)]
    for name in names:
        if name not in known:
            raise UsageError(f"SWITCHML_BACKEND_FOR={name}: torch has the backends {', '.join(known)}")
    made = backend.__new__
    told: set[str] = set()

    def make(cls: type, name: str) -> str:
        value: str = made(cls, name)
        if value not in names:
            return value
        if value not in told:
            told.add(value)
            _tell(value)
        return BACKEND_NAME

    def undo() -> None:
        backend.__new__ = made

    backend.__new__ = make
    return undo


def _tell(name: str) -> None:
    if os.environ.get("RANK", "0") == "0" and not quiet():
        print(
            f"switchml: {BACKEND_NAME} takes the place of the backend {name!r}, which the script names; on which device its "
            "tensors are stays the script's own matter",
            file=sys.stderr,
            flush=True,
        )
