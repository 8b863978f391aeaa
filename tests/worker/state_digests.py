"""Runs the state machines on seeded random traces and prints a digest a step: compiled, or plain under NUMBA_DISABLE_JIT=1.

Not a test itself: test_plain_python.py compares the two outputs.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from memory_network import MemoryNetwork
from virtual_network import NetworkConditions, Task, VirtualNetwork

from switchml.aggregation import slot_machine
from switchml.protocol.header import HEADER_BYTES, MAX_WINDOW, Header, parse_header
from switchml.protocol.header_access import pack_header
from switchml.protocol.jit import DISABLED
from switchml.protocol.messages import ABSENT, EXPONENTS, SUM
from switchml.protocol.numerics import exponent_of_magnitude, headroom, scale_exponent
from switchml.protocol.slots import slot_of, tsi_distance, version_of
from switchml.worker import kernels
from switchml.worker.window import BLOCKS, WORDS, match, overdue_transfer


def _digest(*parts: Any) -> str:
    code = 0
    for part in parts:
        data = np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode()
        code = zlib.crc32(data, code)
    return f"{code:08x}"


def slot_machine_steps(seed: int, paper: bool) -> Iterator[str]:
    """Verdict, state and sums after every packet."""
    dice = random.Random(seed)
    rng = np.random.default_rng(seed)
    workers, width, elements = dice.choice([1, 2, 5, 200]), dice.choice([1, 4]), 32
    pool = slot_machine.new_pool(width, 2 * width * elements)
    judge = slot_machine.admit_paper if paper else slot_machine.admit
    for _ in range(250):
        worker = dice.randrange(workers) if workers < 200 else dice.choice([0, 63, 64, 199])
        tsi = dice.randrange(6 * width)
        index = 2 * slot_of(tsi, width) + version_of(tsi, width)
        count = dice.choice([0, elements, elements, elements])
        packet = rng.integers(0, 2**32, count, np.uint32)
        out = np.zeros(elements, np.uint32)
        e0, e1 = dice.randint(-128, 127), dice.randint(-128, 127)
        kind = SUM if count else dice.choice([EXPONENTS, ABSENT])
        verdict = judge(pool.slots, index, worker, workers, width, tsi, kind, e0, e1)
        room = max(count, out.size)
        slot_machine.apply(verdict, packet, pool.sums[index * elements : index * elements + room], out)
        seen = bool(slot_machine.is_seen(pool.slots, index, worker))
        yield f"verdict {int(verdict)} seen {seen} state {_digest(pool.slots.view(np.uint8), pool.sums)} out {_digest(out)}"
    slot_machine.clear_slots(pool.slots, 0, 1)
    yield f"cleared {_digest(pool.slots.view(np.uint8))}"


_ADDRESSES = ("source", "destination", "flags")


class _Watched(VirtualNetwork):
    """Notes every packet, and the state of the window that takes or sends it."""

    def __init__(self, *arguments: Any) -> None:
        self.notes: list[str] = []
        super().__init__(*arguments)

    def _send(self, place: int, packet: bytes) -> None:
        self.notes.append(f"{self.now} to {place}: {_digest(packet)}")
        super()._send(place, packet)

    def _at_worker(self, rank: int, packet: bytes) -> None:
        super()._at_worker(rank, packet)
        if not packet:  # it only wakes the rank
            return
        window = self._ranks[rank].window
        transfers = window.transfers.copy()
        for name in _ADDRESSES:
            transfers[name] = 0
        state = _digest(
            window.stream.view(np.uint8),
            window.slots.view(np.uint8),
            transfers.view(np.uint8),
            window.exponents,
            window.fifo,
            self._ranks[rank].loop.recovery.view(np.uint8),
            self._ranks[rank].congestion.view(np.uint8),
        )
        late = int(overdue_transfer(window, self.now))
        twice = int(match(window, *self._where(packet)))
        self.notes.append(f"{self.now} at {rank}: window {state} late {late} again {twice}")

    @staticmethod
    def _where(packet: bytes) -> tuple[int, int, int]:
        header = parse_header(packet)
        return header.tsi, header.slot, header.version


def window_steps(seed: int) -> Iterator[str]:
    """Both machines through a bad network: lay, next_ready, build_packet, match, take_result, advance, expire, room."""
    tasks = _tasks(seed)
    network = _Watched(
        2 + seed % 3, 2 << seed % 3, 128, tasks, NetworkConditions(loss=0.1, duplicate=0.1, reorder=0.1), seed
    )
    network.run()
    yield from network.notes
    for rank in range(network.workers):
        yield f"results {rank}: {_digest(*network.results(rank), *network.flags(rank))}"


def memory_steps(seed: int) -> Iterator[str]:
    """The ranks' turns on a switch in memory."""
    network = MemoryNetwork(
        2 + seed % 3,
        2 << seed % 3,
        128,
        _tasks(seed),
        NetworkConditions(),
        seed,
        wire=("float32", "int16", "int8")[seed % 3],
    )
    for step in range(60):
        done = network.turn(step * step % network.workers)
        yield f"{int(done)} {_digest(network.slots.copies.view(np.uint8), network.slots.sums, network.slots.longs)}"
    network.run()
    for rank in range(network.workers):
        yield f"results {rank}: {_digest(*network.results(rank), *network.flags(rank))}"


def _tasks(seed: int) -> tuple[Task, ...]:
    rng = np.random.default_rng(seed)
    workers = 2 + seed % 3
    sources = [
        (rng.standard_normal(130) * 10.0 ** rng.integers(-30, 30)).astype(np.float32) for _ in range(workers)
    ]
    if seed % 2:
        sources[0][70] = np.nan
    rows = [rng.integers(0, 2**32, 50, np.uint32) for _ in range(workers)]
    return (
        Task(BLOCKS, 130, tuple(sources)),
        Task(WORDS, 50 * workers, tuple(rows), tuple(50 * rank for rank in range(workers))),
        Task(WORDS, 50, tuple(rows)),
        Task(BLOCKS, 33, tuple(source[:33] for source in sources)),
    )


def kernel_steps(seed: int) -> Iterator[str]:
    """Numbers of every size, special ones among them."""
    rng = np.random.default_rng(seed)
    for step in range(60):
        bits = rng.integers(0, 2**32, 40, np.uint32)
        block = bits.view(np.float32)
        workers = int(rng.integers(1, 257))
        exponent = int(kernels.block_exponent(block))
        yield f"{step} exponent {exponent} headroom {int(headroom(workers))}"
        tame = np.where(np.isfinite(block) & (np.abs(block) < 2.0**126), block, np.float32(1.5))
        for values in (tame, tame * np.float32(2.0**-120), (tame * 0).astype(np.float32)):
            exponent = int(kernels.block_exponent(values))
            words, floats = np.zeros(45, np.uint32), np.zeros(40, np.float32)
            kernels.quantize(values, words, exponent, workers)
            kernels.dequantize(words, floats, exponent, workers)
            yield f"{step} {exponent} {int(scale_exponent(exponent, workers))} {_digest(words)} {_digest(floats)}"
        halves, wide = np.zeros(40, np.uint16), np.zeros(40, np.uint32)
        kernels.narrow_bfloat16(bits, halves)
        kernels.widen_bfloat16(halves, wide)
        yield f"{step} bfloat16 {_digest(halves)} {_digest(wide)}"
        first, second = int(bits[0]), int(bits[1])
        packet = np.zeros(HEADER_BYTES + 3, np.uint8)
        header = Header(
            1,
            size=step % 8,
            job_number=step,
            tsi=first,
            version=step % 2,
            slot=second % MAX_WINDOW,
            e0=-step,
            e1=step,
        )
        pack_header(packet, 3, header)
        yield f"{step} {int(tsi_distance(first, second))} {int(exponent_of_magnitude(second >> 1))} {_digest(packet)}"


def main() -> None:
    print("plain" if DISABLED else "compiled")
    for seed in range(6):
        for paper in (False, True):
            for step, line in enumerate(slot_machine_steps(seed, paper)):
                print(f"slots seed {seed} paper {paper} step {step}: {line}")
    for seed in range(4):
        for step, line in enumerate(window_steps(seed)):
            print(f"window seed {seed} step {step}: {line}")
        for step, line in enumerate(memory_steps(seed)):
            print(f"memory seed {seed} step {step}: {line}")
    for line in kernel_steps(1):
        print(f"kernels: {line}")


if __name__ == "__main__":
    main()
