"""`switchml top`, `record`, `replay` and `metrics`: look at what switches publish."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from switchml.cli_options import AsJson, SwitchAddress, SwitchTimeout, SwitchToken
from switchml.control.address import listen_error
from switchml.errors import SwitchUnreachableError, UsageError
from switchml.telemetry.events import Message
from switchml.telemetry.picture import Picture, as_json
from switchml.telemetry.recording import Recorder, Replay, read_recording
from switchml.telemetry.sources import LOCAL, Sources
from switchml.telemetry.terminal_view import render
from switchml.termination import orderly_end

Web = Annotated[
    bool,
    typer.Option("--web", help="As a page for a browser, whose address is printed.", rich_help_panel="Page"),
]
WebPort = Annotated[
    int,
    typer.Option(
        "--web-port", min=0, max=65535, help="TCP port for it; 0 takes a free one.", rich_help_panel="Page"
    ),
]
WebHost = Annotated[
    str,
    typer.Option(
        "--web-host",
        help="Address for it, in the clear: who is on the way can read what is there, and the token.",
        rich_help_panel="Page",
    ),
]

Receive = Callable[[float], list[Message]]

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
    web: Web = False,
    web_port: WebPort = 0,
    web_host: WebHost = "127.0.0.1",
) -> None:
    """Watch switches live: jobs, workers, rates, repeats and drops. Without --switch, those of this machine. Ctrl-C ends it.

    --json prints one picture a second, a line each; with --once a single one.
    """
    _check(web, once=once, plain=as_json_)
    sources = Sources(switch, token, timeout)
    if once:
        sources.check()
    with contextlib.suppress(KeyboardInterrupt), sources.subscribe() as subscription:
        if web:
            _serve(subscription.receive, web_host, web_port)
        elif once or as_json_:
            _print(subscription.receive, once=once, plain=as_json_)
        else:
            _watch(subscription.receive)


def record(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Lines of JSON; compressed where it ends in .gz.")
    ],
    switch: SwitchAddress = "",
    token: SwitchToken = "",
    timeout: SwitchTimeout = 5.0,
    seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="End after so long; 0: at Ctrl-C.")
    ] = 0.0,
) -> None:
    """Write all that switches publish to FILE, for `switchml replay`. Without --switch, those of this machine."""
    count, until = 0, time.monotonic() + (seconds or math.inf)
    with (
        Sources(switch, token, timeout).subscribe() as subscription,
        Recorder(file) as recorder,
        contextlib.suppress(KeyboardInterrupt),
        orderly_end(),
    ):
        while (left := until - time.monotonic()) > 0:
            for message in subscription.receive(min(left, _REDRAW)):
                recorder.write(message)
                count += 1
    print(f"{count:,} messages are in {file}")


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `switchml record` wrote it.")],
    speed: Annotated[float, typer.Option(metavar="N", help="N seconds of the recording in one.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show the picture at its end, and end.")] = False,
    as_json_: AsJson = False,
    web: Web = False,
    web_port: WebPort = 0,
    web_host: WebHost = "127.0.0.1",
) -> None:
    """Show a recording as `switchml top` would have shown it. Ctrl-C ends it."""
    _check(web, once=once, plain=as_json_)
    shown = Replay(read_recording(file), math.inf if once else speed)
    with contextlib.suppress(KeyboardInterrupt):
        if once:
            picture = Picture()
            while not shown.ended:
                for message in shown.receive(math.inf):
                    picture.take(message)
            _show(picture, 0.0, plain=as_json_)
        elif web:
            _serve(shown.receive, web_host, web_port, replayed=file.name, ended=lambda: shown.ended)
        elif as_json_:
            _print(shown.receive, once=False, plain=True, ended=lambda: shown.ended)
        else:
            _watch(shown.receive, ended=lambda: shown.ended)


def metrics(
    switch: SwitchAddress = "",
    token: SwitchToken = "",
    timeout: SwitchTimeout = 5.0,
    metrics_port: Annotated[
        int,
        typer.Option("--metrics-port", min=0, max=65535, help="TCP port for Prometheus; 0 takes a free one."),
    ] = 9551,
    metrics_host: Annotated[
        str,
        typer.Option("--metrics-host", help="Address for that; what is there, all can read who reach it."),
    ] = "127.0.0.1",
) -> None:
    """Offer what switches publish to Prometheus. Without --switch, those of this machine. Ctrl-C ends it."""
    from prometheus_client import start_http_server

    from switchml.telemetry.prometheus import registry

    picture = Picture()
    with Sources(switch, token, timeout).subscribe() as subscription:
        try:
            server, thread = start_http_server(
                metrics_port, metrics_host, registry=registry(picture, time.monotonic)
            )
        except OSError as error:
            raise listen_error(error, "metrics", metrics_host, metrics_port, "--metrics-port") from error
        try:
            with contextlib.suppress(KeyboardInterrupt), orderly_end():
                print(
                    f"metrics are at http://{metrics_host}:{server.server_port}/metrics; Ctrl-C ends it",
                    flush=True,
                )
                while True:
                    _take(picture, subscription.receive, _REDRAW)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _check(web: bool, *, once: bool, plain: bool) -> None:
    if web and (once or plain):
        raise UsageError("--web is a page, which --once and --json are not: give one of them")


def _serve(
    receive: Receive, host: str, port: int, *, replayed: str = "", ended: Callable[[], bool] = lambda: False
) -> None:
    from switchml.telemetry.web_frame import frame
    from switchml.telemetry.web_server import WebServer

    picture, over = Picture(), False
    with orderly_end(), WebServer(host, port) as server:
        print(f"the page is at {server.url}; Ctrl-C ends it", flush=True)
        while not over:
            _take(picture, receive, _REDRAW)
            over = ended()
            server.show(frame(picture, time.monotonic(), replayed=replayed, ended=over))
        while True:  # who comes now still sees the end
            time.sleep(_PATIENCE)


def _watch(receive: Receive, ended: Callable[[], bool] = lambda: False) -> None:
    picture, waiting = Picture(), f"{LOCAL[0].upper()}{LOCAL[1:]}. Waiting for one ..."
    with Live(screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while not ended():
            _take(picture, receive, _REDRAW)
            live.update(render(picture, time.monotonic(), waiting), refresh=True)
    if picture.switches:
        _show(picture, time.monotonic(), plain=False)


def _print(receive: Receive, *, once: bool, plain: bool, ended: Callable[[], bool] = lambda: False) -> None:
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
        _show(picture, time.monotonic(), plain=plain)
        if once or ended():
            return


def _show(picture: Picture, now: float, *, plain: bool) -> None:
    if plain:
        print(json.dumps(as_json(picture), separators=(",", ":")), flush=True)
    else:
        Console(file=sys.stdout).print(render(picture, now))


def _take(picture: Picture, receive: Receive, seconds: float) -> None:
    """All that comes within so many seconds."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for message in receive(left):
            picture.take(message, time.monotonic())
    picture.forget(time.monotonic() - _FORGOTTEN)
