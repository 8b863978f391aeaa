"""`DigestEntry`: which digests are sent, and how they gather (P4Runtime specification, section 9.8)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from switchml.p4runtime.refusals import invalid
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.context import PipelineContext
from switchml.switch_emulator.p4runtime.digests import DigestConfig


def write(pipeline: PipelineContext, update: str, message: Any) -> None:
    """Carry out an update of a `DigestEntry`."""
    digest = pipeline.schema.digests.get(message.digest_id)
    if update == "DELETE":
        pipeline.digests.delete(digest.name)
        return
    given = message.config
    if min(given.max_timeout_ns, given.max_list_size, given.ack_timeout_ns) < 0:
        raise invalid(f"digest {digest.name}: times and sizes can't be below 0")
    config = DigestConfig(given.max_timeout_ns, given.max_list_size, given.ack_timeout_ns)
    if update == "INSERT":
        pipeline.digests.insert(digest.name, config)
    else:
        pipeline.digests.modify(digest.name, config)


def read(pipeline: PipelineContext, message: Any) -> Iterator[Any]:
    """A digest id of 0 reads all that are configured."""
    configs = pipeline.digests.configs()
    for digest in pipeline.schema.digests.select(message.digest_id):
        if config := configs.get(digest.name):
            found = pb.DigestEntry(digest_id=digest.id)
            found.config.max_timeout_ns = config.max_timeout_ns
            found.config.max_list_size = config.max_list_size
            found.config.ack_timeout_ns = config.ack_timeout_ns
            yield pb.Entity(digest_entry=found)
