"""The time of an all-reduce over several switches on the same network, side by side.

    sudo .venv/bin/python scripts/mininet/allreduce.py --switches native,p4,bmv2 --workers 4 --rate 100mbit --loss 0.001 \\
        --size 1M --plot out.png

One network after the other is built; on each, every size is summed once and compared with what the sum must be, then timed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import experiment
from mininet.log import setLogLevel
from rich.table import Table
from switches import COMPILED, SWITCHES
from topology import star, why_not

from switchml.bench.limits import SHAPED
from switchml.bench.output import check_writable, machine_facts, show, text_console, write_json
from switchml.bench.plots import draw
from switchml.bench.results import Measurement
from switchml.bench.units import parse_sizes, show_rate, show_size
from switchml.errors import SwitchMLError, UsageError
from switchml.protocol.messages import ELEMENT_BYTES
from switchml.testbed import LinkShape


def main() -> int:
    """Measure every switch that was asked for. Returns 1 if a sum was wrong."""
    options = _options()
    shape = experiment.shape_of(options)
    names = options.switches.split(",")
    unknown = sorted(set(names) - set(SWITCHES))
    if unknown:
        raise UsageError(f"--switches {','.join(unknown)}: choose from {', '.join(SWITCHES)}")
    for target in (options.json, options.plot):
        check_writable(target)
    for name in names:
        if reason := why_not(name, shape):
            raise UsageError(f"{name}: {reason}")
    options.payload = options.payload or (256 if "bmv2" in names else 1024)
    if options.program is None:
        options.program = COMPILED / f"switchml_{options.payload // ELEMENT_BYTES}.json"
    sizes = parse_sizes(options.size)
    setLogLevel("warning")
    measured: list[Measurement] = []
    for name in names:
        print(f"{name}: building the network", file=sys.stderr, flush=True)
        with (
            star(name, options.workers, shape, program=options.program) as network,
            experiment.ranks(network, window=options.window, payload=options.payload) as group,
        ):
            for size in sizes:
                print(f"{name}: {show_size(size)}", file=sys.stderr, flush=True)
                measured.append(experiment.measure(group, name, size, options.rounds, shape.rate))
    show(text_console(options.json), _heading(options, shape), _table(measured), [])
    write_json(_document(options, shape, measured), options.json)
    if options.plot:
        draw(measured, [], Path(options.plot), conditions=f"one switch, each link {_words(shape)}")
    return 0 if all(one.verdict is not None and one.verdict.wrong == 0 for one in measured) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--switches", default="native,p4", help=f"a list of {', '.join(SWITCHES)}")
    experiment.add_network_options(parser)
    parser.add_argument("--size", default="1M", help="of the tensor: 1M, a list 64K,1M or a range 4K:1M:4")
    parser.add_argument("--rounds", type=int, default=5, help="timed all-reduces of each size")
    parser.add_argument("--window", type=int, default=64, help="slots of the job, a power of two")
    parser.add_argument(
        "--payload", type=int, default=0, help="bytes of elements in a packet [1024; with bmv2: 256]"
    )
    parser.add_argument("--plot", default="", metavar="FILE", help="write a picture")
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures; - for standard output")
    return parser.parse_args()


def _words(shape: LinkShape) -> str:
    words = [show_rate(shape.rate) if shape.rate else "unshaped"]
    words += [f"{shape.loss:.3%} of packets lost each way"] if shape.loss else []
    words += [f"{shape.delay * 1e3:g} ms each way"] if shape.delay else []
    return ", ".join(words)


def _heading(options: argparse.Namespace, shape: LinkShape) -> list[str]:
    return [
        f"All-reduce of float32 over one switch: {options.workers} workers, each link {_words(shape)}; "
        f"{options.payload} bytes a packet, {options.window} slots.",
        "time: milliseconds of one all-reduce, the slowest rank's: median of the rounds [minimum maximum]. #wrong: elements "
        "out of bounds, all ranks.",
        f"of limit: of the goodput of one link ({SHAPED.words}).",
    ]


def _table(measured: list[Measurement]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = ["size (B)", "switch", "time (ms)", "[min max]", "Mbit/s", "of limit (%)", "retrans", "#wrong"]
    for head in heads:
        table.add_column(head, justify="left" if head == "switch" else "right", no_wrap=True)
    for one in sorted(measured, key=lambda one: one.size):
        time = one.time
        table.add_row(
            *(show_size(one.size), one.system),
            *(f"{time.median * 1e3:.1f}", f"\\[{time.minimum * 1e3:.1f} {time.maximum * 1e3:.1f}]"),
            f"{one.algbw * 8e-6:.2f}",
            "-" if one.of_limit is None else f"{100 * one.of_limit:.1f}",
            str(one.counters.get("retransmissions", 0)),
            "-" if one.verdict is None else str(one.verdict.wrong),
        )
    return table


def _document(options: argparse.Namespace, shape: LinkShape, measured: list[Measurement]) -> dict[str, Any]:
    return {
        "machine": machine_facts(),
        "workers": options.workers,
        "window": options.window,
        "links": asdict(shape),
        "measurements": [one.as_json() for one in measured],
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SwitchMLError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
