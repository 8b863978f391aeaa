"""A star of workers around one switch, with Mininet's prompt.

    sudo .venv/bin/python scripts/mininet/star.py --switch p4 --workers 4 --rate 100mbit --loss 0.001 --cli

At the prompt: `h1 ping h2`, `h1 tcpdump -n -i h1-eth0`, `links`, `exit`, and
`s1 switchml status --switch 10.84.0.254:50551 --token mininet`.
Without --cli the network is built, every worker joins a job and sums once, and the network is taken down: a self-test.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import experiment
from mininet.cli import CLI
from mininet.log import setLogLevel
from switches import SWITCHES, TOKEN
from topology import star

from switchml.bench.units import parse_size
from switchml.errors import SwitchMLError


def main() -> int:
    """Build the star, check one summation, and give Mininet's prompt."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--switch", choices=SWITCHES, default="native")
    experiment.add_network_options(parser)
    parser.add_argument("--cli", action="store_true", help="Mininet's prompt, until `exit`")
    options = parser.parse_args()
    setLogLevel("info" if options.cli else "warning")
    with star(
        options.switch, options.workers, experiment.shape_of(options), program=options.program
    ) as network:
        print(f"workers join at {network.control_address} with the token {TOKEN}", flush=True)
        if options.cli:
            CLI(network.net)
            return 0
        verdict = experiment.check(network, size=parse_size("64K"))
    print(f"{options.workers} workers, {verdict.checked:,} elements summed, {verdict.wrong} wrong")
    return 0 if verdict.wrong == 0 else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SwitchMLError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
