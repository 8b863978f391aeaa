#!/usr/bin/env python3
"""A SwitchML job by hand, with p4runtime-shell: what `switchml controller` does when workers join.

On its own, in an environment with p4runtime-shell (docs/p4runtime.md):

    python set_up_job.py --grpc-addr 127.0.0.1:9559 --switch 10.0.0.254=02:53:4d:4c:00:01 --job 0 \\
        --worker 10.0.0.1:48865=02:00:00:00:00:01@1 --worker 10.0.0.2:48865=02:00:00:00:00:02@2

Or from the shell's prompt, over the connection it has:

    >>> from set_up_job import *
    >>> set_up_job(0, Switch.parse("10.0.0.254=02:53:4d:4c:00:01"), [Worker.parse("10.0.0.1:48865=02:00:00:00:00:01@1"), ...])
    >>> show_job(0)
    >>> remove_job(0)
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import p4runtime_sh.shell as sh
from p4runtime_sh.p4runtime import P4RuntimeWriteException

INGRESS, EGRESS = "SwitchIngress.", "SwitchEgress."
COUNTERS = (
    INGRESS + "packets_received",
    INGRESS + "chunks_completed",
    INGRESS + "results_retransmitted",
    INGRESS + "dropped_duplicate",
    INGRESS + "dropped_stale",
    INGRESS + "dropped_unreachable",
    EGRESS + "packets_sent",
)


@dataclass(frozen=True)
class Switch:
    """The address that workers send to."""

    address: str
    mac: str

    @classmethod
    def parse(cls, text: str) -> Switch:
        """Of the form `ADDRESS=MAC`."""
        return cls(*_fields(r"([\d.]+)=([\da-fA-F:]{17})", text))


@dataclass(frozen=True)
class Worker:
    """Where a worker is: its socket, and the switch's port that it hangs on."""

    address: str
    udp_port: str
    mac: str
    port: str

    @classmethod
    def parse(cls, text: str) -> Worker:
        """Of the form `ADDRESS:UDP_PORT=MAC@SWITCH_PORT`."""
        return cls(*_fields(r"([\d.]+):(\d+)=([\da-fA-F:]{17})@(\d+)", text))


def _fields(pattern: str, text: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form that --help shows")
    return found.groups()


def _entry(table: str, action: str, key: dict[str, object], **arguments: object) -> sh.TableEntry:
    entry = sh.TableEntry(table)(action=action)
    for name, value in key.items():
        entry.match[name] = str(value)
    for name, value in arguments.items():
        entry.action[name] = str(value)
    return entry


def set_up_job(
    job: int,
    switch: Switch,
    workers: list[Worker],
    *,
    pool_base: int = 0,
    window: int = 64,
    epoch: int = 1,
    paper: bool = False,
) -> None:
    """Let a switch aggregate a job.

    Args:
        job: its number, 0-255.
        switch: what its workers send to.
        workers: by rank.
        pool_base: its first slot.
        window: its slots, a power of two.
        epoch: 1-255; another one for every job that takes a range of slots over, or what the last job left there counts.
        paper: the published algorithm, without stamps.
    """
    everyone = (1 << len(workers)) - 1
    own = _entry(
        INGRESS + "own_address", INGRESS + "is_ours", {"meta.target_addr": switch.address}, mac=switch.mac
    )
    if not any(entry.match["meta.target_addr"] == own.match["meta.target_addr"] for entry in _all(own.name)):
        own.insert()
    group = sh.MulticastGroupEntry(job + 1)
    for number, worker in enumerate(workers):
        group.add(int(worker.port), number + 1)
    group.insert()
    for number, worker in enumerate(workers):
        sender = {"hdr.ipv4.src_addr": worker.address, "hdr.udp.src_port": worker.udp_port}
        known = {"meta.job_number": job, "meta.worker": number}
        _entry(
            EGRESS + "worker_rewrite",
            EGRESS + "to_worker",
            known,
            mac=worker.mac,
            addr=worker.address,
            udp_port=worker.udp_port,
        ).insert()
        _entry(INGRESS + "sender_table", INGRESS + "known_sender", sender, job=job).insert()
        _entry(
            INGRESS + "job_table",
            INGRESS + "set_worker",
            {**sender, "hdr.switchml.job_number": job},
            worker=number,
            bit_of_worker=1 << number,
            workers=len(workers),
            everyone=everyone,
            pool_base=pool_base,
            window=window,
            paper=int(paper),
            epoch=epoch,
            multicast_group=job + 1,
        ).insert()
        _entry(INGRESS + "worker_port", INGRESS + "reachable", known).insert()


def remove_job(job: int) -> None:
    """Every entry that names the job, then its multicast group."""
    number = sh.bytes_utils.parse_value(str(job), 8)
    for table in ("worker_port", "job_table"):
        for entry in _all(INGRESS + table):
            name = "hdr.switchml.job_number" if table == "job_table" else "meta.job_number"
            if entry.match[name].exact.value == number:
                entry.delete()
    for entry in _all(INGRESS + "sender_table"):
        if entry.action["job"].value == number:
            entry.delete()
    for entry in _all(EGRESS + "worker_rewrite"):
        if entry.match["meta.job_number"].exact.value == number:
            entry.delete()
    sh.MulticastGroupEntry(job + 1).delete()


def show_job(job: int) -> None:
    """The job's row of the counters."""
    for name in COUNTERS:
        counter = sh.CounterEntry(name)
        counter.index = job
        for found in counter.read():
            print(f"{name:45} {found.packet_count:10} packets {found.byte_count:12} bytes")


def _all(table: str) -> Iterator[sh.TableEntry]:
    return iter(list(sh.TableEntry(table).read()))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Set up, show or remove a SwitchML job with p4runtime-shell."
    )
    parser.add_argument(
        "--grpc-addr", default="127.0.0.1:9559", metavar="HOST:PORT", help="the P4Runtime server"
    )
    parser.add_argument("--device-id", type=int, default=1)
    parser.add_argument(
        "--election-id",
        type=lambda text: tuple(map(int, text.split(","))),
        default=(1, 0),
        metavar="HIGH,LOW",
        help="at least the highest one that the switch has seen",
    )
    parser.add_argument("--config", metavar="P4INFO,JSON", help="push this pipeline first")
    parser.add_argument("--job", type=int, default=0, help="job number, 0-255")
    parser.add_argument("--switch", type=Switch.parse, metavar="ADDRESS=MAC", help="what workers send to")
    parser.add_argument(
        "--worker",
        type=Worker.parse,
        action="append",
        default=[],
        metavar="ADDRESS:UDP_PORT=MAC@SWITCH_PORT",
        help="once for each worker, in the order of ranks",
    )
    parser.add_argument("--pool-base", type=int, default=0, help="first slot")
    parser.add_argument("--window", type=int, default=64, help="slots, a power of two")
    parser.add_argument("--epoch", type=int, default=1, help="1-255, another one for every job")
    parser.add_argument("--paper", action="store_true", help="the published algorithm, without stamp")
    parser.add_argument("--remove", action="store_true", help="remove the job instead")
    options = parser.parse_args()
    if not options.remove and not (options.switch and options.worker):
        parser.error("--switch and at least one --worker are needed")

    config = sh.FwdPipeConfig(*options.config.split(",")) if options.config else None
    sh.setup(options.device_id, options.grpc_addr, options.election_id, config=config, verbose=False)
    try:
        if options.remove:
            remove_job(options.job)
        else:
            set_up_job(
                options.job,
                options.switch,
                options.worker,
                pool_base=options.pool_base,
                window=options.window,
                epoch=options.epoch,
                paper=options.paper,
            )
            show_job(options.job)
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
    except (P4RuntimeWriteException, sh.UserError) as error:
        sys.exit(str(error))
    finally:
        sh.teardown()


if __name__ == "__main__":
    main()
