"""Messages of switches in a file: a line of JSON each, gzip where its name ends so."""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

from typing_extensions import override

from switchml.closing import Closing
from switchml.errors import UsageError
from switchml.telemetry.events import Message
from switchml.telemetry.subscription import decode

_LONGEST_PAUSE = 5.0


class Recorder(Closing):
    """Writes messages to a file until `close`.

    Args:
        path: of the file, which is made anew.

    Raises:
        UsageError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = _open(path, "w")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error

    def write(self, message: Message) -> None:
        """Add one."""
        self._file.write(json.dumps(message, separators=(",", ":")) + "\n")

    @override
    def close(self) -> None:
        self._file.close()


def _open(path: Path, mode: Literal["r", "w"]) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt") if mode == "r" else gzip.open(path, "wt")
    return path.open(mode)


def read_recording(path: Path) -> Iterator[Message]:
    """The messages of a file, in order. A last line that is not whole is left out.

    Raises:
        UsageError: it cannot be read, or is no recording of this version.
    """
    try:
        with _open(path, "r") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith("\n"):
                    return
                try:
                    yield decode(line)
                except UsageError as error:
                    raise UsageError(f"{path}, line {number}: {error}") from error
    except EOFError:  # of a file whose writer was killed
        return
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


class Replay:
    """Gives the messages of a recording as they came once, by the clock.

    Args:
        messages: with their times.
        speed: 2 = in half the time; inf = at once.
        clock: seconds.
        sleep: for so many seconds.
    """

    def __init__(
        self,
        messages: Iterator[Message],
        speed: float = 1.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not speed > 0:
            raise UsageError(f"speed {speed:g}: use a number above 0")
        self._messages, self._speed = messages, speed
        self._clock, self._sleep = clock, sleep
        self._next = next(messages, None)
        self._time = self._next["time"] if self._next else 0.0  # of the recording
        self._due = clock()

    @property
    def ended(self) -> bool:
        """Whether all have been given."""
        return self._next is None

    def receive(self, seconds: float) -> list[Message]:
        """What is due within so many seconds, as of a `Subscription`."""
        until = self._clock() + seconds
        found: list[Message] = []
        while self._next is not None:
            pause = min(max(0.0, self._next["time"] - self._time), _LONGEST_PAUSE) / self._speed
            if self._due + pause > until:
                break
            self._due += pause
            self._time = max(self._time, self._next["time"])
            found.append(self._next)
            self._next = next(self._messages, None)
        if not math.isinf(self._speed):
            self._sleep(max(0.0, min(self._due if found else until, until) - self._clock()))
        return found
