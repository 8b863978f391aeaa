"""Whether a frame is what a script expects, and if not, where it differs."""

from __future__ import annotations

from dataclasses import dataclass

_ROW = 16
_MOST_ROWS = 8


@dataclass(frozen=True)
class Difference:
    """Where a frame is another than expected.

    Attributes:
        expected: digits and `*` (None: no packet was expected).
        got: digits (None: no packet came).
        bytes: which differ.
    """

    reason: str
    expected: str | None
    got: str | None
    bytes: tuple[int, ...] = ()

    def rows(self) -> list[str]:
        """Both packets, 16 bytes a row, differing bytes marked beneath; rows that agree are left out."""
        expected, got = self.expected or "", self.got or ""
        length = max(len(expected), len(got))
        differing = sorted({offset // _ROW for offset in self.bytes}) or list(range(-(-length // (2 * _ROW))))
        rows = []
        for row in differing[:_MOST_ROWS]:
            first = row * _ROW
            rows += [_row(first, "expected", expected), _row(first, "got", got)]
            if self.bytes:
                marks = ("^^" if first + at in self.bytes else "  " for at in range(_ROW))
                rows.append((" " * 16 + " ".join(marks)).rstrip())
        if len(differing) > _MOST_ROWS:
            rows.append(f"({len(differing) - _MOST_ROWS} more rows)")
        return rows


def _row(first: int, who: str, digits: str) -> str:
    part = digits[2 * first : 2 * (first + _ROW)]
    return f"{first:4}  {who:<9} {' '.join(part[at : at + 2] for at in range(0, len(part), 2))}".rstrip()


def compare(pattern: str | None, exact: bool, frame: bytes) -> Difference | None:
    """None when the frame is as expected. As p4c's runner: without `exact`, more bytes than the pattern's may follow.

    Args:
        pattern: upper-case digits and `*`, None for any frame.
        exact: nothing may follow.
        frame: what left.
    """
    if pattern is None:
        return None
    got = frame.hex().upper()
    differing = {
        at // 2 for at, (want, have) in enumerate(zip(pattern, got, strict=False)) if want not in ("*", have)
    }
    wanted = (len(pattern) + 1) // 2
    reasons = []
    if differing:
        reasons.append(
            f"{len(differing)} byte{'s differ' if len(differing) > 1 else ' differs'}, the first at {min(differing)}"
        )
    if len(got) < len(pattern):
        reasons.append(f"{len(frame)} bytes, {wanted} expected")
        differing |= set(range(len(frame), wanted))
    elif exact and len(got) > len(pattern):
        reasons.append(f"{len(frame)} bytes, {wanted} and no more expected")
        differing |= set(range(wanted, len(frame)))
    if not reasons:
        return None
    return Difference("; ".join(reasons), pattern, got, tuple(sorted(differing)))
