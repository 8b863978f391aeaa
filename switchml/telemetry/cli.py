"""`switchml top`: watch switches live."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from switchml.cli_options import AsJson, SwitchAddress, SwitchTimeout, SwitchToken
from switchml.errors import SwitchUnreachableError
from switchml.telemetry.picture import Picture, as_json
from switchml.telemetry.sources import LOCAL, Sources
from switchml.telemetry.terminal_view import render

_REDRAW = 0.25
_FORGOTTEN = 10.0
_ONE_LOOK = 1.3  # a second of rates, and the time that a subscription takes
_PATIENCE = 5.0


def top(
    switch: SwitchAddress = "",
    token: SwitchToken = "",
    timeout: SwitchTimeout = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Show one second's picture, and end.")] = False,
    as_json_: AsJson = False,
) -> None:
    """Watch switches live: jobs, workers, rates, repeats and drops. Without --switch, those of this machine. Ctrl-C ends it.

    --json prints one picture a second, a line each; with --once a single one.
    """
    sources = Sources(switch, token, timeout)
    if once:
        sources.check()
    with contextlib.suppress(KeyboardInterrupt), sources.subscribe() as subscription:
        if once or as_json_:
            _print(subscription.receive, once=once, plain=as_json_)
        else:
            _watch(subscription.receive)


def _watch(receive: Callable[[float], list[dict[str, object]]]) -> None:
    picture, waiting = Picture(), f"{LOCAL[0].upper()}{LOCAL[1:]}. Waiting for one ..."
    with Live(screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            _take(picture, receive, _REDRAW)
            live.update(render(picture, time.monotonic(), waiting), refresh=True)


def _print(receive: Callable[[float], list[dict[str, object]]], *, once: bool, plain: bool) -> None:
    picture = Picture()
    begun = time.monotonic()
    while not picture.switches:
        _take(picture, receive, _REDRAW)
        if once and time.monotonic() > begun + _PATIENCE:
            raise SwitchUnreachableError(
                f"nothing has come from the switch within {_PATIENCE:g} s: look at its log"
            )
    while True:
        _take(picture, receive, _ONE_LOOK)
        if plain:
            print(json.dumps(as_json(picture), separators=(",", ":")), flush=True)
        else:
            Console(file=sys.stdout).print(render(picture, time.monotonic()))
        if once:
            return


def _take(picture: Picture, receive: Callable[[float], list[dict[str, object]]], seconds: float) -> None:
    """All that comes within so many seconds."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for message in receive(left):
            picture.take(message, time.monotonic())
    picture.forget(time.monotonic() - _FORGOTTEN)
