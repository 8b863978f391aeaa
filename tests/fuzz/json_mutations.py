"""Changes a JSON document at random places, by a seed: values of other types and sizes, parts lost, doubled and exchanged."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

_STRANGE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 255, 2**16, 2**20, 10**9, 2**31, 2**63, -(2**31), 10**40, 0.5, -1e308, float("inf"),
    float("nan"), "", "x", "0x", "0x0", "-0x1", "0xffffffffffffffffffff", "0x" + "f" * 9000, "9" * 5000, "*", "start",
    "ingress", "\n", "\0", "\ud800", "\u0661", [], {}, [[]], [None], [0], ["x", "y"], {"type": "field"},
    {"type": "hexstr", "value": "0x3"}, {"type": "hexstr", "value": "0x3b9aca00"}, {"op": "exit", "parameters": []},
)  # fmt: skip


def _deep(rng: random.Random) -> Any:
    """An expression, or lists, inside each other."""
    item: Any = {"type": "hexstr", "value": "0x1"}
    for _ in range(rng.choice((20, 90, 200, 450))):
        if rng.random() < 0.5:
            value = {"op": rng.choice(("+", "<<", "~", "not", "?", "==")), "left": item, "right": item}
            if rng.random() < 0.98:
                value["left" if rng.random() < 0.5 else "right"] = {"type": "hexstr", "value": "0xffff"}
            item = {"type": "expression", "value": {"cond": {"type": "bool", "value": True}} | value}
        else:
            item = {"type": "expression", "value": item}
    return item if rng.random() < 0.8 else [item]


def _containers(item: Any) -> Iterator[Any]:
    """Every list and object that has something in it, from the outside in."""
    waiting = [item]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict | list) and inner:
            yield inner
            waiting.extend(inner.values() if isinstance(inner, dict) else inner)


def mutated(text: str, rng: random.Random) -> Any:
    """The document with one to four changes."""
    document = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        places = list(_containers(document))
        if not places:
            return rng.choice(_STRANGE)
        inner = rng.choice(places)
        key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
        match rng.randrange(9):
            case 0 | 1:
                inner[key] = rng.choice(_STRANGE)
            case 2:
                del inner[key]
            case 3 | 4:
                # Something else of the document, mostly of the same kind.
                other = rng.choice(places)
                if isinstance(other, dict) and isinstance(inner, dict) and key in other:
                    inner[key] = json.loads(json.dumps(other[key]))
                elif isinstance(other, list):
                    inner[key] = json.loads(json.dumps(rng.choice(other)))
            case 5:
                strings = [
                    v
                    for place in places
                    if isinstance(place, dict)
                    for v in place.values()
                    if isinstance(v, str)
                ]
                inner[key] = rng.choice(strings or ["x"])
            case 6 if isinstance(inner, list):
                inner[key:key] = json.loads(json.dumps(inner)) if rng.random() < 0.3 else [inner[key]]
            case 7:
                numbers = [
                    place
                    for place in places
                    if isinstance(place, dict) and any(type(v) is int for v in place.values())
                ]
                if numbers:
                    place = rng.choice(numbers)
                    name = rng.choice([k for k, v in place.items() if type(v) is int])
                    place[name] = rng.choice(
                        (place[name] + 1, place[name] - 1, -place[name], place[name] * 1000, 10**9, 0)
                    )
            case _:
                inner[key] = _deep(rng) if rng.random() < 0.2 else rng.choice(_STRANGE)
    return document
