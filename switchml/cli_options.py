"""Options that several subcommands share: name, environment variable, range and help, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NATIVE = "native"
"""The value of --pipeline that stands for the compiled aggregation pipeline."""

P4 = "P4 pipeline"
SWITCH = "Switch"
WORKERS = "Workers"
_FAULTS = "Faults on purpose, made by the emulator"

SwitchAddress = Annotated[
    str,
    typer.Option(
        "--switch",
        envvar="SWITCHML_SWITCH",
        metavar="HOST:PORT[,...]",
        help="Control address of a running switch, or of several over which tensors are dealt; HOST:PORT*3 takes three shares. "
        "Where no default is shown, one is started instead.",
        rich_help_panel=SWITCH,
    ),
]
SwitchToken = Annotated[
    str,
    typer.Option(
        "--token",
        envvar="SWITCHML_TOKEN",
        show_default=False,
        help="That switch's join token.",
        rich_help_panel=SWITCH,
    ),
]
_TLS = "TLS"
TlsCert = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        envvar="SWITCHML_TLS_CERT",
        metavar="FILE",
        show_default=False,
        help="PEM: our certificate; one that listens speaks TLS with it, one that connects shows it.",
        rich_help_panel=_TLS,
    ),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(
        "--tls-key",
        envvar="SWITCHML_TLS_KEY",
        metavar="FILE",
        show_default=False,
        help="PEM: its key.",
        rich_help_panel=_TLS,
    ),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        envvar="SWITCHML_TLS_CA",
        metavar="FILE",
        show_default=False,
        help="PEM: whom to trust; a switch that has one wants a certificate of every worker.",
        rich_help_panel=_TLS,
    ),
]
SwitchTimeout = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="SECONDS", help="How long to wait for the switch.", rich_help_panel=SWITCH
    ),
]
Window = Annotated[
    int,
    typer.Option(
        min=0, help="Slots in flight, a power of two; 0: the switch's default.", rich_help_panel=SWITCH
    ),
]

Wire = Annotated[
    str,
    typer.Option(
        help="What sums of float32 travel as: float32, or rounded to int16 or int8.", rich_help_panel=SWITCH
    ),
]

JoinToken = Annotated[
    str,
    typer.Option(
        "--token",
        envvar="SWITCHML_TOKEN",
        help="What workers must show to join; empty lets everybody in.",
        rich_help_panel=WORKERS,
    ),
]
TenantsFile = Annotated[
    Path | None,
    typer.Option(
        "--tenants",
        metavar="FILE",
        help="TOML file of those who share the switch: a token of each, slots and packets_per_second that it may have.",
        rich_help_panel=WORKERS,
    ),
]
Lease = Annotated[
    float,
    typer.Option(
        envvar="SWITCHML_LEASE",
        help="Seconds that a worker may be stopped, or cut off, before its job ends. "
        "One that has died ends it at once.",
        rich_help_panel=WORKERS,
    ),
]

_TELEMETRY = "Telemetry"
Telemetry = Annotated[
    bool,
    typer.Option(
        "--telemetry/--no-telemetry",
        help="Let programs listen to what the switch does, switchml top and others.",
        rich_help_panel=_TELEMETRY,
    ),
]
TelemetryHost = Annotated[
    str,
    typer.Option(
        "--telemetry-host",
        help="Address for that; beyond loopback it takes --token, which listeners have to know.",
        rich_help_panel=_TELEMETRY,
    ),
]
TelemetryPort = Annotated[
    int,
    typer.Option(
        "--telemetry-port",
        min=0,
        max=65535,
        help="TCP port for that; 0 takes a free one.",
        rich_help_panel=_TELEMETRY,
    ),
]

EmulatedPipeline = Annotated[
    str,
    typer.Option(
        "--pipeline",
        metavar="native|FILE.json",
        help="What runs in the emulator: the compiled aggregation pipeline, or a P4 program as BMv2's JSON. "
        "For switchml switch also none: until a controller sets one.",
        rich_help_panel=P4,
    ),
]
P4Info = Annotated[
    Path | None,
    typer.Option(
        "--p4info",
        metavar="FILE",
        help="The program's P4Info as text; by default FILE.p4info.txtpb beside it.",
        rich_help_panel=P4,
    ),
]
DeviceId = Annotated[int, typer.Option(help="The switch's id for P4Runtime.", rich_help_panel=P4)]
Trace = Annotated[
    bool,
    typer.Option(
        "--trace", help="Tell on standard error what the emulator does with every packet.", rich_help_panel=P4
    ),
]
Capture = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.pcap", help="Write all packets, in and out, to this file; see switchml decode."
    ),
]

_OF_TRACE = "Packets to trace; each of these asks for a trace"
TraceJob = Annotated[
    int | None,
    typer.Option("--trace-job", metavar="NUMBER", min=0, help="Of this job.", rich_help_panel=_OF_TRACE),
]
TraceSlot = Annotated[
    int | None,
    typer.Option("--trace-slot", metavar="SLOT", min=0, help="Of this slot.", rich_help_panel=_OF_TRACE),
]
TraceRank = Annotated[
    int | None,
    typer.Option(
        "--trace-rank",
        metavar="RANK",
        min=0,
        help="From or to this rank, over UDP.",
        rich_help_panel=_OF_TRACE,
    ),
]
TraceCount = Annotated[
    int | None,
    typer.Option("--trace-count", metavar="N", min=0, help="At most so many.", rich_help_panel=_OF_TRACE),
]

_WHICH = "Which packets"
OnlyJob = Annotated[
    int | None, typer.Option("--job", metavar="NUMBER", min=0, help="Of this job.", rich_help_panel=_WHICH)
]
OnlySlot = Annotated[
    int | None, typer.Option("--slot", metavar="SLOT", min=0, help="Of this slot.", rich_help_panel=_WHICH)
]
OnlyRank = Annotated[
    int | None,
    typer.Option("--rank", metavar="RANK", min=0, help="From or to this rank.", rich_help_panel=_WHICH),
]
OnlyCount = Annotated[
    int | None, typer.Option("--count", metavar="N", min=0, help="At most so many.", rich_help_panel=_WHICH)
]

Loss = Annotated[
    float,
    typer.Option(min=0, max=1, help="Probability that a packet is lost, each way.", rich_help_panel=_FAULTS),
]
Duplicate = Annotated[
    float, typer.Option(min=0, max=1, help="Probability that it is doubled.", rich_help_panel=_FAULTS)
]
Reorder = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="Probability that it is held back, so that later ones overtake it.",
        rich_help_panel=_FAULTS,
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of these choices.", rich_help_panel=_FAULTS)]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
