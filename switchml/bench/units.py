"""Sizes and rates as users write them."""

from __future__ import annotations

import re

from switchml.errors import UsageError

_BINARY = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_DECIMAL = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:I?B)?", re.IGNORECASE)
_SECONDS = {"US": 1e-6, "MS": 1e-3, "S": 1.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(US|MS|S)", re.IGNORECASE)
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:BIT(?:/S)?|BPS)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes as in 4096, 64K, 16M or 1G; powers of 1024.

    Raises:
        UsageError: it is none, or not positive.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a size: write 4096, 64K, 16M or 1G")
    size = round(float(match[1]) * _BINARY[match[2].upper()])
    if size <= 0:
        raise UsageError(f"{text!r}: a size must be positive")
    return size


def parse_sizes(text: str) -> list[int]:
    """Sizes as a range "begin:end:factor" (the end included) or as a list "4K,1M,16M".

    Raises:
        UsageError: it is neither.
    """
    parts = text.split(":")
    if len(parts) == 1:
        return [parse_size(part) for part in text.split(",")]
    if len(parts) not in (2, 3):
        raise UsageError(f"{text!r}: write begin:end:factor, for instance 64K:64M:4")
    begin, end = parse_size(parts[0]), parse_size(parts[1])
    try:
        factor = int(parts[2]) if len(parts) == 3 else 2
    except ValueError:
        raise UsageError(f"{text!r}: the factor {parts[2]!r} is not a whole number") from None
    if factor < 2 or end < begin:
        raise UsageError(f"{text!r}: the factor must be at least 2 and the end not below the begin")
    sizes = [begin]
    while sizes[-1] * factor <= end:
        sizes.append(sizes[-1] * factor)
    return sizes


def parse_rate(text: str) -> int:
    """Bits a second as in 100mbit, 1gbit or 10G; powers of 1000.

    Raises:
        UsageError: it is none, or not positive.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a rate: write 100mbit, 1gbit or 10gbit")
    rate = round(float(match[1]) * _DECIMAL[match[2].upper()])
    if rate <= 0:
        raise UsageError(f"{text!r}: a rate must be positive")
    return rate


def parse_time(text: str) -> float:
    """Seconds as in 20ms, 500us or 0.1s.

    Raises:
        UsageError: it is none, or not positive.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise UsageError(f"{text!r} is not a time: write 20ms, 500us or 0.1s")
    return float(match[1]) * _SECONDS[match[2].upper()]


def parse_parameters(text: str) -> int:
    """A number of parameters as in 25M or 1.3G; powers of 1000.

    Raises:
        UsageError: it is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or text.strip().upper().endswith("B"):
        raise UsageError(f"{text!r} is not a number of parameters: write 500K, 25M or 1.3G")
    return round(float(match[1]) * _DECIMAL[match[2].upper()])


def parse_counts(text: str) -> list[int]:
    """Numbers of workers as in 2 or 2,4,8.

    Raises:
        UsageError: they are none.
    """
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r}: write numbers of workers, for instance 2,4,8") from None
    if any(count < 1 for count in counts):
        raise UsageError(f"{text!r}: at least one worker")
    return counts


def parse_shares(text: str) -> list[float]:
    """Shares of a whole as in 0.001,0.01,1.

    Raises:
        UsageError: they are none, or not above 0 and up to 1.
    """
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r}: write shares of a whole, for instance 0.001,0.01,1") from None
    if not all(0 < share <= 1 for share in shares):
        raise UsageError(f"{text!r}: shares are above 0 and at most 1")
    return shares


def parse_names(text: str) -> list[str]:
    """A comma list of names; "none" and "" are the empty list."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    return [] if names == ["none"] else names


def show_size(size: int) -> str:
    """The shortest exact form: 4096 -> "4K", 1000 -> "1000"."""
    for letter, unit in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if size % unit == 0 and size:
            return f"{size // unit}{letter}"
    return str(size)


def show_rate(rate: int) -> str:
    """Bits a second with the largest fitting unit: 10**9 -> "1 Gbit/s"."""
    for letter, unit in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if rate >= unit:
            return f"{rate / unit:g} {letter}bit/s"
    return f"{rate} bit/s"
