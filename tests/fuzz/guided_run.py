"""Runs one fuzz test with inputs that atheris makes: what has led to new code is changed again.

    python tests/fuzz/guided_run.py tests/fuzz/test_fuzz_pcap.py::test_files_of_any_bytes [PACKAGE ...]

A test draws its decisions from a generator; here they come from the bytes of atheris's input, so that it changes decisions. The
test runs on a thread of its own, and waits there for the next bytes. Compiled code shows nothing: so nothing is compiled, or it
looks into those packages alone.

$SWITCHML_FUZZ_SECONDS and $SWITCHML_FUZZ_SEED as for `make fuzz`; with $SWITCHML_FUZZ_INPUT, in hexadecimal, that input alone.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

PACKAGES = sys.argv[2:]
if not PACKAGES:
    os.environ["NUMBA_DISABLE_JIT"] = "1"

import atheris  # noqa: E402
import fuzz_budget  # noqa: E402
import pytest  # noqa: E402

_LONGEST = 512
_MOST_MEGABYTES = 4096
_MOST_SECONDS = 120  # of one input, on a machine whose load may be ten
_FIRST_INPUTS = 64
ROOT = Path(__file__).parents[2]


class Drawn(random.Random):
    """A generator that takes its decisions from bytes, and goes on by itself when they are used up."""

    def __init__(self, data: bytes) -> None:
        super().__init__(zlib.crc32(data))
        self._data, self._at = data, 0

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def getrandbits(self, k: int) -> int:
        """From as many bytes as that takes."""
        count = (k + 7) // 8
        taken = self._take(count)
        return int.from_bytes(taken) >> 8 * count - k if len(taken) == count else super().getrandbits(k)

    def random(self) -> float:
        """From two bytes."""
        taken = self._take(2)
        return int.from_bytes(taken) / 65536 if len(taken) == 2 else super().random()


class _Exchange:
    """Between atheris, which calls for each input, and a test, which asks for the next one."""

    def __init__(self) -> None:
        self._inputs: SimpleQueue[bytes] = SimpleQueue()
        self._done: SimpleQueue[None] = SimpleQueue()
        self.last = b""
        self.count = 0

    def asked(self) -> None:
        """Until the test asks for an input."""
        self._done.get()

    def give(self, data: bytes) -> None:
        """Until the test asks for the next one; for ever once it does not."""
        self._inputs.put(data)
        self._done.get()

    def drawn(self, limit: float) -> Iterator[random.Random]:
        """For `fuzz_budget.inputs`."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            self._done.put(None)
            self.last = self._inputs.get()
            self.count += 1
            yield Drawn(self.last)


def _left_out() -> list[str]:
    """Modules that are not looked into: atheris takes whole distributions."""
    files = [
        Path(folder, name)
        for folder, _, names in os.walk(ROOT / "switchml", followlinks=True)
        for name in names
    ]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if file.suffix == ".py"]
    return [
        name.removesuffix(".__init__") for name in names if PACKAGES and not name.startswith(tuple(PACKAGES))
    ]


def _run(exchange: _Exchange, test: str) -> None:
    options = ["-q", "-s", "-o", "addopts=--import-mode=importlib", "-o", "markers=timeout\nnamespaces"]
    left_out = ["faulthandler", "timeout", "cacheprovider", "xdist", "hypothesispytest"]
    code = int(pytest.main([*options, *(f"-pno:{name}" for name in left_out), f"--rootdir={ROOT}", test]))
    if code != 0:
        print(f"the input: SWITCHML_FUZZ_INPUT={exchange.last.hex()} python {' '.join(sys.argv)}")
    print(f"{exchange.count} inputs, guided by what code they reach", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(test: str) -> None:
    """Never returns: the process ends with the test."""
    only = os.environ.get("SWITCHML_FUZZ_INPUT")
    exchange = _Exchange()
    hooks = atheris.instrument_imports(["switchml"], _left_out(), enable_loader_override=False)
    hooks.__enter__()  # for what a test imports late as well
    folder = tempfile.mkdtemp()
    rng = random.Random(fuzz_budget.seed())
    for number in range(_FIRST_INPUTS):
        Path(folder, str(number)).write_bytes(rng.randbytes(rng.randrange(1, 129)))
    if only is None:
        fuzz_budget.drawn = exchange.drawn
    else:
        fuzz_budget.drawn = lambda limit: iter([Drawn(bytes.fromhex(only))])
    threading.Thread(target=_run, args=(exchange, test), daemon=True).start()
    exchange.asked()
    arguments = {
        "seed": fuzz_budget.seed() + 1,  # 0 is one by the clock
        "max_len": _LONGEST,
        "rss_limit_mb": _MOST_MEGABYTES,
        "timeout": _MOST_SECONDS,
        "artifact_prefix": f"{folder}/",
        "verbosity": 0,
    }
    atheris.Setup(
        [sys.argv[0], *(f"-{name}={value}" for name, value in arguments.items()), folder], exchange.give
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1])
