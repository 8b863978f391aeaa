"""`switchml decode`: what is in captures, packet by packet and summed up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from switchml.cli_options import AsJson, OnlyCount, OnlyJob, OnlyRank, OnlySlot
from switchml.errors import UsageError
from switchml.packets.account import Account, Event, Loss, Worker, account_of, lost_between, worker_of
from switchml.packets.decoding import Capture, Packet, read_capture
from switchml.packets.selection import Selection
from switchml.protocol.messages import PROBE

_ROWS = 40
_SHOWN = ("tsi", "slot", "version", "e0", "e1")
_SECOND = 1_000_000_000


def decode(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE.pcap...",
            help="A capture, or several of one run, the switch's first: then what was lost between them is told.",
            show_default=False,
        ),
    ] = None,
    job: OnlyJob = None,
    slot: OnlySlot = None,
    rank: OnlyRank = None,
    count: OnlyCount = None,
    summary: Annotated[bool, typer.Option(help="Add who sent what, and what was sent again.")] = True,
    values: Annotated[bool, typer.Option(help="With --json: the elements, too.")] = False,
    dissector: Annotated[
        bool, typer.Option("--dissector", help="Print the Lua script that lets Wireshark decode packets.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the packets of pcap files: from --capture, tcpdump or Wireshark.

    Without --count the first 40 are shown, and in JSON all.
    """
    if dissector:
        from switchml.packets.dissector import render

        print(render(), end="")
        return
    if not files:
        raise UsageError("name a pcap file: switchml decode FILE.pcap")
    selection = Selection(job, slot, rank, count)
    captures = [read_capture(file) for file in files]
    chosen = [_chosen(capture, selection) for capture in captures]
    account = account_of(chosen[0])
    losses = lost_between(chosen)
    if as_json:
        print(json.dumps(as_values(captures[0], chosen[0], account, losses, files, selection, values=values)))
        return
    console = Console()
    shown = _ROWS if count is None else count
    for part in tables(chosen[0], shown):
        console.print(part)
    if summary:
        for part in summaries(captures[0], account, shown):
            console.print(part)
        for part in _loss_tables(losses, files, shown):
            console.print(part)


def _chosen(capture: Capture, selection: Selection) -> list[Packet]:
    return [
        packet
        for packet in capture.packets
        if selection.takes(packet.header.job_number, packet.header.slot, packet.rank, packet.everyone)
    ]


def _plain(packet: Packet) -> dict[str, Any]:
    return {
        "number": packet.number,
        "time": packet.time / _SECOND,
        "source": "{}:{}".format(*packet.source),
        "destination": "{}:{}".format(*packet.destination),
        "to_switch": packet.to_switch,
        "rank": packet.rank,
        "everyone": packet.everyone,
        "kind": packet.kind,
        **packet.header._asdict(),
        "elements": packet.elements,
    }


def _plain_worker(worker: Worker) -> dict[str, Any]:
    return {"job": worker.job, "rank": worker.rank, "address": "{}:{}".format(*worker.end)}


def as_values(
    capture: Capture,
    packets: Sequence[Packet],
    account: Account,
    losses: Sequence[Loss],
    files: Sequence[Path],
    selection: Selection,
    *,
    values: bool,
) -> dict[str, Any]:
    """What --json prints: times in seconds since 1970, durations in seconds."""
    return {
        "file": str(files[0]),
        "packets": [
            _plain(packet) | ({"values": packet.values} if values else {})
            for packet in packets[: selection.count]
        ],
        "cut": capture.cut,
        "others": capture.others,
        "workers": [
            _plain_worker(worker) | asdict(numbers)
            for worker, numbers in sorted(account.workers.items(), key=_in_order)
        ],
        "slots": [
            {"job": job, "slot": slot, **asdict(numbers)}
            for (job, slot), numbers in sorted(account.slots.items())
        ],
        "again": [
            {
                "number": event.packet.number,
                "what": event.what,
                **_plain_worker(event.worker),
                "tsi": event.packet.header.tsi,
                "slot": event.packet.header.slot,
                "after": None if event.after is None else event.after / _SECOND,
                "why": event.why,
            }
            for event in account.events
        ],
        "unfinished": [
            {
                "job": each.job,
                "tsi": each.tsi,
                "slot": each.slot,
                "missing": [_plain_worker(worker) for worker in each.missing],
            }
            for each in account.unfinished
        ],
        "lost": [
            {"left": str(files[loss.more]), "missed": str(files[loss.fewer]), "count": loss.times}
            | _plain(loss.packet)
            for loss in losses
        ],
    }


def _in_order(item: tuple[Worker, object]) -> tuple[int, int, str]:
    worker = item[0]
    return worker.job, -1 if worker.rank is None else worker.rank, str(worker)


def _table(title: str, *columns: str) -> Table:
    table = Table(
        *columns,
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="dim",
    )
    return table


def _who(packet: Packet) -> str:
    who = "all" if packet.everyone else str(worker_of(packet))
    return f"{who} >" if packet.to_switch else f"> {who}"


def tables(packets: Sequence[Packet], shown: int) -> Iterator[Table | str]:
    """The packets, one a row, the first `shown`."""
    table = _table(
        "", "frame", "seconds", "worker", "type", "job", "tsi", "slot", "ver", "e0", "e1", "elements"
    )
    for packet in packets[:shown]:
        header = packet.header
        flags = " to-1" * header.to_one + " but-1" * header.but_one
        table.add_row(
            str(packet.number),
            f"{(packet.time - packets[0].time) / _SECOND:.6f}",
            _who(packet),
            packet.kind + flags,
            str(header.job_number),
            # A probe has a secret there.
            *("" if header.msg_type == PROBE else str(getattr(header, name)) for name in _SHOWN),
            str(packet.elements),
        )
    yield table
    if len(packets) > shown:
        yield f"... and {len(packets) - shown:,} more: --count N shows more, --json all"


def summaries(capture: Capture, account: Account, shown: int) -> Iterator[Table | str]:
    """Who sent what, the slots where something was sent again or has no result, and each time that it was."""
    yield ""
    workers = _table("by worker", "job", "worker", "sent", "again", "asked", "not come", "results", "again")
    for worker, each in sorted(account.workers.items(), key=_in_order):
        numbers = (each.sent, each.again, each.asked, each.missing, each.results, each.results_again)
        workers.add_row(str(worker.job), str(worker), *(f"{number:,}" for number in numbers))
    yield workers
    yield ""
    told = {
        key: each
        for key, each in sorted(account.slots.items())
        if each.again or each.asked or each.results_again or each.completed < each.chunks
    }
    quiet = len(account.slots) - len(told)
    if told:
        slots = _table("by slot", "job", "slot", "chunks", "complete", "again", "asked", "results again")
        for (job, number), its in list(told.items())[:shown]:
            cells = (its.chunks, its.completed, its.again, its.asked, its.results_again)
            slots.add_row(str(job), str(number), *(f"{cell:,}" for cell in cells))
        yield slots
        if len(told) > shown:
            yield f"... and {len(told) - shown:,} more"
    if quiet:
        yield f"{quiet:,} slots{' more' if told else ''} where nothing was sent twice and every chunk was completed"
    if account.events:
        yield ""
        yield _event_table(account.events[:shown])
        if len(account.events) > shown:
            yield f"... and {len(account.events) - shown:,} more"
    if account.unfinished:
        yield ""
        chunks = _table("without a result", "job", "slot", "tsi", "missing")
        for chunk in account.unfinished[:shown]:
            missing = ", ".join(map(str, chunk.missing)) or "nobody: only its result"
            chunks.add_row(str(chunk.job), str(chunk.slot), str(chunk.tsi), missing)
        yield chunks
        if len(account.unfinished) > shown:
            yield f"... and {len(account.unfinished) - shown:,} more"
    if capture.cut:
        yield f"cut off within the header: frames {', '.join(map(str, capture.cut[:shown]))}"
    if capture.others:
        yield f"{capture.others:,} frames of other protocols"


def _event_table(events: Sequence[Event]) -> Table:
    table = _table("lost or sent again", "frame", "worker", "slot", "tsi", "what", "after ms", "why")
    for event in events:
        table.add_row(
            str(event.packet.number),
            str(event.worker),
            str(event.packet.header.slot),
            str(event.packet.header.tsi),
            event.what,
            "" if event.after is None else f"{event.after / 1e6:.3f}",
            event.why,
        )
    return table


def _loss_tables(losses: Sequence[Loss], files: Sequence[Path], shown: int) -> Iterator[Table | str]:
    if len(files) < 2:
        return
    yield ""
    if not losses:
        yield "nothing was lost between these captures"
        return
    table = _table("lost between the captures", "worker", "type", "slot", "tsi", "times", "left", "missed")
    for loss in losses[:shown]:
        packet = loss.packet
        table.add_row(
            _who(packet),
            packet.kind,
            str(packet.header.slot),
            str(packet.header.tsi),
            str(loss.times),
            files[loss.more].name,
            files[loss.fewer].name,
        )
    yield table
    if len(losses) > shown:
        yield f"... and {len(losses) - shown:,} more"
