"""Facts about the machine that figures were taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from switchml import __version__


def machine_facts() -> dict[str, str | int | float]:
    """Processor, cores, kernel, memory, interpreter and TCP's congestion control."""
    return {
        "switchml": __version__,
        "processor": _first_value("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_kib": int((_first_value("/proc/meminfo", "MemTotal") or "0 kB").split()[0]),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "tcp_congestion_control": congestion_control(),
        "load_average": os.getloadavg()[0],
    }


def congestion_control() -> str:
    """TCP's congestion control in the calling thread's network namespace."""
    try:
        return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    except OSError:
        return "unknown"


def _first_value(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)
