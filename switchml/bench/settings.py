"""What can be varied of a benchmark: one table for the command line, for saved experiments and for the axes of pictures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from switchml.bench.units import parse_rate, parse_size, parse_sizes, parse_time, show_rate, show_size
from switchml.errors import UsageError
from switchml.protocol.messages import FLOAT32
from switchml.testbed.shape import LinkShape

NOTHING = ("", "0", "none")
"""How no rate, loss or delay is written."""

Values = dict[str, list[Any]]
"""Of each setting, those that are to be combined with those of all others."""
Point = Mapping[str, Any]
"""One value of each setting."""


@dataclass(frozen=True)
class Setting:
    """One row.

    Attributes:
        name: the option's of `switchml bench allreduce`, with "_" for "-".
        default: as it is written.
        parse: one value of the way it is written.
        show: how a value is called.
        label: of an axis.
        words: of a value that is the same all over a picture; "" where that need not be told.
        scale: of an axis: logarithmic, linear, at equal distances (numbers that may be zero), or of names.
        ours: it means nothing to the systems that ours are compared with.
    """

    name: str
    default: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str]
    label: str
    words: Callable[[Any], str]
    scale: Literal["log2", "log10", "linear", "even", "names"] = "names"
    ours: bool = False


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise UsageError(f"{text!r} is not a whole number") from None
        if number < least:
            raise UsageError(f"{text!r}: at least {least}")
        return number

    return parse


def _workers(text: str) -> int:
    try:
        return _whole(1)(text)
    except UsageError as error:
        raise UsageError(f"{error}: write numbers of workers, for instance 2,4,8") from None


def _loss(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"{text!r} is not a probability: write 0.001 or 0.1%") from None
    if not 0 <= share < 1:
        raise UsageError(f"{text!r}: a probability is at least 0 and below 1")
    return share


def _bytes(number: int) -> str:
    text = show_size(number)
    return f"{text[:-1]} {text[-1]}iB" if text[-1] in "KMG" else f"{text} B"


def _or_nothing(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: 0 if text.strip() in NOTHING else parse(text)


def _or_default(show: Callable[[int], str]) -> Callable[[int], str]:
    return lambda value: show(value) if value else "default"


def _unless(usual: Any, words: Callable[[Any], str]) -> Callable[[Any], str]:
    """Words that are left out of what is usual."""
    return lambda value: "" if value == usual else words(value)


def show_time(seconds: float) -> str:
    """With the unit that fits: 0.02 -> "20 ms"."""
    scale, unit = next((pair for pair in ((1.0, "s"), (1e3, "ms")) if seconds * pair[0] >= 1), (1e6, "us"))
    return f"{seconds * scale:.4g} {unit}"


def _show_loss(share: float) -> str:
    return f"{100 * share:g} %" if share else "none"


def _show_delay(seconds: float) -> str:
    return show_time(seconds) if seconds else "none"


def _show_link(rate: int) -> str:
    return show_rate(rate) if rate else "none"


SETTINGS = {
    one.name: one
    for one in (
        Setting("workers", "2", _workers, str, "workers", lambda n: f"{n} worker{'s'[: n != 1]}", "linear"),
        Setting(
            "sizes",
            "64K:64M:4",
            parse_size,
            show_size,
            "size of the tensor (B)",
            _bytes,
            "log2",
        ),
        Setting("dtype", FLOAT32, str, str, "element type", str),
        Setting("op", "sum", str, str, "reduction", _unless("sum", str)),
        Setting(
            "wire",
            FLOAT32,
            str,
            str,
            "what sums of float32 travel as",
            _unless(FLOAT32, lambda name: f"as {name} on the wire"),
            ours=True,
        ),
        Setting(
            "payload",
            "0",
            _or_nothing(parse_size),
            _or_default(show_size),
            "elements in a packet (B)",
            _unless(0, lambda n: f"{n} B in a packet"),
            "log2",
            ours=True,
        ),
        Setting(
            "window",
            "0",
            _or_nothing(_whole(1)),
            _or_default(str),
            "slots in flight at most",
            _unless(0, lambda n: f"{n} slots"),
            "log2",
            ours=True,
        ),
        Setting(
            "rate",
            "",
            _or_nothing(parse_rate),
            _show_link,
            "rate of every link",
            lambda rate: f"links of {show_rate(rate)}" if rate else "",
            "log10",
        ),
        Setting(
            "loss",
            "0",
            _loss,
            _show_loss,
            "packets lost on every link, each way",
            _unless(0.0, lambda share: f"{_show_loss(share)} of packets lost on every link, each way"),
            "even",
        ),
        Setting(
            "delay",
            "",
            _or_nothing(parse_time),
            _show_delay,
            "round trip between a worker and the switch",
            _unless(0, lambda seconds: f"a round trip of {show_time(seconds)} to the switch"),
            "even",
        ),
        Setting(
            "queue",
            "256K",
            parse_size,
            show_size,
            "queue of every link (B)",
            _unless(256 << 10, lambda n: f"queues of {_bytes(n)}"),
            "log2",
        ),
        Setting(
            "mtu", "1500", _whole(1), str, "MTU of the links (B)", _unless(1500, lambda n: f"MTU {n}"), "log2"
        ),
        Setting(
            "line_rate",
            "",
            _or_nothing(parse_rate),
            _show_link,
            "rate of the network",
            lambda rate: f"a network of {show_rate(rate)}" if rate else "",
            "log10",
        ),
        Setting(
            "switches",
            "hub",
            str,
            str,
            "where switches are",
            _unless("hub", lambda where: f"switches: {where}"),
            ours=True,
        ),
        Setting("racks", "1", _whole(1), str, "racks", _unless(1, lambda n: f"{n} racks"), "linear"),
        Setting(
            "uplink",
            "",
            _or_nothing(parse_rate),
            _show_link,
            "rate of the racks' uplinks",
            lambda rate: f"uplinks of {show_rate(rate)}" if rate else "",
            "log10",
        ),
        Setting(
            "jobs",
            "1",
            _whole(1),
            str,
            "jobs at the same time",
            _unless(1, lambda n: f"{n} jobs at the same time"),
            "linear",
        ),
        Setting(
            "beside",
            "",
            lambda text: "" if text in NOTHING else text,
            lambda name: name or "none",
            "other traffic on the first worker's link",
            _unless("", lambda name: f"beside a flow of {name}"),
        ),
    )
}


def parse_values(name: str, written: Any) -> list[Any]:
    """The values of a setting, each once.

    Args:
        name: of `SETTINGS`.
        written: a text with commas between values, a number, or a list of them; sizes also as a range.

    Raises:
        UsageError: one cannot be read.
    """
    texts = (
        [str(each) for each in written]
        if isinstance(written, Sequence) and not isinstance(written, str)
        else str(written).split(",")
    )
    values: list[Any] = []
    for text in texts:
        try:
            if name == "sizes" and ":" in text:
                values += parse_sizes(text)
            else:
                values.append(SETTINGS[name].parse(text.strip()))
        except UsageError as error:
            raise UsageError(f"{name.replace('_', '-')}: {error}") from None
    if not values:
        raise UsageError(f"{name.replace('_', '-')}: no value is given")
    return list(dict.fromkeys(values))


def points(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination, the last setting varying first."""
    for chosen in itertools.product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


def several(values: Mapping[str, Sequence[Any]]) -> list[str]:
    """Names of the settings that have more than one value."""
    return [name for name, each in values.items() if len(each) > 1]


def show_value(name: str, value: Any) -> str:
    """How the value of a setting, or of a program's argument, is called."""
    return SETTINGS[name].show(value) if name in SETTINGS else str(value)


def called(point: Point, names: Iterable[str]) -> str:
    """Those settings of a point in words: "wire int8, loss 0.1 %"."""
    return ", ".join(_called(name, show_value(name, point[name])) for name in names)


def _called(name: str, text: str) -> str:
    if name == "workers":
        return f"{text} worker{'s'[: text != '1']}"
    return f"{'size' if name == 'sizes' else name.replace('_', ' ')} {text}"


def conditions(values: Mapping[str, Sequence[Any]], without: Sequence[str] = ()) -> str:
    """What all points have in common, in words, but for what is usual and for settings that are told elsewhere."""
    words = [
        SETTINGS[name].words(each[0])
        for name, each in values.items()
        if name in SETTINGS and name not in without and len(each) == 1
    ]
    return ", ".join(text for text in words if text)


_LINKS = ("rate", "loss", "delay", "queue")


def plan_fields(point: Point) -> dict[str, Any]:
    """What a point means for a `Plan`: its settings, and the links of a testbed where it asks for any.

    Raises:
        TestbedError: there are no such links.
    """
    shape = None
    if point["rate"] or point["loss"] or point["delay"]:
        shape = LinkShape(
            rate=point["rate"], queue=point["queue"], loss=point["loss"], delay=point["delay"] / 2
        )
    return {**{name: value for name, value in point.items() if name not in _LINKS}, "shape": shape}
