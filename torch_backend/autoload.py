"""Makes the name "switchml" known to torch.

torch calls `register` at the end of `import torch`, in every process of every environment that has switchml
installed. So it costs next to nothing and cannot raise: whatever else the backend needs is imported when a
process group is created.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from switchml.torch_backend.backend_name import BACKEND_NAME

if TYPE_CHECKING:
    from switchml.torch_backend.process_group import SwitchProcessGroup


def create(backend_options: Any, pg_options: Any = None) -> SwitchProcessGroup:
    """What torch calls for `init_process_group("switchml")` and `new_group(backend="switchml")`."""
    from switchml.torch_backend.creation import create_process_group

    return create_process_group(backend_options, pg_options)


def register() -> None:
    """Register the backend; again does nothing. Never raises: that would break `import torch` itself."""
    try:
        import torch.distributed as dist

        if not dist.is_available() or BACKEND_NAME.upper() in dist.Backend._plugins:
            return
        # "cpu" as a list: a string would be read letter by letter. torch's default for CPU stays gloo.
        dist.Backend.register_backend(BACKEND_NAME, create, extended_api=True, devices=["cpu"])
        as_asked()
    except Exception as error:
        _complain(error)


def as_asked() -> None:
    """What the environment asks for besides; see `switchml.variables`."""
    names, asked = os.environ.get("SWITCHML_BACKEND_FOR"), os.environ.get("SWITCHML_DATA_PARALLEL")
    if not names and not asked:
        return
    from switchml.errors import UsageError

    try:
        if names:
            from switchml.torch_backend.substitution import substitute

            substitute([name.strip().lower() for name in names.split(",")])
        if asked:
            from switchml.torch_backend.data_parallel.unedited import activate

            activate(asked)
    except UsageError as error:
        print(f"switchml: {error}", file=sys.stderr, flush=True)


def _complain(error: Exception) -> None:
    try:
        warnings.warn(
            f"the torch.distributed backend {BACKEND_NAME!r} is not available: {error!r}. "
            'Install a recent torch (`pip install "switchml[torch]"`).',
            RuntimeWarning,
            stacklevel=3,
        )
    except Exception:
        return  # warnings are errors here
