"""`switchml doctor`: whether everything is there that a training run needs, and which way each collective goes."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from switchml.cli_options import AsJson, SwitchAddress, SwitchTimeout, SwitchToken, TlsCa, TlsCert, TlsKey
from switchml.errors import SwitchMLError
from switchml.outlook import SwitchPath, outlook, rate
from switchml.variables import misspelt
from switchml.version import STANDS_ON, installed_version

if TYPE_CHECKING:
    from switchml.control.tls import TlsFiles
    from switchml.worker import Worker

_UDP_SEGMENT, _UDP_GRO = 103, 104
_RECEIVE_BUFFER = Path("/proc/sys/net/core/rmem_max")
# Below this the kernel drops packets before a full window of large ones has been read.
_SMALL_BUFFER = 1 << 20
_SECRET = ("TOKEN",)
_VARIABLES = ("SWITCHML_", "MASTER_", "GLOO_", "TORCH_DEVICE_BACKEND_AUTOLOAD", "TORCH_DISTRIBUTED_")
_PROBE_ELEMENTS = 256
_PROBE_ROUNDS = 50
_IP_MTU = 14
_INTERFACES = Path("/sys/class/net")
# A measurement ends when it has taken this long in all, after at least one tensor; the best of the longest ones counts.
_MEASURED_SECONDS = 2.0
_LONG_ENOUGH = 0.2
_SMALLEST_TENSOR, _LARGEST_TENSOR = 256 << 10, 64 << 20


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        section: the table that it belongs to.
        name: what was looked at.
        text: what was found.
        ok: None where there is nothing to judge.
    """

    section: str
    name: str
    text: str
    ok: bool | None = None


def doctor(
    switch: SwitchAddress = "",
    token: SwitchToken = "",
    timeout: SwitchTimeout = 10.0,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            envvar="WORLD_SIZE",
            help="Workers of the job, to say what it can expect.",
        ),
    ] = 2,
    as_json: AsJson = False,
) -> None:
    """Check that training can work here, show how collectives travel, and measure the way to the switch.

    Looks at the machine, torch, the switch and its transports. The exit status is 1 if something fails. Several switches
    are given with commas between them.
    """
    from switchml.control.tls import TlsFiles

    tls = TlsFiles(tls_cert, tls_key, tls_ca)
    findings = [
        *(*system(), compiled_code(), *environment(), *torch_backend()),
        *switch_and_transports(switch, token, timeout, tls),
    ]
    paths: list[SwitchPath] = []
    findings += measured(switch, token, timeout, tls, paths)
    expected = outlook(paths, workers) if paths and workers > 1 else None
    if expected is not None:
        findings.append(Finding("outlook", f"{workers} workers", expected.sentence))
    routes = routing()
    healthy = all(finding.ok is not False for finding in findings)
    if as_json:
        found = [asdict(finding) for finding in findings]
        report = {
            "healthy": healthy,
            "findings": found,
            "paths": [asdict(path) | {"limit": path.limit} for path in paths],
            "outlook": None if expected is None else asdict(expected),
            "routing": routes,
        }
        print(json.dumps(report, indent=2))
    else:
        _show(findings, routes)
    if not healthy:
        raise typer.Exit(1)


def system() -> Iterator[Finding]:
    """The machine, and the versions of what this stands on."""
    yield Finding(
        "system", "kernel", f"{platform.system()} {platform.release()}", platform.system() == "Linux"
    )
    yield Finding("system", "cores", str(len(os.sched_getaffinity(0))))
    for name, option in (("UDP segmentation", _UDP_SEGMENT), ("UDP receive offload", _UDP_GRO)):
        has = _udp_option(option)
        yield Finding("system", name, "yes" if has else "no: one system call a packet, several times slower")
    try:
        size = int(_RECEIVE_BUFFER.read_text())
    except OSError:
        return
    advice = "" if size >= _SMALL_BUFFER else "; raise it with sysctl net.core.rmem_max=4194304"
    yield Finding("system", "largest receive buffer", f"{size} bytes{advice}")
    yield Finding("versions", "python", platform.python_version())
    for name in ("switchml", *STANDS_ON):
        yield Finding("versions", name, installed_version(name) or "not installed")


def compiled_code() -> Finding:
    """Where the machine code of the packet loops is kept from one process to the next."""
    from switchml.protocol.jit import DISABLED, cache_folder
    from switchml.worker.engine import run

    folder = cache_folder(run)
    if DISABLED:
        text = "none: NUMBA_DISABLE_JIT is set, and everything is a hundred times slower"
    elif folder is None:
        text = (
            "not kept: no folder can be written, so each process compiles for ten seconds or more; "
            "set NUMBA_CACHE_DIR to a folder of this user"
        )
    else:
        text = f"kept in {folder}"
    return Finding("system", "compiled code", text)


def environment() -> Iterator[Finding]:
    """The variables that change what happens."""
    for name, value in sorted(os.environ.items()):
        if name.startswith(_VARIABLES):
            yield Finding("environment", name, "(set)" if name.endswith(_SECRET) else value)
    for sentence in misspelt(os.environ):
        yield Finding("environment", "misspelt", sentence)


def torch_backend() -> Iterator[Finding]:
    """Whether `init_process_group("switchml")` is going to find the backend."""
    if installed_version("torch") is None:
        yield Finding("torch", "torch", 'not installed: pip install "switchml[torch]" for the backend')
        return
    entries = metadata.entry_points(group="torch.backends", name="switchml")
    yield Finding(
        "torch",
        "entry point",
        "torch.backends: switchml"
        if entries
        else "missing: install switchml, or import switchml.torch_backend",
        bool(entries),
    )
    try:
        import torch.distributed as dist
    except Exception as error:
        yield Finding("torch", "import", f"{error!r}", False)
        return
    if not dist.is_available():
        yield Finding("torch", "distributed", "this torch was built without it: install another", False)
        return
    gloo = dist.is_gloo_available()
    yield Finding(
        "torch", "gloo", "there" if gloo else "missing in this torch: nothing to hand calls to", gloo
    )
    registered = "SWITCHML" in dist.Backend._plugins
    by_torch = registered and os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") != "0"
    if not registered:
        from switchml.torch_backend.autoload import register

        register()
        registered = "SWITCHML" in dist.Backend._plugins
    how = "by torch itself" if by_torch else "only once a program imports switchml.torch_backend"
    yield Finding(
        "torch", "backend", f"registered, {how}" if registered else "cannot be registered", registered
    )


def switch_and_transports(named: str, token: str, timeout: float, tls: TlsFiles) -> Iterator[Finding]:
    """A switch that answers, and an all-reduce of two workers over each transport from this host: for each switch named."""
    try:
        addresses = _addresses(named)
    except SwitchMLError as error:
        yield Finding("switch", named, str(error), False)
        return
    for address in addresses:
        for finding in _one_switch(address, token, timeout, tls):
            several = len(addresses) > 1 and finding.name != address
            yield replace(finding, name=f"{address}: {finding.name}") if several else finding


def _addresses(named: str) -> list[str]:
    """Of the switches; "" stands for one that is started. Raises UsageError: an address or share is none."""
    from switchml.control.named_switches import in_turn, parse_switches

    return [each for one in parse_switches(named) for each in in_turn(one.address)] if named else [""]


def _one_switch(address: str, token: str, timeout: float, tls: TlsFiles) -> Iterator[Finding]:
    try:
        with _switch(address, token, tls) as (where, secret):
            yield from _described(where, secret, timeout, tls, given=bool(address))
            for name, how in TRANSPORTS.items():
                yield _tried(name, lambda how=how: _probe(where, secret, timeout, tls, **how), bool(address))  # type: ignore[misc]
    except SwitchMLError as error:
        yield Finding("switch", address or "embedded", str(error), False)


TRANSPORTS: dict[str, dict[str, Any]] = {
    "shared memory": {"transport": "shm", "multicast": False},
    "UDP": {"transport": "udp", "multicast": False},
    "UDP, results by multicast": {"transport": "udp", "multicast": True},
}


@contextmanager
def _switch(address: str, token: str, tls: TlsFiles) -> Iterator[tuple[str, str]]:
    if address:
        yield address, token
        return
    from switchml.control import embedded

    with embedded.start(tls=tls) as running:
        yield running.address, running.token


def _described(address: str, token: str, timeout: float, tls: TlsFiles, *, given: bool) -> Iterator[Finding]:
    from switchml.control.client import ControlClient

    with ControlClient(address, token=token, timeout=timeout, tls=tls.client()) as client:
        begin = time.monotonic()
        status = client.status()
        answered = (time.monotonic() - begin) * 1e3
    origin = "" if given else "; started for this test, as rank 0 does when SWITCHML_SWITCH is not set"
    yield Finding("switch", address, f"answers in {answered:.1f} ms{origin}", True)
    target = status.target
    yield Finding("switch", "data port", f"{target.host}:{target.udp_port}/udp")
    free = f"{status.free_slots} of {target.pool_slots} free, {len(status.jobs)} jobs"
    yield Finding("switch", "slots", free, status.free_slots > 0)


def _tried(name: str, probe: Callable[[], str], remote: bool) -> Finding:
    try:
        return Finding("transports", name, probe(), True)
    except SwitchMLError as error:
        # Shared memory ends at the host, multicast often at its network: training does without either.
        optional = name != "UDP"
        needed = "" if optional else " (needed)"
        return Finding("transports", name, f"no: {error}{needed}", None if optional and remote else False)


def _probe(
    address: str, token: str, timeout: float, tls: TlsFiles, *, transport: str, multicast: bool
) -> str:
    """The round trip of two workers in this process; raises what joining or reducing raises."""
    import numpy as np

    from switchml.errors import SwitchUnreachableError
    from switchml.worker import Worker

    job = f"doctor-{secrets.token_hex(6)}"

    def rank(number: int) -> tuple[list[float], bool]:
        with Worker.join(
            address,
            job=job,
            rank=number,
            world_size=2,
            transport=transport,
            token=token,
            tls_cert=tls.certificate or "",
            tls_key=tls.key or "",
            tls_ca=tls.ca or "",
            multicast=multicast,
            join_timeout=timeout,
            timeout=timeout,
        ) as worker:
            times = []
            for _ in range(_PROBE_ROUNDS):
                values = np.full(_PROBE_ELEMENTS, number + 1.0, np.float32)
                begin = time.perf_counter()
                worker.allreduce(values, notify=False).wait()
                times.append(time.perf_counter() - begin)
                if not (values == 3.0).all():
                    raise SwitchUnreachableError(f"a sum came back wrong: {values[:4]}")
            return times, worker.multicast

    with ThreadPoolExecutor(2) as threads:
        answers = [future.result() for future in [threads.submit(rank, number) for number in range(2)]]
    if multicast and not all(by_multicast for _, by_multicast in answers):
        raise SwitchUnreachableError("results come by unicast: multicast does not reach this host")
    median = statistics.median(answers[0][0])
    return f"works; {_PROBE_ELEMENTS * 4} bytes over two workers take {median * 1e6:.0f} us here"


def measured(
    switches: str, token: str, timeout: float, tls: TlsFiles, paths: list[SwitchPath]
) -> Iterator[Finding]:
    """The ways to the switches, with commas between them; what was measured is appended to `paths`."""
    try:
        addresses = _addresses(switches)
    except SwitchMLError:
        return  # `switch_and_transports` says why
    for address in addresses:
        try:
            with _switch(address, token, tls) as (where, secret):
                path = measure(where, secret, timeout, tls)
        except SwitchMLError as error:
            yield Finding("paths", address or "embedded", f"not measured: {error}")
            continue
        paths.append(path)
        yield Finding("paths", path.switch, _told(path))


def measure(address: str, token: str, timeout: float, tls: TlsFiles) -> SwitchPath:
    """What one worker's UDP packets to the switch and back are like; raises what joining or reducing raises."""
    from switchml.control.client import ControlClient
    from switchml.worker import Worker

    job = f"doctor-{secrets.token_hex(6)}"
    with ControlClient(address, token=token, timeout=timeout, tls=tls.client()) as client:
        target = client.discover()

        def counted() -> tuple[dict[str, int], dict[str, int]]:
            """Of the worker, and of its job at the switch."""
            at_switch = next(each.counters for each in client.status().jobs if each.name == job)
            return worker.counters(), at_switch

        with Worker.join(
            address, job=job, rank=0, world_size=1, transport="udp", token=token, multicast=False,
            tls_cert=tls.certificate or "", tls_key=tls.key or "", tls_ca=tls.ca or "",
            join_timeout=timeout, timeout=max(timeout, 60.0),
        ) as worker:  # fmt: skip
            trips = [_seconds(worker, 4) for _ in range(_PROBE_ROUNDS)]
            before, began, used = counted(), time.monotonic(), time.process_time()
            moved: list[tuple[float, int]] = []
            size = _SMALLEST_TENSOR
            while not moved or time.monotonic() < began + _MEASURED_SECONDS:
                moved.append((_seconds(worker, size), size))
                if moved[-1][0] < _LONG_ENOUGH:
                    size = min(2 * size, _LARGEST_TENSOR)
            busy = (time.process_time() - used) / (time.monotonic() - began)
            # Copies of results that still lie there are read with this one's.
            _seconds(worker, 4)
            after = counted()
            window, payload = worker.window, worker.payload

    def more(side: int, *names: str) -> int:
        return sum(after[side].get(name, 0) - before[side].get(name, 0) for name in names)

    arrived = ("packets_received", "answers_received", "dropped_duplicate", "dropped_stale")
    long = [each for each in moved if each[0] >= _LONG_ENOUGH] or moved[-1:]
    local, link, mtu = _interface_towards(target.host)
    return SwitchPath(
        switch=address,
        goodput=max(8 * size / seconds for seconds, size in long),
        round_trip=min(trips),
        loss_up=_lost(more(0, "packets_sent"), more(1, "packets_received")),
        loss_down=_lost(more(1, "packets_sent"), more(0, *arrived)),
        window=window,
        payload=payload,
        largest_payload=target.max_payload,
        busy=busy,
        local=local,
        software=bool(target.shm_socket),
        link=link,
        mtu=mtu,
    )


def _seconds(worker: Worker, size: int) -> float:
    """How long an all-reduce of so many bytes takes."""
    import numpy as np

    values = np.ones(size // 4, np.int32)
    begin = time.perf_counter()
    worker.allreduce(values, notify=False).wait()
    return time.perf_counter() - begin


def _lost(sent: int, arrived: int) -> float:
    return max(0.0, 1 - arrived / sent) if sent else 0.0


def _interface_towards(host: str) -> tuple[bool, float | None, int]:
    """Whether a host is this one; else bit/s and MTU of the interface that leads there, as far as the kernel knows."""
    from switchml.control.address import interface_of

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing
        own = probe.getsockname()[0]
        mtu = probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    if own == host:
        return True, None, 0
    interface = _INTERFACES / interface_of(own)
    link = None
    # What is no device says a speed of its driver's choice.
    if (interface / "device").exists():
        with contextlib.suppress(OSError, ValueError):
            megabits = int((interface / "speed").read_text())
            link = megabits * 1e6 if megabits > 0 else None
    return False, link, mtu


def _told(path: SwitchPath) -> str:
    lost = f"lost {path.loss_up:.2%} on the way there and {path.loss_down:.2%} back"
    return (
        f"a tensor goes at {rate(path.goodput)} each way, a packet and its result take {path.round_trip * 1e6:.0f} us, {lost}; "
        f"{path.window} slots of {path.payload} bytes"
    )


def routing() -> list[dict[str, object]]:
    """The table that decides how collectives of `torch.distributed` travel; empty without torch."""
    if installed_version("torch") is None:
        return []
    from switchml.torch_backend.routing import routing_rows

    return routing_rows()


def _show(findings: list[Finding], routes: list[dict[str, object]]) -> None:
    console = Console()
    marks = {True: "[green]ok[/]", False: "[red]fails[/]", None: ""}
    for section in dict.fromkeys(finding.section for finding in findings):
        table = Table(title=section, title_justify="left", title_style="bold", show_header=False)
        for finding in findings:
            if finding.section == section:
                table.add_row(marks[finding.ok], escape(finding.name), escape(finding.text))
        console.print(table)
    if not routes:
        return
    from switchml.torch_backend.routing import limit_told

    table = Table(title="how collectives travel", title_justify="left", title_style="bold", show_lines=True)
    for column in ("collectives", "tensors", "path", "why"):
        table.add_column(column, overflow="fold")
    for route in routes:
        limit = route["gathered_limit"]
        path = str(route["path"]) + limit_told(
            limit if isinstance(limit, int) else None, str(route["beyond"])
        )
        table.add_row(
            ", ".join(map(str, _list(route["collectives"]))), str(route["tensors"]), path, str(route["why"])
        )
    console.print(table)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _udp_option(option: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.getsockopt(socket.IPPROTO_UDP, option)
        except OSError:
            return False
        return True
