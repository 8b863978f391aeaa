"""The command line of `switchml run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from switchml.cli_options import (
    NATIVE,
    SWITCH,
    Capture,
    Duplicate,
    EmulatedPipeline,
    Loss,
    Reorder,
    Seed,
    SwitchAddress,
    SwitchToken,
    TlsCa,
    TlsCert,
    TlsKey,
    Window,
    Wire,
)
from switchml.launch.plan import LOOPBACK, Faults, Nodes, RunPlan

_NODES = "Several machines"
_UNEDITED = "Scripts as they are"


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
    backend_for: Annotated[
        str,
        typer.Option(
            envvar="SWITCHML_BACKEND_FOR",
            metavar="NAME[,...]",
            show_default=False,
            help="Where the script names one of these backends, as gloo,nccl, it takes switchml.",
            rich_help_panel=_UNEDITED,
        ),
    ] = "",
    data_parallel: Annotated[
        bool,
        typer.Option(
            "--data-parallel",
            help="The script knows nothing of workers: its batches are split over them, its gradients averaged.",
            rich_help_panel=_UNEDITED,
        ),
    ] = False,
    every_rank: Annotated[
        bool,
        typer.Option(
            "--every-rank",
            help="With --data-parallel: all workers print and write files, not the first alone.",
            rich_help_panel=_UNEDITED,
        ),
    ] = False,
    switch: SwitchAddress = "",
    token: SwitchToken = "",
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    transport: Annotated[
        str,
        typer.Option(
            envvar="SWITCHML_TRANSPORT",
            help="auto (the switch in memory where all ranks are on its host, else packets), udp, shm or memory.",
            rich_help_panel=SWITCH,
        ),
    ] = "auto",
    payload: Annotated[
        int,
        typer.Option(
            min=0, help="Bytes of elements in a packet; 0: the switch's default.", rich_help_panel=SWITCH
        ),
    ] = 0,
    window: Window = 0,
    wire: Wire = "",
    pipeline: EmulatedPipeline = NATIVE,
    capture: Capture = None,
    loss: Loss = 0.0,
    duplicate: Duplicate = 0.0,
    reorder: Reorder = 0.0,
    seed: Seed = 0,
    nnodes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Machines that run the script together; without --switch each has one.",
            rich_help_panel=_NODES,
        ),
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

    The script asks for the backend: torch.distributed.init_process_group("switchml"). It need not import switchml. With
    --backend-for it may ask for another one.
    """
    from switchml.control.tls import TlsFiles
    from switchml.launch.run import carry_out

    plan = RunPlan(
        script=script,
        arguments=tuple(arguments or ()),
        workers=workers,
        module=module,
        nodes=Nodes(nnodes, node_rank, master_addr, master_port),
        switch=switch,
        token=token,
        tls=TlsFiles(tls_cert, tls_key, tls_ca),
        transport=transport,
        payload=payload,
        window=window,
        wire=wire,
        pipeline=pipeline,
        capture=str(capture or ""),
        faults=Faults(loss, duplicate, reorder, seed),
        backend_for=backend_for,
        data_parallel=("every-rank" if every_rank else "1") if data_parallel else "",
    )
    raise typer.Exit(carry_out(plan, account_file=account))
