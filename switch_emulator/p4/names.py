"""Names for the generated source: readable, valid and unique."""

from __future__ import annotations

import builtins
import keyword
import re


class Names:
    """Gives out names, none of them twice."""

    def __init__(self) -> None:
        self._taken = set(keyword.kwlist) | set(dir(builtins)) | {"p", "f", "np"}

    def reserve(self, name: str) -> str:
        """Keep a name from being given out."""
        self._taken.add(name)
        return name

    def new(self, wanted: str) -> str:
        """`wanted` with everything that no Python name has replaced, and a number behind it if it is taken."""
        base = re.sub(r"\W+", "_", wanted).strip("_") or "unnamed"
        if base[0].isdigit():
            base = "_" + base
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name
