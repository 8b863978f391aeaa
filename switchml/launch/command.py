"""The command line of `switchml run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from switchml.launch.plan import LOOPBACK, NATIVE, Faults, Nodes, RunPlan

_SWITCH = "Switch"
_NODES = "Several machines"
_FAULTS = "Faults, made by the switch that is started"


def run(
    script: Annotated[
        str, typer.Argument(metavar="SCRIPT", help="The training script, or a module's name with -m.")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGS]...", help="The script's own arguments.")
    ] = None,
    workers: Annotated[
        int, typer.Option("-n", "--nproc-per-node", min=1, help="Workers on this machine.")
    ] = 2,
    module: Annotated[bool, typer.Option("-m", "--module", help="SCRIPT is the name of a module.")] = False,
    switch: Annotated[
        str,
        typer.Option(
            envvar="SWITCHML_SWITCH",
            metavar="HOST:PORT",
            show_default=False,
            help="Control address of a running switch. Without it, an emulator is started for this run.",
            rich_help_panel=_SWITCH,
        ),
    ] = "",
    token: Annotated[
        str,
        typer.Option(
            envvar="SWITCHML_TOKEN",
            show_default=False,
            help="That switch's join token.",
            rich_help_panel=_SWITCH,
        ),
    ] = "",
    transport: Annotated[
        str,
        typer.Option(
            help="auto (shared memory on the switch's host, else UDP), udp or shm.", rich_help_panel=_SWITCH
        ),
    ] = "auto",
    payload: Annotated[
        int,
        typer.Option(
            min=0, help="Bytes of elements in a packet; 0: the switch's default.", rich_help_panel=_SWITCH
        ),
    ] = 0,
    window: Annotated[
        int,
        typer.Option(
            min=0, help="Slots in flight, a power of two; 0: the switch's default.", rich_help_panel=_SWITCH
        ),
    ] = 0,
    pipeline: Annotated[
        str,
        typer.Option(
            metavar="native|FILE.json",
            help="What runs in the switch that is started: the compiled pipeline, or a P4 program.",
            rich_help_panel=_SWITCH,
        ),
    ] = NATIVE,
    loss: Annotated[
        float, typer.Option(help="Probability that a packet is dropped.", rich_help_panel=_FAULTS)
    ] = 0.0,
    duplicate: Annotated[
        float, typer.Option(help="Probability that it is doubled.", rich_help_panel=_FAULTS)
    ] = 0.0,
    reorder: Annotated[
        float, typer.Option(help="Probability that later ones overtake it.", rich_help_panel=_FAULTS)
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of these choices.", rich_help_panel=_FAULTS)] = 0,
    nnodes: Annotated[
        int, typer.Option(min=1, help="Machines that run the script together.", rich_help_panel=_NODES)
    ] = 1,
    node_rank: Annotated[int, typer.Option(min=0, help="Which of them this is.", rich_help_panel=_NODES)] = 0,
    master_addr: Annotated[
        str, typer.Option(help="Address of machine 0.", rich_help_panel=_NODES)
    ] = LOOPBACK,
    master_port: Annotated[int, typer.Option(help="A free port there.", rich_help_panel=_NODES)] = 29500,
    account: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the closing summary there.")
    ] = None,
) -> None:
    """Start a switch and, over it, SCRIPT in several workers, through torch's own launcher.

    The script asks for the backend: torch.distributed.init_process_group("switchml"). It need not import switchml.
    """
    from switchml.launch.run import carry_out

    plan = RunPlan(
        script=script,
        arguments=tuple(arguments or ()),
        workers=workers,
        module=module,
        nodes=Nodes(nnodes, node_rank, master_addr, master_port),
        switch=switch,
        token=token,
        transport=transport,
        payload=payload,
        window=window,
        pipeline=pipeline,
        faults=Faults(loss, duplicate, reorder, seed),
    )
    raise typer.Exit(carry_out(plan, account_file=account))
