"""`switchml bench`: measure all-reduces next to gloo and MPI, the kernels, memory and import time."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from switchml.bench.output import (
    check_writable,
    machine_facts,
    publish,
    show,
    text_console,
    write_json,
)
from switchml.bench.settings import (
    SETTINGS,
    Values,
    called,
    parse_values,
    plan_fields,
    points,
    several,
)
from switchml.bench.timed_collectives import COLLECTIVES
from switchml.bench.units import (
    parse_counts,
    parse_names,
    parse_parameters,
    parse_rate,
    parse_shares,
    parse_size,
    parse_sizes,
    show_rate,
    show_size,
)
from switchml.cli_options import SWITCH, SwitchToken, Window, Wire
from switchml.errors import UsageError
from switchml.launchers import Started, started_by
from switchml.progress import progress_bar
from switchml.protocol.messages import FLOAT32
from switchml.termination import orderly_end
from switchml.testbed.shape import LinkShape

if TYPE_CHECKING:
    from switchml.bench.allreduce import Plan
    from switchml.bench.results import Measurement
    from switchml.bench.systems.catalogue import Entry
    from switchml.bench.training_step import StepTimes

bench_app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

_BARRIER = 8  # bytes of the largest element: a barrier has none, but a plan has to have a size

Workers = Annotated[str, typer.Option(help="Numbers of workers: 2 or 2,4,8.")]
Sizes = Annotated[str, typer.Option(help="Sizes: FROM:TO:FACTOR, for instance 64K:64M:4, or a list 4K,16M.")]
Dtype = Annotated[
    str, typer.Option(help="Element type: float32, float64, float16, bfloat16, int8 to int64, uint8.")
]
Op = Annotated[str, typer.Option(help="Reduction: sum, avg, prod, min, max, band, bor, bxor.")]
Transport = Annotated[str, typer.Option(help="Ours: auto, udp, shm, memory, or all.")]
Multicast = Annotated[
    bool | None, typer.Option("--multicast/--no-multicast", help="Results by IP multicast or not (with udp).")
]
Variants = Annotated[
    str,
    typer.Option(
        help="Several of ours in one run: auto, memory, shm, udp, udp-multicast, udp-unicast, torch (through torch.distributed); "
        "none."
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        help="Baselines: gloo, ucc, mpi-shm and mpi-tcp (Open MPI), mpich, impi, mpi (under mpirun), or none. "
        "[default: gloo where torch is installed]"
    ),
]
TorchBaseline = Annotated[str, typer.Option("--baseline", help="gloo or none.")]
Payload = Annotated[
    str,
    typer.Option(help="Bytes of elements in a packet; 0: the switch's default.", rich_help_panel=SWITCH),
]
Switch = Annotated[
    str,
    typer.Option(
        help="HOST:PORT of a running switch, or of several with commas between them; default: one is started.",
        rich_help_panel=SWITCH,
    ),
]
Switches = Annotated[
    str,
    typer.Option(
        help="Where switches are started: hub (one in the middle, with a link as fast as all of them), one (on the first "
        "worker's host), each (on every worker's host, as torch does without a switch) or racks (one in each rack, below one "
        "in the middle).",
        rich_help_panel=SWITCH,
    ),
]
Racks = Annotated[
    str, typer.Option(help="Racks of as many workers each, with a link to the middle (needs root).")
]
Uplink = Annotated[
    str,
    typer.Option(help="Rate of those links, 50mbit for instance. [default: --rate's]", show_default=False),
]
Jobs = Annotated[
    str,
    typer.Option(
        help="Jobs of each system at the same time, by the same workers; each one's share is shown."
    ),
]
Beside = Annotated[
    str,
    typer.Option(
        help="Other traffic on the first worker's link, both ways: tcp, or with a congestion control: tcp-cubic."
    ),
]
Rounds = Annotated[
    int, typer.Option(min=1, help="Rounds; in each, everything that is compared runs one batch.")
]
MinTime = Annotated[float, typer.Option(help="Seconds that a batch lasts at least, about.")]
Rate = Annotated[
    str,
    typer.Option(help="Workers in network namespaces on links of this rate: 100mbit, 1gbit (needs root)."),
]
Delay = Annotated[
    str,
    typer.Option(
        help="Round trip between a worker and the middle of those links: 20ms. Between two workers it is twice that."
    ),
]
Queue = Annotated[str, typer.Option(help="Bytes that may queue for each direction of those links.")]
Plot = Annotated[
    str, typer.Option(metavar="FILE", help="Draw what was found to this file: .png, .svg or .pdf.")
]
Timeout = Annotated[float, typer.Option(help="Seconds that one batch may take.")]
Json = Annotated[str, typer.Option("--json", metavar="FILE", help="Write JSON to this file; - for stdout.")]


@bench_app.callback()
def _bench() -> None:
    """Measure switchml next to other systems: interleaved in one run, medians with minimum and maximum."""


def collective(
    ctx: typer.Context,
    workers: Annotated[
        str,
        typer.Option(
            help="Numbers of workers: 2 or 2,4,8. [default: 2; under a launcher: its ranks]",
            show_default=False,
        ),
    ] = "",
    sizes: Sizes = "64K:64M:4",
    dtype: Dtype = "float32",
    op: Op = "sum",
    check: Annotated[bool, typer.Option(help="Verify sums that are known in advance.")] = True,
    transport: Transport = "auto",
    multicast: Multicast = None,
    variants: Variants = "",
    payload: Payload = "0",
    window: Annotated[
        str,
        typer.Option(
            help="Slots in flight, a power of two; 0: the switch's default.", rich_help_panel=SWITCH
        ),
    ] = "0",
    wire: Wire = FLOAT32,
    baseline: Baseline = None,
    rounds: Rounds = 7,
    iterations: Annotated[
        int, typer.Option(help="Collectives in a batch; 0 = as many as fill --min-time.")
    ] = 0,
    warmup: Annotated[int, typer.Option(help="Collectives before the rounds.")] = 3,
    min_time: Annotated[
        float | None,
        typer.Option(
            help="Seconds that a batch lasts at least, about.  [default: 0.1; 3 with --jobs or --beside]",
        ),
    ] = None,
    rate: Rate = "",
    loss: Annotated[
        str,
        typer.Option(
            help="Probability that a packet is lost on a link, each way: 0.001 or 0.1% (needs root)."
        ),
    ] = "0",
    mtu: Annotated[str, typer.Option(help="MTU of those links.")] = "1500",
    queue: Queue = "256K",
    delay: Delay = "",
    line_rate: Annotated[
        str, typer.Option(help="Rate of the network in use when --rate does not make it; for the limit only.")
    ] = "",
    switch: Switch = "",
    switches: Switches = "hub",
    racks: Racks = "1",
    uplink: Uplink = "",
    token: SwitchToken = "",
    jobs: Jobs = "1",
    beside: Beside = "",
    timeout: Timeout = 300.0,
    json: Json = "",
    plot: Plot = "",
) -> None:
    """Time a collective in the manner of nccl-tests, all systems interleaved.

    By itself this starts the ranks on this machine. Started by torchrun, mpirun or srun, each process is a rank, and rank 0
    prints: so it measures the hosts that training will run on. There the switch is the one of --switch or SWITCHML_SWITCH, else
    every host starts one, as torch does.

    For each size there are rounds. In a round every system runs one batch of the collective, in an order that rotates, while the
    ranks of the others sleep. Time: the slowest rank's batch divided by its iterations. A ratio is the median of the rounds' own
    ratios. A size is that of a rank's larger buffer: what all have together for all_gather and reduce_scatter.

    Lists with commas do for every setting of network, switch and packets: --loss 0,0.001,0.01 --wire float32,int8 measures every
    combination, one after the other. A picture has the first of them along the bottom. See also switchml experiment.

    #wrong counts elements outside the documented bound, on data whose result is known: small integers in floating point must
    come out exactly, full mantissas within the reported error of block floating point; integers, and what is moved, exactly.

    For instance:

    switchml bench allreduce --workers 2,4,8 --sizes 4K,16M,64M --variants memory,shm,udp-multicast --baseline gloo,mpi-shm

    sudo switchml bench allreduce --workers 4 --sizes 16M --transport udp --rate 1gbit --json shaped.json --plot shaped.png

    sudo switchml bench allreduce --workers 4,8 --sizes 16M --rate 200mbit --switches each

    sudo switchml bench allreduce --workers 8 --racks 2 --sizes 4M --rate 200mbit --uplink 50mbit --switches racks,hub

    sudo switchml bench allreduce --workers 4 --sizes 4M --rate 100mbit --jobs 2

    sudo switchml bench allreduce --workers 4 --sizes 4M --rate 100mbit --beside tcp-cubic

    sudo switchml bench allreduce --workers 4 --sizes 4M --rate 100mbit --loss 0,0.1%,1% --wire float32,int8 --plot loss.svg

    torchrun --nnodes 4 --node-rank 0 --nproc-per-node 1 --master-addr 10.0.0.1 --no-python switchml bench allreduce --sizes 16M

    mpirun -n 4 --hostfile hosts switchml bench allreduce --baseline gloo,mpi
    """
    from switchml.bench.allreduce import Plan

    name = str(ctx.info_name)
    if name == "barrier" and plot:
        raise UsageError("a barrier has no sizes to draw a picture along: leave --plot out")
    started = started_by(os.environ)
    written = {
        "workers": _started_workers(workers, started),
        "sizes": str(_BARRIER) if name == "barrier" else sizes,
        "dtype": dtype,
        "op": op,
        "wire": wire,
        "payload": payload,
        "window": window,
        "rate": rate,
        "loss": loss,
        "delay": delay,
        "queue": queue,
        "mtu": mtu,
        "line_rate": line_rate,
        "switches": switches,
        "racks": racks,
        "uplink": uplink,
        "jobs": jobs,
        "beside": beside,
    }
    values = {each: parse_values(each, given) for each, given in written.items()}
    if started is not None:
        _check_given_to_ranks(values, started)
    plans = [
        Plan(
            **{**plan_fields(point), "workers": values["workers"], "sizes": values["sizes"]},
            collective=name,
            variants=_variants(variants, transport, multicast),
            baselines=_baselines(baseline),
            check=check,
            rounds=rounds,
            iterations=iterations,
            warm_up=warmup,
            # Flows that share a link need some time to agree.
            min_time=(3.0 if point["beside"] or point["jobs"] > 1 else 0.1) if min_time is None else min_time,
            switch=switch,
            token=token,
            timeout=timeout,
            launcher=None if started is None else started.launcher,
        )
        for point in points({**values, "workers": values["workers"][:1], "sizes": values["sizes"][:1]})
    ]
    for plan in plans:
        plan.validate()
    if started is None or started.rank == 0:
        check_writable(json)
        check_writable(plot)
    with orderly_end():
        if started is not None:
            measured = _started(plans[0], started, json, plot)
        elif len(plans) == 1:
            measured = _collectives(plans[0], json, plot)
        else:
            measured = _combinations(plans, values, json, plot)
    if any(one.verdict is not None and one.verdict.wrong for one in measured):
        raise typer.Exit(1)


for _name, _one in COLLECTIVES.items():
    bench_app.command(_name, short_help=f"Time {_one.words}, all systems interleaved.")(collective)


def _collectives(plan: Plan, json: str, plot: str) -> list[Measurement]:
    """Measured and published, with ranks that are started here."""
    from switchml.bench.allreduce import measure, steps

    facts = machine_facts()
    with progress_bar(steps(plan)) as bar:
        measured = list(measure(plan, bar))
    _publish_collectives(plan, measured, facts, json, plot)
    return measured


def _combinations(plans: list[Plan], values: Values, json: str, plot: str) -> list[Measurement]:
    """Measured one plan after the other, and published together."""
    from switchml.bench.allreduce import measure, steps
    from switchml.bench.report import build_table, closing, heading

    facts = machine_facts()
    with progress_bar(sum(map(steps, plans))) as bar:
        found = [list(measure(plan, bar)) for plan in plans]
    text = text_console(json)
    varied = [name for name in several(values) if name not in ("workers", "sizes")]
    at = list(points({name: values[name] for name in varied}))
    for plan, measured, point in zip(plans, found, at, strict=True):
        lines = heading(plan, facts) if plan is plans[0] else []
        show(
            text,
            [*lines, f"== {called(point, varied)}"],
            build_table(plan, measured),
            closing(plan, measured),
        )
    results = [
        {**one.as_json(), "settings": point}
        for measured, point in zip(found, at, strict=True)
        for one in measured
    ]
    write_json(
        {
            "benchmark": plans[0].collective,
            "machine": facts,
            "plan": {**_described(plans[0]), **{name: values[name] for name in varied}},
            "results": results,
        },
        json,
    )
    if plot:
        from switchml.bench.plots import draw_combinations

        pairs = list(zip(at, found, strict=True))
        draw_combinations(pairs, values, [entry.name for entry in plans[0].baselines], Path(plot))
    return [one for measured in found for one in measured]


def _check_given_to_ranks(values: Values, started: Started) -> None:
    """Whether ranks that a launcher started can do what was asked.

    Raises:
        UsageError: they cannot.
    """
    here = ("rate", "loss", "delay", "beside", "jobs", "switches", "racks", "uplink")
    if any(values[name] != parse_values(name, SETTINGS[name].default) for name in here):
        raise UsageError(
            f"{started.launcher.name} started this as a rank, on a network that is there: --rate, --loss, --delay, --beside, "
            "--jobs, --switches, --racks and --uplink are for one that is built here"
        )
    if lists := [name for name in several(values) if name != "sizes"]:
        raise UsageError(
            f"{started.launcher.name} started this as a rank: one value of --{lists[0].replace('_', '-')} a run"
        )


def _started(plan: Plan, started: Started, json: str, plot: str) -> list[Measurement]:
    """The same, as one of the ranks that a launcher started."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError(
            f"the ranks that {started.launcher.name} starts meet in torch's store: pip install 'switchml[torch]'"
        )
    from switchml.bench.allreduce import measure, steps
    from switchml.bench.launched import LaunchedNetwork, together
    from switchml.torch_backend.options import Options

    facts = machine_facts()
    options = Options()
    options.switch, options.token = plan.switch or options.switch, plan.token or options.token
    with together(started, plan.timeout) as meeting:
        meeting.agree(_described(plan), plan.timeout)
        plan = dataclasses.replace(plan, switches="hub" if options.switch else "each", a_host=meeting.a_host)
        network = LaunchedNetwork(meeting, options)
        with progress_bar(steps(plan), shown=started.rank == 0) as bar:
            measured = list(measure(plan, bar, network))
        if started.rank == 0:
            _publish_collectives(plan, measured, facts, json, plot, network.words)
    return measured


def _publish_collectives(
    plan: Plan,
    measured: list[Measurement],
    facts: dict[str, str | int | float],
    json: str,
    plot: str,
    network: str = "",
) -> None:
    from switchml.bench.report import build_table, closing, heading

    publish(
        plan.collective,
        json,
        heading(plan, facts, network),
        build_table(plan, measured),
        closing(plan, measured),
        results=[one.as_json() for one in measured],
        machine=facts,
        plan=_described(plan),
        **({"network": network} if network else {}),
    )
    if plot:
        from switchml.bench.plots import draw

        draw(measured, [entry.name for entry in plan.baselines], Path(plot))


@bench_app.command()
def memory(
    workers: Workers = "2",
    sizes: Sizes = "16M,64M,256M",
    dtype: Dtype = "float32",
    transport: Transport = "all",
    multicast: Multicast = None,
    variants: Variants = "",
    baseline: Baseline = None,
    payload: Payload = "0",
    window: Window = 0,
    switch: Switch = "",
    token: SwitchToken = "",
    timeout: Timeout = 300.0,
    json: Json = "",
) -> None:
    """Measure a worker's memory beside the tensor itself.

    Each row is made by fresh processes; the worst rank is shown. A rank notes its resident memory (Rss of /proc/self/status)
    before it loads the system's modules and after, joins, reduces 1 MiB three times to load what loads lazily, allocates and
    fills the tensor, resets the kernel's peak (clear_refs) and reduces once in place.

    grows by: the peak during the all-reduce above what was resident just before it; must not depend on the tensor.

    keeps: private and shared memory that came with joining and the first reductions and stays: buffers, rings, compiled code.

    extra: the two together; what a worker needs beside the tensor and the libraries.

    libraries: what loading the modules took, and program files mapped later. peak: all that is resident, tensor and interpreter
    included.
    """
    from switchml.bench.allreduce import Plan
    from switchml.bench.memory_use import measure_memory
    from switchml.bench.report import memory_table

    plan = Plan(
        workers=parse_counts(workers),
        sizes=parse_sizes(sizes),
        dtype=dtype,
        op="sum",
        variants=_variants(variants, transport, multicast),
        baselines=_baselines(baseline),
        payload=_payload(payload),
        window=window,
        switch=switch,
        token=token,
        timeout=timeout,
    )
    plan.validate()
    check_writable(json)
    total = len(plan.workers) * len(plan.entries) * len(plan.sizes)
    with orderly_end(), progress_bar(total) as bar:
        found = measure_memory(plan, bar)
    publish(
        "memory",
        json,
        ["Memory of the worst rank, MiB; the columns: switchml bench memory --help"],
        memory_table(found),
        results=[use.as_json() for use in found],
        plan=_described(plan),
    )


@bench_app.command()
def ddp(
    workers: Workers = "2",
    parameters: Annotated[str, typer.Option(help="Parameters of the model, about: 25M.")] = "25M",
    batch: Annotated[int, typer.Option(min=1, help="Samples a rank and step.")] = 8,
    transport: Transport = "auto",
    baseline: TorchBaseline = "gloo",
    rounds: Rounds = 7,
    steps: Annotated[int, typer.Option(min=1, help="Training steps in a batch.")] = 4,
    rate: Rate = "",
    queue: Queue = "256K",
    switches: Switches = "hub",
    payload: Payload = "0",
    window: Window = 0,
    wire: Wire = FLOAT32,
    timeout: Timeout = 300.0,
    json: Json = "",
) -> None:
    """Time a training step with DistributedDataParallel over switchml and over gloo, all interleaved.

    The model is a row of 2048 x 2048 linear layers, trained by SGD with DDP's default buckets. The third row is the all-reduce of
    as many bytes alone: where the network is the limit, a step should take little more, because DDP reduces during the backward
    pass.
    """
    from switchml.bench.report import training_table
    from switchml.bench.systems.ddp import layers_of, size_of
    from switchml.bench.training_step import training_entry

    check_writable(json)
    bare, backends = _bare(transport), _backends(baseline)
    wanted = parse_parameters(parameters)
    plan = _torch_plan(
        workers,
        payload,
        _shape(rate, queue),
        sizes=[size_of(wanted)],
        variants=[*(training_entry(name, wanted, batch, timeout, bare) for name in backends), bare],
        rounds=rounds,
        warm_up=2,
        window=window,
        wire=wire,
        switches=switches,
        timeout=timeout,
    )
    found = _step_times(plan, steps)
    above = [
        f"{layers_of(wanted)} layers, {size_of(wanted) // 4:,} parameters, {size_of(wanted) / 1e6:.1f} MB of gradients, "
        f"batch {batch} a rank, {_links(plan)}; {rounds} rounds of {steps} steps, median [minimum maximum]"
    ]
    results = [one.as_json() for one in found]
    publish("ddp", json, above, training_table(found), results=results, plan=_described(plan))


@bench_app.command()
def fsdp(
    workers: Workers = "4",
    parameters: Annotated[str, typer.Option(help="Parameters of the model, about: 20M.")] = "20M",
    batch: Annotated[int, typer.Option(min=1, help="Samples a rank and step.")] = 2,
    transport: Transport = "auto",
    baseline: TorchBaseline = "gloo",
    rounds: Rounds = 7,
    steps: Annotated[int, typer.Option(min=1, help="Training steps in a batch.")] = 1,
    rate: Rate = "",
    queue: Queue = "256K",
    switches: Switches = "hub",
    payload: Payload = "0",
    window: Window = 0,
    wire: Wire = FLOAT32,
    timeout: Timeout = 300.0,
    json: Json = "",
) -> None:
    """Time a training step with FSDP2 (torch's fully_shard) over switchml and over gloo, interleaved.

    The model is that of `switchml bench ddp`, each layer sharded. A step gathers every layer's parameters twice, and reduces and
    scatters its gradients once.
    """
    from switchml.bench.report import training_table
    from switchml.bench.systems.ddp import layers_of, size_of
    from switchml.bench.training_step import torch_entry

    check_writable(json)
    wanted, bare = parse_parameters(parameters), _bare(transport)
    options = {"parameters": wanted, "batch": batch}
    rank = "switchml.bench.systems.sharded_step:ShardedTraining"
    plan = _torch_plan(
        workers,
        payload,
        _shape(rate, queue),
        sizes=[size_of(wanted)],
        variants=[torch_entry("step", rank, name, options, timeout, bare) for name in _backends(baseline)],
        rounds=rounds,
        warm_up=1,
        window=window,
        wire=wire,
        switches=switches,
        timeout=timeout,
    )
    found = _step_times(plan, steps)
    above = [
        f"FSDP2, {layers_of(wanted)} layers, {size_of(wanted) // 4:,} parameters, {size_of(wanted) / 1e6:.1f} MB, batch {batch} "
        f"a rank, {_links(plan)}; {rounds} rounds of {steps} steps, median [minimum maximum]"
    ]
    results = [one.as_json() for one in found]
    publish("fsdp", json, above, training_table(found), results=results, plan=_described(plan))


@bench_app.command()
def embedding(
    workers: Workers = "4",
    rows: Annotated[int, typer.Option(min=1, help="Rows of the embedding.")] = 200_000,
    columns: Annotated[int, typer.Option(min=1, help="Columns of the embedding, float32.")] = 64,
    density: Annotated[
        str, typer.Option(help="Shares of the rows that a rank looks up: 0.001,0.01,1.")
    ] = "0.001,0.01,1",
    transport: Transport = "auto",
    baseline: TorchBaseline = "gloo",
    rounds: Rounds = 7,
    min_time: MinTime = 0.3,
    rate: Rate = "",
    queue: Queue = "256K",
    switches: Switches = "hub",
    payload: Payload = "0",
    window: Window = 0,
    wire: Wire = FLOAT32,
    timeout: Timeout = 300.0,
    json: Json = "",
) -> None:
    """Time all-reduces of an embedding's gradient, sparse and dense, over switchml and over gloo, all interleaved.

    Each rank has looked up rows of its own, at random. sparse: the gradient of nn.Embedding(sparse=True). dense: the same with
    all its rows of zeros.
    """
    from switchml.bench.report import calls_table
    from switchml.bench.training_step import torch_entry

    check_writable(json)
    bare = _bare(transport)
    counts = [max(1, round(share * rows)) for share in parse_shares(density)]
    rank = "switchml.bench.systems.torch_calls:EmbeddingGradients"
    plan = _torch_plan(
        workers,
        payload,
        _shape(rate, queue),
        sizes=[4 * count for count in counts],
        variants=[
            torch_entry(
                what,
                rank,
                name,
                {"rows": rows, "columns": columns, "sparse": what == "sparse"},
                timeout,
                bare,
            )
            for name in _backends(baseline)
            for what in ("sparse", "dense")
        ],
        rounds=rounds,
        warm_up=1,
        min_time=min_time,
        window=window,
        wire=wire,
        switches=switches,
        timeout=timeout,
    )
    found = _step_times(plan, 0)
    above = [
        f"Gradient of an embedding of {rows:,} x {columns} float32, {_links(plan)}; {rounds} rounds, median [minimum maximum]",
        "tensor: rows that a rank has. X / this: X's time over this one's, median of the rounds' own ratios",
    ]
    publish(
        "embedding",
        json,
        above,
        calls_table(found, lambda size: f"{size // 4:,}", "dense over switchml"),
        results=[{**one.as_json(), "rows": one.size // 4} for one in found],
        plan=_described(plan),
    )


@bench_app.command()
def sharding(
    workers: Workers = "4",
    sizes: Sizes = "16M",
    transport: Transport = "auto",
    baseline: TorchBaseline = "gloo",
    rounds: Rounds = 7,
    min_time: MinTime = 0.3,
    rate: Rate = "",
    queue: Queue = "256K",
    switches: Switches = "hub",
    payload: Payload = "0",
    window: Window = 0,
    wire: Wire = FLOAT32,
    timeout: Timeout = 300.0,
    json: Json = "",
) -> None:
    """Time what FSDP and ZeRO live on: all-gathers, reduce-scatters, and both at the same time, interleaved with gloo.

    A size is that of the whole tensor, float32.
    """
    from switchml.bench.report import calls_table
    from switchml.bench.training_step import torch_entry

    check_writable(json)
    bare = _bare(transport)
    rank = "switchml.bench.systems.torch_calls:ShardedTensors"
    plan = _torch_plan(
        workers,
        payload,
        _shape(rate, queue),
        sizes=parse_sizes(sizes),
        variants=[
            torch_entry(call, rank, name, {"call": call}, timeout, bare)
            for name in _backends(baseline)
            for call in ("all-gather", "reduce-scatter", "both")
        ],
        rounds=rounds,
        warm_up=1,
        min_time=min_time,
        window=window,
        wire=wire,
        switches=switches,
        timeout=timeout,
    )
    found = _step_times(plan, 0)
    above = [
        f"{_links(plan)}; {rounds} rounds, median [minimum maximum]",
        "tensor: bytes of all ranks' parts. gloo / this: gloo's time over this one's, median of the rounds' own ratios",
    ]
    results = [one.as_json() for one in found]
    publish("sharding", json, above, calls_table(found, show_size), results=results, plan=_described(plan))


@bench_app.command(context_settings={"allow_interspersed_args": False})
def script(
    path: Annotated[Path, typer.Argument(metavar="SCRIPT", help="The program, as torchrun would start it.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGS]...", help="The program's own arguments.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Ranks, each on a host of its own.")] = 2,
    transport: Transport = "auto",
    rate: Rate = "",
    queue: Queue = "256K",
    switches: Switches = "hub",
    payload: Payload = "0",
    window: Window = 0,
    wire: Wire = FLOAT32,
    timeout: Annotated[float, typer.Option(help="Seconds that the program may take.")] = 3600.0,
) -> None:
    """Run a program of torch.distributed on hosts that are made for it: network namespaces on links of one rate.

    Every rank finds RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as from torchrun, and where its switch is. It may use gloo,
    switchml or both. Without --rate the ranks run on this machine as they are.

    For instance:

    sudo switchml bench script --workers 4 --rate 200mbit -- examples/digits.py --backend gloo
    """
    from switchml.bench.script_ranks import run_script

    plan = _torch_plan(
        str(workers),
        payload,
        _shape(rate, queue),
        sizes=[],
        variants=[],
        window=window,
        wire=wire,
        switches=switches,
        timeout=timeout,
    )
    with orderly_end():
        run_script(path, arguments or [], plan, transport)


@bench_app.command()
def workloads(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where results and pictures go.")],
    only: Annotated[str, typer.Option(help="Names with commas between them. [default: all]")] = "",
    small: Annotated[
        bool, typer.Option("--small", help="Show that each runs, in minutes; the figures say little.")
    ] = False,
    links: Annotated[
        bool, typer.Option("--links/--no-links", help="Shaped links between network namespaces (needs root).")
    ] = True,
    examples: Annotated[Path, typer.Option(help="Folder of the programs.")] = Path("examples"),
    listed: Annotated[
        bool, typer.Option("--list", help="Name them and their commands; run nothing.")
    ] = False,
) -> None:
    """Run the trainings that docs/workloads.md tells of, one after the other, and write what they found.

    Each is a program in examples/ that can be run by itself: --list shows how. FOLDER gets a JSON file and a picture of each, and
    all together in workloads.json. What is there already is not run again.
    """
    from switchml.bench.workloads import WORKLOADS, carry_out, chosen

    names = chosen(parse_names(only) if only else list(WORKLOADS))
    if listed:
        for one in names:
            print(f"{one.name}\n    {one.command(small=small, links=links)}")
        return
    out.mkdir(parents=True, exist_ok=True)
    with orderly_end():
        found = [carry_out(one, out, examples, small=small, links=links) for one in names]
    write_json(
        {
            "benchmark": "workloads",
            "machine": machine_facts(),
            "small": small,
            "links": links,
            "results": {one.name: each for one, each in zip(names, found, strict=True)},
        },
        str(out / "workloads.json"),
    )


@bench_app.command(name="import")
def import_time(
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of fresh interpreters.")] = 11,
    json: Json = "",
) -> None:
    """Measure what switchml's entry point adds to `import torch`.

    Two fresh interpreters a round, with TORCH_DEVICE_BACKEND_AUTOLOAD 0 and 1; median of the rounds' differences. Also
    names the heavy modules that only the second one loads: there should be none.
    """
    from switchml.bench.import_time import measure_import
    from switchml.bench.report import import_table

    check_writable(json)
    times = measure_import(rounds)
    loaded = ", ".join(times.loaded) or "none"
    below = [
        f"Heavy modules loaded by the entry point: {loaded}.",
        f"Modules of switchml: {', '.join(times.own)}.",
    ]
    above = [f"{rounds} rounds, median [minimum maximum]; a difference is the median of the rounds' own"]
    publish("import", json, above, import_table(times), below, results=times.as_json())


@bench_app.command()
def quantize(
    sizes: Sizes = "64K:16M:16",
    rounds: Rounds = 15,
    min_time: MinTime = 0.05,
    payload: Payload = "1024",
    json: Json = "",
) -> None:
    """Measure quantize and dequantize against memcpy of the same bytes, one thread, interleaved.

    quantize: exponent of every block of --payload bytes, scaling, rounding and byte order, float32 to packets. dequantize: the
    way back. ratio: memcpy's time over the kernel's, median of the rounds' own ratios; 1 is memcpy's speed.
    """
    from switchml.bench.quantize import measure_kernels
    from switchml.bench.report import kernel_table

    check_writable(json)
    found = measure_kernels(parse_sizes(sizes), _payload(payload), rounds, min_time)
    above = [f"Block of {payload} bytes, one thread, {rounds} rounds, median [minimum maximum]"]
    publish("quantize", json, above, kernel_table(found), results=[one.as_json() for one in found])


@bench_app.command()
def packets(
    switches: Annotated[
        str, typer.Option(help="native, p4, p4-memory, bmv2. [default: all that are here]")
    ] = "",
    elements: Annotated[str, typer.Option(help="Elements a packet: 64,256.")] = "64,256",
    workers: Annotated[int, typer.Option(help="Workers of the job.")] = 2,
    window: Annotated[int, typer.Option(help="Slots of the job, all at work at once.")] = 16,
    rounds: Rounds = 7,
    min_time: MinTime = 0.5,
    programs: Annotated[
        Path | None, typer.Option(help="Folder of the compiled P4 programs. [default: switchml's own]")
    ] = None,
    bmv2: Annotated[
        str, typer.Option(envvar="SWITCHML_BMV2", help="Folder of simple_switch and its CLI; default: PATH.")
    ] = "",
    json: Json = "",
    plot: Plot = "",
) -> None:
    """Measure packets a second of the switches: native pipeline, P4 program in the emulator, BMv2. Needs root for links.

    A job's workers send as fast as the slots let them; the switch sums, and sends every result to every worker. Counted is what
    it takes in; it sends out as many packets again. Every result is compared with the sum.

    native: the compiled pipeline, on the kernel's UDP (a bridge with its address), without segmentation offload.

    p4: the P4 program in the emulator, on packet sockets. bmv2: the same program in BMv2's simple_switch, on the same links.

    p4-memory: the emulator without ports, and without the time of making and checking packets; needs no root.

    times X: this switch's rate over that of X, which is bmv2 if it takes part: median of the rounds' own ratios.

    For instance:

    sudo switchml bench packets --bmv2 /opt/bmv2/bin --json packets.json --plot packets.png

    switchml bench packets --switches p4-memory --elements 256
    """
    from switchml.bench.packet_rate import PacketPlan, measure_packets
    from switchml.bench.packet_rate import steps as packet_steps
    from switchml.bench.report import packet_table
    from switchml.bench.systems.packet_switches import SWITCHES
    from switchml.control.p4runtime.program import compiled_programs
    from switchml.stf.bmv2 import find_bmv2
    from switchml.stf.bmv2_cli import Bmv2Error

    names = parse_names(switches) or list(SWITCHES)
    folder = programs or compiled_programs()
    found_bmv2, below = None, []
    if "bmv2" in names:
        try:
            found_bmv2 = find_bmv2(bmv2)
        except Bmv2Error as error:
            names.remove("bmv2")
            below = [f"bmv2 is left out: {error}"]
    plan = PacketPlan(names, parse_counts(elements), workers, window, rounds, min_time, folder, found_bmv2)
    plan.validate()
    check_writable(json)
    check_writable(plot)
    facts = machine_facts()
    with orderly_end(), progress_bar(packet_steps(plan)) as bar:
        found = list(measure_packets(plan, bar))
    above = [
        f"One job of {workers} workers, {window} slots; {rounds} rounds, median [minimum maximum]; "
        f"{facts['processor']}, {facts['cores']} cores, load average {facts['load_average']:.1f}"
    ]
    publish(
        "packets",
        json,
        above,
        packet_table(found, plan.reference),
        below,
        results=[one.as_json() for one in found],
        machine=facts,
        plan={**dataclasses.asdict(plan), "programs": str(folder)},
    )
    if plot:
        from switchml.bench.plots import draw_packets

        draw_packets(found, Path(plot))
    if any(one.wrong for one in found):
        raise typer.Exit(1)


def _started_workers(text: str, started: Started | None) -> str:
    """--workers, where it can be chosen.

    Raises:
        UsageError: it cannot, and something else was.
    """
    if started is None:
        return text or SETTINGS["workers"].default
    if text and parse_counts(text) != [started.size]:
        raise UsageError(f"{started.launcher.name} started {started.size} ranks: leave --workers {text} out")
    return str(started.size)


def _variants(names: str, transport: str, multicast: bool | None) -> list[Entry]:
    from switchml.bench.systems.catalogue import VARIANTS, find, variants_of

    chosen = parse_names(names) if names else variants_of(transport, multicast)
    return find(chosen, VARIANTS, "variant")


def _bare(transport: str) -> Entry:
    """The one variant of a transport.

    Raises:
        UsageError: there are several.
    """
    bare = _variants("", transport, None)
    if len(bare) != 1:
        raise UsageError("--transport all: choose one of auto, udp, shm, memory")
    return bare[0]


def _torch_plan(workers: str, payload: str, shape: LinkShape | None, **more: Any) -> Plan:
    """Of what torch.distributed does with float32 tensors, over each backend in turn."""
    from switchml.bench.allreduce import Plan

    given = {"workers": parse_counts(workers), "payload": _payload(payload), "shape": shape, **more}
    return Plan(dtype="float32", op="sum", baselines=[], **given)


def _step_times(plan: Plan, steps: int) -> list[StepTimes]:
    """Measured under a progress bar. steps: of a batch; 0 = as many as the plan's time takes."""
    from switchml.bench.training_step import measure_training, total_steps

    with orderly_end(), progress_bar(total_steps(plan)) as bar:
        return measure_training(plan, steps, bar)


def _backends(baseline: str) -> list[str]:
    """Backends of torch.distributed, ours first.

    Raises:
        UsageError: an unknown one.
    """
    unknown = set(parse_names(baseline)) - {"gloo"}
    if unknown:
        raise UsageError(f"baseline {', '.join(unknown)}: choose gloo or none")
    return ["switchml", *parse_names(baseline)]


def _shape(rate: str, queue: str) -> LinkShape | None:
    return LinkShape(rate=parse_rate(rate), queue=parse_size(queue)) if rate else None


def _links(plan: Any) -> str:
    """The network, in words."""
    from switchml.bench.limits import SWITCHES

    links = f"links of {show_rate(plan.shape.rate)}" if plan.shape else "loopback"
    return f"{links}, {SWITCHES[plan.switches]}"


def _baselines(names: str | None) -> list[Entry]:
    from switchml.bench.systems.catalogue import BASELINES, find

    if names is None:
        names = "gloo" if importlib.util.find_spec("torch") is not None else "none"
    return find(parse_names(names), BASELINES, "baseline")


def _payload(text: str) -> int:

    return 0 if text == "0" else parse_size(text)


def _described(plan: Any) -> dict[str, Any]:
    """The plan as JSON, with names for systems and without the token."""
    described: dict[str, Any] = dataclasses.asdict(plan)
    described.pop("token")
    described["launcher"] = plan.launcher and plan.launcher.name
    described["variants"] = [entry.name for entry in plan.variants]
    described["baselines"] = [entry.name for entry in plan.baselines]
    return described
