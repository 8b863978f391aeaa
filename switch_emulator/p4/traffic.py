"""What simple_switch does around the program: from port to port, with clones, digests, resubmission, replication and
recirculation, in the order in which it does them at the end of ingress and of egress (BMv2, docs/simple_switch.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from switchml.errors import PipelineError, UnsupportedProgramError
from switchml.p4runtime.entries import CloneSession, Digest, Replica
from switchml.switch_emulator.p4 import support
from switchml.switch_emulator.p4.compiler import CompiledProgram
from switchml.switch_emulator.p4.egress_queues import EgressQueues
from switchml.switch_emulator.p4.expressions import Const, FieldRef
from switchml.switch_emulator.p4.packet import Packet, Slots
from switchml.switch_emulator.p4.program_model import FieldList
from switchml.switch_emulator.p4.program_walk import field_uses, headers_used_whole
from switchml.switch_emulator.p4.runs import RUN_TYPES

# standard_metadata.instance_type
NORMAL, INGRESS_CLONE, EGRESS_CLONE, RECIRCULATED, REPLICATED, RESUBMITTED = 0, 1, 2, 4, 5, 6

# Passes through the pipelines that one frame may cause: a program may recirculate for ever.
MOST_PASSES = 4096

# What a packet may make of a program: a division by zero, a negative index or shift, a number beyond all bounds.
_NO_RESULT = (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError)

FieldReader = Callable[[Slots], int]
Copier = Callable[[Slots, Slots], None]


class _Standard:
    """A standard metadata field: slot and mask. slot -1: the program has no such field, or nothing in it names the field."""

    def __init__(self, compiled: CompiledProgram, name: str, *, named: Callable[[FieldRef], bool]) -> None:
        program = compiled.program
        ref = program.standard(name)
        self.slot = -1
        self.mask = 0
        if ref is not None and named(ref):
            self.slot = compiled.layout.slot(program, ref.header, ref.field)
            self.mask = (1 << program.field_type(ref).width) - 1


class TrafficManager:
    """Takes packets through the program and between its parts.

    Args:
        multicast_groups: shared with the control plane.
        clone_sessions: shared with the control plane.
        queues: between ingress and egress; None = packets go on at once.

    Attributes:
        digests: what the program has to tell it.
        abandoned: packets given up because one frame caused more than MOST_PASSES passes.
    """

    def __init__(
        self,
        compiled: CompiledProgram,
        *,
        clock: Callable[[], int],
        drop_port: int,
        multicast_groups: Mapping[int, Sequence[Replica]],
        clone_sessions: Mapping[int, CloneSession],
        queues: EgressQueues[Packet] | None = None,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self._compiled = compiled
        self._work: list[int] = compiled.namespace["work"]
        self._clock = clock
        self._drop_port = drop_port
        self._groups = multicast_groups
        self._sessions = clone_sessions
        self._queues = queues
        self._trace = trace
        self.abandoned = 0
        self.digests: list[Digest] = []
        # Empty between frames: what waits longer does so in `queues`.
        self._for_ingress: deque[Packet] = deque()
        self._for_egress: deque[tuple[int, Packet]] = deque()

        uses = field_uses(compiled.program)
        # mark_to_drop names the header and means two of its fields, both of which are needed anyway.
        whole = headers_used_whole(compiled.program, without=("mark_to_drop",))
        uses.subtract(compiled.program.aliases.values())  # other names, not uses

        def named(ref: FieldRef) -> bool:
            return trace is not None or uses[ref] > 0 or ref.header in whole

        def standard(member: str, header: str = "standard_metadata", *, needed: bool = False) -> _Standard:
            return _Standard(compiled, f"{header}.{member}", named=(lambda _: True) if needed else named)

        self._ingress_port = standard("ingress_port")
        self._packet_length = standard("packet_length")
        self._instance_type = standard("instance_type")
        self._egress_spec = standard("egress_spec", needed=True)
        if self._egress_spec.slot < 0:
            raise UnsupportedProgramError(
                "it has no standard_metadata.egress_spec: compile with --arch v1model"
            )
        self._egress_port = standard("egress_port")
        self._parser_error = standard("parser_error")
        self._checksum_error = standard("checksum_error")
        self._mcast_grp = standard("mcast_grp", "intrinsic_metadata", needed=True)
        self._egress_rid = standard("egress_rid", "intrinsic_metadata")
        self._ingress_time = standard("ingress_global_timestamp", "intrinsic_metadata")
        self._egress_time = standard("egress_global_timestamp", "intrinsic_metadata")
        self._deq_timedelta = standard("deq_timedelta", "queueing_metadata")
        self._enq_timestamp = standard(
            "enq_timestamp", "queueing_metadata", needed=self._deq_timedelta.slot >= 0
        )
        self._enq_qdepth = standard("enq_qdepth", "queueing_metadata")
        self._deq_qdepth = standard("deq_qdepth", "queueing_metadata")
        self._qid = standard("qid", "queueing_metadata")
        self._priority = standard("priority", "intrinsic_metadata")
        self._no_error = compiled.program.errors["NoError"]
        self._any_port = (drop_port + 1) & self._egress_spec.mask  # anything but the drop port
        self._queue_is_named = any(
            field.slot >= 0
            for field in (
                self._egress_time,
                self._enq_timestamp,
                self._enq_qdepth,
                self._deq_timedelta,
                self._deq_qdepth,
            )
        )
        layout, program = compiled.layout, compiled.program
        # Slices of the slots that hold metadata.
        self._metadata = [
            (layout.base[name], layout.base[name] + layout.of(program, name).slots)
            for name, header in program.headers.items()
            if header.metadata
        ]
        self._copiers = {ident: self._copier(fields) for ident, fields in program.field_lists.items()}
        self._digests = {
            ident: (fields.name, [self._reader(e) for e in fields.elements])
            for ident, fields in program.digests.items()
        }

    # One frame

    def process(self, port: int, frame: bytes) -> list[tuple[int, bytes]]:
        """Everything that leaves because of this frame, in order. Raises PipelineError."""
        f = self._compiled.fresh.copy()
        self._work[0] = support.MOST_WORK
        packet = Packet(f, frame, port)
        if (field := self._ingress_port).slot >= 0:
            f[field.slot] = port & field.mask
        if (field := self._packet_length).slot >= 0:
            f[field.slot] = len(frame) & field.mask
        if self._ingress_time.slot >= 0:
            self._set(f, self._ingress_time, self._clock())
        self._for_ingress.append(packet)
        return self._work_off()

    def depart(self) -> list[tuple[int, bytes]] | None:
        """Everything that leaves because the next packet's turn has come in its queue; None = nobody's has.

        Raises PipelineError, and that packet is gone.
        """
        left = self._queues.take(self._clock()) if self._queues is not None else None
        if left is None:
            return None
        self._work[0] = support.MOST_WORK
        self._set(left.item.slots, self._qid, left.priority)
        self._for_egress.append((left.port, left.item))
        return self._work_off(left.depth)

    def _work_off(self, depth: int = 0) -> list[tuple[int, bytes]]:
        """Take what waits for ingress and egress through them. depth: of the queue that the first packet has left."""
        ingress, egress = self._for_ingress, self._for_egress
        sent: list[tuple[int, bytes]] = []
        passes = 0
        try:
            while egress or ingress:
                passes += 1
                if passes > MOST_PASSES:
                    self.abandoned += len(ingress) + len(egress)
                    break
                if egress:
                    port, packet = egress.popleft()
                    self._egress(port, packet, len(egress) + depth, ingress, egress, sent)
                else:
                    self._ingress(ingress.popleft(), ingress, egress)
        except _NO_RESULT as error:
            raise PipelineError(f"the program cannot go on with this packet: {error}") from error
        finally:
            if ingress or egress:
                ingress.clear()
                egress.clear()
        return sent

    def _ingress(self, p: Packet, ingress: deque[Packet], egress: deque[tuple[int, Packet]]) -> None:
        compiled, f, start = self._compiled, p.slots, p.at
        length_in = p.length
        if self._trace is not None:
            self._trace(f"packet of {len(p.data)} bytes on port {p.port}")
        p.error = self._no_error
        compiled.parse(p, f)
        if self._parser_error.slot >= 0:
            self._set(f, self._parser_error, p.error)
        if self._checksum_error.slot >= 0:
            f[self._checksum_error.slot] = 0 if compiled.verify_checksums(p, f) else 1
        compiled.ingress(p, f)
        if p.clone:
            self._clone_from_ingress(p, start, length_in, egress)
        if p.digest:
            self._learn(p)
        if p.resubmit:
            self._resubmit(p, start, length_in, ingress)
            return
        group = f[self._mcast_grp.slot] if self._mcast_grp.slot >= 0 else 0
        if group:
            if self._instance_type.slot >= 0:
                self._set(f, self._instance_type, REPLICATED)
            self._replicate(p, self._groups.get(group, ()), egress, f"multicast group {group}")
            return
        port = f[self._egress_spec.slot]
        if port == self._drop_port:
            if self._trace is not None:
                self._trace("  dropped at the end of ingress")
            return
        if self._instance_type.slot >= 0:
            f[self._instance_type.slot] = NORMAL
        p.exited = False
        p.clone = p.clone_list = p.digest = 0
        self._enqueue(port, p, egress)

    def _egress(
        self,
        port: int,
        p: Packet,
        depth: int,
        ingress: deque[Packet],
        egress: deque[tuple[int, Packet]],
        sent: list[tuple[int, bytes]],
    ) -> None:
        compiled, f = self._compiled, p.slots
        if self._trace is not None:
            self._trace(f"egress to port {port}")
        egress_spec = self._egress_spec.slot
        if self._queue_is_named:
            self._leave_queue(f, depth)
        if (field := self._egress_port).slot >= 0:
            f[field.slot] = port & field.mask
        f[egress_spec] = self._any_port
        if (field := self._packet_length).slot >= 0:
            f[field.slot] = p.length & field.mask
        compiled.egress(p, f)
        if p.clone:
            self._clone_from_egress(p, egress)
        if f[egress_spec] == self._drop_port:
            if self._trace is not None:
                self._trace("  dropped at the end of egress")
            return
        frame = compiled.deparse(p, f)
        if p.recirculate:
            self._recirculate(p, frame, ingress)
            return
        if len(frame) > p.truncated:
            frame = frame[: p.truncated]
        if self._trace is not None:
            self._trace(
                f"  sent on port {port}: {len(frame)} bytes {frame[:64].hex()}{'...' if len(frame) > 64 else ''}"
            )
        sent.append((port, frame))

    # Copies

    def _parse(self, p: Packet, f: Slots) -> None:
        p.error = self._no_error
        self._compiled.parse(p, f)

    def _clone_from_ingress(
        self, p: Packet, start: int, length: int, egress: deque[tuple[int, Packet]]
    ) -> None:
        """The packet as it came into ingress, parsed anew."""
        session = self._sessions.get(p.clone - 1)
        if session is None:
            return
        f = self._compiled.fresh.copy()
        copy = p.copy(f)
        copy.at, copy.length = start, length
        self._set(f, self._ingress_port, p.port)
        if self._trace is not None:
            self._trace(f"clone from ingress, session {p.clone - 1}")
        self._parse(copy, f)
        self._reset_metadata(f)
        self._preserve(p.clone_list, p.slots, f)
        self._set(f, self._instance_type, INGRESS_CLONE)
        self._send_clone(session, copy, egress, f"session {p.clone - 1}")

    def _clone_from_egress(self, p: Packet, egress: deque[tuple[int, Packet]]) -> None:
        """The packet as egress leaves it, headers and all, with other metadata."""
        session = self._sessions.get(p.clone - 1)
        if session is None:
            return
        f = p.slots.copy()
        copy = p.copy(f)
        self._reset_metadata(f)
        self._preserve(p.clone_list, p.slots, f)
        self._set(f, self._instance_type, EGRESS_CLONE)
        self._send_clone(session, copy, egress, f"session {p.clone - 1}")

    def _send_clone(
        self, session: CloneSession, copy: Packet, egress: deque[tuple[int, Packet]], what: str
    ) -> None:
        self._replicate(copy, session.replicas, egress, what, session.truncate)

    def _resubmit(self, p: Packet, start: int, length: int, ingress: deque[Packet]) -> None:
        f = self._compiled.fresh.copy()
        copy = p.copy(f)
        copy.at, copy.length = start, length
        self._preserve(p.resubmit, p.slots, f)
        self._set(f, self._instance_type, RESUBMITTED)
        self._set(f, self._packet_length, length)
        ingress.append(copy)

    def _recirculate(self, p: Packet, frame: bytes, ingress: deque[Packet]) -> None:
        f = self._compiled.fresh.copy()
        copy = Packet(f, frame, p.port)
        copy.passes = p.passes
        self._preserve(p.recirculate, p.slots, f)
        self._set(f, self._instance_type, RECIRCULATED)
        self._set(f, self._packet_length, len(frame))
        ingress.append(copy)

    def _replicate(
        self,
        p: Packet,
        replicas: Sequence[Replica],
        egress: deque[tuple[int, Packet]],
        what: str,
        truncate: int = 0,
    ) -> None:
        if self._trace is not None:
            self._trace(f"  {what}: {len(replicas)} copies")
        if not replicas:
            return
        rid, slots, last = self._egress_rid, p.slots, len(replicas) - 1
        p.forget_requests()
        for number, replica in enumerate(replicas):
            # The packet itself goes no further: it serves as the last copy.
            copy = p if number == last else p.copy(slots.copy())
            if truncate:
                copy.truncated = truncate
            if rid.slot >= 0:
                copy.slots[rid.slot] = replica.instance & rid.mask
            self._enqueue(replica.port, copy, egress)

    def _enqueue(self, port: int, p: Packet, egress: deque[tuple[int, Packet]]) -> None:
        queues = self._queues
        if queues is not None:
            self._wait_for_turn(port, p, queues)
            return
        if self._queue_is_named:
            self._set(p.slots, self._enq_timestamp, self._clock())
            self._set(p.slots, self._enq_qdepth, len(egress))
        egress.append((port, p))

    def _wait_for_turn(self, port: int, p: Packet, queues: EgressQueues[Packet]) -> None:
        p.passes += 1
        if p.passes > MOST_PASSES:
            self.abandoned += 1
            return
        now = self._clock()
        priority = p.slots[self._priority.slot] if self._priority.slot >= 0 else 0
        depth = queues.depth(port, priority)
        self._set(p.slots, self._enq_timestamp, now)
        self._set(p.slots, self._enq_qdepth, depth)
        taken = queues.put(port, priority, p, now)
        if self._trace is not None:
            said = f"{depth} before it" if taken else "dropped"
            self._trace(f"  queue of port {port}, priority {priority}: {said}")

    def _leave_queue(self, f: Slots, depth: int) -> None:
        now = self._clock()
        self._set(f, self._egress_time, now)
        if self._deq_timedelta.slot >= 0:
            self._set(f, self._deq_timedelta, now - f[self._enq_timestamp.slot])
        self._set(f, self._deq_qdepth, depth)

    # Metadata

    @staticmethod
    def _set(f: Slots, field: _Standard, value: int) -> None:
        if field.slot >= 0:
            f[field.slot] = value & field.mask

    def _reset_metadata(self, f: Slots) -> None:
        for start, end in self._metadata:
            f[start:end] = self._compiled.fresh[start:end]

    def _preserve(self, field_list: int, source: Slots, target: Slots) -> None:
        copier = self._copiers.get(field_list)
        if copier is not None:
            copier(source, target)

    def _learn(self, p: Packet) -> None:
        known = self._digests.get(p.digest)
        if known is not None:
            name, readers = known
            self.digests.append(Digest(name, tuple(reader(p.slots) for reader in readers)))

    def _slot(self, ref: FieldRef) -> int:
        return self._compiled.layout.slot(self._compiled.program, ref.header, ref.field)

    def _copier(self, fields: FieldList) -> Copier:
        program, layout = self._compiled.program, self._compiled.layout
        slots, items = [], []
        for ref in fields.elements:
            if isinstance(ref, FieldRef):
                cell = layout.of(program, ref.header).cells[ref.field]
                if cell.position < 0:
                    slots.append(self._slot(ref))
                else:
                    items.append((self._slot(ref), RUN_TYPES[cell.type.width], cell.position))

        def copy(source: Slots, target: Slots) -> None:
            for slot in slots:
                target[slot] = source[slot]
            for slot, kind, position in items:
                target[slot] = kind.replace(target[slot], position, kind.item(source[slot], position))

        return copy

    def _reader(self, element: object) -> FieldReader:
        if isinstance(element, Const):
            constant = element.value
            return lambda f: constant
        assert isinstance(element, FieldRef)
        program = self._compiled.program
        cell = self._compiled.layout.of(program, element.header).cells[element.field]
        slot = self._slot(element)
        if cell.position >= 0:
            kind, position = RUN_TYPES[cell.type.width], cell.position
            return lambda f: kind.item(f[slot], position)
        mask = (1 << cell.type.width) - 1
        return lambda f: int(f[slot]) & mask
