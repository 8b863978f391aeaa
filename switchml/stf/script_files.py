"""A program file, a script file, a target: made, run, put away."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from switchml.errors import UsageError
from switchml.stf.emulator_target import Clock, EmulatorSwitch
from switchml.stf.language import parse_file
from switchml.stf.program_names import load_names
from switchml.stf.runner import Report, run_script
from switchml.stf.script_target import Target

TARGETS = ("emulator", "bmv2")


def run_files(
    program: Path,
    script: Path,
    target: str = "emulator",
    *,
    trace: Callable[[str], None] | None = None,
    capture: Path | None = None,
) -> Report:
    """Run `script` on `program` (a BMv2 JSON).

    Args:
        program: BMv2's JSON.
        script: the packet script.
        target: one of `TARGETS`.
        trace: gets the emulator's packet trace line by line.
        capture: pcap file of all frames, in and out, in order of time.

    Raises:
        StfError: the script cannot be read or does not fit the program.
        UnsupportedProgramError: the emulator does not support what the program uses.
        SwitchMLError: a file or the target is not there.
        UsageError: no such target.
    """
    if target not in TARGETS:
        raise UsageError(f"no target {target!r}: {' or '.join(TARGETS)}")
    statements, names = parse_file(script), load_names(program)
    with ExitStack() as opened:
        record: Callable[[int, bytes], None] | None = None
        if capture is not None:
            from switchml.packets.pcap import PcapWriter

            writer = opened.enter_context(PcapWriter(capture))

            def record(microseconds: int, frame: bytes) -> None:
                writer.write(microseconds * 1000, frame)

        switch: Target
        if target == "bmv2":
            from switchml.stf.bmv2 import Bmv2Switch

            switch = Bmv2Switch(program, statements, capture=record)
        else:
            from switchml.switch_emulator.p4 import P4Switch, load_program

            clock = Clock()
            device = P4Switch(load_program(program), clock=clock, trace=trace)
            switch = EmulatorSwitch(device, device.process, clock=clock, capture=record)
        opened.callback(switch.close)
        return run_script(statements, names, switch, str(script))
