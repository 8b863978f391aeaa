"""Port numbers as BMv2's command line writes them: `1@veth0`."""

from __future__ import annotations

from collections.abc import Sequence

from switchml.errors import UsageError
from switchml.switch_emulator.ports.udp import MAX_STATIONS


def parse_interfaces(options: Sequence[str]) -> dict[int, str]:
    """Names by port number; a name without a number takes the lowest that is free, from 0 up.

    Raises:
        UsageError: not of this form, or a number or name that occurs twice.
    """
    numbered: dict[int, str] = {}
    bare: list[str] = []
    for option in options:
        number, separator, name = option.partition("@")
        if not separator:
            bare.append(option)
            continue
        if not number.isdecimal() or not name or int(number) > MAX_STATIONS:
            raise UsageError(f"-i {option}: write PORT@INTERFACE, PORT from 0 to {MAX_STATIONS}")
        if int(number) in numbered:
            raise UsageError(f"-i {option}: port {number} is {numbered[int(number)]} already")
        numbered[int(number)] = name
    for name in bare:
        if not name:
            raise UsageError("-i: write PORT@INTERFACE")
        numbered[next(port for port in range(MAX_STATIONS + 1) if port not in numbered)] = name
    if len(set(numbered.values())) < len(numbered):
        raise UsageError("-i: one interface cannot be two ports")
    return dict(sorted(numbered.items()))
