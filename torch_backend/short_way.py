"""The short way of calls that come again: what their shape decides is looked up, and where the caller waits at once
(`async_op=False`) they are over when they return.

Of dense tensors alone, in one form of each call, while nobody looks; for everything else a method here returns None, and the
process group goes on with it. Where the worker has nothing prepared for the shape, likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, c_char, memmove
from typing import Any, NamedTuple

import numpy as np
import torch

from switchml.torch_backend.agreement import Said, said
from switchml.torch_backend.kept_handles import KeptHandles
from switchml.torch_backend.membership import Membership
from switchml.torch_backend.observation import is_observed
from switchml.torch_backend.reduction import WORKER_OPERATION, seconds
from switchml.torch_backend.routing import Path, choose
from switchml.torch_backend.switch_work import BlockingWork, SwitchWork
from switchml.torch_backend.tensors import NUMPY_TYPES, is_dense, tensors_in
from switchml.worker.collectives import Beginning, Collectives
from switchml.worker.elements import BFLOAT16

_BYTES = np.dtype(np.uint8)
_NOTHING = np.empty(0, np.uint8)
_KEPT_ENTRIES = 256
_DTYPES: dict[torch.dtype, tuple[np.dtype[Any], str | None]] = {
    **{dtype: (np.dtype(name), None) for dtype, name in NUMPY_TYPES.items()},
    torch.bfloat16: (np.dtype(np.uint16), BFLOAT16),
}
"""Of what can be reduced: as numpy has it, and the name where that does not say it."""
_COLLECTIVES = {"all_gather_single": "allgather", "reduce_scatter_single": "reduce_scatter"}
"""The worker's names, where they are not torch's."""


class _Entry(NamedTuple):
    carrier: Collectives
    short: Beginning | None  # None: there is no short way
    said: Said


class _Staging:
    """Memory for tensors that do not lie side by side."""

    def __init__(self, size: int) -> None:
        self.memory = bytearray(size)
        self.place = addressof(c_char.from_buffer(self.memory))


def _only(tensors: list[torch.Tensor]) -> torch.Tensor | None:
    """The one dense tensor of a list; torch's plain forms have a tensor there."""
    return tensors[0] if type(tensors) is list and len(tensors) == 1 and is_dense(tensors[0]) else None


def _side_by_side(places: Sequence[int], size: int) -> bool:
    return all(place == places[0] + index * size for index, place in enumerate(places))


class ShortWay:
    """Of one group. Its methods have torch's names and arguments, options included.

    Args:
        membership: of the group.
        keeper: of its handles.
    """

    def __init__(self, membership: Membership, keeper: KeptHandles) -> None:
        self._membership = membership
        self._keeper = keeper
        self._entries: dict[tuple[Any, ...], _Entry] = {}

    def allreduce(self, tensors: list[torch.Tensor], opts: Any) -> SwitchWork | None:
        """In place."""
        tensor = _only(tensors)
        if tensor is None:
            return None
        entry = self._entry("allreduce", tensors, tensor.numel(), opts.reduceOp.op)
        if entry is None:
            return None
        place = tensor.data_ptr()
        return self._through(entry, place, place, tensors, opts)

    def reduce(self, tensors: list[torch.Tensor], opts: Any) -> SwitchWork | None:
        """In place at the root."""
        tensor = _only(tensors)
        if tensor is None:
            return None
        entry = self._entry("reduce", tensors, tensor.numel(), opts.reduceOp.op, opts.rootRank)
        if entry is None:
            return None
        place = tensor.data_ptr()
        return self._through(entry, place, place, tensors, opts)

    def broadcast(self, tensors: list[torch.Tensor], opts: Any) -> SwitchWork | None:
        """In place."""
        tensor = _only(tensors)
        if tensor is None or opts.rootTensor != 0:
            return None
        entry = self._entry("broadcast", tensors, tensor.nbytes, None, opts.rootRank)
        if entry is None:
            return None
        place = tensor.data_ptr()
        return self._through(entry, place, place, tensors, opts)

    def barrier(self, opts: Any) -> SwitchWork | None:
        """Of nothing."""
        entry = self._entry("barrier", (), 0)
        return None if entry is None else self._through(entry, 0, 0, (), opts)

    def allgather(
        self,
        output_tensors: list[list[torch.Tensor]],
        input_tensors: list[torch.Tensor],
        opts: Any,
    ) -> SwitchWork | None:
        """Into one tensor a rank."""
        tensor = _only(input_tensors)
        if tensor is None or not self._are_like(output_tensors, tensor):
            return None
        outputs = output_tensors[0]
        entry = self._entry("allgather", input_tensors, tensor.nbytes)
        if entry is None:
            return None
        size, source = tensor.nbytes, tensor.data_ptr()
        places = [output.data_ptr() for output in outputs]
        kept = tensor, outputs
        if _side_by_side(places, size) and self._is_apart(source, size, places[0]):
            return self._through(entry, source, places[0], outputs, opts, kept)
        if opts.asyncOp:
            return None
        staging = _Staging(size * len(outputs))
        work = self._through(entry, source, staging.place, outputs, opts, (kept, staging))
        if work.is_success():
            for index, place in enumerate(places):
                memmove(place, staging.place + index * size, size)
        return work

    def all_gather_single(self, output: torch.Tensor, input: torch.Tensor, opts: Any) -> SwitchWork | None:
        """Into one for all."""
        ranks = self._membership.world_size
        if not (
            is_dense(input)
            and is_dense(output)
            and output.dtype is input.dtype
            and output.numel() == ranks * input.numel()
        ):
            return None
        size, source, place = input.nbytes, input.data_ptr(), output.data_ptr()
        if not self._is_apart(source, size, place):
            return None
        entry = self._entry("all_gather_single", (input,), size)
        if entry is None:
            return None
        return self._through(entry, source, place, [output], opts, (input, output))

    def reduce_scatter(
        self,
        output_tensors: list[torch.Tensor],
        input_tensors: list[list[torch.Tensor]],
        opts: Any,
    ) -> SwitchWork | None:
        """Of one tensor a rank."""
        output = _only(output_tensors)
        if output is None or not self._are_like(input_tensors, output):
            return None
        inputs = input_tensors[0]
        elements = output.numel() * len(inputs)
        entry = self._entry("reduce_scatter", inputs, elements, opts.reduceOp.op)
        if entry is None:
            return None
        size, place = output.nbytes, output.data_ptr()
        places = [each.data_ptr() for each in inputs]
        kept = output, inputs
        if _side_by_side(places, size) and self._is_apart(place, size, places[0]):
            return self._through(entry, places[0], place, [output], opts, kept)
        staging = _Staging(size * len(inputs))
        for index, source in enumerate(places):
            memmove(staging.place + index * size, source, size)
        return self._through(entry, staging.place, place, [output], opts, (kept, staging))

    def reduce_scatter_single(
        self, outputTensor: torch.Tensor, inputTensor: torch.Tensor, opts: Any
    ) -> SwitchWork | None:
        """Of one for all."""
        output, given = outputTensor, inputTensor
        ranks = self._membership.world_size
        if not (
            is_dense(given)
            and is_dense(output)
            and output.dtype is given.dtype
            and given.numel() == ranks * output.numel()
        ):
            return None
        size, source, place = output.nbytes, given.data_ptr(), output.data_ptr()
        if not self._is_apart(place, size, source):
            return None
        entry = self._entry("reduce_scatter_single", (given,), given.numel(), opts.reduceOp.op)
        if entry is None:
            return None
        return self._through(entry, source, place, [output], opts, (given, output))

    def _are_like(self, lists: list[list[torch.Tensor]], one: torch.Tensor) -> bool:
        """Whether there is one list, of a dense tensor a rank, each like that one."""
        if len(lists) != 1 or len(lists[0]) != self._membership.world_size:
            return False
        dtype, size = one.dtype, one.numel()
        return all(is_dense(each) and each.dtype is dtype and each.numel() == size for each in lists[0])

    def _is_apart(self, part: int, size: int, whole: int) -> bool:
        """Whether this rank's part lies outside the memory of all ranks' parts, or is its own place there."""
        membership = self._membership
        return (
            part + size <= whole
            or whole + size * membership.world_size <= part
            or part == whole + size * membership.rank
        )

    def _entry(
        self, method: str, inputs: Sequence[torch.Tensor], elements: int, kind: Any = None, root: int = 0
    ) -> _Entry | None:
        """What is known of such calls; None: nothing that they could use.

        Args:
            method: torch's name.
            inputs: of one dtype.
            elements: of all of them, or bytes where nothing is reduced.
            kind: torch's operation; None where nothing is reduced.
            root: a rank, or 0.
        """
        key = method, inputs[0].dtype if inputs else None, elements, kind, root
        entry = self._entries.get(key)
        if entry is None or entry.carrier is not self._membership.carrier:
            entry = self._find(method, inputs, elements, kind, root)
            if entry is None:
                return None
            if len(self._entries) >= _KEPT_ENTRIES:
                self._entries.clear()
            self._entries[key] = entry
        return None if entry.short is None or is_observed() else entry

    def _find(
        self, method: str, inputs: Sequence[torch.Tensor], elements: int, kind: Any, root: int
    ) -> _Entry | None:
        membership = self._membership
        carrier = membership.carrier
        reduced = WORKER_OPERATION.get(kind)
        dtype, named = _DTYPES.get(inputs[0].dtype, (None, None)) if kind is not None else (_BYTES, None)
        if carrier is None or dtype is None or (kind is not None and reduced is None):
            return None
        path = choose(method, inputs, reduced, membership.world_size) if inputs else Path.SWITCH
        collective = _COLLECTIVES.get(method, method)
        shape = collective, dtype, elements, reduced or "sum", root, named
        short = carrier.plans[shape] if path is Path.SWITCH else None
        if short is None and path is Path.SWITCH and not carrier.plans.is_settled(shape):
            return None
        return _Entry(carrier, short, said(method, path, inputs, reduced))

    def _through(
        self,
        entry: _Entry,
        source: int,
        out: int,
        outputs: Sequence[torch.Tensor],
        opts: Any,
        kept: Any = None,
    ) -> SwitchWork:
        membership = self._membership
        assert entry.short is not None
        limit = seconds(opts.timeout)
        if limit is None:
            limit = membership.timeout
        results = list(outputs)
        kept = kept or results
        if (
            opts.asyncOp
        ):  # what happens to the caller's own tensors meanwhile (`data`, `set_`) is nothing to their memory
            kept = kept, [tensor.detach() for tensor in tensors_in(*kept)]
        part = entry.short.begin(source, out, kept, _NOTHING, limit, opts.asyncOp)
        agreement = membership.agreement
        if opts.asyncOp:
            under_way = SwitchWork(
                entry.said.method,
                [part],
                results,
                membership.pool,
                keeper=self._keeper,
                explain=agreement.explain,
            )
            agreement.note(entry.said, under_way)
            return under_way
        work = BlockingWork(entry.said.method, part, results)
        agreement.note(entry.said, work)
        work.end(agreement.explain)
        return work
