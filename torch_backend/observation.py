"""Shows collectives to whoever looks: torch.profiler, and dispatch modes such as CommDebugMode.

What torch does itself for gloo happens in C++, on the way from an operator (`c10d::allreduce_`) to a backend, which a process
group written in Python does not take. So, while somebody looks, a call goes that way once more beforehand, to torch's own backend
that does nothing; and the profiler is told of the call, and of each wait for its end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FakeProcessGroup, HashStore
from torch.utils._python_dispatch import _disable_current_modes

from switchml.torch_backend.switch_work import SwitchWork

TITLES = {
    "allreduce": "all_reduce",
    "allreduce_coalesced": "all_reduce",
    "allgather": "all_gather",
    "all_gather_single": "all_gather",
    "_allgather_base": "all_gather",
    "allgather_coalesced": "all_gather",
    "all_gather_single_coalesced": "all_gather",
    "allgather_into_tensor_coalesced": "all_gather",
    "reduce_scatter_single": "reduce_scatter",
    "_reduce_scatter_base": "reduce_scatter",
    "reduce_scatter_single_coalesced": "reduce_scatter",
    "reduce_scatter_tensor_coalesced": "reduce_scatter",
}
"""As gloo calls them, where that is not the method's name."""
_IN_PLACE = frozenset({"allreduce", "allreduce_coalesced", "broadcast", "reduce", "barrier"})

_autograd: Any = torch._C._autograd


def is_observed() -> bool:
    """Whether anybody looks."""
    return _autograd._profiler_enabled() or torch._C._len_torch_dispatch_stack() > 0


class Observation:
    """Of one group."""

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank, self._world_size = rank, world_size
        self._nothing: Any = None

    def of(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: Sequence[torch.Tensor]
    ) -> contextlib.AbstractContextManager[Callable[[SwitchWork], SwitchWork]]:
        """Around the call of a method of torch's.

        Args:
            method: its name.
            args: its arguments.
            kwargs: likewise, as torch names them.
            tensors: the inputs among them.

        Returns:
            A context, with what takes the handle of the collective, and returns it.
        """
        profiled = _autograd._profiler_enabled()
        if is_observed():
            self._dispatch(method, args, kwargs)
        return _profiled(method, tensors) if profiled else _UNSEEN

    def _dispatch(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._nothing is None:
            kind = dist.ProcessGroup.BackendType.CUSTOM
            group = dist.ProcessGroup(HashStore(), self._rank, self._world_size)
            backend = FakeProcessGroup._create_internal(self._rank, self._world_size)
            group._register_backend(torch.device("cpu"), kind, backend)
            group._set_default_backend(kind)
            self._nothing = group
        if method not in _IN_PLACE:  # it fills outputs, which may be parts of inputs
            with _disable_current_modes():
                args, kwargs = _copied(args), {name: _copied(value) for name, value in kwargs.items()}
        with contextlib.suppress(TypeError):  # a form of the arguments that only ours take
            getattr(self._nothing, method)(*args, **kwargs)


@contextlib.contextmanager
def _profiled(method: str, tensors: Sequence[torch.Tensor]) -> Iterator[Callable[[SwitchWork], SwitchWork]]:
    title = f"switchml:{TITLES.get(method, method)}"

    def observe(work: SwitchWork) -> SwitchWork:
        work.shown_as = title
        return work

    # Begun and ended here: an event that another thread ends after the profiler has writes into memory that it has freed.
    sized = _autograd._record_function_with_args_enter(title, *tensors)
    try:
        yield observe
    finally:
        _autograd._record_function_with_args_exit(sized)


def _same(work: SwitchWork) -> SwitchWork:
    return work


_UNSEEN = contextlib.nullcontext(_same)


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return type(value)(map(_copied, value)) if isinstance(value, (list, tuple)) else value
