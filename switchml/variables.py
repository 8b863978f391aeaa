"""The environment variables, all in one table: what is misspelt is named, and the docs' table is made from it.

`python -m switchml.variables docs/settings.md` makes the table there anew: `<!-- table variables --> ... <!-- end -->`.
"""

from __future__ import annotations

import difflib
import logging
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from switchml.errors import UsageError

PREFIX = "SWITCHML_"


@dataclass(frozen=True)
class Variable:
    """One row.

    Attributes:
        name: the variable's.
        option: of the backend's `Options`; "" for none.
        meaning: what it sets, in Markdown.
        default: where it is not set, or empty.
    """

    name: str
    option: str
    meaning: str
    default: str


VARIABLES = (
    Variable(
        "SWITCHML_SWITCH",
        "switch",
        "control address of the switch, `host:port`, or of several over which tensors are dealt, `a:50551,b:50551`, by speed or "
        "by shares (`a:50551,b:50551*3`); rank 0 tells the others",
        "each host starts one that ends with the ranks",
    ),
    Variable("SWITCHML_TOKEN", "token", "the switch's join token", "none"),
    Variable(
        "SWITCHML_TLS_CERT",
        "tls_cert",
        "PEM file of one's own certificate: a switch serves TLS with it, a worker shows it. With any of the three TLS files "
        "nothing is spoken but TLS",
        "none",
    ),
    Variable("SWITCHML_TLS_KEY", "tls_key", "PEM file of its key", "none"),
    Variable(
        "SWITCHML_TLS_CA",
        "tls_ca",
        "PEM file of the authority that is trusted; a switch that has one asks workers for a certificate",
        "the system's",
    ),
    Variable(
        "SWITCHML_TRANSPORT",
        "transport",
        "`auto` (the switch in memory where it and all ranks share a host, else packets), `udp`, `shm` or `memory`",
        "`auto`",
    ),
    Variable(
        "SWITCHML_PAYLOAD",
        "payload",
        "bytes of elements in a packet: 128 to 16384, a power of two; equal on all ranks",
        "the switch's: 1024, on loopback 4096",
    ),
    Variable(
        "SWITCHML_WINDOW",
        "window",
        "slots in flight, a power of two; equal on all ranks",
        "the switch's: 512, on loopback 256",
    ),
    Variable(
        "SWITCHML_WIRE",
        "wire",
        "what sums of float32, float16 and bfloat16 travel as: `float32`, or rounded to `int16` (half the bytes) or `int8` (a "
        "quarter); equal on all ranks ([docs](protocol.md#narrow-wires))",
        "`float32`",
    ),
    Variable(
        "SWITCHML_RECOVER",
        "recover",
        "seconds for which a job whose switch is gone tries to go on, at the same address or at one that stands in for it, "
        "`a:50551/c:50551` ([docs](failures.md#going-on-without-the-switch)); `0`: it ends at once, with an error",
        "`0`",
    ),
    Variable(
        "SWITCHML_LEASE",
        "",
        "where a switch is started: seconds that a worker may be stopped, or cut off, before its job ends; "
        "one that has died ends it at once",
        "30",
    ),
    Variable(
        "SWITCHML_CAPTURE",
        "",
        "pcap file for a rank's packets; the job's name and the rank are put before its ending "
        "([docs](packets.md))",
        "none",
    ),
    Variable(
        "SWITCHML_CONFIG",
        "",
        "TOML file that sets what of this table is not set otherwise, by names as in `window = 64`",
        "`~/.config/switchml.toml`, if there is one",
    ),
    Variable(
        "SWITCHML_QUIET",
        "",
        "`1`: rank 0 does not say at the start which switch the job is on, and how",
        "`0`",
    ),
    Variable(
        "SWITCHML_LOG",
        "",
        "words with commas between them: `collectives` (each one on rank 0 with bytes, path, time, bandwidth, and a summary), "
        "`summary` (that alone), `all-ranks` (not rank 0 alone), and a level, `debug`, `info`, `warning` or `error` "
        "([docs](torch.md#what-collectives-do))",
        "`warning`",
    ),
    Variable(
        "SWITCHML_BACKEND_FOR",
        "",
        "names of backends, `gloo,nccl`, in whose place a script that names them takes this one "
        "([docs](scripts.md#a-script-that-names-another-backend))",
        "none",
    ),
    Variable(
        "SWITCHML_DATA_PARALLEL",
        "",
        "`1`: a script that knows nothing of ranks trains on all of them, and the first prints and writes; `every-rank`: all do "
        "([docs](scripts.md#a-script-that-knows-nothing-of-it))",
        "none",
    ),
    Variable(
        "SWITCHML_MPI",
        "",
        "for `bench`: folders with a `bin/mpiexec` each, with colons between them, where several MPIs are compared",
        "beside the interpreter, PATH",
    ),
    Variable(
        "SWITCHML_BMV2",
        "",
        "folder of BMv2's `simple_switch` and its CLI, for `switchml stf` and `bench`",
        "PATH",
    ),
)

# Set by our own launcher for its children, or read by scripts and tests of the repository.
_OTHERS = frozenset(
    PREFIX + name
    for name in (
        "RUN",
        "STEPS",
        "CLUSTER",
        "BMV2_GRPC",
        "P4_BUILD",
        "P4RUNTIME_SHELL",
        "SEED",
        "FUZZ_SECONDS",
        "FUZZ_SEED",
    )
)
_OF_TESTS = PREFIX + "TEST_"
_OF_A_RUN = PREFIX + "RUN"

LOG_COLLECTIVES, LOG_SUMMARY, LOG_ALL_RANKS = "collectives", "summary", "all-ranks"
_LOG_LEVELS = ("debug", "info", "warning", "error")
_LOG_WORDS = (LOG_COLLECTIVES, LOG_SUMMARY, LOG_ALL_RANKS, *_LOG_LEVELS)

_CONFIG = "SWITCHML_CONFIG"

_told = False
_configured = False


def misspelt(environment: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each variable that begins as ours do and is none, and for each unknown word of SWITCHML_LOG."""
    names = [variable.name for variable in VARIABLES]
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in names or name in _OTHERS or name.startswith(_OF_TESTS):
            continue
        # Without what all have in common, by which all are alike.
        rests = [known.removeprefix(PREFIX) for known in names]
        near = difflib.get_close_matches(name.removeprefix(PREFIX), rests, 1)
        meant = f"is {PREFIX}{near[0]} meant?" if near else f"there are {', '.join(names)}"
        yield f"the environment variable {name} means nothing to switchml: {meant}"
    for word in environment.get("SWITCHML_LOG", "").split(","):
        if word.strip() and word.strip().lower() not in _LOG_WORDS:
            yield f"SWITCHML_LOG={word.strip()}: there are {', '.join(_LOG_WORDS)}"


def seconds_to_recover() -> float:
    """What SWITCHML_RECOVER says.

    Raises:
        UsageError: it is no number of seconds.
    """
    take_configuration()
    said = os.environ.get("SWITCHML_RECOVER", "").strip() or "0"
    try:
        seconds = float(said)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"SWITCHML_RECOVER={said!r} is no number of seconds; unset it or set one")
    return seconds


def log_words() -> frozenset[str]:
    """What SWITCHML_LOG asks for; words that it does not know are left out."""
    said = os.environ.get("SWITCHML_LOG", "")
    return frozenset(word for each in said.split(",") if (word := each.strip().lower()) in _LOG_WORDS)


def settings_of(file: Path) -> dict[str, str]:
    """What a configuration file sets, as variables.

    Raises:
        UsageError: it cannot be read, or has a name that is no setting, or a value that is no text, number or truth value.
    """
    try:
        told = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: {error}") from error
    known = {each.name.removeprefix(PREFIX).lower() for each in VARIABLES if each.name != _CONFIG}
    settings: dict[str, str] = {}
    for name, value in told.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"is {near[0]} meant?" if near else f"there are {', '.join(sorted(known))}"
            raise UsageError(f"{file}: {name} is no setting: {meant}")
        if not isinstance(value, str | int | float):
            raise UsageError(f"{file}: {name} = {value!r}: a text, a number, true or false is meant")
        settings[PREFIX + name.upper()] = str(int(value)) if isinstance(value, bool) else str(value)
    return settings


def take_configuration() -> None:
    """Once a process: read the configuration file into the environment, where a variable that is set stays as it is.

    On stderr it says if others than the file's owner can read a token there.

    Raises:
        UsageError: see `settings_of`; or the file that SWITCHML_CONFIG names is not there.
    """
    global _configured
    if _configured:
        return
    named = os.environ.get(_CONFIG, "").strip()
    folder = os.environ.get("XDG_CONFIG_HOME", "").strip() or "~/.config"
    # os.path's: where nobody has a home, or may look into it, there is no file.
    file = Path(os.path.expanduser(named or f"{folder}/switchml.toml"))
    if named or os.path.isfile(file):
        settings = settings_of(file)
        if "SWITCHML_TOKEN" in settings and file.stat().st_mode & 0o044 and _OF_A_RUN not in os.environ:
            print(f"switchml: others can read the token in {file}: chmod 600", file=sys.stderr, flush=True)
        for name, value in settings.items():
            os.environ.setdefault(name, value)
    _configured = True


def heed_environment() -> None:
    """Once a process: read the configuration file, set the log's level, name on stderr what is misspelt.

    Ranks of `switchml run`, which did that, are silent.
    """
    global _told
    if _told:
        return
    _told = True
    take_configuration()
    words = log_words()
    level = next((level for level in _LOG_LEVELS if level in words), "")
    if level:
        ours, handler = logging.getLogger("switchml"), logging.StreamHandler()
        handler.setFormatter(logging.Formatter("switchml: %(levelname)s: %(name)s: %(message)s"))
        ours.addHandler(handler)
        ours.setLevel(level.upper())
        ours.propagate = False  # else a program that has a handler of its own says all of it twice
    if _OF_A_RUN not in os.environ:
        for sentence in misspelt(os.environ):
            print(f"switchml: {sentence}", file=sys.stderr, flush=True)


def quiet() -> bool:
    """Whether SWITCHML_QUIET asks for silence."""
    return os.environ.get("SWITCHML_QUIET", "").strip() not in ("", "0")


def variables_markdown() -> str:
    """The table as Markdown."""
    from switchml.protocol.format_table import markdown

    rows = [
        (f"`{each.name}`", f"`{each.option}`" if each.option else "", each.meaning, each.default)
        for each in VARIABLES
    ]
    return markdown(("variable", "of `Options`", "meaning", "default"), rows)


TABLES = {"variables": variables_markdown}


def main(arguments: Sequence[str]) -> None:
    """Print the table, or make it anew in each file named."""
    from switchml.protocol.format_table import render

    if not arguments:
        print(variables_markdown())
    for argument in arguments:
        file = Path(argument)
        file.write_text(render(file.read_text(), TABLES))


if __name__ == "__main__":
    main(sys.argv[1:])
