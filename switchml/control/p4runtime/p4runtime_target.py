"""A switch that runs the SwitchML P4 program, programmed through P4Runtime: BMv2, our emulator, or another.

Theory of operation
-------------------
A job's workers are entered in the tables when the job is added, but where they are the switch has to find out: a packet of a
worker that it cannot reach yet is reported by digest, with the port it came in by, and dropped. Then the worker's address and
its replica in the job's multicast group are written, and last the entry that lets its packets through. Workers probe until one
of their packets comes back, so a job does not begin before all are reachable.

Registers are cleared by no one: every job has another epoch, and a copy that another epoch used counts as empty. After 255 jobs
epochs come round; then what old jobs left is cleared, by writing registers or, where a switch cannot (BMv2), by loading the
program anew as soon as no job is running.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import override

from switchml.control.p4runtime import program
from switchml.control.p4runtime.p4runtime_client import (
    Change,
    P4RuntimeClient,
    Row,
    Update,
    multicast_group,
)
from switchml.control.p4runtime.program import Location
from switchml.control.p4runtime.stations import Stations
from switchml.control.target import JobProgram, SlotReading, SwitchTarget, TargetDescription
from switchml.errors import PoolExhaustedError, SwitchMLError, UsageError
from switchml.p4runtime.p4info_files import p4info_beside, parse_p4info, refuse_source
from switchml.p4runtime.refusals import NotPrimaryError, P4RuntimeError
from switchml.protocol.counters import SWITCH_COUNTERS
from switchml.protocol.messages import UDP_PORT_FIRST, UDP_PORT_LAST
from switchml.protocol.probes import new_secret

_log = logging.getLogger(__name__)

DEFAULT_MAC = 0x02534D4C0001
DEFAULT_PORTS = tuple(range(16))
# A P4 pipeline in software takes milliseconds a packet, so a longer queue is nothing but delay.
DEFAULT_WINDOW = 64
_LISTEN_SECONDS = 1.0
_FRAME_BYTES = 42  # Ethernet, IPv4 and UDP headers: what the program counts besides a packet of ours
_BYTES_OF = {"packets_received": "bytes_received", "packets_sent": "bytes_sent"}


@dataclass(frozen=True)
class PipelineConfig:
    """A program to load: P4Info, and the switch's own form of it (BMv2's JSON)."""

    p4info: Any
    config: bytes


def read_pipeline(config: Path, p4info: Path | None = None) -> PipelineConfig:
    """A program from its files; the P4Info is text, by default in NAME.p4info.txtpb beside NAME.json. Raises UsageError."""
    refuse_source(config)
    described = p4info or p4info_beside(config)
    for path, what in ((config, "a program in BMv2's JSON"), (described, "its P4Info")):
        if not path.is_file():
            raise UsageError(f"{path} is no file; it should be {what}, both of which p4c writes (make -C p4)")
    return PipelineConfig(parse_p4info(described.read_text()), config.read_bytes())


@dataclass
class _Job:
    program: JobProgram
    epoch: int
    counters: dict[str, int]  # when it began
    claims: list[Row]
    located: dict[int, Location] = field(default_factory=dict)  # by rank
    packets: dict[int, int] = field(default_factory=dict)  # by rank, as last looked at
    heard: dict[int, float] = field(default_factory=dict)  # by rank, when more had come


class P4RuntimeTarget(SwitchTarget):
    """A `SwitchTarget` over P4Runtime. It takes the whole switch: what its tables held is removed.

    Args:
        client: the switch's primary controller.
        address: dotted IPv4 at which the switch takes packets.
        udp_port: theirs, of the protocol's.
        mac: of that address, for ARP.
        pipeline: None takes the program that the switch has.
        ports: where unknown stations may be, for floods.
        default_window: slots of jobs that do not ask for a number.
        report: is told, in a line each, what happens.
        on_workers: is told the ranks of all joined workers by their sockets, before those of a new job are programmed.

    Raises:
        P4RuntimeError: the switch has another program, or none.
    """

    def __init__(
        self,
        client: P4RuntimeClient,
        address: str,
        udp_port: int = UDP_PORT_FIRST,
        *,
        mac: int = DEFAULT_MAC,
        pipeline: PipelineConfig | None = None,
        ports: Iterable[int] = DEFAULT_PORTS,
        default_window: int = DEFAULT_WINDOW,
        report: Callable[[str], None] = _log.info,
        on_workers: Callable[[Mapping[tuple[str, int], int]], None] = lambda ranks: None,
    ) -> None:
        if not UDP_PORT_FIRST <= udp_port <= UDP_PORT_LAST:
            raise UsageError(
                f"data port {udp_port}: the P4 program takes UDP ports {UDP_PORT_FIRST} to {UDP_PORT_LAST} "
                f"(0x{UDP_PORT_FIRST:X}-0x{UDP_PORT_LAST:X})"
            )
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            raise UsageError(
                f"data address {address!r}: give the dotted IPv4 address workers send to"
            ) from None
        self._client = client
        self._address = address
        self._udp_port = udp_port
        self._mac = mac
        self._pipeline = pipeline
        self._ports = set(ports)
        self._default_window = default_window
        self._report = report
        self._on_workers = on_workers
        self._lock = threading.RLock()
        self._jobs: dict[int, _Job] = {}
        self._stations = Stations()
        self._epoch = 0
        self._closing = threading.Event()
        if pipeline is None:
            client.adopt()
        else:
            client.load(pipeline.p4info, pipeline.config)
        self._shape = program.shape(client.schema)
        self._arrays = program.counter_arrays(client.schema)
        self._prepare(fresh=pipeline is not None)
        self._report(
            f"programmed {client.address}: {self._shape.slots} slots of {self._shape.payload} bytes, "
            f"packets to {address}:{udp_port}"
        )
        self._counted = client.schema.tables.named(program.JOB_TABLE).counter != 0
        self._listener = threading.Thread(target=self._listen, name="switchml-last-heard", daemon=True)
        if self._counted:
            self._listener.start()

    def close(self) -> None:
        """Take from the switch what was written there, if it still can be. Idempotent; the client is its owner's to close."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._listener.is_alive():
            self._listener.join()
        with contextlib.suppress(SwitchMLError):
            self._client.check()  # else the switch is gone, or another's
            with self._lock:
                self._jobs.clear()
                self._sweep()

    def check(self) -> None:
        """Raises SwitchUnreachableError or NotPrimaryError once the switch can't be programmed any more."""
        self._client.check()

    def recover(self) -> bool:
        """After another controller had the switch: takes it back if that one is gone. It has no jobs then.

        Returns:
            Whether it is ours again.

        Raises:
            SwitchUnreachableError: the switch is gone.
            P4RuntimeError: it has another program, and this controller none of its own.
        """
        if not self._client.vacant:
            self._client.check_reachable()
            return False
        try:
            self._client.reclaim()
        except NotPrimaryError:
            return False
        with self._lock:
            self._jobs.clear()
            self._tell_workers()
            self._stations = Stations()
            self._epoch = 0
            if self._pipeline is None:
                self._client.adopt()
            else:
                self._client.load(self._pipeline.p4info, self._pipeline.config)
            if program.shape(self._client.schema) != self._shape:
                raise P4RuntimeError(
                    "another controller has loaded another program; start this one again, with --pipeline",
                    "FAILED_PRECONDITION",
                )
            self._prepare(fresh=self._pipeline is not None)
        return True

    @override
    def describe(self) -> TargetDescription:
        return TargetDescription(
            host=self._address,
            udp_port=self._udp_port,
            shm_socket="",
            pool_slots=self._shape.slots,
            max_payload=self._shape.payload,
            max_workers=self._shape.max_workers,
            default_payload=self._shape.payload,
            default_window=self._default_window,
            payloads=(self._shape.payload,),
            ip_multicast=False,
            mac=self._mac,
            wires=self._shape.wires,
            proves_addresses=True,
        )

    @override
    def add_job(self, job: JobProgram) -> None:
        if job.payload != self._shape.payload:
            raise UsageError(f"payload {job.payload}: this switch takes {self._shape.payload} bytes a packet")
        with self._lock:
            epoch = self._next_epoch()
            schema = self._client.schema
            senders = [program.sender(schema, job, worker) for worker in job.workers]
            members = [
                row for worker in job.workers for row in program.membership(schema, job, worker, epoch)
            ]
            claims = [
                program.claim(schema, job, worker, new_secret()) for worker in job.workers if worker.ticket
            ]
            # Registered first: digests of its workers may come before the write returns.
            self._jobs[job.job_number] = _Job(job, epoch, self._job_totals(job.job_number), claims)
            self._tell_workers()
            try:
                self._client.insert(*claims, *senders, *members)
            except SwitchMLError as error:
                self._forget_job(job.job_number)
                if isinstance(error, P4RuntimeError) and error.all_have_code("RESOURCE_EXHAUSTED"):
                    raise PoolExhaustedError(
                        f"the switch's tables are full ({error}); wait for other jobs to end"
                    ) from error
                raise
        self._report(
            f"job {job.job_number}: {len(job.workers)} workers, slots {job.pool_base}-{job.pool_base + job.window - 1}"
        )

    def set_multicast(self, job_number: int, enabled: bool) -> None:
        """Nothing to do: the switch replicates results itself, and addresses every copy to its worker."""

    @override
    def remove_job(self, job_number: int) -> None:
        with self._lock:
            if job_number in self._jobs:
                self._forget_job(job_number)
                self._report(f"job {job_number}: removed")

    def read_slot(self, job_number: int, slot: int, version: int) -> SlotReading:
        """Raises P4RuntimeError where registers cannot be read (BMv2); it tells when each rank was last heard instead."""
        with self._lock:
            job = self._jobs[job_number]
        index = 2 * (job.program.pool_base + slot) + version
        try:
            values = self._client.registers(
                (name, index) for name in (program.STAMP, program.USED, program.SEEN)
            )
        except P4RuntimeError as error:
            if not error.all_have_code("UNIMPLEMENTED"):
                raise
            raise P4RuntimeError(
                "this switch does not let P4Runtime read its registers (BMv2 does not), so nobody knows whose packets it has; "
                f"last heard: {_ages(self.last_heard(job_number))}",
                error.code,
            ) from error
        if values[program.USED, index] != job.epoch:
            return SlotReading(0, False, frozenset())
        seen = values[program.SEEN, index]
        ranks = frozenset(rank for rank in range(len(job.program.workers)) if seen >> rank & 1)
        return SlotReading(values[program.STAMP, index], True, ranks)

    def last_heard(self, job_number: int) -> list[float | None]:
        """To the second, where the program counts packets by sender; else None for all."""
        with self._lock:
            job = self._jobs[job_number]
            now = time.monotonic()
            return [
                None if worker.rank not in job.heard else now - job.heard[worker.rank]
                for worker in job.program.workers
            ]

    @override
    def counters(self) -> dict[str, int]:
        return self._totals([(name, None) for name in self._arrays], None)

    @override
    def job_counters(self, job_number: int) -> dict[str, int]:
        now = self._job_totals(job_number)
        with self._lock:
            begin = self._jobs[job_number].counters
        return {name: value - begin.get(name, 0) for name, value in now.items()}

    # Loading.

    def _prepare(self, *, fresh: bool) -> None:
        """Bring the switch to where it has our address and nothing else."""
        if not fresh:
            self._sweep()
            self._clear_registers()
        self._client.insert(program.own_address(self._client.schema, self._address, self._mac))
        self._client.write([(Change.INSERT, self._flood_group())])
        self._client.subscribe((program.SENDER_DIGEST, program.STATION_DIGEST), self._on_digest)

    def _sweep(self) -> None:
        """Empty the tables, and the multicast groups."""
        for table in program.TABLES:
            self._client.delete(*((table, entry) for entry in self._client.entries(table)))
        self._client.write(
            (Change.DELETE, multicast_group(group, {})) for group in self._client.multicast_groups()
        )

    def _flood_group(self) -> Any:
        return multicast_group(program.FLOOD_GROUP, {port + 1: port for port in sorted(self._ports)})

    def _clear_registers(self) -> None:
        """Make every copy that belongs to no running job empty."""
        taken = {
            index
            for job in self._jobs.values()
            for index in range(2 * job.program.pool_base, 2 * (job.program.pool_base + job.program.window))
        }
        free = {index: 0 for index in range(2 * self._shape.slots) if index not in taken}
        try:
            # One first: it shows whether this switch has registers to write.
            self._client.write_register(program.USED, dict([free.popitem()]) if free else {})
            self._client.write_register(program.USED, free)
        except P4RuntimeError as error:
            if not error.all_have_code("UNIMPLEMENTED"):
                raise
            self._reload()

    def _reload(self) -> None:
        if self._pipeline is None:
            raise P4RuntimeError(
                "this switch does not let its registers be cleared, so the program has to be loaded anew: give --pipeline",
                "FAILED_PRECONDITION",
            )
        if self._jobs:
            raise PoolExhaustedError(
                "255 jobs have run since the switch's program was loaded, and it has to be loaded anew: wait for all jobs to end"
            )
        self._client.load(self._pipeline.p4info, self._pipeline.config)
        self._stations = Stations()
        self._prepare(fresh=True)

    def _next_epoch(self) -> int:
        if self._epoch == program.LAST_EPOCH:
            self._clear_registers()
            self._epoch = 0
        self._epoch += 1
        return self._epoch

    # Jobs.

    def _forget_job(self, number: int) -> None:
        """Delete all that is left of a job, whether or not all of it is there."""
        job = self._jobs.pop(number)
        self._tell_workers()
        workers = job.program.workers
        schema = self._client.schema
        rows: list[Row] = []
        for worker in workers:
            rows += program.membership(schema, job.program, worker, job.epoch)
        rows += job.claims
        rows += [program.sender(schema, job.program, worker) for worker in workers]
        for worker in workers:
            if worker.rank in job.located:
                rows.append(program.reachable(schema, job.program, worker))
                rows.append(program.rewrite(schema, job.program, worker, job.located[worker.rank].mac))
        updates = self._client.updates(Change.DELETE, rows)
        if job.located and len(workers) > 1:
            updates.append((Change.DELETE, multicast_group(program.group_of(number), {})))
        self._write_all(updates)

    def _tell_workers(self) -> None:
        self._on_workers(
            {
                (worker.address, worker.port): worker.rank
                for job in self._jobs.values()
                for worker in job.program.workers
            }
        )

    def _write_all(self, updates: list[Update]) -> None:
        """Deletions of which some may have nothing to delete."""
        try:
            self._client.write(updates)
        except P4RuntimeError as error:
            if not error.all_have_code("NOT_FOUND"):
                raise

    def _on_digest(self, name: str, values: Mapping[str, int]) -> None:
        with self._lock:
            if name == program.STATION_DIGEST:
                self._learn_station(values["mac"], values["port"])
            elif name == program.SENDER_DIGEST:
                self._locate(values)

    def _learn_station(self, mac: int, port: int) -> None:
        try:
            self._client.write(self._stations.learn(self._client, mac, port))
        except SwitchMLError:
            self._stations.forget(mac)
            raise
        if port not in self._ports:
            self._ports.add(port)
            self._client.write([(Change.MODIFY, self._flood_group())])

    def _locate(self, found: Mapping[str, int]) -> None:
        """A worker's first packet: write how it is reached. Its next one will go through."""
        job = self._jobs.get(found["job_number"])
        if job is None or found["worker"] >= len(job.program.workers) or found["worker"] in job.located:
            return
        worker = job.program.workers[found["worker"]]
        location = Location(found["mac"], found["ingress_port"])
        schema = self._client.schema
        rewrite = program.rewrite(schema, job.program, worker, location.mac)
        updates = self._client.updates(Change.INSERT, [rewrite])
        if len(job.program.workers) > 1:
            replicas = {rank + 1: place.port for rank, place in job.located.items()}
            replicas[worker.rank + 1] = location.port
            group = multicast_group(program.group_of(job.program.job_number), replicas)
            updates.append((Change.MODIFY if job.located else Change.INSERT, group))
        # One after the other: the last lets its packets through.
        self._client.write(updates)
        job.located[worker.rank] = location
        self._client.insert(program.reachable(schema, job.program, worker))
        self._report(
            f"job {job.program.job_number}: rank {worker.rank} ({worker.address}:{worker.port}) is at port {location.port}, "
            f"{_mac_text(location.mac)}"
        )

    # Counters.

    def _job_totals(self, number: int) -> dict[str, int]:
        return self._totals([(name, number) for name in self._arrays], number)

    def _totals(self, wanted: list[tuple[str, int | None]], row: int | None) -> dict[str, int]:
        totals: defaultdict[str, int] = defaultdict(int)
        for (full, _), value in self._client.counters(wanted).items():
            name = self._arrays[full]
            totals[name] += value.packets
            if name in _BYTES_OF:
                totals[_BYTES_OF[name]] += max(0, value.bytes - _FRAME_BYTES * value.packets)
        if program.ELEMENTS_ADDED in self._client.schema.registers.by_name:
            try:
                totals["elements_added"] = sum(
                    self._client.registers([(program.ELEMENTS_ADDED, row)]).values()
                )
            except P4RuntimeError as error:
                if not error.all_have_code("UNIMPLEMENTED"):
                    raise
        return {counter.name: totals[counter.name] for counter in SWITCH_COUNTERS if counter.name in totals}

    # When workers were last heard.

    def _listen(self) -> None:
        while not self._closing.wait(_LISTEN_SECONDS):
            with self._lock:
                if not self._jobs or self._client.lost:
                    continue
            try:
                counted = self._client.direct_counters(program.JOB_TABLE)
            except SwitchMLError as error:
                _log.info("cannot see when workers were last heard: %s", error)
                return
            totals: defaultdict[tuple[int, int], int] = defaultdict(int)
            for key, packets in counted:
                totals[program.sender_of(key)] += packets
            self._note(totals, time.monotonic())

    def _note(self, totals: Mapping[tuple[int, int], int], now: float) -> None:
        """Packets so far by sender."""
        with self._lock:
            schema = self._client.schema
            for job in self._jobs.values():
                for worker in job.program.workers:
                    _, sender = program.sender(schema, job.program, worker)
                    packets = totals.get(program.sender_of(sender.key), 0)
                    if packets > job.packets.get(worker.rank, 0):
                        job.heard[worker.rank] = now
                    job.packets[worker.rank] = packets


def _ages(heard: list[float | None]) -> str:
    return ", ".join(
        f"rank {rank} {'never' if ago is None else f'{ago:.0f} s ago'}" for rank, ago in enumerate(heard)
    )


def _mac_text(mac: int) -> str:
    return ":".join(f"{mac >> shift & 0xFF:02x}" for shift in range(40, -8, -8))
