"""Draws the pictures of docs/how-it-works.md, as SVG, from what the code and docs/architecture.md say.

    python scripts/site/pictures.py docs/pictures

The rooms and a packet's way are those of docs/architecture.md; the slot machine and the slots' arithmetic are called, so that a
picture shows what they do. Nothing is loaded from elsewhere, and colours follow the page: light or dark.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from textwrap import wrap

from switchml.aggregation import slot_machine
from switchml.protocol.messages import SUM
from switchml.protocol.slots import slot_of, version_of

ROOT = Path(__file__).parents[2]
USERS_MEET = ("worker", "switch_emulator", "torch_backend")
"""Rooms that stand at the top of the tree."""

_LIGHT = "--ink:#1f2937;--soft:#6b7280;--line:#9ca3af;--plain:#eef1f6;--warm:#ffe3c2;--cool:#d3e8ff;--good:#d4f0dc;--bad:#fbd5d5"
_DARK = "--ink:#e5e7eb;--soft:#a3abba;--line:#717a8c;--plain:#333a48;--warm:#6e4a1d;--cool:#1f4d7d;--good:#24583a;--bad:#7a3030"
# Inside a page the theme's own switch counts, elsewhere the system's.
_STYLE = (
    f".picture{{{_LIGHT};font-family:system-ui,sans-serif;font-size:13px;max-width:100%;height:auto}}"
    f"@media(prefers-color-scheme:dark){{.picture{{{_DARK}}}}}"
    f"[data-md-color-scheme=default] .picture{{{_LIGHT}}}[data-md-color-scheme=slate] .picture{{{_DARK}}}"
    ".picture text{fill:var(--ink)}.picture .soft{fill:var(--soft)}.picture .head{fill:var(--line)}"
    ".picture .code{font-family:ui-monospace,monospace;font-size:12px}"
    ".picture .line{stroke:var(--line);fill:none;stroke-width:1.5}.picture .lost{stroke-dasharray:4 3}"
    + "".join(f".picture .{kind}{{fill:var(--{kind})}}" for kind in ("plain", "warm", "cool", "good", "bad"))
)


@dataclass
class Picture:
    """An SVG in the making; lengths are pixels, from the upper left."""

    title: str
    width: int
    height: int
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, said: str, *, of: str = "", anchor: str = "start") -> None:
        """Words whose middle is at the height `y`; `of`: a class."""
        kind = f' class="{of}"' if of else ""
        place = f'x="{x:g}" y="{y + 4.5:g}" text-anchor="{anchor}"'
        self.parts.append(f"<text {place}{kind}>{escape(said)}</text>")

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """A filled one."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" class="{kind}"/>'
        )

    def line(
        self, x1: float, y1: float, x2: float, y2: float, *, head: bool = False, lost: bool = False
    ) -> None:
        """A straight one; `head`: an arrow's at its end; `lost`: dashed."""
        self.parts.append(f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" class="line{" lost" if lost else ""}"/>')
        if head:
            length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
            along = ((x2 - x1) / length, (y2 - y1) / length)
            back = (x2 - 9 * along[0], y2 - 9 * along[1])
            sides = [(back[0] + side * along[1], back[1] - side * along[0]) for side in (4, -4)]
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in ((x2, y2), *sides))
            self.parts.append(f'<polygon points="{points}" class="head"/>')

    def svg(self) -> str:
        """The whole."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="picture" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(self.title)}">\n'
            f"<title>{escape(self.title)}</title>\n<style>{_STYLE}</style>\n"
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def rooms(page: str) -> Picture:
    """The layers of docs/architecture.md, each room a box."""
    layers = re.search(r"<!-- layers -->\n```text\n(.*?)```", page, re.DOTALL)
    assert layers is not None
    rows = [line.split() for line in layers[1].splitlines()]
    picture = Picture("The rooms, in layers: each imports from lower ones only", 760, 44 * len(rows) + 16)
    for line, names in enumerate(rows):
        y = 10 + 44 * line
        x = 60
        for name in names:
            width = 22 + 7.6 * len(name)
            picture.box(x, y, width, 32, "warm" if name in USERS_MEET else "plain")
            picture.text(x + width / 2, y + 16, name, of="code", anchor="middle")
            x += int(width) + 10
    picture.line(30, 14, 30, picture.height - 14, head=True)
    picture.parts.append(
        f'<text transform="translate(18 {picture.height / 2:g}) rotate(-90)" text-anchor="middle" class="soft">imports</text>'
    )
    return picture


def way(page: str) -> Picture:
    """A packet's way of docs/architecture.md: the worker's files, the switch's, and back."""
    block = page.split("## A packet's way")[1].split("```text\n")[1].split("```")[0]
    stations: list[list[tuple[str, str]]] = [[]]
    file = ""
    for line in block.splitlines()[1:]:
        if line.lstrip().startswith("---"):
            stations.append([])
            continue
        where, told = line[:_TOLD].split(), line[_TOLD:]
        if not told:
            file = where[0]  # its function is in the next line
            continue
        stations[-1].append((" ".join([file, *where] if file else where), told))
        file = ""
    python, compiled, switch, back = stations
    width, gap, top = 340, 60, 60
    over = width + gap

    def height(entries: Sequence[tuple[str, str]]) -> int:
        return sum(_HEAD + _LINE * len(wrap(told, _WRAPPED)) for _, told in entries)

    sent = top + height(python) + 24
    start = sent + 44
    ended = max(start + height(switch), sent + height(compiled) + 36)
    picture = Picture(
        "A packet's way: through a worker, the switch, and back", over + width, ended + height(back)
    )

    def station(x: int, y: int, entries: Sequence[tuple[str, str]], kind: str) -> None:
        for name, told in entries:
            lines = wrap(told, _WRAPPED)
            picture.box(x, y, width, _HEAD - 6 + _LINE * len(lines), kind)
            picture.text(x + 8, y + 11, name, of="code")
            for line, words in enumerate(lines):
                picture.text(x + 8, y + 27 + _LINE * line, words, of="soft")
            y += _HEAD + _LINE * len(lines)

    picture.text(0, 16, "worker: torch.distributed.all_reduce")
    picture.text(0, 44, "Python", of="soft")
    station(0, top, python, "plain")
    picture.text(0, sent - 14, "compiled, without the GIL", of="soft")
    station(0, sent, compiled, "warm")
    picture.text(over, start - 18, "switch: each packet")
    station(over, start, switch, "cool")
    picture.line(width + 4, sent + height(compiled) - 26, over - 4, start + 20, head=True)
    picture.text(0, ended - 16, "worker: the result", of="soft")
    station(0, ended, back, "warm")
    picture.line(over - 4, start + height(switch) - 26, width + 4, ended + 20, head=True)
    picture.text(width + gap / 2 + 12, ended + 30, "its sum", of="soft", anchor="middle")
    return picture


_TOLD = 38
"""The column in which the page says what a file is for."""
_WRAPPED = 50  # letters of a line in a box
_HEAD, _LINE = 30, 16  # pixels of a box and the gap below it, without and for each line of text


VERDICTS = {
    getattr(slot_machine, name): name
    for name in ("FRESH", "ADDED", "RETRANSMIT", "DUPLICATE", "STALE", "AHEAD", "FIRST")
}
STORY = (
    # worker, chunk, what is told of it
    (0, 0, "opens the slot's first copy"),
    (1, 0, "completes chunk 0: the sum leaves, and is lost on its way to worker 0"),
    (1, 1, "worker 1 has the sum and goes on: chunk 1 works on the other copy"),
    (0, 0, "worker 0 has heard nothing and sends again: the sum is still there"),
    (0, 1, "completes chunk 1"),
    (1, 2, "chunk 2: nobody can need chunk 0 any more, so its copy starts afresh"),
    (0, 0, "a late copy of the first packet: older than the stamp, dropped"),
    (0, 2, "completes chunk 2"),
)
"""Two workers, a window of one slot, one sum lost and one packet late."""
LOST = (1, 0)
"""Which sum: of the event, and to the worker."""


def life() -> Picture:
    """What the slot machine makes of `STORY`."""
    pool = slot_machine.new_pool(1, 2)
    row, top, half = 60, 78, 46
    lanes, copies, told_at = (34, 396), (155, 275), 426
    picture = Picture("A slot's life: two workers, one slot in two copies", 730, top + row * len(STORY))
    for worker, lane in enumerate(lanes):
        picture.text(lane, 16, f"worker {worker}", anchor="middle")
        picture.line(lane, 30, lane, picture.height - 4)
    for version, middle in enumerate(copies):
        picture.text(middle, 16, f"version {version}", anchor="middle")
    picture.text(sum(copies) / 2, 38, "stamp, and who is in the sum", of="soft", anchor="middle")
    for number, (worker, chunk, told) in enumerate(STORY):
        y = top + row * number
        index = version_of(chunk, 1)
        verdict = slot_machine.admit(pool.slots, index, worker, 2, 1, chunk, SUM, 0, 0)
        complete, name = bool(verdict & slot_machine.COMPLETE), VERDICTS[verdict & ~slot_machine.COMPLETE]
        answered = complete or name == "RETRANSMIT"
        for version, middle in enumerate(copies):
            copy = pool.slots[version]
            seen = "".join(
                "●" if slot_machine.is_seen(pool.slots, version, each) else "○" for each in range(2)
            )
            kind = "bad" if name == "STALE" else "good" if answered else "warm"
            picture.box(middle - half, y - 14, 2 * half, 32, kind if version == index else "plain")
            said = f"{int(copy['stamp'])}  {seen}" if copy["used"] else "empty"
            picture.text(middle, y + 2, said, of="code", anchor="middle")
        lane, inwards = lanes[worker], 1 - 2 * worker
        if worker == index:
            picture.line(lane, y - 5, copies[index] - inwards * (half + 2), y - 5, head=True)
        else:  # over the other copy
            picture.line(lane, y - 26, copies[index], y - 26)
            picture.line(copies[index], y - 26, copies[index], y - 15, head=True)
        height = y - (13 if worker == index else 34)
        picture.text(
            lane + 6 * inwards, height, f"chunk {chunk}", of="soft", anchor="end" if worker else "start"
        )
        for each, lane in enumerate(lanes):
            if complete or (answered and each == worker):
                lost, inwards = (number, each) == LOST, 1 - 2 * each
                end = lane + inwards * (40 if lost else 2)
                picture.line(
                    copies[each] - inwards * (half + 2), y + 11, end, y + 11, head=not lost, lost=lost
                )
                if lost:
                    picture.text(end - 8, y + 11, "✕", anchor="middle")
        picture.text(told_at, y - 14, name + (", complete" if complete else ""), of="code")
        for line, words in enumerate(wrap(told, 44)):
            picture.text(told_at, y + 3 + 16 * line, words, of="soft")
    return picture


def window() -> Picture:
    """Which slot and version each position of a stream has, and how far a worker of four slots has come."""
    slots, done, turns = 4, 6, 4
    cell, row, left, top = 76, 46, 84, 60
    beside = left + cell * slots + 20
    picture = Picture("The window: positions of a stream on four slots", 730, top + row * turns + 4)
    for slot in range(slots):
        picture.text(left + cell * (slot + 0.5), 18, f"slot {slot}", anchor="middle")
    picture.text(left + cell * slots / 2, 42, "slot = position mod window", of="soft", anchor="middle")
    for position in range(slots * turns):
        x, y = left + cell * slot_of(position, slots), top + row * (position // slots)
        kind = "good" if position < done else "warm" if position < done + slots else "plain"
        picture.box(x + 3, y + 3, cell - 6, row - 6, kind)
        picture.text(x + cell / 2, y + row / 2, f"{position}", anchor="middle")
        if slot_of(position, slots) == 0:
            picture.text(
                left - 10, y + row / 2, f"version {version_of(position, slots)}", of="soft", anchor="end"
            )
    legend = {
        "good": "has its sum",
        "warm": "may be in flight: one chunk a slot",
        "plain": "waits until its slot is free",
    }
    for number, (kind, told) in enumerate(legend.items()):
        picture.box(beside, top + 4 + 30 * number, 18, 18, kind)
        picture.text(beside + 28, top + 13 + 30 * number, told)
    for line, words in enumerate(
        wrap(f"The sum of {done} lets {done + slots} leave, in the same slot's other version.", 42)
    ):
        picture.text(beside, top + 120 + 18 * line, words, of="soft")
    return picture


def pictures() -> dict[str, str]:
    """All of them, as SVG, by file name."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    drawn = {"rooms": rooms(page), "way": way(page), "life": life(), "window": window()}
    return {f"{name}.svg": picture.svg() for name, picture in drawn.items()}


def main(arguments: Sequence[str]) -> None:
    """Write them into the folder that is named."""
    for name, drawn in pictures().items():
        (Path(arguments[0]) / name).write_text(drawn)


if __name__ == "__main__":
    main(sys.argv[1:])
