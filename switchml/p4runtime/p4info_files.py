"""P4Infos in text form, as p4c writes them beside a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from switchml.errors import UsageError


def p4info_beside(config: Path) -> Path:
    """NAME.p4info.txtpb beside NAME.json."""
    return config.with_name(config.name.removesuffix(".json") + ".p4info.txtpb")


def refuse_source(program: Path) -> None:
    """Say what to do with a program that is not compiled. Raises UsageError."""
    if program.suffix == ".p4":
        name = program.with_suffix("")
        raise UsageError(
            f"{program} is P4 source: give what p4c makes of it. p4c-bm2-ss --p4runtime-files {name}.p4info.txtpb -o {name}.json "
            f"{program} writes {name}.json; docs/p4_target.md says where p4c is to be had"
        )


def parse_p4info(text: str) -> Any:
    """A P4Info from protobuf's text form. Raises UsageError."""
    from google.protobuf import text_format

    from switchml.p4runtime.stubs import p4info_pb2

    try:
        return text_format.Parse(text, p4info_pb2.P4Info())
    except text_format.ParseError as error:
        raise UsageError(
            f"that is no P4Info in text form ({error}); p4c writes it with --p4runtime-files NAME.p4info.txtpb"
        ) from error
