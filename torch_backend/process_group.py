"""The process group: torch's collectives, carried by the switch or handed to gloo as the routing table says.

Every method that C++ can call on a Python process group is defined here, because the base class would run with the
GIL held. `rank` and `size` are the exception: the base class knows them from its constructor.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store
from typing_extensions import override

from switchml.errors import UsageError, WorkerClosedError
from switchml.torch_backend.agreement import said
from switchml.torch_backend.backend_name import BACKEND_NAME
from switchml.torch_backend.gather_job import GatherJob
from switchml.torch_backend.kept_handles import KeptHandles
from switchml.torch_backend.membership import Membership
from switchml.torch_backend.observation import Observation
from switchml.torch_backend.options import Options
from switchml.torch_backend.reduction import CallOptions, call_options, operation
from switchml.torch_backend.routing import Path, choose, gloo_methods, taken_by_gloo
from switchml.torch_backend.row_sums import RowSums
from switchml.torch_backend.short_way import ShortWay
from switchml.torch_backend.switch_work import Finish, SwitchWork
from switchml.torch_backend.tensors import (
    Flat,
    apart,
    assign,
    for_reduction,
    for_transfer,
    is_lazy,
    on_device,
    tensors_in,
)
from switchml.torch_backend.untraced import untraced
from switchml.worker.collectives import Collectives
from switchml.worker.elements import reduce_rows
from switchml.worker.work import Work

if TYPE_CHECKING:
    from switchml.torch_backend.cuda.device_collectives import DeviceCollectives

Array = np.ndarray[Any, Any]
Tensors = torch.Tensor | Sequence[torch.Tensor]
Open = Callable[[], Collectives]


# By what names torch has the parameters of a method's other form, that without an options object.
_PLAIN = {
    "allreduce": {"tensor": "tensors", "op": "opts"},
    "broadcast": {"tensor": "tensors", "root": "opts"},
    "reduce": {"tensor": "tensors", "root": "opts"},
    "allgather": {"input_tensor": "input_tensors", "timeout": "opts"},
    "reduce_scatter": {"output": "output_tensors", "input": "input_tensors", "op": "opts"},
}


def _switched(
    method: str,
    *,
    inputs: str = "",
    reduces: bool = False,
    short: Callable[..., SwitchWork | None] | None = None,
) -> Callable[[Callable[..., SwitchWork]], Callable[..., Any]]:
    """Makes a collective of a function that gets, before torch's arguments, what opens the worker the table chose.

    Args:
        method: torch's name of it.
        inputs: the parameter with this rank's tensors; "": there are none, so the table has one answer. Outputs, where
            they are others, come first.
        reduces: it has an operation, in `opts`.
        short: that of `ShortWay`, where there is one: asked first of a call with an options object.
    """

    def decorate(function: Callable[..., SwitchWork]) -> Callable[..., Any]:
        plain = _PLAIN.get(method, {})
        code = function.__code__
        names = code.co_varnames[2 : code.co_argcount]

        @functools.wraps(function)
        def call(self: SwitchProcessGroup, *args: Any, **kwargs: Any) -> Any:
            if short is not None and hasattr(kwargs.get("opts") or (args and args[-1]), "asyncOp"):
                handle = short(self._short_way, *args, **kwargs)
                if handle is not None:
                    self._sequence += 1
                    return handle
            membership = self._membership
            membership.check()
            if on_device(args):
                return self._on_device(method, args, kwargs)
            if not inputs:
                with self._observation.of(method, args, kwargs, ()) as observe:
                    work = observe(function(self, membership.worker, *args, **kwargs))
                membership.agreement.note(said(method, Path.SWITCH, (), None), work)
                return work
            named = {plain.get(name, name): value for name, value in kwargs.items()}
            given = dict(zip(names, args, strict=False)) | named
            tensors = list(tensors_in(given[inputs]))
            if not tensors:
                raise UsageError(f"{method} requires non-empty tensor list")
            reduced = None
            if reduces:
                options = given.get("opts")
                # reduce() with plain arguments: the root stands there
                reduced = operation(given.get("op") if isinstance(options, int) else options)
            path = choose(method, tensors, reduced, membership.world_size)
            outputs = list(tensors_in(given[names[0]])) if inputs != names[0] else []
            if path in (Path.SWITCH, Path.BESIDE):  # what goes to gloo shows itself
                via = membership.worker if path is Path.SWITCH else self._gather_worker
                with self._observation.of(method, args, kwargs, tensors) as observe:
                    work = observe(function(self, via, *args, **named))
            elif path is Path.ROWS:
                options = call_options(given.get("opts"), given.get("timeout"))
                with self._observation.of(method, args, kwargs, tensors) as observe:
                    work = observe(self._by_rows(method, tensors, options))
            elif taken_by_gloo(method, tensors, outputs, membership.world_size):
                work = self._by_gloo(method, args, kwargs)
            else:
                work = function(self, membership.gloo_worker, *args, **named)
            membership.agreement.note(said(method, path, tensors, reduced), work)
            return work

        return untraced(call)

    return decorate


# Of what is handed to gloo; the others are no collectives, and not counted.
_OF_ALL_RANKS = frozenset({"gather", "scatter", "alltoall", "all_to_all_single", "alltoall_base"})
_OF_TWO_RANKS = {
    "send": "send to rank {}",
    "recv": "recv from rank {}",
    "recv_anysource": "recv from any rank",
    "recvAnysource": "recv from any rank",
}


def _handed_to_gloo(method: str) -> Callable[..., Any]:
    def call(self: SwitchProcessGroup, *args: Any, **kwargs: Any) -> Any:
        membership = self._membership
        membership.check()
        if on_device(args):
            return self._on_device(method, args, kwargs)
        if any(is_lazy(tensor) for tensor in tensors_in(*args, *kwargs.values())):
            raise UsageError(
                f"{method}: gloo would move the memory of a conjugated or negated view as it is; give it "
                "tensor.resolve_conj() or tensor.resolve_neg()"
            )
        if method in _OF_TWO_RANKS:
            work = getattr(membership.gloo.group, method)(*args, **kwargs)
            named = (kwargs[name] for name in ("dstRank", "srcRank") if name in kwargs)
            membership.agreement.note_transfer(_OF_TWO_RANKS[method].format(*args[1:2], *named), work)
            return work
        if method not in _OF_ALL_RANKS:
            return getattr(membership.gloo.group, method)(*args, **kwargs)
        work = self._by_gloo(method, args, kwargs)
        membership.agreement.note(
            said(method, Path.GLOO, list(tensors_in(*args, *kwargs.values())), None), work
        )
        return work

    call.__name__ = method
    call.__doc__ = f"Torch's own `{method}`, over gloo."
    return untraced(call)


def _only(tensors: Tensors) -> torch.Tensor:
    if isinstance(tensors, torch.Tensor):
        return tensors
    if len(tensors) != 1:
        raise UsageError(
            f"{len(tensors)} tensors in one call; a rank has one device here, so give one tensor"
        )
    return tensors[0]


def _check_alike(name: str, tensors: Sequence[torch.Tensor]) -> None:
    if any(one.dtype != tensors[0].dtype or one.shape != tensors[0].shape for one in tensors):
        raise UsageError(f"{name}: several tensors in one call must have one dtype and one shape")


def _reduced_here(flats: Sequence[Flat], op: str) -> Flat:
    """What one rank gives for several tensors."""
    first = flats[0]
    total = np.empty_like(first.array)
    reduce_rows(np.stack([flat.array for flat in flats]), first.dtype or total.dtype.name, op, total)
    return Flat(total, first.dtype, None)


def _chosen(name: str, tensors: Sequence[torch.Tensor], opts: Any) -> torch.Tensor:
    """The one that counts of several in one call."""
    _check_alike(name, tensors)
    index = getattr(opts, "rootTensor", 0)
    if not 0 <= index < len(tensors):
        raise UsageError(f"{name}: invalid root tensor {index} of {len(tensors)}")
    return tensors[index]


def _write_back(flat: Flat) -> Finish | None:
    write_back = flat.write_back
    return None if write_back is None else lambda results: write_back()


class SwitchProcessGroup(dist.ProcessGroup):
    """A process group whose reductions are summed by a switch. Made by `init_process_group("switchml")`.

    Collectives raise `switchml.errors.UsageError` for what they cannot take; what goes wrong on the way comes out of
    `wait` of the handle, as a `switchml.errors.CollectiveError`. Calls must come in the same order on all ranks.
    """

    def __init__(
        self,
        membership: Membership,
        store: Store,
        join_rows: Callable[[], Membership],
        join_gathers: Callable[[], Membership],
        open_device: Callable[[], DeviceCollectives] | None = None,
    ) -> None:
        """Of one rank.

        Args:
            membership: closed with the group.
            store: the group's.
            join_rows: called by all ranks at their first sum of sparse tensors: joins the job for them.
            join_gathers: likewise, at their first large all-gather.
            open_device: called by all ranks at their first collective of tensors on a GPU.
        """
        # With the store as a third argument torch refuses Python subclasses.
        super().__init__(membership.rank, membership.world_size)  # type: ignore[call-arg]
        self._membership = membership
        self._group_store = store
        self._group_name = ""
        self._group_desc = ""
        self._sequence = 0
        self._kept = KeptHandles()
        self._short_way = ShortWay(membership, self._kept)
        self._observation = Observation(membership.rank, membership.world_size)
        self._open_device = open_device
        self._device: DeviceCollectives | None = None
        self._join_rows = join_rows
        self._rows: RowSums | None = None
        self._join_gathers = join_gathers
        self._gathers: GatherJob | None = None
        self._finalizer = weakref.finalize(self, membership.close)
        self._finalizer.atexit = False  # memberships see to the end of the program themselves

    # Identity -----------------------------------------------------------------------------------------------------

    def getBackendName(self) -> str:
        """The backend's name, as C++ asks for it."""
        return BACKEND_NAME

    def _get_backend_name(self) -> str:
        return BACKEND_NAME

    @override
    def name(self) -> str:
        return BACKEND_NAME

    def getGroupName(self) -> str:
        """The name that torch gave the group."""
        return self._group_name

    def setGroupName(self, name: str) -> None:
        """Called by torch when it has made the group."""
        self._group_name = name

    def getGroupDesc(self) -> str:
        """The description that torch or the user gave the group."""
        return self._group_desc

    def setGroupDesc(self, description: str) -> None:
        """Called by torch when it has made the group."""
        self._group_desc = description

    @override
    def get_group_store(self) -> Store:
        return self._group_store

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("cpu")]

    def _get_backend(self, device: torch.device) -> Any:
        """The gloo backend: what torch asks of it (the timeout) then holds for the switch as well."""
        if torch.device(device).type != "cpu":
            raise RuntimeError(
                f"the backend {BACKEND_NAME} has nothing registered for {device}, only for cpu"
            )
        return self._membership.gloo.backend

    @property
    def options(self) -> Options:
        """The options of the group, with the timeout that holds now (torch looks for `_timeout` in it)."""
        return self._membership.options

    def set_timeout(self, timeout: timedelta) -> None:
        """Deadline of the collectives that are called from now on."""
        self._membership.gloo.backend._set_default_timeout(timeout)

    def switch_counters(self) -> dict[str, int]:
        """This rank's packets, bytes and retransmissions on the switch; see `switchml.worker.Worker.counters`."""
        total = Counter(self._membership.counters())
        for beside in self._beside():
            total.update(beside.counters())
        return dict(total)

    @property
    def switch_address(self) -> str:
        """Host and port ("host:port") of the switch's control service; "" before its first use. Of several, with commas."""
        placement = self._membership.placement
        return "" if placement is None else placement.addresses

    def _set_sequence_number_for_group(self) -> None:
        """Torch's, for gloo: ours counts from the group's first collective."""

    def _get_sequence_number_for_group(self) -> int:
        """Collectives called so far, on the switch; equal on ranks that are in step."""
        return self._sequence

    # Life ---------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Leave the switch and drop gloo, within seconds; collectives in flight fail. Idempotent."""
        device, self._device = self._device, None
        if device is not None:
            device.close()
        for beside in self._beside():
            beside.close()
        self._finalizer()
        self._kept.clear()

    def abort(self) -> None:
        """As `shutdown`, without waiting for threads to end."""
        self._finalizer.detach()
        device, self._device = self._device, None
        if device is not None:
            threading.Thread(target=device.close, name="switchml-device-close", daemon=True).start()
        for beside in self._beside():
            beside.close(timeout=0.0, linger=False)
        self._membership.close(timeout=0.0, linger=False)
        self._kept.clear()

    @staticmethod
    def _refuse_split(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"the backend {BACKEND_NAME} cannot split or merge groups; use new_group")

    split_group = splitGroup = merge_remote_group = mergeRemoteGroup = _refuse_split

    # Collectives on the switch ------------------------------------------------------------------------------------

    @override
    @_switched("allreduce", inputs="tensors", reduces=True, short=ShortWay.allreduce)
    def allreduce(
        self, via: Open, tensors: Tensors, opts: Any = None, timeout: timedelta | None = None
    ) -> SwitchWork:
        op, call = operation(opts), call_options(opts, timeout)
        if not isinstance(tensors, torch.Tensor) and len(tensors) > 1:
            return self._allreduce_all(via, "allreduce", tensors, op, call, tensors)
        tensor = _only(tensors)
        flat = for_reduction(tensor, op)
        part = self._allreduce(via, flat, op, call)
        return self._work("allreduce", [part], [tensor], call, _write_back(flat))

    @override
    @_switched("allreduce_coalesced", inputs="tensors", reduces=True)
    def allreduce_coalesced(self, via: Open, tensors: Sequence[torch.Tensor], opts: Any = None) -> SwitchWork:
        op, call = operation(opts), call_options(opts)
        flats = apart([for_reduction(tensor, op) for tensor in tensors])
        parts = [self._allreduce(via, flat, op, call) for flat in flats]
        copies = [flat.write_back for flat in flats if flat.write_back is not None]

        def finish(_: Sequence[Array]) -> None:
            for write_back in copies:
                write_back()

        return self._work("allreduce_coalesced", parts, list(tensors), call, finish if copies else None)

    @override
    @_switched("reduce", inputs="tensors", reduces=True, short=ShortWay.reduce)
    def reduce(
        self, via: Open, tensors: Tensors, opts: Any = None, op: Any = None, timeout: timedelta | None = None
    ) -> SwitchWork:
        call = self._rooted(opts, timeout)
        name = operation(op if isinstance(opts, int) else opts)
        if not isinstance(tensors, torch.Tensor) and len(tensors) > 1:
            at_root = _chosen("reduce", tensors, opts)
            kept = [at_root] if self._membership.rank == call.root else []
            return self._allreduce_all(via, "reduce", tensors, name, call, kept)
        tensor = _only(tensors)
        flat = for_reduction(tensor, name)
        part = via().reduce(
            flat.array,
            call.root,
            name,
            dtype=flat.dtype,
            timeout=self._deadline(call),
            notify=call.notify,
        )
        # The other ranks' tensors must stay as they are.
        finish = _write_back(flat) if self._membership.rank == call.root else None
        return self._work("reduce", [part], [tensor], call, finish)

    @override
    @_switched("broadcast", inputs="tensors", short=ShortWay.broadcast)
    def broadcast(
        self, via: Open, tensors: Tensors, opts: Any = None, timeout: timedelta | None = None
    ) -> SwitchWork:
        call = self._rooted(opts, timeout)
        every = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        flat = for_transfer(_chosen("broadcast", every, opts))
        part = via().broadcast(flat.array, call.root, timeout=self._deadline(call), notify=call.notify)
        finish = _write_back(flat)
        if len(every) > 1:

            def finish(_: Sequence[Array]) -> None:
                for tensor in every:
                    assign(tensor, flat.array)

        return self._work("broadcast", [part], every, call, finish)

    @override
    @_switched("barrier", short=ShortWay.barrier)
    def barrier(self, via: Open, opts: Any = None, timeout: timedelta | None = None) -> SwitchWork:
        if isinstance(opts, timedelta):
            opts, timeout = None, opts
        call = call_options(opts, timeout)
        part = via().barrier(timeout=self._deadline(call), notify=call.notify)
        return self._work("barrier", [part], [], call)

    @override
    @_switched("allgather", inputs="input_tensors", short=ShortWay.allgather)
    def allgather(
        self, via: Open, output_tensors: Any, input_tensors: Tensors, opts: Any = None
    ) -> SwitchWork:
        if isinstance(input_tensors, torch.Tensor):
            return self._gather(via, "allgather", list(output_tensors), input_tensors, opts)
        if len(input_tensors) == 1:
            return self._gather(via, "allgather", list(output_tensors[0]), input_tensors[0], opts)
        return self._gather_each(via, output_tensors, input_tensors, opts)

    @override
    @_switched("all_gather_single", inputs="input", short=ShortWay.all_gather_single)
    def all_gather_single(
        self, via: Open, output: torch.Tensor, input: torch.Tensor, opts: Any = None
    ) -> SwitchWork:
        return self._gather(via, "all_gather_single", [output], input, opts)

    @_switched("_allgather_base", inputs="input", short=ShortWay.all_gather_single)
    def _allgather_base(
        self, via: Open, output: torch.Tensor, input: torch.Tensor, opts: Any = None
    ) -> SwitchWork:
        return self._gather(via, "all_gather_single", [output], input, opts)

    @override
    @_switched("allgather_coalesced", inputs="input_list")
    def allgather_coalesced(
        self,
        via: Open,
        output_lists: list[list[torch.Tensor]],
        input_list: list[torch.Tensor],
        opts: Any = None,
    ) -> SwitchWork:
        by_tensor = [list(outputs) for outputs in zip(*output_lists, strict=True)]
        pairs = list(zip(by_tensor, input_list, strict=True))
        return self._gather_all(via, "allgather_coalesced", pairs, opts)

    def _gather_single_coalesced(
        self, via: Open, output_lists: list[torch.Tensor], input_list: list[torch.Tensor], opts: Any = None
    ) -> SwitchWork:
        pairs = [([output], tensor) for output, tensor in zip(output_lists, input_list, strict=True)]
        return self._gather_all(via, "all_gather_single_coalesced", pairs, opts)

    all_gather_single_coalesced = _switched("all_gather_single_coalesced", inputs="input_list")(
        _gather_single_coalesced
    )
    allgather_into_tensor_coalesced = _switched("allgather_into_tensor_coalesced", inputs="input_list")(
        _gather_single_coalesced
    )

    @override
    @_switched("reduce_scatter", inputs="input_tensors", reduces=True, short=ShortWay.reduce_scatter)
    def reduce_scatter(
        self,
        via: Open,
        output_tensors: Tensors,
        input_tensors: Any,
        opts: Any = None,
        timeout: timedelta | None = None,
    ) -> SwitchWork:
        if not isinstance(output_tensors, torch.Tensor) and len(output_tensors) > 1:
            return self._scatter_each(via, output_tensors, input_tensors, opts, timeout)
        inputs = input_tensors if isinstance(output_tensors, torch.Tensor) else input_tensors[0]
        return self._scatter(via, "reduce_scatter", [(_only(output_tensors), list(inputs))], opts, timeout)

    def _reduce_scatter_single(
        self, via: Open, outputTensor: torch.Tensor, inputTensor: torch.Tensor, opts: Any = None
    ) -> SwitchWork:
        return self._scatter(via, "reduce_scatter_single", [(outputTensor, inputTensor)], opts)

    reduce_scatter_single = _switched(
        "reduce_scatter_single", inputs="inputTensor", reduces=True, short=ShortWay.reduce_scatter_single
    )(_reduce_scatter_single)
    _reduce_scatter_base = _switched(
        "_reduce_scatter_base", inputs="inputTensor", reduces=True, short=ShortWay.reduce_scatter_single
    )(_reduce_scatter_single)

    def _reduce_scatter_coalesced(
        self, via: Open, outputTensors: list[torch.Tensor], inputTensors: list[torch.Tensor], opts: Any = None
    ) -> SwitchWork:
        pairs = list(zip(outputTensors, inputTensors, strict=True))
        return self._scatter(via, "reduce_scatter_single_coalesced", pairs, opts)

    reduce_scatter_single_coalesced = _switched(
        "reduce_scatter_single_coalesced", inputs="inputTensors", reduces=True
    )(_reduce_scatter_coalesced)
    reduce_scatter_tensor_coalesced = _switched(
        "reduce_scatter_tensor_coalesced", inputs="inputTensors", reduces=True
    )(_reduce_scatter_coalesced)

    # How they are done --------------------------------------------------------------------------------------------

    def _on_device(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._finalizer.alive:
            raise WorkerClosedError("the process group was shut down; create it anew")
        if self._device is None:
            if self._open_device is None:
                raise UsageError(f"{method}: this group takes tensors on the CPU only")
            self._device = self._open_device()
        self._sequence += 1
        return self._device.call(method, args, kwargs)

    def _by_gloo(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> SwitchWork:
        membership = self._membership
        part = membership.by_gloo(
            lambda group: getattr(group, method)(*args, **kwargs), f"{method} over gloo"
        )
        given = (*args, *kwargs.values())
        call = call_options(next((one for one in given if hasattr(one, "asyncOp")), None))
        return self._work(method, [part], list(tensors_in(given[0])), call)

    def _beside(self) -> list[RowSums | GatherJob]:
        """The jobs that this group has besides its own."""
        return [job for job in (self._rows, self._gathers) if job is not None]

    def _gather_worker(self) -> Collectives:
        if self._gathers is None:
            membership = self._membership
            self._gathers = GatherJob(membership.rank, membership.world_size, self._join_gathers)
            membership.others.append(self._gathers)
            weakref.finalize(self, self._gathers.close).atexit = False
        return self._gathers.worker()

    def _by_rows(self, method: str, tensors: list[torch.Tensor], call: CallOptions) -> SwitchWork:
        if self._rows is None:
            self._rows = RowSums(self._join_rows)
            self._membership.others.append(self._rows)
            weakref.finalize(self, self._rows.close).atexit = False
        _check_alike(method, tensors)
        part, result = self._rows.allreduce(tensors, self._deadline(call))

        def finish(_: Sequence[Array]) -> None:
            with torch.no_grad():
                for tensor in tensors:
                    tensor.copy_(result())

        return self._work(method, [part], tensors, call, finish)

    def _deadline(self, call: CallOptions) -> float:
        return self._membership.timeout if call.timeout is None else call.timeout

    def _rooted(self, options: Any, timeout: timedelta | None) -> CallOptions:
        call = call_options(options, timeout)
        if isinstance(options, int):
            call = call._replace(root=options)
        if not 0 <= call.root < self._membership.world_size:
            raise UsageError(f"root {call.root} is not a rank of this group of {self._membership.world_size}")
        return call

    def _allreduce(self, via: Open, flat: Flat, op: str, call: CallOptions, out: Array | None = None) -> Work:
        return via().allreduce(
            flat.array, op, out=out, dtype=flat.dtype, timeout=self._deadline(call), notify=call.notify
        )

    def _allreduce_all(
        self,
        via: Open,
        name: str,
        tensors: Sequence[torch.Tensor],
        op: str,
        call: CallOptions,
        results: Sequence[torch.Tensor],
    ) -> SwitchWork:
        """Over all tensors of all ranks, into each of `results`, as torch has it of several in one call."""
        _check_alike(name, tensors)
        flat = _reduced_here([for_reduction(tensor, op) for tensor in tensors], op)
        part = self._allreduce(via, flat, op, call)

        def finish(_: Sequence[Array]) -> None:
            for tensor in results:
                assign(tensor, flat.array)

        return self._work(name, [part], list(tensors), call, finish)

    def _scatter_each(
        self,
        via: Open,
        outputs: Sequence[torch.Tensor],
        input_lists: Sequence[Sequence[torch.Tensor]],
        opts: Any,
        timeout: timedelta | None,
    ) -> SwitchWork:
        """Over all lists of all ranks, which have a tensor for each output of each rank, in the order of ranks."""
        op, call = operation(opts), call_options(opts, timeout)
        count = len(outputs)
        wanted = count * self._membership.world_size
        _check_alike("reduce_scatter", [*outputs, *(tensor for one in input_lists for tensor in one)])
        if len(input_lists) != count or any(len(one) != wanted for one in input_lists):
            raise UsageError(
                f"reduce_scatter into {count} tensors takes {count} lists of {count} x world size tensors"
            )
        rows = [[for_reduction(tensor, op) for tensor in one] for one in input_lists]
        dtype = rows[0][0].dtype
        joined = [Flat(np.concatenate([flat.array for flat in row]), dtype, None) for row in rows]
        flat = _reduced_here(joined, op)
        part = self._allreduce(via, flat, op, call)
        size = flat.array.size // wanted

        def finish(results: Sequence[Array]) -> None:
            for index, output in enumerate(outputs, self._membership.rank * count):
                assign(output, results[0][index * size : (index + 1) * size])

        return self._work("reduce_scatter", [part], list(outputs), call, finish)

    def _gather_each(
        self, via: Open, output_tensors: Any, input_tensors: Sequence[torch.Tensor], opts: Any
    ) -> SwitchWork:
        """Every output list takes all tensors of all ranks, in the order of ranks."""
        _check_alike("allgather", input_tensors)
        count = len(input_tensors)
        outputs = [list(one) for one in output_tensors]
        if len(outputs) != count or any(len(one) != count * self._membership.world_size for one in outputs):
            raise UsageError(
                f"allgather of {count} tensors takes {count} lists of {count} x world size tensors"
            )
        pairs = [(one[index::count], tensor) for one in outputs for index, tensor in enumerate(input_tensors)]
        return self._gather_all(via, "allgather", pairs, opts)

    def _work(
        self,
        name: str,
        parts: Sequence[Work],
        outputs: list[torch.Tensor],
        call: CallOptions,
        finish: Finish | None = None,
    ) -> SwitchWork:
        self._sequence += 1
        return SwitchWork(
            name,
            parts,
            outputs,
            self._membership.pool,
            finish=finish,
            notify=call.notify,
            keeper=self._kept,
            explain=self._membership.agreement.explain,
        )

    def _gather(
        self, via: Open, name: str, outputs: list[torch.Tensor], tensor: torch.Tensor, opts: Any
    ) -> SwitchWork:
        return self._gather_all(via, name, [(outputs, tensor)], opts)

    def _gather_all(
        self, via: Open, name: str, pairs: Sequence[tuple[list[torch.Tensor], torch.Tensor]], opts: Any
    ) -> SwitchWork:
        """For each (outputs, input): `outputs` is one tensor a rank, or a single one that takes them all end to end."""
        for outputs, tensor in pairs:
            self._check_gather(name, outputs, tensor)
        timeout = opts if isinstance(opts, timedelta) else None
        call = call_options(None if timeout else opts, timeout)
        flats = [for_transfer(tensor) for _, tensor in pairs]
        worker = via()
        parts = [
            worker.allgather(flat.array, timeout=self._deadline(call), notify=call.notify) for flat in flats
        ]

        # Never straight into the output: the input is often a part of it.
        def finish(results: Sequence[Array]) -> None:
            for (outputs, _), result in zip(pairs, results, strict=True):
                for output, values in zip(outputs, result.reshape(len(outputs), -1), strict=True):
                    assign(output, values)

        return self._work(name, parts, [output for outputs, _ in pairs for output in outputs], call, finish)

    def _check_gather(self, name: str, outputs: list[torch.Tensor], tensor: torch.Tensor) -> None:
        world_size = self._membership.world_size
        room = [(output.numel() * len(outputs), output.dtype) for output in outputs]
        # allgather and its coalesced form name an output a rank; the others have one for all.
        ranks_match = "single" in name or len(outputs) == world_size
        if not ranks_match or any(entry != (world_size * tensor.numel(), tensor.dtype) for entry in room):
            raise UsageError(
                f"{name} over {world_size} ranks of {tensor.numel()} elements of {tensor.dtype} does not fit into "
                f"outputs of {', '.join(f'{output.numel()} of {output.dtype}' for output in outputs) or 'nothing'}"
            )

    def _scatter(
        self,
        via: Open,
        name: str,
        pairs: Sequence[tuple[torch.Tensor, Tensors]],
        opts: Any,
        timeout: timedelta | None = None,
    ) -> SwitchWork:
        """For each (output, inputs): reduce all inputs, and keep this rank's part."""
        op, call = operation(opts), call_options(opts, timeout)
        prepared = [self._scatter_input(name, output, inputs, op) for output, inputs in pairs]
        worker = via()
        parts = [
            worker.reduce_scatter(
                flat.array.reshape(self._membership.world_size, -1),
                op,
                dtype=flat.dtype,
                timeout=self._deadline(call),
                notify=call.notify,
            )
            if mine is None
            else self._allreduce(via, flat, op, call)
            for flat, mine in prepared
        ]

        def finish(results: Sequence[Array]) -> None:
            for (output, _), (_, mine), result in zip(pairs, prepared, results, strict=True):
                assign(output, result if mine is None else result[mine])

        return self._work(name, parts, [output for output, _ in pairs], call, finish)

    def _scatter_input(
        self, name: str, output: torch.Tensor, inputs: Tensors, op: str
    ) -> tuple[Flat, slice | None]:
        """What to reduce, and this rank's part of the result where ranks' parts are not alike."""
        rank, world_size = self._membership.rank, self._membership.world_size
        tensors = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
        single = isinstance(inputs, torch.Tensor)
        fits = tensors[0].numel() == world_size * output.numel() if single else len(tensors) == world_size
        if not fits or any(tensor.dtype != output.dtype for tensor in tensors):
            raise UsageError(
                f"{name} over {world_size} ranks of {', '.join(f'{t.numel()} of {t.dtype}' for t in tensors)} does not "
                f"fit into an output of {output.numel()} of {output.dtype}"
            )
        flats = [for_reduction(tensor, op) for tensor in tensors]
        sizes = (
            [flats[0].array.size // world_size] * world_size
            if single
            else [flat.array.size for flat in flats]
        )
        if not single and tensors[rank].numel() != output.numel():
            raise UsageError(
                f"{name}: input {rank} has {tensors[rank].numel()} elements, output {output.numel()}"
            )
        array = flats[0].array if single else np.concatenate([flat.array for flat in flats])
        begin = sum(sizes[:rank])
        mine = None if len(set(sizes)) == 1 else slice(begin, begin + sizes[rank])
        return Flat(array, flats[0].dtype, None), mine


for _method in gloo_methods():
    if hasattr(dist.ProcessGroup, _method):  # names differ over versions
        setattr(SwitchProcessGroup, _method, _handed_to_gloo(_method))

# By what names C++ looks for them from torch 2.14 on, and how Python calls them.
for _name, _method in {
    "recvAnysource": "recv_anysource",
    "start_coalescing": "_start_coalescing",
    "end_coalescing": "_end_coalescing",
}.items():
    setattr(SwitchProcessGroup, _name, _handed_to_gloo(_method))
