"""Collects the lines of the generated source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from switchml.errors import UnsupportedProgramError

# Of a comment: names may be of any length.
_LONGEST = 240
# Forty times the largest of our own programs; compiling so much takes seconds and half a gigabyte.
_MOST_CHARACTERS = 1 << 22


def one_line(text: str, longest: int = _LONGEST) -> str:
    """The text without line ends and other characters that nobody sees: a program may have them in any of its names."""
    if not text.isprintable():
        text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    return text if len(text) <= longest else text[: longest - 3] + "..."


class SourceWriter:
    """Lines of Python source, indented by blocks."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 0
        self._size = 0

    def line(self, text: str = "", comment: str = "") -> None:
        """Add a line; without text, an empty one.

        Args:
            text: source of ours: what a program says may stand in it only as `repr` shows it, or as an `identifier`.
            comment: any text.
        """
        comment = one_line(comment)
        if comment:
            text = f"{text}  # {comment}" if text else f"# {comment}"
        self._size += 4 * self._depth + len(text)
        if self._size > _MOST_CHARACTERS:
            raise UnsupportedProgramError(
                f"the translation has more than {_MOST_CHARACTERS} characters: the program is too large"
            )
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
