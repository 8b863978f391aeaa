"""Names for the generated source: readable, valid and unique."""

from __future__ import annotations

import builtins
import keyword
import re
from collections import Counter

# A program's name may be a page long.
_LONGEST = 80


def identifier(wanted: str) -> str:
    """`wanted` as letters, digits and underscores of ASCII, with none of these at its ends unless a digit comes first.

    Python takes letters of other scripts too, but changes some of them into ASCII ones: two names could become one.
    """
    base = re.sub(r"\W+", "_", wanted, flags=re.ASCII)[:_LONGEST].strip("_") or "unnamed"
    return "_" + base if base[0].isdigit() else base


class Names:
    """Gives out names, none of them twice."""

    def __init__(self) -> None:
        self._taken = set(keyword.kwlist) | set(dir(builtins)) | {"p", "f", "np"}
        self._numbers: Counter[str] = Counter()

    def reserve(self, name: str) -> str:
        """Keep a name from being given out."""
        self._taken.add(name)
        return name

    def new(self, wanted: str) -> str:
        """`wanted` with everything that no Python name has replaced, and a number behind it if it is taken."""
        base = identifier(wanted)
        name = base
        while name in self._taken:
            self._numbers[base] += 1
            name = f"{base}_{self._numbers[base] + 1}"
        self._taken.add(name)
        return name
