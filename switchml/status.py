"""`switchml status`: what a switch says about itself, as tables or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from switchml.cli_options import (
    SWITCH,
    AsJson,
    SwitchAddress,
    SwitchTimeout,
    SwitchToken,
    TlsCa,
    TlsCert,
    TlsKey,
)
from switchml.control.control_messages import DEFAULT_CONTROL_PORT, JobStatus, MemberStatus, SwitchStatus
from switchml.outlook import on_copies, on_the_link
from switchml.protocol.counters import SWITCH_COUNTERS, copies_dropped


def status(
    switch: SwitchAddress = f"127.0.0.1:{DEFAULT_CONTROL_PORT}",
    token: SwitchToken = "",
    timeout: SwitchTimeout = 5.0,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Wait that long for a switch that is about to start.",
            rich_help_panel=SWITCH,
        ),
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Show a switch's jobs, workers and counters; of several switches, one after the other (JSON: by address)."""
    from switchml.control.client import ControlClient
    from switchml.control.named_switches import parse_switches
    from switchml.control.tls import TlsFiles

    tls = TlsFiles(tls_cert, tls_key, tls_ca).client()
    answers = {}
    for one in parse_switches(switch):
        with ControlClient(
            one.address, token=token, timeout=max(wait, timeout), tls=tls, patient=wait > 0
        ) as client:
            answers[client.address] = client.status()
    if as_json:
        told = {address: asdict(answer) for address, answer in answers.items()}
        print(json.dumps(told if len(told) > 1 else next(iter(told.values())), indent=2, sort_keys=True))
    else:
        console = Console()
        for address, answer in answers.items():
            for table in tables(address, answer):
                console.print(table)
            for sentence in sentences(answer, len(answers)):
                console.print(sentence, soft_wrap=True, markup=False, highlight=False)


def tables(address: str, answer: SwitchStatus) -> Iterable[Table]:
    """The switch, its jobs, their workers, the jobs that ended last, and every counter that is not zero."""
    target = answer.target
    overview = _table(f"switch {address}", "", "")
    overview.add_row("data port", f"{target.host}:{target.udp_port}/udp")
    overview.add_row("shared memory", "yes" if target.shm_socket else "no")
    overview.add_row("slots", f"{answer.free_slots} of {target.pool_slots} free")
    overview.add_row("largest payload", f"{target.max_payload} bytes")
    overview.add_row("lease", f"{answer.lease:g} s")
    overview.add_row("up", f"{answer.uptime:.0f} s")
    yield overview

    jobs = _table(
        "jobs", "job", "number", "state", "workers", "slots", "payload", "wire", "results by", "age"
    )
    for job in answer.jobs:
        jobs.add_row(*_job_cells(job))
    if answer.jobs:
        yield jobs

    workers = _table(
        "workers", "job", "rank", "state", "transport", "heartbeat", "last packet", "sent again", "twice"
    )
    for job in answer.jobs:
        for member in job.members:
            workers.add_row(job.name, *_member_cells(member))
    if workers.row_count:
        yield workers

    ended = _table("ended", "job", "number", "workers", "reason", "when")
    for end in answer.ended:
        ended.add_row(end.name, str(end.job_number), str(end.world_size), end.reason, _ago(end.ended))
    if answer.ended:
        yield ended

    counters = _table("counters", "counter", *(job.name for job in answer.jobs), "switch")
    for name in (counter.name for counter in SWITCH_COUNTERS):
        if total := answer.counters.get(name, 0):
            counters.add_row(name, *(f"{job.counters.get(name, 0):,}" for job in answer.jobs), f"{total:,}")
    if counters.row_count:
        yield counters


def sentences(answer: SwitchStatus, switches: int = 1) -> Iterable[str]:
    """What is worth a word of each running job.

    Args:
        answer: a switch's.
        switches: over which the jobs are dealt, as far as is known.
    """
    for job in answer.jobs:
        counted = job.counters
        sent_again = sum(member.sent_again for member in job.members)
        needless = sum(member.arrived_twice for member in job.members)
        needless += copies_dropped(counted)
        told = (
            on_copies(counted.get("packets_received", 0), sent_again, needless),
            on_the_link(answer.sharing(job) / switches),
        )
        yield from (f"{job.name}: {sentence}" for sentence in told if sentence)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=any(columns))
    for column in columns:
        table.add_column(column)
    return table


def _job_cells(job: JobStatus) -> tuple[str, ...]:
    return (
        job.name,
        str(job.job_number) if job.job_number else "",
        f"{job.state}, without stamps" if job.paper else job.state,
        f"{len(job.members)} of {job.world_size}",
        f"{job.pool_base}-{job.pool_base + job.window - 1}" if job.job_number else "",
        str(job.payload or "default"),
        job.wire,
        f"multicast to {job.multicast_group}:{job.multicast_port}" if job.multicast else "unicast",
        f"{job.age:.0f} s",
    )


def _member_cells(member: MemberStatus) -> tuple[str, ...]:
    transport = f"udp {member.address}:{member.port}" if member.transport == "udp" else member.transport
    return (
        str(member.rank),
        member.state,
        transport,
        _ago(member.heartbeat),
        _ago(member.packet),
        f"{member.sent_again:,}",
        f"{member.arrived_twice:,}",
    )


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s ago"
