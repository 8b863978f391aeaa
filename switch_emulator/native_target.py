"""The emulator as a controller sees it: programs the tables of the native pipeline and runs its loop in a thread."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from switchml.aggregation.shared_slots import (
    FORMAT,
    SharedLayout,
    SharedSlots,
    copy_index,
    counted,
    last_heard,
    shared_slots,
)
from switchml.aggregation.slot_machine import MAX_WORKERS, SlotCopy, clear_slots, is_seen, new_pool
from switchml.control.address import interface_of, listen_error
from switchml.control.ranges import RangeAllocator
from switchml.control.target import (
    RANGES,
    JobProgram,
    SlotMap,
    SlotReading,
    SwitchTarget,
    TargetDescription,
    WorkerProgram,
)
from switchml.errors import PoolExhaustedError, SwitchMLError
from switchml.link.datagrams import SocketAddress, enlarge_buffers, open_datagrams, socket_address
from switchml.link.libc import monotonic_ns
from switchml.link.records import Records, new_records, table_of
from switchml.link.ring import down_tail, ring_layout
from switchml.packets.tape import TapeFile, no_tape
from switchml.protocol.counters import SWITCH_COUNTERS, named
from switchml.protocol.messages import ELEMENT_BYTES, MAX_PAYLOAD, WIRES, size_code, wire_lanes
from switchml.protocol.on_demand import address_of
from switchml.protocol.prepare import prepare
from switchml.protocol.probes import new_secret, secret_of_ticket
from switchml.switch_emulator.fabric import Fabric, Handout, JobMemory, MemoryServer, Place, Region
from switchml.switch_emulator.faults import Faults, new_faults
from switchml.switch_emulator.flood_guard import FloodGuard
from switchml.switch_emulator.pipeline import (
    DROPPED,
    RESENT,
    Switch,
    SwitchRecord,
    deliver_disturbed,
    disturb,
    emit_disturbed,
    note_coming,
    note_down,
    note_train,
    rise,
    run,
    take_from_above,
    write_notes,
)
from switchml.switch_emulator.tables import (
    MAX_JOBS,
    MAX_SENDERS,
    Job,
    Sender,
    index_senders,
    member,
    new_tables,
)

T = TypeVar("T")

POOL_SLOTS = 16384
_POOL_ELEMENTS = 64 << 20  # sparse: only what is used takes memory
_SOCKET_BUFFER = 16 << 20
_ANSWER_SECONDS = 10.0
_SPIN_NS = 50_000
_CAPTURES, _FAULTS, _RACKS = "switch's captures", "switch's fault injector", "switch's way up"
# On loopback no frame limits a packet, and fewer, larger ones are twice as fast; half the slots keep the pool in the cache.
_LOOPBACK_PAYLOAD = 4096
_LOOPBACK_WINDOW = 256
_SIOCGIFHWADDR = 0x8927
_IP_MULTICAST_ALL = 49  # 0: only groups this socket joined itself


def prepare_pipeline() -> None:
    """Compile the switch's loop, or load it. `EmulatorTarget` does it too."""
    prepare(run, "switch's pipeline", 0, 0)


def prepare_racks() -> tuple[int, int]:
    """Compile, or load, what a switch with another above it calls; the addresses of `rise` and `take_from_above`."""
    return address_of(rise, _RACKS, 8), address_of(take_from_above, _RACKS, 5)


def _listen(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise listen_error(error, "UDP", host, port, "--port") from error
    # Workers of this host bind the same port for their multicast group. Not before bind: two switches must not share it.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    enlarge_buffers(sock, _SOCKET_BUFFER)
    if host != "0.0.0.0":
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    return sock


class _InMemory(NamedTuple):
    """A job whose workers run the slot machine themselves."""

    memory: JobMemory
    slots: SharedSlots


class EmulatorTarget(SwitchTarget):
    """A `SwitchTarget` over the native pipeline. Its loop runs from construction to `close`.

    Args:
        host: dotted IPv4 to listen on; 0.0.0.0 for all.
        udp_port: 0 for a free one.
        faults: see `faults.new_faults`.
        offload: False forbids segmentation offload.
        capture: path of a pcap file for all packets, "" = none. No job is in memory then, for there are no packets.

    Raises:
        PcapError: that file cannot be written.
        PortInUseError: the UDP port is taken.
        UsageError: the host is no address of this machine.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        udp_port: int = 0,
        *,
        faults: Faults | None = None,
        offload: bool = True,
        capture: str = "",
    ) -> None:
        self._capture = TapeFile(capture) if capture else None
        self._socket = _listen(host, udp_port)
        prepare_pipeline()
        self._host = host
        self._port: int = self._socket.getsockname()[1]
        self._fabric = Fabric()
        self._guard = FloodGuard(self._socket)
        state = new_records(SwitchRecord, 1)
        state[0]["doorbell"] = self._fabric.doorbell
        self._switch = Switch(
            state=state,
            tables=new_tables(),
            pool=new_pool(POOL_SLOTS, _POOL_ELEMENTS),
            counters=np.zeros((MAX_JOBS + 1, len(SWITCH_COUNTERS)), np.int64),
            by_range=np.zeros((MAX_JOBS, RANGES, 2), np.int64),
            link=open_datagrams(self._socket, offload=offload),
            rest=open_datagrams(self._socket, offload=offload),
            rest_names=new_records(SocketAddress, MAX_WORKERS),
            fabric=self._fabric.memory,
            faults=faults or new_faults(),
            flag=np.zeros(1, np.int64),
            spare=np.zeros(MAX_PAYLOAD + 4096, np.uint8),
            scratch=np.zeros(4, np.int64),
            tape=self._capture.tape if self._capture is not None else no_tape(),
            flood=self._guard.flood,
        )
        state[0]["address"] = int.from_bytes(socket.inet_aton(host), "big")
        state[0]["port"] = self._port
        self._set_on_demand(state)
        self._handle = table_of(self._switch)
        self._ended = np.zeros(len(SWITCH_COUNTERS), np.int64)
        self._elements = RangeAllocator(_POOL_ELEMENTS)
        self._sums: dict[int, int] = {}
        self._jobs: dict[int, JobProgram] = {}
        self._in_memory: dict[int, _InMemory] = {}
        self._tickets: dict[str, int] = {}
        self._memory_tickets: dict[str, tuple[int, int]] = {}
        self._commands: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._stopping = False
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="switchml-pipeline", daemon=True)
        self._thread.start()
        self._memory_server = MemoryServer(self._attach)

    def _set_on_demand(self, state: Records[SwitchRecord]) -> None:
        """Have compiled what most switches do without."""
        if self._capture is not None:
            state[0]["note_train"] = address_of(note_train, _CAPTURES, 4)
            state[0]["note_coming"] = address_of(note_coming, _CAPTURES, 7)
            state[0]["note_down"] = address_of(note_down, _CAPTURES, 2)
            state[0]["write_notes"] = address_of(write_notes, _CAPTURES, 1)
        if self._switch.faults.settings[0]["active"] != 0:
            state[0]["disturb"] = address_of(disturb, _FAULTS, 4)
            state[0]["deliver_disturbed"] = address_of(deliver_disturbed, _FAULTS, 4)
            state[0]["emit_disturbed"] = address_of(emit_disturbed, _FAULTS, 6)

    @override
    def describe(self) -> TargetDescription:
        description = TargetDescription(
            self._host, self._port, self._memory_server.name, POOL_SLOTS, MAX_PAYLOAD, MAX_WORKERS,
            mac=hardware_address(self._host), proves_addresses=True, tells_claims_apart=True, wires=tuple(WIRES),
            in_memory=self._switch.faults.settings[0]["active"] == 0 and self._capture is None,
            limits_packets=True,
        )  # fmt: skip
        if self._host.startswith("127."):
            return replace(description, default_payload=_LOOPBACK_PAYLOAD, default_window=_LOOPBACK_WINDOW)
        return description

    @override
    def add_job(self, job: JobProgram) -> None:
        self.between_packets(lambda: self._add_job_in_memory(job) if job.in_memory else self._add_job(job))

    @override
    def set_multicast(self, job_number: int, enabled: bool) -> None:
        def switch_over() -> None:
            self._switch.tables.jobs[job_number]["multicast"] = enabled

        self.between_packets(switch_over)

    @override
    def remove_job(self, job_number: int) -> None:
        self.between_packets(lambda: self._remove_job(job_number))

    @override
    def read_slot(self, job_number: int, slot: int, version: int) -> SlotReading:
        job = self._jobs[job_number]
        slots, index = self._switch.pool.slots, 2 * (job.pool_base + slot) + version
        if job.in_memory:
            slots, index = self._in_memory[job_number].slots.copies, copy_index(slot, version)

        def read() -> SlotReading:
            seen = frozenset(worker.rank for worker in job.workers if is_seen(slots, index, worker.rank))
            return SlotReading(int(slots[index]["stamp"]), bool(slots[index]["used"]), seen)

        return self.between_packets(read)

    @override
    def last_heard(self, job_number: int) -> list[float | None]:
        tables, job = self._switch.tables, self._in_memory.get(job_number)
        now = monotonic_ns(np.zeros(4, np.int64))
        heard: list[float | None] = []
        for rank in range(len(self._jobs[job_number].workers)):
            if job is None:
                at = int(tables.senders[member(tables, job_number, rank)]["last_heard"])
            else:
                at = last_heard(job.slots, rank)
            heard.append(None if at == 0 else max(0.0, (now - at) / 1e9))
        return heard

    @override
    def slot_map(self, job_number: int) -> SlotMap:
        job, in_memory = self._jobs[job_number], self._in_memory.get(job_number)
        if in_memory is None:
            copies = self._switch.pool.slots[2 * job.pool_base : 2 * (job.pool_base + job.window)]
            by_range = self._switch.by_range[job_number]
            return slot_map(copies, job.window, len(job.workers), by_range)
        # Nothing is lost in memory.
        by_range = np.zeros((RANGES, 2), np.int64)
        return slot_map(in_memory.slots.copies, job.window, len(job.workers), by_range)

    @override
    def counters(self) -> dict[str, int]:
        in_memory = sum(counted(job.slots) for job in list(self._in_memory.values()))
        found = named(SWITCH_COUNTERS, self._switch.counters.sum(axis=0) + self._ended + in_memory)
        return {**found, "dropped_by_kernel": self._guard.dropped(), "floods_cut": self._guard.cuts}

    @override
    def job_counters(self, job_number: int) -> dict[str, int]:
        job = self._in_memory.get(job_number)
        return named(
            SWITCH_COUNTERS, self._switch.counters[job_number] if job is None else counted(job.slots)
        )

    def close(self) -> None:
        """End the loop and free what it held. Idempotent."""
        if self._stopping:
            return
        self._stopping = True
        self._memory_server.close()
        self._interrupt()
        self._thread.join(_ANSWER_SECONDS)
        if self._capture is not None:
            self._capture.close()
        self._socket.close()
        self._fabric.close()

    def _loop(self) -> None:
        try:
            while not self._stopping:
                run(self._handle.ctypes.data, _SPIN_NS)
                self._switch.flag[0] = 0
                self._guard.tend()
                self._run_commands()
        except BaseException as error:
            self._broken = error
            self._run_commands()
            raise

    def _run_commands(self) -> None:
        """Run the commands of the control plane."""
        while self._commands:
            command, future = self._commands.popleft()
            if self._broken is not None:
                future.set_exception(SwitchMLError(f"the switch's pipeline has broken: {self._broken!r}"))
                continue
            try:
                future.set_result(command())
            except BaseException as error:  # the caller's to handle
                future.set_exception(error)

    def _interrupt(self) -> None:
        self._switch.flag[0] = 1
        os.eventfd_write(self._fabric.doorbell, 1)

    def between_packets(self, command: Callable[[], T]) -> T:
        """Run `command` in the loop's thread while no packet is being processed. Raises what it raises."""
        if threading.current_thread() is self._thread:
            return command()
        future: Future[T] = Future()
        self._commands.append((command, future))
        self._interrupt()
        if self._broken is not None:
            self._run_commands()
        return future.result(_ANSWER_SECONDS)

    # What follows runs between packets.

    @property
    def switch(self) -> Switch:
        """The pipeline's state."""
        return self._switch

    def open_job(self, program: JobProgram, world_size: int) -> None:
        """Begin a job of UDP workers, which `admit` and `dismiss` bring in and take out one by one. Counters go on."""
        self._reserve(program, world_size)

    def close_job(self, number: int) -> None:
        """End a job of `open_job`'s."""
        self._release(number)

    def admit(self, number: int, worker: WorkerProgram) -> None:
        """Raises PoolExhaustedError when the switch has no room for another worker."""
        if not np.any(self._switch.tables.senders["used"] == 0):
            raise _no_room_for_workers()
        self._add_sender(number, worker)
        self._list_workers(number)

    def dismiss(self, number: int, rank: int) -> None:
        """Take a worker out, if it is there."""
        self._remove_sender(number, rank)
        self._list_workers(number)

    def readdress(self, number: int, rank: int, address: str, port: int) -> None:
        """Send a worker's results somewhere else than where its packets come from."""
        tables = self._switch.tables
        tables.names[member(tables, number, rank)] = socket_address(address, port)[0]
        self._list_workers(number)

    def _add_job(self, program: JobProgram) -> None:
        tables, number = self._switch.tables, program.job_number
        if np.count_nonzero(tables.senders["used"] == 0) < len(program.workers) + (program.above is not None):
            raise _no_room_for_workers()
        self._reserve(program, len(program.workers))
        if program.multicast_group:
            tables.groups[number] = socket_address(program.multicast_group, program.multicast_port)[0]
        if program.tenant:
            tables.jobs[number]["tenant"] = program.tenant
            tables.limits[program.tenant]["rate"] = program.packets_per_second
        for worker in program.workers:
            self._add_sender(number, worker)
        if program.above is not None:
            self._add_above(number, *program.above)
        self._list_workers(number)
        self._switch.counters[number] = 0
        self._switch.by_range[number] = 0

    def _add_job_in_memory(self, program: JobProgram) -> None:
        self._check_apart(program)
        room = program.payload // ELEMENT_BYTES * wire_lanes(program.wire)
        layout = SharedLayout(len(program.workers), program.window, room)
        try:
            memory = JobMemory(layout.total_bytes)
        except OSError as error:
            raise PoolExhaustedError(
                f"the switch gets no memory for {program.window} slots ({error.strerror}): wait for other jobs to end"
            ) from error
        self._in_memory[program.job_number] = _InMemory(memory, shared_slots(memory.memory, layout))
        for worker in program.workers:
            self._memory_tickets[worker.ticket] = program.job_number, worker.rank
        self._jobs[program.job_number] = program

    def _check_apart(self, program: JobProgram) -> None:
        for other in self._jobs.values():
            apart = (
                program.pool_base + program.window <= other.pool_base
                or other.pool_base + other.window <= program.pool_base
            )
            if other.job_number == program.job_number or not apart:
                raise PoolExhaustedError(
                    f"job {other.job_number} has this number or these slots already: two controllers must not share a switch"
                )

    def _reserve(self, program: JobProgram, world_size: int) -> None:
        """A job's memory and its entry, with no workers yet."""
        self._check_apart(program)
        number, elements = program.job_number, program.payload // ELEMENT_BYTES
        tables = self._switch.tables
        room = elements * wire_lanes(program.wire)
        sums = self._elements.allocate(2 * program.window * room)
        if sums is None:
            raise PoolExhaustedError(
                f"the switch has no memory for {program.window} slots of {program.payload} bytes: "
                "wait for other jobs to end, or ask for a smaller window or payload"
            )
        # With faults every worker's copy of a result goes its own way.
        faulty = self._switch.faults.settings[0]["active"] != 0
        copies = 2 << (world_size - 1).bit_length() if faulty else 1
        layout = ring_layout(world_size, program.window, program.payload, copies)
        shared = [worker for worker in program.workers if worker.transport == "shm"]
        region = self._fabric.allocate(layout.total_bytes) if shared else 0
        if region is None:
            self._elements.release(sums)
            raise PoolExhaustedError(
                "the switch has no shared memory left: join with transport 'udp', or wait for other jobs to end"
            )
        tables.jobs[number] = new_records(Job, 1)[0]
        entry = tables.jobs[number]
        entry["used"], entry["paper"], entry["any_number"] = 1, program.paper, program.any_number
        entry["size"], entry["elements"], entry["sums"] = size_code(program.payload), elements, room
        entry["window"], entry["pool_base"], entry["sums_base"] = program.window, program.pool_base, sums
        entry["workers"], entry["shm_workers"], entry["copies"] = world_size, len(shared), copies
        entry["parts"] = world_size + (program.above is not None)
        entry["region"], entry["region_bytes"] = region, layout.total_bytes if shared else 0
        tables.groups[number] = new_records(SocketAddress, 1)[0]
        if shared:
            longs = self._fabric.memory[region : region + layout.total_bytes].view(np.int64)
            for worker in program.workers:
                if worker.transport != "shm":
                    # Reads nothing there, so never holds the others up.
                    longs[down_tail(worker.rank)] = np.iinfo(np.int64).max // 2
        clear_slots(self._switch.pool.slots, program.pool_base, program.window)
        self._sums[number] = sums
        self._jobs[number] = program

    def _new_sender(self, number: int, worker: int) -> int:
        """A free place of the senders."""
        tables = self._switch.tables
        index = int(np.flatnonzero(tables.senders["used"] == 0)[0])
        tables.senders[index] = new_records(Sender, 1)[0]
        sender = tables.senders[index]
        sender["used"], sender["job"], sender["worker"] = 1, number, worker
        return index

    def _name_sender(self, index: int, address: str, port: int) -> None:
        tables, name = self._switch.tables, socket_address(address, port)[0]
        tables.senders[index]["address"], tables.senders[index]["port"] = name["address"], name["port"]
        tables.names[index] = name

    def _add_above(self, number: int, address: str, port: int) -> None:
        """Make the switch above known."""
        self._switch.state[0]["rise"], self._switch.state[0]["take_from_above"] = prepare_racks()
        tables = self._switch.tables
        index = self._new_sender(number, int(tables.jobs[number]["workers"]))
        tables.senders[index]["above"] = tables.senders[index]["is_switch"] = 1
        self._name_sender(index, address, port)
        tables.jobs[number]["above"] = index + 1

    def _add_sender(self, number: int, worker: WorkerProgram) -> None:
        """Make a worker or a switch below known."""
        tables = self._switch.tables
        index = self._new_sender(number, worker.rank)
        sender, ranks = tables.senders[index], worker.ranks or (worker.rank,)
        sender["ranks"], sender["is_switch"] = len(ranks), worker.is_switch
        tables.members[number * MAX_WORKERS + worker.rank] = index
        tables.by_rank[[number * MAX_WORKERS + rank for rank in ranks]] = index
        if worker.transport == "shm":
            sender["shm"] = 1
            self._tickets[worker.ticket] = index
            return
        if worker.ticket:
            sender["claim"], sender["challenge"] = secret_of_ticket(worker.ticket), new_secret()
        self._name_sender(index, worker.address, worker.port)

    def _remove_sender(self, number: int, rank: int) -> None:
        tables = self._switch.tables
        index = member(tables, number, rank)
        if index >= 0:
            tables.senders[index]["used"] = 0
            tables.senders[index]["attached"] = 0
            tables.members[number * MAX_WORKERS + rank] = -1
            of_job = tables.by_rank[number * MAX_WORKERS : (number + 1) * MAX_WORKERS]
            of_job[of_job == index] = -1

    def _list_workers(self, number: int) -> None:
        """Bring what is derived from a job's members up to date."""
        tables = self._switch.tables
        members = tables.members[number * MAX_WORKERS : (number + 1) * MAX_WORKERS]
        present = members[members >= 0]
        by_udp = present[tables.senders["shm"][present] == 0]
        first = number * MAX_WORKERS
        tables.unicast[first : first + by_udp.size] = tables.names[by_udp]
        tables.jobs[number]["udp_workers"] = by_udp.size
        index_senders(tables)

    def _attach(self, ticket: str) -> Handout | None:
        def attach() -> Handout | None:
            number, rank = self._memory_tickets.pop(ticket, (0, 0))
            if number:
                memory = self._in_memory[number].memory
                return Handout(Place(memory.memory.size, rank, FORMAT), (memory.fd,))
            index = self._tickets.pop(ticket, None)
            if index is None:
                return None
            tables = self._switch.tables
            sender = tables.senders[index]
            sender["attached"] = 1
            index_senders(tables)
            job = tables.jobs[sender["job"]]
            region = Region(
                int(job["region"]), int(job["region_bytes"]), int(sender["worker"]), int(job["copies"])
            )
            return Handout(region, (self._fabric.fd, self._fabric.doorbell))

        return self.between_packets(attach)

    def _remove_job(self, number: int) -> None:
        if number in self._in_memory:
            del self._jobs[number]
            job = self._in_memory.pop(number)
            self._ended += counted(job.slots)
            self._memory_tickets = {t: of for t, of in self._memory_tickets.items() if of[0] != number}
            job.memory.close()
        elif number in self._jobs:
            self._release(number)
            self._ended += self._switch.counters[number]
            self._switch.counters[number] = 0

    def _release(self, number: int) -> None:
        """Give back all that a job has."""
        del self._jobs[number]
        tables = self._switch.tables
        entry = tables.jobs[number]
        for rank in range(int(entry["workers"])):
            self._remove_sender(number, rank)
        if entry["above"]:
            tables.senders[int(entry["above"]) - 1]["used"] = 0
        self._tickets = {t: index for t, index in self._tickets.items() if tables.senders[index]["used"]}
        index_senders(tables)
        self._elements.release(self._sums.pop(number))
        if entry["region_bytes"]:
            self._fabric.release(int(entry["region"]), int(entry["region_bytes"]))
        entry["used"] = entry["tenant"] = 0


def slot_map(
    records: Records[SlotCopy], window: int, workers: int, by_range: npt.NDArray[np.int64]
) -> SlotMap:
    """What slots wait for.

    Args:
        records: state of all copies of all slots, and of nothing else; the first two of a slot count.
        window: slots.
        workers: of the job.
        by_range: see `pipeline.Switch`.
    """
    copies = np.asarray(records).reshape(window, -1)[:, :2]
    count = copies["seen_count"]
    begun = (copies["used"] != 0) & (count > 0) & (count < workers)
    seen = np.ascontiguousarray(copies["seen"]).view(np.uint8)
    absent = np.unpackbits(seen, axis=-1, count=workers, bitorder="little") == 0
    awaited = (absent & begun[..., np.newaxis]).any(axis=1)
    missing = awaited.sum(axis=1)
    return SlotMap(
        missing=tuple(missing.tolist()),
        first=tuple(np.where(missing > 0, awaited.argmax(axis=1), -1).tolist()),
        late=tuple(awaited.sum(axis=0).tolist()),
        resent=tuple(by_range[:, RESENT].tolist()),
        dropped=tuple(by_range[:, DROPPED].tolist()),
    )


def _no_room_for_workers() -> PoolExhaustedError:
    return PoolExhaustedError(
        f"the switch knows {MAX_SENDERS} workers and has room for no more: wait for other jobs to end"
    )


def hardware_address(address: str) -> int:
    """The MAC address of the interface that has this IPv4 address; 0 where there is none, as on loopback."""
    name = interface_of(address)
    if not name:
        return 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return int.from_bytes(
            fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("16s240x", name.encode()))[18:24], "big"
        )
