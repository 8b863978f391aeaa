"""What is in the messages that a switch publishes: the one table that documentation and tests are made from.

python -m switchml.telemetry.event_table docs/telemetry.md
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from switchml.control.target import RANGES
from switchml.protocol.format_table import markdown, render

VERSION = 1
"""Of the messages. Raised when a field changes its meaning or goes; readers take a message with fields that they do not know."""

SWITCH, COUNTERS, JOBS, CHANGE, SLOTS = "switch", "counters", "jobs", "change", "slots"


class Kind(NamedTuple):
    """A kind of message, which is also its topic.

    Attributes:
        name: in `kind`.
        when: it is sent.
    """

    name: str
    when: str


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        kind: of the message; "" = of all.
        path: names with dots between; `[]` = of each entry of a list, `{}` = of each value of an object.
        type: of JSON, or int.
        meaning: in Markdown.
    """

    kind: str
    path: str
    type: str
    meaning: str


KINDS = (
    Kind(SWITCH, "every 5 s, and when somebody subscribes"),
    Kind(COUNTERS, "ten times a second"),
    Kind(JOBS, "once a second, at every change, and when somebody subscribes"),
    Kind(CHANGE, "when a job or a worker comes, goes on or goes"),
    Kind(
        SLOTS, "ten times a second, while there are jobs; not of a switch that is programmed over P4Runtime"
    ),
)

FIELDS = (
    Field("", "version", "int", f"of the messages: {VERSION}"),
    Field("", "kind", "string", "one of the above"),
    Field("", "switch", "string", "control address of the switch, `host:port`, which tells several apart"),
    Field("", "time", "number", "seconds since 1970, by the switch's clock"),
    Field(
        "", "number", "int", "counts the switch's messages of this kind, so that gaps show what was missed"
    ),
    Field(SWITCH, "host", "string", "of the data port"),
    Field(SWITCH, "udp_port", "int", "of the data port"),
    Field(SWITCH, "pool_slots", "int", "slots in all"),
    Field(SWITCH, "free_slots", "int", "slots of no job"),
    Field(SWITCH, "lease", "number", "seconds of silence after which a worker is taken for dead"),
    Field(SWITCH, "uptime", "number", "seconds"),
    Field(SWITCH, "suspended", "string", "why nobody can join now; empty = all can"),
    Field(COUNTERS, "counters", "object", "of the whole switch, by name ([the names](protocol.md))"),
    Field(COUNTERS, "counters.{}", "int", "since the switch began"),
    Field(COUNTERS, "jobs", "object", "by job number, for jobs that hold slots"),
    Field(COUNTERS, "jobs.{}", "object", "the job's own counters, by name"),
    Field(COUNTERS, "jobs.{}.{}", "int", "since the job began"),
    Field(JOBS, "jobs", "list", "those that there are"),
    Field(JOBS, "jobs.[].name", "string", ""),
    Field(JOBS, "jobs.[].job_number", "int", "0 while the job gathers its ranks"),
    Field(JOBS, "jobs.[].world_size", "int", "ranks"),
    Field(JOBS, "jobs.[].state", "string", "`joining`, `programmed` (not all ranks are ready) or `running`"),
    Field(JOBS, "jobs.[].pool_base", "int", "its first slot"),
    Field(JOBS, "jobs.[].window", "int", "its slots"),
    Field(JOBS, "jobs.[].payload", "int", "bytes of elements in a packet"),
    Field(JOBS, "jobs.[].wire", "string", "what sums of float32 travel as"),
    Field(JOBS, "jobs.[].multicast", "bool", "results leave by multicast"),
    Field(JOBS, "jobs.[].age", "number", "seconds since its first rank joined"),
    Field(JOBS, "jobs.[].members", "list", "its ranks, in order"),
    Field(JOBS, "jobs.[].members.[].rank", "int", ""),
    Field(JOBS, "jobs.[].members.[].transport", "string", "`udp`, `shm` or `memory`"),
    Field(JOBS, "jobs.[].members.[].address", "string", "of its socket; empty but for `udp`"),
    Field(JOBS, "jobs.[].members.[].port", "int", "of its socket"),
    Field(JOBS, "jobs.[].members.[].state", "string", "`joined`, `ready` or `left`"),
    Field(
        JOBS, "jobs.[].members.[].heartbeat", "number or null", "seconds since the last one; null = not yet"
    ),
    Field(JOBS, "jobs.[].members.[].packet", "number or null", "seconds since its last packet; null = never"),
    Field(JOBS, "jobs.[].members.[].sent_again", "int", "packets, as it said with its last heartbeat"),
    Field(JOBS, "jobs.[].members.[].arrived_twice", "int", "results that had come before, likewise"),
    Field(
        JOBS,
        "jobs.[].members.[].round_trip",
        "number",
        "seconds, smoothed, likewise; 0 = it sends no packets",
    ),
    Field(
        JOBS, "jobs.[].members.[].in_flight", "int", "its window: packets that may be unanswered, likewise"
    ),
    Field(JOBS, "ended", "list", "the jobs that ended last, newest first"),
    Field(JOBS, "ended.[].name", "string", ""),
    Field(JOBS, "ended.[].job_number", "int", ""),
    Field(JOBS, "ended.[].world_size", "int", ""),
    Field(JOBS, "ended.[].reason", "string", ""),
    Field(JOBS, "ended.[].ended", "number", "seconds ago"),
    Field(CHANGE, "what", "string", "`job` or `worker`"),
    Field(CHANGE, "name", "string", "of the job"),
    Field(CHANGE, "job_number", "int", ""),
    Field(CHANGE, "rank", "int", "of the worker; -1 of a job"),
    Field(CHANGE, "state", "string", "what it is now: as above, or `ended`"),
    Field(CHANGE, "reason", "string", "why the job has ended"),
    Field(SLOTS, "jobs", "object", "by job number"),
    Field(SLOTS, "jobs.{}", "object", ""),
    Field(SLOTS, "jobs.{}.missing", "list", ""),
    Field(SLOTS, "jobs.{}.missing.[]", "int", "by slot: how many ranks it waits for; 0 = for none"),
    Field(SLOTS, "jobs.{}.first", "list", ""),
    Field(SLOTS, "jobs.{}.first.[]", "int", "by slot: the lowest rank that it waits for; -1 = none"),
    Field(SLOTS, "jobs.{}.late", "list", ""),
    Field(SLOTS, "jobs.{}.late.[]", "int", "by rank: slots that wait for it"),
    Field(SLOTS, "jobs.{}.resent", "list", ""),
    Field(
        SLOTS,
        "jobs.{}.resent.[]",
        "int",
        f"results sent again to one worker, by range: a {RANGES}th of the job's slots",
    ),
    Field(SLOTS, "jobs.{}.dropped", "list", ""),
    Field(SLOTS, "jobs.{}.dropped.[]", "int", "packets that were duplicates, stale or ahead, by range"),
)


def kinds_table() -> str:
    """One row a kind."""
    return markdown(("kind", "sent"), ((f"`{kind.name}`", kind.when) for kind in KINDS))


def fields_table() -> str:
    """One row a field."""
    rows = (
        (f"`{field.kind}`" if field.kind else "all", f"`{field.path}`", field.type, field.meaning)
        for field in FIELDS
    )
    return markdown(("in", "field", "type", "meaning"), rows)


TABLES = {"telemetry-kinds": kinds_table, "telemetry-fields": fields_table}


def main(arguments: Sequence[str]) -> None:
    """Make the tables anew in the files that are named."""
    for argument in arguments:
        page = Path(argument)
        page.write_text(render(page.read_text(), TABLES))


if __name__ == "__main__":
    main(sys.argv[1:])
