"""Collects the lines of the generated source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class SourceWriter:
    """Lines of Python source, indented by blocks."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 0

    def line(self, text: str = "", comment: str = "") -> None:
        """Add a line; without text, an empty one."""
        if comment:
            text = f"{text}  # {comment}" if text else f"# {comment}"
        self.lines.append("    " * self._depth + text if text else "")

    @contextmanager
    def block(self, opening: str, comment: str = "") -> Iterator[None]:
        """An indented block; a block that stays empty gets a `pass`."""
        self.line(opening, comment)
        self._depth += 1
        before = len(self.lines)
        yield
        if all(line.lstrip().startswith("#") or not line.strip() for line in self.lines[before:]):
            self.line("pass")
        self._depth -= 1

    def text(self) -> str:
        """All of it."""
        return "\n".join(self.lines) + "\n"
