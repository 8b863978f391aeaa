"""The native aggregation pipeline: from ports through the job table and the slot machine back to ports, compiled."""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypedDict, cast

import numpy as np
import numpy.typing as npt

from switchml.aggregation.racks import BUT_ONE, FIRST_WORKER, RISES, TO_ONE, judge, rising, take_result
from switchml.aggregation.slot_machine import (
    AHEAD,
    COMPLETE,
    DUPLICATE,
    MAX_WORKERS,
    MISFIT,
    RETRANSMIT,
    STALE,
    UNSEEN,
    WAITING,
    Pool,
    admit,
    admit_paper,
    apply,
    apply_lanes,
    inquire,
)
from switchml.control.target import RANGES
from switchml.link import datagrams, libc, ring
from switchml.link.datagrams import Datagrams
from switchml.link.memory import bytes_at, copy_bytes, fence, load_acquire, store_release
from switchml.link.records import Int64, Records, view_of
from switchml.packets import tape as tapes
from switchml.packets.made_macs import EVERYONE_MAC, SWITCH_MAC, rank_mac
from switchml.packets.tape import Tape
from switchml.protocol.counters import SWITCH_COUNTERS, indices
from switchml.protocol.header import HEADER_BYTES
from switchml.protocol.header_access import (
    clear_but_one,
    read_but_one,
    read_e0,
    read_e1,
    read_job,
    read_msg_type,
    read_size,
    read_slot,
    read_to_one,
    read_tsi,
    read_version,
    set_but_one,
    set_exponents,
    set_kind,
)
from switchml.protocol.jit import compiled, inlined
from switchml.protocol.messages import (
    ABSENT,
    ASK,
    ASKED,
    EXPONENTS,
    LANE_BITS,
    MAX_PAYLOAD,
    PROBE,
    UDP_PORT_FIRST,
    UNKNOWN_TYPE,
)
from switchml.protocol.on_demand import call_at
from switchml.protocol.probes import read_secret, write_challenge
from switchml.protocol.slots import slot_of, version_of
from switchml.switch_emulator import faults as fault_injection
from switchml.switch_emulator.faults import HELD_BYTES, Faults
from switchml.switch_emulator.flood_guard import Flood, accuse
from switchml.switch_emulator.tables import (
    MAX_JOBS,
    Job,
    Tables,
    count_address,
    find_claim,
    find_sender,
    find_switch,
    granted,
    job_layout,
    member,
)

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
Longs = npt.NDArray[np.int64]

_AT = indices(SWITCH_COUNTERS)
_PACKETS_RECEIVED, _BYTES_RECEIVED = _AT["packets_received"], _AT["bytes_received"]
_PACKETS_SENT, _BYTES_SENT = _AT["packets_sent"], _AT["bytes_sent"]
_ELEMENTS_ADDED, _CHUNKS_COMPLETED = _AT["elements_added"], _AT["chunks_completed"]
_RETRANSMITTED, _PROBES = _AT["results_retransmitted"], _AT["probes_answered"]
_ASKS = _AT["asks_answered"]
_DUPLICATE, _STALE, _TRUNCATED = _AT["dropped_duplicate"], _AT["dropped_stale"], _AT["dropped_truncated"]
_AHEAD, _OVER_LIMIT = _AT["dropped_ahead"], _AT["dropped_over_limit"]
_WRONG_SIZE, _BAD_HEADER = _AT["dropped_wrong_size"], _AT["dropped_bad_header"]
_WRONG_SLOT, _WRONG_VERSION = _AT["dropped_wrong_slot"], _AT["dropped_wrong_version"]
_UNKNOWN_SENDER, _WRONG_JOB, _PORT_FULL = (
    _AT["dropped_unknown_sender"],
    _AT["dropped_wrong_job"],
    _AT["dropped_port_full"],
)
_LOST, _DOUBLED, _REORDERED = _AT["fault_lost"], _AT["fault_duplicated"], _AT["fault_reordered"]

NO_JOB = MAX_JOBS
"""Row of the counters for packets of no known sender."""

# Typed numbers, because a function is compiled once more for every literal it is called with.
_START = cast(int, np.int64(0))
RESENT, DROPPED = 0, 1
"""Columns of `Switch.by_range`."""
_ALL = cast(int, np.int64(1))
_LEAVING, _COMING = _START, _ALL
"""A packet's direction, for `_note`."""
_TO_NAMES, _TO_GROUPS, _TO_UNICAST, _TO_REST = range(4)
"""A table with destinations, for `note_train`."""
_SINGLE = MAX_JOBS  # train destinations below are job numbers, from here on sender numbers
_RING_BURST = 64
_SPIN_NS = 50_000
_SLEEP_NS = 100_000_000
_NOBODY = -1
_PERMISSION = cast(int, np.int64(MAX_PAYLOAD + HEADER_BYTES))  # in `spare`, behind the longest result
_CHALLENGED = -2
_OWN_MAC = cast(int, np.int64(int(SWITCH_MAC.replace(":", ""), 16)))
_ALL_MAC = int(EVERYONE_MAC.replace(":", ""), 16)
_STRANGER_MAC = 0x020000000000
_MULTICAST = 0xE


class SwitchRecord(TypedDict):
    """Where the loop stands."""

    train_for: Int64  # destination of the train being built
    rest_for: Int64  # job of the train for all workers but one
    rest_without: Int64  # sender number of that one
    now: Int64
    spare: Int64
    doorbell: Int64  # eventfd
    stop: Int64
    address: Int64  # of the data port, as tapes tell it
    port: Int64
    # Addresses of the functions of these names; 0: no packet is noted, or disturbed, and no switch is above.
    note_train: Int64
    note_coming: Int64
    note_down: Int64
    write_notes: Int64
    disturb: Int64
    deliver_disturbed: Int64
    emit_disturbed: Int64
    rise: Int64
    take_from_above: Int64


class Switch(NamedTuple):
    """State of the pipeline.

    Attributes:
        counters: by job, then of NO_JOB.
        link: the data port.
        rest: the data port once more: what all workers of a job but one get, permissions (headers) or results. They make trains
            of their own, beside those for one or for all.
        rest_names: where they go.
        fabric: shared memory, its first page the switch's own.
        by_range: by job and range of its slots (control/target.py), results sent again to one worker, and packets that were
            duplicates, stale or ahead. Counted only when they come, which costs the others nothing.
        flag: 1 makes `run` return.
        spare: takes results that have nowhere to go.
        tape: takes all packets, where `note_train` is set: as they are on the wire, so with faults between them and the slots.
    """

    state: Records[SwitchRecord]
    tables: Tables
    pool: Pool
    counters: Annotated[Longs, (MAX_JOBS + 1, len(SWITCH_COUNTERS))]
    by_range: Annotated[Longs, (MAX_JOBS, RANGES, 2)]
    link: Datagrams
    rest: Datagrams
    rest_names: Records[datagrams.SocketAddress]
    fabric: Bytes
    faults: Faults
    flag: Longs
    spare: Bytes
    scratch: Longs
    tape: Tape
    flood: Flood


switch_at = view_of(Switch)


@compiled
def _mac_of(tables: Tables, sender: int) -> int:
    """The made-up MAC address of a sender; of a stranger, -1, a common one."""
    if sender < 0:
        return _STRANGER_MAC
    return rank_mac(int(tables.senders[sender]["job"]), int(tables.senders[sender]["worker"]))


@compiled
def _note(
    handle: int, mac: int, address: int, port: int, direction: int, memory: Bytes, at: int, length: int
) -> None:
    """Note a packet between the switch and somebody else."""
    switch = switch_at(handle)
    state = switch.state[0]
    own, own_port = int(state["address"]), int(state["port"])
    if direction == _COMING:
        tapes.note(switch.tape, mac, address, port, _OWN_MAC, own, own_port, memory, at, length)
    else:
        tapes.note(switch.tape, _OWN_MAC, own, own_port, mac, address, port, memory, at, length)


@compiled
def _note_copies(handle: int, link: Datagrams, names: Records[datagrams.SocketAddress], count: int) -> None:
    tables = switch_at(handle).tables
    end, segment = datagrams.train_bytes(link), max(1, datagrams.train_segment(link))
    for index in range(count):
        name = names[index]
        address, port = tapes.from_network(int(name["address"]), 4), tapes.from_network(int(name["port"]), 2)
        if address >> 28 == _MULTICAST:
            mac = tapes.group_mac(address)
        else:
            mac = _mac_of(tables, find_sender(tables, int(name["address"]), int(name["port"])))
        for at in range(0, end, segment):
            _note(handle, mac, address, port, _LEAVING, link.tx_memory, at, min(segment, end - at))


@compiled
def note_train(handle: int, to: int, first: int, count: int) -> int:
    """Note what is about to leave; 0.

    Args:
        handle: of a Switch.
        to: the table whose entries say where to.
        first: of them.
        count: of them.
    """
    switch = switch_at(handle)
    tables = switch.tables
    if to == _TO_REST:
        _note_copies(handle, switch.rest, switch.rest_names, count)
    elif to == _TO_GROUPS:
        _note_copies(handle, switch.link, tables.groups[first:], count)
    elif to == _TO_NAMES:
        _note_copies(handle, switch.link, tables.names[first:], count)
    else:
        _note_copies(handle, switch.link, tables.unicast[first:], count)
    return 0


@compiled
def note_coming(handle: int, sender: int, host: int, port: int, place: int, length: int, segment: int) -> int:
    """Note packets of `segment` bytes that came from a sender, a stranger where it is below 0, and lie at an address; 0."""
    switch = switch_at(handle)
    mac = _mac_of(switch.tables, sender)
    if sender >= 0 and switch.tables.senders[sender]["shm"] != 0:
        host, port = tapes.LOOPBACK, tapes.RING_PORT + int(switch.tables.senders[sender]["worker"])
    else:
        host, port = tapes.from_network(host, 4), tapes.from_network(port, 2)
    memory = bytes_at(place, length)
    for at in range(0, max(length, 1), max(segment, 1)):
        _note(handle, mac, host, port, _COMING, memory, at, min(segment, length - at))
    return 0


@compiled
def note_down(handle: int, number: int) -> int:
    """Note what a job's downlink is about to show; 0."""
    switch = switch_at(handle)
    job = switch.tables.jobs[number]
    layout = job_layout(job)
    for count in range(job["down_shown"], job["down_head"]):
        entry = int(job["region"]) + ring.down_entry(layout, count)
        length, rank = ring.entry_length(switch.fabric, entry), ring.entry_destination(switch.fabric, entry)
        mac, address, port = _ALL_MAC, tapes.ALL_HOSTS, UDP_PORT_FIRST
        if rank != ring.EVERYONE:
            mac, address, port = rank_mac(number, rank), tapes.LOOPBACK, tapes.RING_PORT + rank
        _note(handle, mac, address, port, _LEAVING, switch.fabric, entry + ring.PACKET_AT, length)
    return 0


@compiled
def write_notes(handle: int) -> int:
    """Write what has been noted; 0."""
    tapes.write(switch_at(handle).tape)
    return 0


@compiled
def _flush_train(handle: int) -> None:
    switch = switch_at(handle)
    state, tables, link = switch.state[0], switch.tables, switch.link
    segments = datagrams.train_segments(link)
    if segments == 0:
        return
    target = int(state["train_for"])
    size = datagrams.train_bytes(link)
    number = target
    count = 1
    noted = state["note_train"]
    if target >= _SINGLE:
        sender = target - _SINGLE
        number = int(tables.senders[sender]["job"])
        if noted != 0:
            call_at(noted, handle, _TO_NAMES, sender, 1)
        failed = datagrams.send_train(link, tables.names[sender:].ctypes.data, 1)
    elif tables.jobs[target]["multicast"] != 0:
        if noted != 0:
            call_at(noted, handle, _TO_GROUPS, target, 1)
        failed = datagrams.send_train(link, tables.groups[target:].ctypes.data, 1)
    else:
        count = int(tables.jobs[target]["udp_workers"])
        if noted != 0:
            call_at(noted, handle, _TO_UNICAST, target * MAX_WORKERS, count)
        failed = datagrams.send_train(link, tables.unicast[target * MAX_WORKERS :].ctypes.data, count)
    switch.counters[number, _PACKETS_SENT] += count * segments - failed
    switch.counters[number, _BYTES_SENT] += count * size
    switch.counters[number, _PORT_FULL] += failed


@compiled
def _udp_room(handle: int, target: int, length: int) -> int:
    switch = switch_at(handle)
    state, link = switch.state[0], switch.link
    if state["train_for"] != target or not datagrams.has_room(link, length):
        _flush_train(handle)
        state["train_for"] = target
    return datagrams.append(link, length)


@compiled
def _flush_rest(handle: int) -> None:
    switch = switch_at(handle)
    state, tables, rest = switch.state[0], switch.tables, switch.rest
    segments = datagrams.train_segments(rest)
    if segments == 0:
        return
    number, without = int(state["rest_for"]), int(state["rest_without"])
    count = 0
    for index in range(tables.jobs[number]["udp_workers"]):
        name = tables.unicast[number * MAX_WORKERS + index]
        if (
            without >= 0
            and name["address"] == tables.names[without]["address"]
            and name["port"] == tables.names[without]["port"]
        ):
            continue
        switch.rest_names[count]["family"] = name["family"]
        switch.rest_names[count]["address"] = name["address"]
        switch.rest_names[count]["port"] = name["port"]
        count += 1
    size = datagrams.train_bytes(rest)
    failed = 0
    if count > 0:
        if state["note_train"] != 0:
            call_at(state["note_train"], handle, _TO_REST, 0, count)
        failed = datagrams.send_train(rest, switch.rest_names.ctypes.data, count)
    else:
        datagrams.clear_train(rest)
    switch.counters[number, _PACKETS_SENT] += count * segments - failed
    switch.counters[number, _BYTES_SENT] += count * size
    switch.counters[number, _PORT_FULL] += failed


@compiled
def _tell_rest(handle: int, number: int, without: int, at: int, length: int) -> None:
    """Send `spare[at : at + length]` to all UDP workers of the job but one."""
    switch = switch_at(handle)
    state, rest = switch.state[0], switch.rest
    if (
        state["rest_for"] != number
        or state["rest_without"] != without
        or not datagrams.has_room(rest, length)
    ):
        _flush_rest(handle)
        state["rest_for"], state["rest_without"] = number, without
    place = datagrams.append(rest, length)
    copy_bytes(switch.spare[at : at + length], rest.tx_memory[place : place + length])


@compiled
def _region_longs(handle: int, job: Job) -> Longs:
    switch = switch_at(handle)
    return switch.fabric[job["region"] : job["region"] + job["region_bytes"]].view(np.int64)


@compiled
def _ring_room(handle: int, job: Job, number: int, destination: int, length: int) -> int:
    """Room for a packet on the job's downlink; its place in the fabric, or -1 when some worker is too far behind."""
    switch = switch_at(handle)
    layout = job_layout(job)
    if job["down_head"] >= job["down_limit"]:
        job["down_limit"] = (
            ring.slowest_tail(_region_longs(handle, job), layout.workers) + layout.down_entries
        )
        if job["down_head"] >= job["down_limit"]:
            switch.counters[number, _PORT_FULL] += 1
            return -1
    entry = int(job["region"]) + ring.down_entry(layout, int(job["down_head"]))
    ring.set_entry(switch.fabric, entry, length, destination)
    job["down_head"] += 1
    switch.counters[number, _PACKETS_SENT] += 1
    switch.counters[number, _BYTES_SENT] += length
    return entry + ring.PACKET_AT


@compiled
def _publish_rings(handle: int, number: int) -> None:
    switch = switch_at(handle)
    job = switch.tables.jobs[number]
    if job["down_head"] != job["down_shown"]:
        if switch.state[0]["note_down"] != 0:
            call_at(switch.state[0]["note_down"], handle, number)
        job["down_shown"] = job["down_head"]
        ring.publish_down(_region_longs(handle, job), int(job["down_head"]))


@compiled
def _deliver(handle: int, sender: int, memory: Bytes, at: int, length: int) -> None:
    """Send a packet to one worker."""
    switch = switch_at(handle)
    entry = switch.tables.senders[sender]
    number = int(entry["job"])
    if entry["shm"] != 0:
        place = _ring_room(handle, switch.tables.jobs[number], number, int(entry["worker"]), length)
        if place >= 0:
            copy_bytes(memory[at : at + length], switch.fabric[place : place + length])
        return
    place = _udp_room(handle, _SINGLE + sender, length)
    copy_bytes(memory[at : at + length], switch.link.tx_memory[place : place + length])


@compiled
def deliver_disturbed(handle: int, sender: int, at: int, length: int) -> int:
    """Send `spare[at : at + length]` to one worker, through the fault injector; 0."""
    switch = switch_at(handle)
    number = int(switch.tables.senders[sender]["job"])
    action = fault_injection.next_action(switch.faults)
    if action == fault_injection.DROP:
        switch.counters[number, _LOST] += 1
        return 0
    if action == fault_injection.HOLD:
        switch.counters[number, _REORDERED] += 1
        fault_injection.hold(switch.faults, fault_injection.EGRESS, sender, switch.spare, at, length)
        return 0
    _deliver(handle, sender, switch.spare, at, length)
    if action == fault_injection.DUPLICATE:
        switch.counters[number, _DOUBLED] += 1
        _deliver(handle, sender, switch.spare, at, length)
    return 0


@compiled
def _deliver_spare(handle: int, sender: int, at: int, length: int) -> None:
    """Send `spare[at : at + length]` to one worker."""
    switch = switch_at(handle)
    state = switch.state[0]
    if state["deliver_disturbed"] != 0:
        call_at(state["deliver_disturbed"], handle, sender, at, length)
    else:
        _deliver(handle, sender, switch.spare, at, length)


@compiled
def emit_disturbed(handle: int, number: int, length: int, apart: int, but_one: int, named: int) -> int:
    """Send the result in `spare` to all workers, each copy with faults of its own; for the rest see `_emit_apart`. 0."""
    switch = switch_at(handle)
    for rank in range(switch.tables.jobs[number]["workers"]):
        worker = member(switch.tables, number, rank)
        if worker >= 0:
            if apart != 0 and (worker == named) == (but_one != 0):
                deliver_disturbed(handle, worker, _PERMISSION, HEADER_BYTES)
            else:
                deliver_disturbed(handle, worker, _START, length)
    return 0


@compiled
def _emit_apart(handle: int, job: Job, number: int, length: int, but_one: bool, named: int) -> None:
    """Send the result in `spare` to the worker that is named and a permission to the others; with `but_one` the other way."""
    switch = switch_at(handle)
    spare = switch.spare
    at, bytes_to_one, rest_at, bytes_to_rest = _START, length, _PERMISSION, HEADER_BYTES
    if but_one:
        at, bytes_to_one, rest_at, bytes_to_rest = _PERMISSION, HEADER_BYTES, _START, length
    if named >= 0 and switch.tables.senders[named]["shm"] == 0:
        place = _udp_room(handle, _SINGLE + named, bytes_to_one)
        copy_bytes(spare[at : at + bytes_to_one], switch.link.tx_memory[place : place + bytes_to_one])
    if job["udp_workers"] > 0:
        _tell_rest(handle, number, named, rest_at, bytes_to_rest)
    if job["shm_workers"] > 0:
        # One entry for all: whoever does not want the elements reads no more of it than the header.
        place = _ring_room(handle, job, number, ring.EVERYONE, length)
        if place >= 0:
            copy_bytes(spare[:length], switch.fabric[place : place + length])


@compiled
def _write_header(
    handle: int, index: int, kind: int, apart: bool, memory: Bytes, at: int, out: Bytes, place: int
) -> None:
    """Write the header of an answer to the packet `memory[at:]` at `out[place:]`. apart: there are elements, not for all."""
    copy = switch_at(handle).pool.slots[index]
    copy_bytes(memory[at : at + HEADER_BYTES], out[place : place + HEADER_BYTES])
    size = read_size(memory, at) ^ (ASKED if read_msg_type(memory, at) == ASK else 0)
    set_kind(out, place, kind, read_to_one(memory, at) if apart else 0, size)
    if not apart:
        clear_but_one(out, place)
    set_exponents(out, place, int(copy["e0"]), int(copy["e1"]))


@inlined
def _elements(job: Job, kind: int) -> int:
    """How many elements the job's packets of that type carry."""
    bits = LANE_BITS[kind]
    return 32 // bits * int(job["elements"]) if bits > 0 else 0


@inlined
def _apply(verdict: int, kind: int, packet: Bytes, shift: int, sums: Words, out: Bytes) -> int:
    """Do to the elements of a packet what the verdict says; by how many bits a narrow result is shifted.

    Args:
        verdict: of the slot machine.
        kind: message type.
        packet: its payload.
        shift: bits by which its lanes are shifted.
        sums: of the copy, one an element.
        out: takes the result's where one leaves.
    """
    bits = LANE_BITS[kind]
    if bits == 32:
        apply(verdict, packet.view(np.uint32), sums, out.view(np.uint32))
        return 0
    if bits == 16:
        return apply_lanes(verdict, packet.view(np.uint16), shift, sums, out.view(np.uint16))
    return apply_lanes(verdict, packet, shift, sums, out)


@compiled
def _write_result(
    handle: int,
    job: Job,
    verdict: int,
    index: int,
    first: int,
    shift: int,
    length: int,
    memory: Bytes,
    at: int,
    end: int,
    out: Bytes,
    place: int,
) -> None:
    """Apply the verdict on the packet `memory[at:end]` and write the result, `length` bytes, at `out[place:]`."""
    switch = switch_at(handle)
    kind = int(switch.pool.slots[index]["kind"])
    narrow_e1, apart = 0, LANE_BITS[kind] > 0
    if job["above"] != 0:
        # What has come from above is shifted already, and may be a header because others get the elements.
        narrow_e1, apart = int(switch.pool.slots[index]["e1"]), apart or switch.pool.slots[index]["ways"] != 0
    _write_header(handle, index, kind, apart, memory, at, out, place)
    elements = _elements(job, kind)
    if elements > 0:
        packet, result = memory[at + HEADER_BYTES : end], out[place + HEADER_BYTES : place + length]
        by = _apply(verdict, kind, packet, shift, switch.pool.sums[first : first + elements], result)
        if LANE_BITS[kind] < 32:
            set_exponents(out, place, int(switch.pool.slots[index]["e0"]), narrow_e1 + by)


@compiled
def _answer_probe(handle: int, sender: int, memory: Bytes, at: int, length: int) -> None:
    """Back to the worker, and to its job's group if it has one, whatever the job uses for results."""
    switch = switch_at(handle)
    tables = switch.tables
    number = int(tables.senders[sender]["job"])
    switch.counters[number, _PROBES] += 1
    _deliver(handle, sender, memory, at, length)
    if tables.groups[number]["family"] != 0:
        _flush_train(handle)
        place = datagrams.append(switch.link, length)
        copy_bytes(memory[at : at + length], switch.link.tx_memory[place : place + length])
        if switch.state[0]["note_train"] != 0:
            call_at(switch.state[0]["note_train"], handle, _TO_GROUPS, number, 1)
        datagrams.send_train(switch.link, tables.groups[number:].ctypes.data, 1)


@compiled
def _answer_ask(handle: int, sender: int, memory: Bytes, at: int, has_come: int) -> None:
    """Whether the sender's packet of a chunk has come: its question back to it, with 1 or 0 as the exponent."""
    switch = switch_at(handle)
    switch.counters[switch.tables.senders[sender]["job"], _ASKS] += 1
    copy_bytes(memory[at : at + HEADER_BYTES], switch.spare[:HEADER_BYTES])
    set_exponents(switch.spare, _START, has_come, read_e1(memory, at))
    _deliver_spare(handle, sender, _START, HEADER_BYTES)


@compiled
def _check(job: Job, number: int, memory: Bytes, at: int, length: int) -> int:
    """Index of the counter of what is wrong with the packet, or -1."""
    if length < HEADER_BYTES:
        return _TRUNCATED
    kind = read_msg_type(memory, at)
    elements = _elements(job, kind)
    if LANE_BITS[kind] == UNKNOWN_TYPE or elements > job["sums"]:
        return _BAD_HEADER
    ways = read_to_one(memory, at) + read_but_one(memory, at)
    if ways > 1 or (ways > 0 and kind in (EXPONENTS, PROBE)):
        return _BAD_HEADER
    if read_job(memory, at) != number and job["any_number"] == 0:
        return _WRONG_JOB
    if kind == ASK and job["paper"] != 0:
        return _BAD_HEADER
    if kind == PROBE:
        return -1
    payload = length - HEADER_BYTES
    wanted = 4 * int(job["elements"]) if elements > 0 else 0
    if read_size(memory, at) != job["size"] or payload > wanted:
        return _WRONG_SIZE
    if payload < wanted:
        return _TRUNCATED
    slot, window = read_slot(memory, at), int(job["window"])
    if slot >= window:
        return _WRONG_SLOT
    tsi = read_tsi(memory, at)
    if job["paper"] == 0 and (
        slot_of(tsi, window) != slot or version_of(tsi, window) != read_version(memory, at)
    ):
        return _WRONG_VERSION
    return -1


@compiled
def _drop(handle: int, number: int, window: int, slot: int, verdict: int) -> None:
    """Count what was a duplicate, stale, ahead or of another kind than its chunk."""
    switch = switch_at(handle)
    counters = switch.counters[number]
    switch.flood.state[0]["useless"] += 1
    if verdict == MISFIT:
        counters[_WRONG_SIZE] += 1
        return
    counters[_DUPLICATE if verdict == DUPLICATE else _STALE if verdict == STALE else _AHEAD] += 1
    switch.by_range[number, slot * RANGES // window, DROPPED] += 1


@compiled
def _pass_on(handle: int, sender: int, memory: Bytes, at: int) -> None:
    """Send a header on as it is."""
    copy_bytes(memory[at : at + HEADER_BYTES], switch_at(handle).spare[:HEADER_BYTES])
    _deliver_spare(handle, sender, _START, HEADER_BYTES)


@compiled
def rise(
    handle: int, number: int, verdict: int, index: int, first: int, shift: int, place: int, size: int
) -> int:
    """Send what the verdict on a packet of `size` bytes at an address says to the switch above; 0."""
    switch = switch_at(handle)
    job, memory, at = switch.tables.jobs[number], bytes_at(place, size), _START
    above, copy = int(job["above"]) - 1, switch.pool.slots[index]
    if verdict == WAITING + RISES:
        _pass_on(handle, above, memory, at)
        return 0
    kind = int(copy["kind"])
    copy["ways"] = TO_ONE if read_to_one(memory, at) != 0 else BUT_ONE if read_but_one(memory, at) != 0 else 0
    elements, length = _elements(job, kind), HEADER_BYTES
    _write_header(handle, index, kind, True, memory, at, switch.spare, _START)
    if elements > 0:
        length += 4 * int(job["elements"])
        packet, sums = memory[HEADER_BYTES:], switch.pool.sums[first : first + elements]
        by = _apply(verdict, kind, packet, shift, sums, switch.spare[HEADER_BYTES:length])
        if LANE_BITS[kind] < 32:
            # `e1` says by how much, and nobody is named: results of narrow lanes all come down.
            set_kind(switch.spare, _START, kind, 0, read_size(memory, at))
            clear_but_one(switch.spare, _START)
            set_exponents(switch.spare, _START, int(copy["e0"]), by)
    _deliver_spare(handle, above, _START, length)
    return 0


@compiled
def take_from_above(handle: int, number: int, index: int, place: int, size: int) -> int:
    """The verdict on a packet from the switch above, at an address: FRESH + COMPLETE on a result.

    Its bits then are what those below sent. What it says to a question goes down, and the rest is counted.
    """
    switch = switch_at(handle)
    memory, at = bytes_at(place, size), _START
    slots, job = switch.pool.slots, switch.tables.jobs[number]
    rack, tsi, kind = int(job["workers"]), read_tsi(memory, at), read_msg_type(memory, at)
    if kind == ASK:
        verdict = judge(slots, index, rack, tsi)
        if verdict == COMPLETE:
            switch.counters[number, _ASKS] += 1
            _pass_on(handle, member(switch.tables, number, FIRST_WORKER), memory, at)
            return WAITING
    else:
        ways = TO_ONE if read_to_one(memory, at) != 0 else BUT_ONE if read_but_one(memory, at) != 0 else 0
        verdict = take_result(slots, index, rack, tsi, kind, ways, read_e0(memory, at), read_e1(memory, at))
        if verdict >= COMPLETE:
            told = int(slots[index]["ways"])
            set_kind(memory, at, kind, 1 if told == TO_ONE else 0, int(job["size"]))
            clear_but_one(memory, at)
            if told == BUT_ONE:
                set_but_one(memory, at)
            return verdict
    _drop(handle, number, int(job["window"]), read_slot(memory, at), verdict)
    return verdict


@compiled
def process(handle: int, sender: int, memory: Bytes, at: int, length: int) -> None:
    """One packet of a known worker, whole: `memory[at : at + length]`."""
    switch = switch_at(handle)
    tables = switch.tables
    number = int(tables.senders[sender]["job"])
    job = tables.jobs[number]
    counters = switch.counters[number]
    counters[_PACKETS_RECEIVED] += 1
    counters[_BYTES_RECEIVED] += length
    above = tables.senders[sender]["above"] != 0
    if above and length >= HEADER_BYTES and read_size(memory, at) == job["size"] ^ ASKED:
        # Answers a question, which nobody below needs to know: it goes to all.
        set_kind(memory, at, read_msg_type(memory, at), read_to_one(memory, at), int(job["size"]))
    wrong = _check(job, number, memory, at, length)
    if wrong >= 0:
        counters[wrong] += 1
        switch.flood.state[0]["useless"] += 1
        return
    kind = read_msg_type(memory, at)
    if kind == PROBE:
        switch.flood.state[0]["useless"] += 1
        if tables.senders[sender]["is_switch"] != 0:
            # Switches prove nothing, and would answer each other for ever.
            counters[_BAD_HEADER] += 1
            return
        _answer_probe(handle, sender, memory, at, length)
        return
    elements = _elements(job, kind)
    slot, version, tsi = read_slot(memory, at), read_version(memory, at), read_tsi(memory, at)
    e0, e1 = read_e0(memory, at), read_e1(memory, at)
    index = 2 * (int(job["pool_base"]) + slot) + version
    worker, parts, window = int(tables.senders[sender]["worker"]), int(job["parts"]), int(job["window"])
    first = int(job["sums_base"]) + (2 * slot + version) * int(job["sums"])
    shift = 0
    if above:
        rank = int(switch.pool.slots[index]["e1"])
        verdict = call_at(
            switch.state[0]["take_from_above"], handle, number, index, memory.ctypes.data + at, length
        )
        if verdict < COMPLETE:
            return
        e1, elements = rank, 0
    elif kind == ASK:
        verdict = inquire(switch.pool.slots, index, worker, parts, tsi)
    elif job["paper"] != 0:
        verdict = admit_paper(switch.pool.slots, index, worker, parts, window, tsi, kind, e0, e1)
    else:
        verdict = admit(switch.pool.slots, index, worker, parts, window, tsi, kind, e0, e1)
    if tables.senders[sender]["is_switch"] != 0 and not above:
        shift = e1 & 31
    if job["above"] != 0 and not above:
        verdict = rising(switch.pool.slots, index, worker, int(job["workers"]), verdict)
        if verdict >= RISES:
            if verdict in (WAITING + RISES, RETRANSMIT + RISES):
                switch.flood.state[0]["useless"] += 1
            else:
                counters[_ELEMENTS_ADDED] += elements
            place = memory.ctypes.data + at
            call_at(switch.state[0]["rise"], handle, number, verdict, index, first, shift, place, length)
            return
    if verdict in (DUPLICATE, STALE, AHEAD, MISFIT):
        _drop(handle, number, window, slot, verdict)
        return
    if verdict in (UNSEEN, WAITING):
        switch.flood.state[0]["useless"] += 1
        _answer_ask(handle, sender, memory, at, 1 if verdict == WAITING else 0)
        return
    if verdict == RETRANSMIT:
        counters[_RETRANSMITTED] += 1
        switch.flood.state[0]["useless"] += 1
        switch.by_range[number, slot * RANGES // window, RESENT] += 1
    else:
        counters[_ELEMENTS_ADDED] += elements
    everyone = verdict >= COMPLETE
    if everyone:
        counters[_CHUNKS_COMPLETED] += 1
    elif verdict != RETRANSMIT:
        if elements > 0:
            packet = memory[at + HEADER_BYTES : at + length]
            _apply(verdict, kind, packet, shift, switch.pool.sums[first : first + elements], packet)
        return
    answer = HEADER_BYTES
    apart, but_one = False, read_but_one(memory, at) != 0
    if LANE_BITS[switch.pool.slots[index]["kind"]] > 0:
        answer += 4 * int(job["elements"])
        apart = but_one or read_to_one(memory, at) != 0
    named = int(tables.by_rank[number * MAX_WORKERS + (e1 & 0xFF)]) if apart else _NOBODY
    if but_one and named >= 0 and tables.senders[named]["ranks"] > 1:
        named = _NOBODY  # the others below it want the elements
    if apart and not everyone and (sender == named) == but_one:
        _write_header(handle, index, ABSENT, True, memory, at, switch.spare, _START)
        _deliver_spare(handle, sender, _START, HEADER_BYTES)
        return
    end = at + length
    if apart and everyone:
        _write_header(handle, index, ABSENT, True, memory, at, switch.spare, _PERMISSION)
    disturbed = switch.state[0]["emit_disturbed"]
    if disturbed != 0 or (apart and everyone):
        _write_result(
            handle, job, verdict, index, first, shift, answer, memory, at, end, switch.spare, _START
        )
        if disturbed == 0:
            _emit_apart(handle, job, number, answer, but_one, named)
        elif everyone:
            call_at(disturbed, handle, number, answer, apart, but_one, named)
        else:
            _deliver_spare(handle, sender, _START, answer)
        return
    udp = job["udp_workers"] > 0 if everyone else tables.senders[sender]["shm"] == 0
    shm = job["shm_workers"] > 0 if everyone else tables.senders[sender]["shm"] != 0
    if udp:
        place = _udp_room(handle, number if everyone else _SINGLE + sender, answer)
        _write_result(
            handle, job, verdict, index, first, shift, answer, memory, at, end, switch.link.tx_memory, place
        )
        if shm:
            copy = _ring_room(handle, job, number, ring.EVERYONE, answer)
            if copy >= 0:
                copy_bytes(switch.link.tx_memory[place : place + answer], switch.fabric[copy : copy + answer])
        return
    place = _ring_room(handle, job, number, ring.EVERYONE if everyone else worker, answer)
    if place >= 0:
        _write_result(
            handle, job, verdict, index, first, shift, answer, memory, at, end, switch.fabric, place
        )
    else:
        _write_result(
            handle, job, verdict, index, first, shift, answer, memory, at, end, switch.spare, _START
        )


@compiled
def _release_held(handle: int, everything: int) -> None:
    switch = switch_at(handle)
    held = switch.faults
    index = fault_injection.next_release(held, everything != 0)
    while index >= 0:
        entry = held.held[index]
        sender, length = int(entry["sender"]), int(entry["length"])
        if switch.tables.senders[sender]["used"] != 0:
            if entry["direction"] == fault_injection.INGRESS:
                process(handle, sender, held.memory, index * HELD_BYTES, length)
            else:
                _deliver(handle, sender, held.memory, index * HELD_BYTES, length)
        fault_injection.forget(held, index)
        index = fault_injection.next_release(held, everything != 0)


@compiled
def disturb(handle: int, sender: int, place: int, length: int) -> int:
    """What the fault injector does to a packet that came and lies at an address: how many times it goes on."""
    switch = switch_at(handle)
    number = int(switch.tables.senders[sender]["job"])
    action = fault_injection.next_action(switch.faults)
    if action == fault_injection.DROP:
        switch.counters[number, _LOST] += 1
        return 0
    if action == fault_injection.HOLD and length <= HELD_BYTES:
        switch.counters[number, _REORDERED] += 1
        memory = bytes_at(place, length)
        fault_injection.hold(switch.faults, fault_injection.INGRESS, sender, memory, _START, length)
        return 0
    if action == fault_injection.DUPLICATE:
        switch.counters[number, _DOUBLED] += 1
        return 2
    return 1


@compiled
def ingress(handle: int, sender: int, memory: Bytes, at: int, length: int) -> None:
    """A packet from a port, through the fault injector where there is one, into the pipeline."""
    switch = switch_at(handle)
    times = 1
    if switch.state[0]["disturb"] != 0:
        fault_injection.pass_one(switch.faults)
        _release_held(handle, _START)
        times = call_at(switch.state[0]["disturb"], handle, sender, memory.ctypes.data + at, length)
    for _ in range(times):
        process(handle, sender, memory, at, length)


@compiled
def _prove(handle: int, address: int, port: int, at: int, length: int) -> int:
    """What a packet from an address of no known sender proves: the sender that is there, -1 for a stranger.

    _CHALLENGED: it knows the secret of a join that claims the address, and is sent another, which only who is there receives.
    """
    switch = switch_at(handle)
    tables, memory = switch.tables, switch.link.rx_memory
    if length != HEADER_BYTES or read_msg_type(memory, at) != PROBE:
        return -1
    secret = read_secret(memory, at)
    sender = find_claim(tables, address, port, secret)
    if sender < 0:
        return -1
    entry = tables.senders[sender]
    if entry["challenge"] == secret:
        count_address(tables, sender)
        return sender
    number = int(entry["job"])
    counters = switch.counters[number]
    counters[_PACKETS_RECEIVED] += 1
    counters[_BYTES_RECEIVED] += length
    counters[_PROBES] += 1
    place = _udp_room(handle, _SINGLE + sender, length)
    write_challenge(switch.link.tx_memory, place, number, int(entry["challenge"]))
    return _CHALLENGED


@compiled
def _accuse(handle: int, address: int, port: int, packets: int) -> None:
    """Useless packets have come from there; `run` returns when somebody is to be cut off."""
    switch = switch_at(handle)
    # What is doubled on purpose is nobody's fault.
    if switch.state[0]["disturb"] == 0 and accuse(
        switch.flood, address, port, packets, int(switch.state[0]["now"])
    ):
        store_release(switch.flag, 0, 1)


@compiled
def _limit(handle: int, sender: int, tenant: int, packets: int, length: int, segment: int) -> int:
    """How many packets of a message are beyond a tenant's limit: the last ones, which are dropped, and are of no use."""
    switch = switch_at(handle)
    taken = granted(switch.tables.limits, tenant, packets, int(switch.state[0]["now"]))
    beyond = packets - taken
    if beyond == 0:
        return 0
    counters = switch.counters[switch.tables.senders[sender]["job"]]
    counters[_OVER_LIMIT] += beyond
    counters[_PACKETS_RECEIVED] += beyond
    counters[_BYTES_RECEIVED] += length - taken * segment
    switch.flood.state[0]["useless"] += beyond
    return beyond


@compiled
def take_message(handle: int, address: int, port: int, at: int, length: int, segment: int) -> int:
    """What has come from a socket, `link.rx_memory[at : at + length]`: a packet, or a train of packets of `segment` bytes.

    Returns:
        How many packets it was.
    """
    switch = switch_at(handle)
    tables = switch.tables
    sender = find_sender(tables, address, port)
    noted = switch.state[0]["note_coming"]
    if noted != 0:
        call_at(noted, handle, sender, address, port, switch.link.rx_memory.ctypes.data + at, length, segment)
    if sender < 0:
        # One packet of a train: probes come alone, and again.
        sender = _prove(handle, address, port, at, min(segment, length))
    if sender == _CHALLENGED:
        return 1
    if sender < 0:
        strangers = -(-length // segment) if segment > 0 else 1
        switch.counters[NO_JOB, _PACKETS_RECEIVED] += strangers
        switch.counters[NO_JOB, _BYTES_RECEIVED] += length
        switch.counters[NO_JOB, _UNKNOWN_SENDER] += strangers
        _accuse(handle, address, port, strangers)
        return strangers
    tables.senders[sender]["last_heard"] = switch.state[0]["now"]
    tenant = int(tables.jobs[tables.senders[sender]["job"]]["tenant"])
    # What workers may send is limited where they send it.
    between_switches = tables.senders[sender]["is_switch"] != 0
    switch.flood.state[0]["useless"] = 0
    found, end = 0, at + length
    more = True  # an empty datagram is one, too
    if tenant != 0 and not between_switches:
        step = max(segment, 1)
        packets = max(1, -(-length // step))
        found = _limit(handle, sender, tenant, packets, length, step)
        more = found < packets
        end = at + min(length, (packets - found) * step)
    while more:
        if between_switches and end - at >= HEADER_BYTES:
            sender = find_switch(tables, sender, read_job(switch.link.rx_memory, at))
        ingress(handle, sender, switch.link.rx_memory, at, min(segment, end - at))
        at += segment
        found += 1
        more = at < end
    if switch.flood.state[0]["useless"] > 0 and not between_switches:
        _accuse(handle, address, port, int(switch.flood.state[0]["useless"]))
    return found


@compiled
def _poll_udp(handle: int) -> int:
    link = switch_at(handle).link
    if link.registers[datagrams.FD] < 0:
        return 0
    found = 0
    for message in range(datagrams.receive(link)):
        name = link.rx_names[message]
        found += take_message(
            handle, int(name["address"]), int(name["port"]), datagrams.message_start(link, message),
            datagrams.message_bytes(link, message), datagrams.segment_bytes(link, message),
        )  # fmt: skip
    return found


@compiled
def _poll_ring(handle: int, sender: int) -> int:
    switch = switch_at(handle)
    entry = switch.tables.senders[sender]
    number = int(entry["job"])
    job = switch.tables.jobs[number]
    longs = _region_longs(handle, job)
    layout = job_layout(job)
    worker = int(entry["worker"])
    head = load_acquire(longs, ring.up_head(worker))
    tail = int(entry["up_tail"])
    count = min(head - tail, _RING_BURST)
    if job["tenant"] != 0 and count > 0:
        # The rest waits where it lies.
        count = granted(switch.tables.limits, int(job["tenant"]), count, int(switch.state[0]["now"]))
    if count <= 0:
        return 0
    entry["last_heard"] = switch.state[0]["now"]
    noted = switch.state[0]["note_coming"]
    for index in range(tail, tail + count):
        place = int(job["region"]) + ring.up_entry(layout, worker, index)
        length = ring.entry_length(switch.fabric, place)
        # A worker that writes nonsense may harm itself alone.
        length = min(max(length, 0), layout.stride - ring.PACKET_AT)
        if noted != 0:
            address = switch.fabric.ctypes.data + place + ring.PACKET_AT
            call_at(noted, handle, sender, 0, 0, address, length, length)
        ingress(handle, sender, switch.fabric, place + ring.PACKET_AT, length)
    entry["up_tail"] = tail + count
    store_release(longs, ring.up_tail(worker), tail + count)
    return count


@compiled
def _poll_rings(handle: int) -> int:
    switch = switch_at(handle)
    tables = switch.tables
    found = 0
    for index in range(tables.ring_count[0]):
        sender = int(tables.rings[index])
        found += _poll_ring(handle, sender)
        _publish_rings(handle, int(tables.senders[sender]["job"]))
    return found


@compiled
def _rings_waiting(handle: int) -> bool:
    switch = switch_at(handle)
    tables = switch.tables
    for index in range(tables.ring_count[0]):
        entry = tables.senders[int(tables.rings[index])]
        longs = _region_longs(handle, tables.jobs[entry["job"]])
        if load_acquire(longs, ring.up_head(int(entry["worker"]))) != entry["up_tail"]:
            return True
    return False


@compiled
def _sleep(handle: int) -> None:
    switch = switch_at(handle)
    page = switch.fabric[: ring.PAGE].view(np.int64)
    doorbell = int(switch.state[0]["doorbell"])
    store_release(page, ring.SWITCH_SLEEPS, 1)
    fence()
    if not _rings_waiting(handle) and load_acquire(switch.flag, 0) == 0:
        datagrams.wait_readable(switch.link, doorbell, -1, _SLEEP_NS)
    store_release(page, ring.SWITCH_SLEEPS, 0)
    datagrams.drain_event(switch.link, doorbell)


@compiled
def run(handle: int, spin_ns: int) -> None:
    """Forward packets until the flag is set, or the time of somebody who is cut off is over.

    Args:
        handle: of a Switch.
        spin_ns: how long to look again before sleeping.
    """
    switch = switch_at(handle)
    state = switch.state[0]
    quiet_since = libc.monotonic_ns(switch.scratch)
    while load_acquire(switch.flag, 0) == 0:
        state["now"] = libc.monotonic_ns(switch.scratch)
        if 0 < switch.flood.state[0]["until"] <= state["now"]:
            break
        found = _poll_udp(handle) + _poll_rings(handle)
        _flush_train(handle)
        _flush_rest(handle)
        if state["note_train"] != 0:
            call_at(state["write_notes"], handle)
        if found > 0:
            quiet_since = state["now"]
            continue
        if switch.faults.settings[0]["held"] > 0:
            _release_held(handle, _ALL)
            _flush_train(handle)
            _flush_rest(handle)
            for index in range(switch.tables.ring_count[0]):
                _publish_rings(handle, int(switch.tables.senders[int(switch.tables.rings[index])]["job"]))
        elif state["now"] - quiet_since < spin_ns:
            libc.sched_yield()
        else:
            _sleep(handle)
