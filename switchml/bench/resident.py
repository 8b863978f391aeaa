"""Memory of a process as the kernel counts it: /proc/self/status."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Resident:
    """Resident bytes: private, of mapped files (program code), shared with other processes; peak of the sum."""

    anonymous: int
    files: int
    shared: int
    peak: int

    @property
    def total(self) -> int:
        """All resident bytes now."""
        return self.anonymous + self.files + self.shared

    @property
    def data(self) -> int:
        """Resident bytes that are not program code."""
        return self.anonymous + self.shared


def resident() -> Resident:
    """This process, now."""
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)

    def size(name: str) -> int:
        return int(fields[name].split()[0]) * 1024

    return Resident(size("RssAnon"), size("RssFile"), size("RssShmem"), size("VmHWM"))


def reset_peak() -> None:
    """Let `Resident.peak` start anew from what is resident now."""
    _CLEAR.write_text("5")


@dataclass(frozen=True)
class MemoryReading:
    """One rank's memory around an all-reduce of a tensor of `tensor` bytes, which is resident throughout.

    before: when the rank had not yet loaded the system.
    loaded: with the system's modules, before joining.
    joined: after joining and a warm-up reduction, with the tensor.
    after: after the reduction, with its peak.
    """

    tensor: int
    before: Resident
    loaded: Resident
    joined: Resident
    after: Resident

    @property
    def growth(self) -> int:
        """Bytes that the reduction itself added at its peak."""
        return max(0, self.after.peak - self.joined.total)

    @property
    def held(self) -> int:
        """Bytes of data, not of program files, that joining and the first reductions brought and that stay."""
        return max(0, self.joined.data - self.loaded.data - self.tensor)

    @property
    def libraries(self) -> int:
        """Bytes of the system's libraries: what loading its modules took, and program files loaded since."""
        return max(0, self.loaded.total - self.before.total + self.joined.files - self.loaded.files)
