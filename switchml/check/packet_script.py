"""The way to a violation as a packet script (STF) for our P4 program, on any target that `switchml stf` plays to.

It holds what the switch is given and what it answers: a target that answers alike passes, wrong sum and all.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

from switchml.check.machines import ELEMENTS, JOB
from switchml.check.search import Configuration, Finding
from switchml.control.p4runtime import program as p4
from switchml.control.p4runtime.p4runtime_client import Row
from switchml.control.p4runtime.p4runtime_target import read_pipeline
from switchml.control.target import JobProgram, WorkerProgram
from switchml.errors import UsageError
from switchml.p4runtime.entries import ActionCall
from switchml.p4runtime.schema import Schema
from switchml.protocol.messages import ELEMENT_BYTES, UDP_PORT_FIRST
from switchml.switch_emulator.ports.ethernet import UdpHeaders, mac_bytes
from switchml.switch_emulator.ports.udp import SWITCH_MAC

_SWITCH_ADDRESS = "10.0.0.254"
_MAC = int.from_bytes(mac_bytes(SWITCH_MAC), "big")


def _job(configuration: Configuration) -> JobProgram:
    workers = [
        WorkerProgram(rank, "udp", f"10.0.{JOB}.{rank + 1}", 0xC000 + rank, "")
        for rank in range(configuration.workers)
    ]
    return JobProgram(
        job_number=JOB,
        pool_base=0,
        window=configuration.window,
        payload=ELEMENT_BYTES * ELEMENTS,
        paper=configuration.paper,
        workers=tuple(workers),
        multicast_group="",
        multicast_port=0,
    )


def _station_mac(rank: int) -> int:
    return 0x020100000000 | JOB << 8 | rank


def _set_up(schema: Schema, job: JobProgram) -> Iterator[Row]:
    yield p4.own_address(schema, _SWITCH_ADDRESS, _MAC)
    for worker in job.workers:
        yield p4.sender(schema, job, worker)
        yield from p4.membership(schema, job, worker, epoch=1)
        yield p4.reachable(schema, job, worker)
        yield p4.rewrite(schema, job, worker, _station_mac(worker.rank))


def _statement(schema: Schema, row: Row) -> str:
    table, entry = row
    assert isinstance(entry.action, ActionCall)
    names = [parameter.name for parameter in schema.actions.named(entry.action.name).parameters]
    arguments = ", ".join(
        f"{name}:{value:#x}" for name, value in zip(names, entry.action.arguments, strict=True)
    )
    keys = " ".join(f"{name}:{match.value:#x}" for name, match in entry.key.items())
    return f"add {table} {keys} {entry.action.name.rpartition('.')[2]}({arguments})"


def _frame(worker: WorkerProgram, packet: bytes, *, to_switch: bool) -> str:
    host = (
        _station_mac(worker.rank).to_bytes(6, "big"),
        ipaddress.IPv4Address(worker.address).packed,
        worker.port,
    )
    switch = (mac_bytes(SWITCH_MAC), ipaddress.IPv4Address(_SWITCH_ADDRESS).packed, UDP_PORT_FIRST)
    (source_mac, source, source_port), (mac, address, port) = (host, switch) if to_switch else (switch, host)
    headers = UdpHeaders(source_mac, mac, source, address, source_port, port)
    return (headers.build(len(packet)) + packet).hex()


def packet_script(finding: Finding, program: Path | None = None) -> str:
    """The script of a violation.

    Args:
        finding: with a trace.
        program: our P4 program for packets of 64 elements, as BMv2's JSON with its P4Info beside it; else that of this package.

    Raises:
        UsageError: another program.
    """
    program = program or p4.compiled_programs() / f"switchml_{ELEMENTS}.json"
    schema = Schema(read_pipeline(program).p4info)
    job = _job(finding.configuration)
    if p4.shape(schema).payload != job.payload:
        raise UsageError(
            f"{program} is not compiled for {ELEMENTS} elements a packet, as p4/build/switchml_64.json is"
        )
    lines = [f"# {finding.wrong or 'Not all workers can finish.'}", ""]
    lines += [_statement(schema, row) for row in _set_up(schema, job)]
    if len(job.workers) > 1:
        lines.append(f"mc_mgrp_create {p4.group_of(JOB)}")
        for worker in job.workers:
            lines.append(f"mc_node_create {worker.rank + 1} {worker.rank + 1}")
            lines.append(f"mc_node_associate {p4.group_of(JOB)} {worker.rank}")
    for step in finding.trace:
        if step.at_switch:
            lines += [
                "",
                f"packet {step.rank + 1} {_frame(job.workers[step.rank], step.packet, to_switch=True)}",
            ]
            for to, answer in step.sent:
                for worker in job.workers if to is None else [job.workers[to]]:
                    lines.append(f"expect {worker.rank + 1} {_frame(worker, answer, to_switch=False)} $")
    return "\n".join(lines) + "\n"
