"""Packets of any kind and order to the plain slot machine: every sum that leaves is that of one packet of each worker."""

from __future__ import annotations

import random

import numpy as np
from fuzz_budget import guided, inputs
from slot_switch import Member, SlotSwitch

from switchml.protocol.header import HEADER_BYTES, Header, build_header, parse_header
from switchml.protocol.messages import ABSENT, ASK, ELEMENT_BYTES, EXPONENTS, PROBE, SUM, SUM16, size_code

_JOB, _WORKERS, _WINDOW, _ELEMENTS = 1, 2, 2, 64
_PACKETS = 40
_KINDS = (SUM, SUM, SUM, SUM, SUM, ABSENT, ABSENT, ASK, ASK, EXPONENTS, PROBE, SUM16)
_LAST = 2**32 - 1


class _Job:
    """What the workers have sent that was taken, by chunk and worker."""

    def __init__(self, paper: bool) -> None:
        self.switch = SlotSwitch(_ELEMENTS)
        self.paper = paper
        members = {
            (0, rank, _JOB): Member(rank, 1 << rank, _WORKERS, 3, 0, _WINDOW, paper, 1, 0)
            for rank in range(_WORKERS)
        }
        self.switch._tables["job_table"] = {key: tuple(member) for key, member in members.items()}
        self.taken: dict[int, dict[int, list[int]]] = {}
        self.front = 0  # of the chunks that are complete, those before this one

    def packet(self, rng: random.Random) -> bytes:
        """Mostly one that a worker could send now; else one that it sent before, or never."""
        tsi = min(max(0, self.front + rng.choice((0, 0, 0, 1, 1, -1, -2, -3, 2, 3, 2**30, _LAST))), _LAST)
        kind = rng.choice(_KINDS)
        header = Header(kind, 0, size_code(ELEMENT_BYTES * _ELEMENTS), _JOB, tsi)
        header = header._replace(slot=tsi % _WINDOW, version=tsi // _WINDOW % 2)
        if rng.random() < 0.2:
            name = rng.choice(("to_one", "but_one", "size", "job_number", "version", "slot", "msg_type"))
            header = header._replace(**{name: rng.randrange(2)})
        header = header._replace(e0=rng.randrange(-128, 128), e1=rng.randrange(-128, 128))
        count = {SUM: 4 * _ELEMENTS, EXPONENTS: 4 * _ELEMENTS, SUM16: 4 * _ELEMENTS}.get(kind, 0)
        payload = (np.arange(_ELEMENTS, dtype=np.uint64) * rng.getrandbits(32)).astype(">u4").tobytes()
        data = build_header(header) + payload[:count]
        if rng.random() < 0.1:
            data = data[: rng.randrange(len(data) + 1)] + rng.randbytes(rng.randrange(3))
        return data

    def take(self, rank: int, data: bytes) -> None:
        reason, found = self.switch._take(_JOB, (0, rank, _JOB), np.frombuffer(data, np.uint8).copy())
        assert (reason == "") or found is None, data.hex()
        if reason or self.paper:
            return
        header = parse_header(data)
        given = np.frombuffer(data[HEADER_BYTES:], ">u4").tolist() if header.msg_type == SUM else []
        if header.msg_type in (SUM, ABSENT):
            self.taken.setdefault(header.tsi, {}).setdefault(rank, given)
        if found is not None and parse_header(found[1]).msg_type == SUM:
            self._check(found[1])

    def _check(self, answer: bytes) -> None:
        header = parse_header(answer)
        by_rank = self.taken[header.tsi]
        assert len(by_rank) == _WORKERS, header
        total = [sum(column) % 2**32 for column in zip(*filter(None, by_rank.values()), strict=True)]
        assert np.frombuffer(answer[HEADER_BYTES:], ">u4").tolist() == total, header
        self.front = max(self.front, header.tsi + 1)


@guided()
def test_packets_in_any_order() -> None:
    complete = 0
    for rng in inputs(100, 0.1):
        job = _Job(paper=rng.random() < 0.1)
        for _ in range(_PACKETS):
            job.take(rng.randrange(_WORKERS), job.packet(rng))
        complete += job.front
    assert complete > 0
