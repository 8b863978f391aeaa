"""From torch's description of a process group to the group."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch._C._distributed_c10d import PrefixStore, Store

from switchml.errors import UsageError
from switchml.torch_backend.agreement import Agreement
from switchml.torch_backend.membership import Membership, OpenWorker, join_switch
from switchml.torch_backend.options import Options
from switchml.torch_backend.process_group import SwitchProcessGroup
from switchml.variables import log_words

if TYPE_CHECKING:
    from switchml.torch_backend.cuda.device_collectives import DeviceCollectives


def create_process_group(
    backend_options: Any, pg_options: Any = None, *, open_worker: OpenWorker = join_switch
) -> SwitchProcessGroup:
    """Called by all ranks of a group, with torch's extended API.

    The default group joins its job at once, so that a wrong address shows in `init_process_group`. Other groups take
    slots of the switch when they first have something for it: a program may create many and never use most.

    Args:
        backend_options: torch's `_DistributedBackendOptions`.
        pg_options: `Options` or None. Its timeout, if set, goes before that of `backend_options`.
        open_worker: joins the job on the switch.

    Returns:
        The group; torch owns it.

    Raises:
        UsageError: options of another backend.
        SwitchMLError: the job could not be joined.
    """
    if pg_options is None:
        pg_options = Options()
    if not isinstance(pg_options, Options):
        raise UsageError(
            f"pg_options of type {type(pg_options).__name__}; the backend switchml takes "
            "switchml.torch_backend.Options"
        )
    rank, world_size = backend_options.group_rank, backend_options.group_size
    group_class, agreement_class = _classes(rank)
    timeout = pg_options.timeout or backend_options.timeout

    def member(store: Store, name: str) -> Membership:
        return Membership(
            store,
            rank,
            world_size,
            group=name,
            timeout=timeout,
            options=pg_options,
            open_worker=open_worker,
            agree=agreement_class,
        )

    def group_of(
        membership: Membership, store: Store, open_device: Callable[[], DeviceCollectives] | None = None
    ) -> SwitchProcessGroup:
        def join_beside(what: str) -> Callable[[], Membership]:
            return lambda: member(PrefixStore(what, store), f"{backend_options.group_id}-{what}")

        return group_class(membership, store, join_beside("rows"), join_beside("gathers"), open_device)

    def on_host(store: Store) -> SwitchProcessGroup:
        return group_of(member(store, f"{backend_options.group_id}-host"), store)

    def open_device() -> DeviceCollectives:
        from switchml.torch_backend.cuda.device_collectives import open_device_collectives

        return open_device_collectives(
            backend_options.store,
            rank,
            world_size,
            on_host,
            timeout=timeout,
            options=pg_options,
            open_worker=open_worker,
        )

    membership = member(backend_options.store, backend_options.group_id)
    group = group_of(membership, backend_options.store, open_device)
    is_default_group = not backend_options.global_ranks_in_group
    if is_default_group:
        try:
            membership.join()
        except BaseException:
            group.shutdown()
            raise
    return group


def _classes(rank: int) -> tuple[type[SwitchProcessGroup], type[Agreement]]:
    """Of a rank's group: those of the log of collectives where that is wanted."""
    if log_words():
        from switchml.torch_backend.collective_log import LoggedProcessGroup, OverheardAgreement, is_wanted

        if is_wanted(rank):
            return LoggedProcessGroup, OverheardAgreement
    return SwitchProcessGroup, Agreement
