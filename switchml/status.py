"""`switchml status`: what a switch says about itself, as tables or JSON."""

from __future__ import annotations

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

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
from switchml.control.control_messages import (
    DEFAULT_CONTROL_PORT,
    EndedJob,
    JobStatus,
    MemberStatus,
    SwitchStatus,
)
from switchml.outlook import on_copies, on_the_link
from switchml.protocol.counters import SWITCH_COUNTERS, copies_dropped
from switchml.telemetry.picture import Meter
from switchml.telemetry.terminal_view import quantity

_JOBS_BESIDE = (
    2  # whose counters stand beside the switch's: more do not fit into 80 columns; JSON has them all
)


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
    watch: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=0.1, help="Ask again so often, until Ctrl-C, and show rates, too."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a switch's jobs, workers and counters; of several switches, one after the other (JSON: by address)."""
    from switchml.control.client import ControlClient
    from switchml.control.named_switches import parse_switches
    from switchml.control.tls import TlsFiles

    tls = TlsFiles(tls_cert, tls_key, tls_ca).client()
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(
                ControlClient(one.first, token=token, timeout=max(wait, timeout), tls=tls, patient=wait > 0)
            )
            for one in parse_switches(switch)
        ]

        def ask() -> dict[str, SwitchStatus]:
            return {client.address: client.status() for client in clients}

        if watch is None:
            _show(ask(), as_json, Console())
        else:
            with contextlib.suppress(KeyboardInterrupt):
                _watch(ask, watch, as_json)


def _show(answers: Mapping[str, SwitchStatus], as_json: bool, console: Console) -> None:
    if as_json:
        told = {address: asdict(answer) for address, answer in answers.items()}
        print(json.dumps(told if len(told) > 1 else next(iter(told.values())), indent=2, sort_keys=True))
        return
    for part in _page(answers):
        console.print(part)


def _page(
    answers: Mapping[str, SwitchStatus], meters: Mapping[str, Meter] | None = None
) -> Iterable[RenderableType]:
    for address, answer in answers.items():
        yield from tables(address, answer, None if meters is None else meters[address].rate)
        for sentence in sentences(answer, len(answers)):
            yield Text(sentence)


def _watch(ask: Callable[[], Mapping[str, SwitchStatus]], seconds: float, as_json: bool) -> None:
    meters: dict[str, Meter] = defaultdict(Meter)
    with Live(auto_refresh=False, screen=True) if not as_json else contextlib.nullcontext() as live:
        while True:
            answers = ask()
            for address, answer in answers.items():
                meters[address].take(answer.counters, time.monotonic())
            if live is None:
                _show(answers, True, Console())
            else:
                live.update(Group(*_page(answers, meters)), refresh=True)
            time.sleep(seconds)


def tables(
    address: str, answer: SwitchStatus, rates: Callable[[str], float] | None = None
) -> Iterable[RenderableType]:
    """The switch, its jobs with their workers, the jobs that ended last, and every counter that is not zero.

    Args:
        address: of the switch.
        answer: its own.
        rates: of a counter of its, by name, a second; None = not known.
    """
    free = f"{answer.free_slots} of {answer.target.pool_slots} free"
    if rates is None:
        yield from _part(f"switch {address}", _overview(answer, free))
    else:  # what changes comes first: a terminal has 24 lines
        yield Text(f"switch {address}   up {answer.uptime:.0f} s   slots {free}", style="bold")

    for job in answer.jobs:
        about = _grid("", "")
        for row in _job_rows(job):
            about.add_row(*row)
        yield from _part(f"job {job.name}", about)
        workers = _grid("rank", "state", "transport", "heartbeat", "last packet", "again", "twice")
        for member in job.members:
            workers.add_row(*_member_cells(member))
        yield workers

    if answer.ended:
        ended = [f"{_numbered(end)}, {_ago(end.ended)}: {end.reason}" for end in answer.ended]
        yield from _part("ended", Text("\n".join(ended)))

    counted = [name for name in (counter.name for counter in SWITCH_COUNTERS) if answer.counters.get(name)]
    if counted:
        shown = [job for job in answer.jobs if job.job_number][:_JOBS_BESIDE]
        heads = ("a second",) if rates else ()
        counters = _grid("counter", *heads, "switch", *(f"job {job.job_number}" for job in shown))
        for column in counters.columns[1:]:
            column.justify = "right"
        for name in counted:
            cells = (quantity(rates(name)),) if rates else ()
            jobs = (f"{job.counters.get(name, 0):,}" for job in shown)
            counters.add_row(name, *cells, f"{answer.counters[name]:,}", *jobs)
        yield from _part("counters", counters)


def sentences(answer: SwitchStatus, switches: int = 1) -> Iterable[str]:
    """What is worth a word of each running job.

    Args:
        answer: a switch's.
        switches: over which the jobs are dealt, as far as is known.
    """
    for job in answer.jobs:
        counted = job.counters
        sent_again = sum(member.sent_again for member in job.members)
        needless = copies_dropped(counted)
        told = (
            on_copies(counted.get("packets_received", 0), sent_again, needless),
            on_the_link(answer.sharing(job) / switches),
        )
        yield from (f"{job.name}: {sentence}" for sentence in told if sentence)


def _overview(answer: SwitchStatus, free: str) -> Table:
    target = answer.target
    overview = _grid("", "")
    overview.add_row("data port", f"{target.host}:{target.udp_port}/udp")
    overview.add_row("shared memory", "yes" if target.shm_socket else "no")
    overview.add_row("slots", free)
    overview.add_row("largest payload", f"{target.max_payload} bytes")
    overview.add_row("lease", f"{answer.lease:g} s")
    overview.add_row("telemetry", answer.telemetry or "none")
    overview.add_row("up", f"{answer.uptime:.0f} s")
    return overview


def _part(title: str, what: RenderableType) -> Iterable[RenderableType]:
    yield Text("")
    yield Text(title, style="bold")
    yield what


def _grid(*columns: str) -> Table:
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(columns), header_style="dim"
    )
    for column in columns:
        table.add_column(column)
    return table


def _numbered(job: EndedJob) -> str:
    return f"{job.name} (job {job.job_number})" if job.job_number else f"{job.name} (not served)"


def _job_rows(job: JobStatus) -> Iterable[tuple[str, str]]:
    number = f"job {job.job_number}, " if job.job_number else ""
    stamps = ", without stamps" if job.paper else ""
    yield (
        "state",
        f"{number}{job.state}{stamps}, {len(job.members)} of {job.world_size} ranks, for {job.age:.0f} s",
    )
    if job.waits_for:
        yield "waits for", job.waits_for
    if job.job_number:
        last = job.pool_base + job.window - 1
        yield "slots", f"{job.pool_base}-{last}, of {job.payload} bytes, {job.wire}"
        yield "results by", _results_by(job)


def _results_by(job: JobStatus) -> str:
    if any(member.transport == "memory" for member in job.members):
        return "memory"
    return f"multicast to {job.multicast_group}:{job.multicast_port}" if job.multicast else "unicast"


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
