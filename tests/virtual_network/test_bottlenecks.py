"""Links that are the limit, on a virtual clock: how much of them is used, and what is sent again.

Every run is seeded and repeats to the packet, so that bounds stand right below what was measured; none depends on the machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from virtual_network import NetworkConditions, Task, VirtualNetwork, run_together
from virtual_tcp import VirtualBbr, VirtualCubic, VirtualTcp

from switchml.protocol.header import HEADER_BYTES
from switchml.worker.window import BLOCKS, FRAMING, WORDS

PAYLOAD = 1024
ELEMENTS = PAYLOAD // 4
TEN_PACKETS = 11_000
KIB = 1024
MBIT = 125_000
GBIT = 1000 * MBIT
US = 1_000
MS = 1_000_000


class Link(NamedTuple):
    """Of every worker, in both directions: bytes a second, bytes that may wait, ns one way."""

    rate: int
    queue: int
    delay: int


def network(
    link: Link,
    *,
    workers: int = 2,
    window: int = 512,
    chunks: int = 1000,
    tensors: int = 3,
    loss: float = 0.0,
    late: int = 0,
    seed: int = 1,
    naps: int = 0,
    nap: int = 0,
) -> VirtualNetwork:
    """Several tensors in a row, of small whole numbers so that their sums are exact."""
    rng = np.random.default_rng(seed)
    sources = tuple(rng.integers(-1000, 1000, ELEMENTS * chunks).astype(np.float32) for _ in range(workers))
    conditions = NetworkConditions(
        loss=loss,
        delay=link.delay,
        jitter=1 * US,
        rate=link.rate,
        queue=link.queue,
        naps=naps,
        nap=nap,
    )
    tasks = (Task(BLOCKS, ELEMENTS * chunks, sources),) * tensors
    return VirtualNetwork(
        workers, window, PAYLOAD, tasks, conditions, seed, limit=1 << 62, patient=True, late=late
    )


def check_sums(run: VirtualNetwork) -> None:
    expected = np.sum(np.stack(run.tasks[0].sources), axis=0)
    for rank in range(run.workers):
        for result in run.results(rank):
            assert np.array_equal(result, expected)


def share(run: VirtualNetwork) -> float:
    """Of the link, after the first tensor: what the elements take that one worker has to send, in their packets."""
    packets = run.tasks[0].count // ELEMENTS * (HEADER_BYTES + PAYLOAD + FRAMING)
    taken = run.ended[-1][0] - run.ended[0][0]
    return (len(run.tasks) - 1) * packets * 1_000_000_000 / run.conditions.rate / taken


def again(run: VirtualNetwork) -> float:
    """Share of the packets after the first tensor that were sent again."""
    packets = run.workers * (len(run.tasks) - 1) * (run.tasks[0].count // ELEMENTS)
    return (run.ended[-1][1] - run.ended[0][1]) / packets


@pytest.mark.parametrize(
    ("link", "workers", "chunks", "least"),
    [
        (Link(1 * MBIT, 10_000_000, 50 * US), 2, 1000, 0.99),
        (Link(10 * MBIT, 256 * KIB, 100 * US), 2, 1000, 0.99),
        (Link(10 * MBIT, 256 * KIB, 10 * MS), 2, 1000, 0.97),
        (Link(100 * MBIT, 64 * KIB, 100 * US), 2, 1000, 0.99),
        (Link(100 * MBIT, 256 * KIB, 100 * US), 4, 500, 0.99),
        (Link(100 * MBIT, 10_000_000, 100 * US), 3, 500, 0.99),
        (Link(1 * GBIT, 64 * KIB, 50 * US), 2, 3000, 0.99),
        (Link(1 * GBIT, 10_000_000, 50 * US), 2, 2000, 0.98),
        (Link(10 * GBIT, 64 * KIB, 50 * US), 2, 8000, 0.97),
        (Link(10 * GBIT, 10_000_000, 50 * US), 2, 2000, 0.93),
        # Between tensors the exponents of the next cost a round trip: 20 of 110 ms, 200 of 1100 ms.
        (Link(100 * MBIT, 256 * KIB, 10 * MS), 2, 1000, 0.8),
        (Link(10 * MBIT, 256 * KIB, 100 * MS), 2, 1000, 0.8),
    ],
    ids=str,
)
def test_the_link_is_used_and_nothing_is_sent_again_for_nothing(
    link: Link, workers: int, chunks: int, least: float
) -> None:
    run = network(link, workers=workers, chunks=chunks)
    run.run()
    check_sums(run)
    assert (share(run) >= least, again(run) < 0.001) == (True, True), (share(run), again(run))


@pytest.mark.parametrize(
    ("link", "least", "most_again"),
    [
        # Where two seconds are few packets, the ceiling is tried as often.
        (Link(1 * MBIT, 64 * KIB, 100 * US), 0.94, 0.02),
        (Link(10 * MBIT, 64 * KIB, 100 * US), 0.98, 0.01),
        (Link(1 * MBIT, TEN_PACKETS, 50 * US), 0.85, 0.4),
        (Link(10 * MBIT, TEN_PACKETS, 10 * MS), 0.85, 0.3),
        (Link(100 * MBIT, TEN_PACKETS, 100 * US), 0.9, 0.2),
        (Link(1 * GBIT, TEN_PACKETS, 50 * US), 0.9, 0.2),
        # A queue that holds a twentieth of what is on the way.
        (Link(100 * MBIT, TEN_PACKETS, 10 * MS), 0.25, 0.1),
    ],
    ids=str,
)
def test_queues_too_short_for_a_burst(link: Link, least: float, most_again: float) -> None:
    run = network(link)
    run.run()
    check_sums(run)
    assert run.dropped > 0
    assert (share(run) >= least, again(run) < most_again) == (True, True), (share(run), again(run))


def test_more_slots_fill_a_long_and_fast_path() -> None:
    # 20 ms at 1 Gbit/s are 2270 packets.
    shares = []
    for window in (512, 4096):
        run = network(Link(1 * GBIT, 4_000_000, 10 * MS), window=window, chunks=5000, tensors=2)
        run.run()
        assert run.retransmissions == 0
        shares.append(share(run))
    assert shares[0] < 0.25, "a window of 512 packets a round trip"
    assert shares[1] > 1.5 * shares[0]


@pytest.mark.parametrize(
    ("link", "workers", "loss", "least"),
    [
        (Link(100 * MBIT, 256 * KIB, 100 * US), 4, 0.001, 0.98),
        (Link(100 * MBIT, 256 * KIB, 100 * US), 4, 0.01, 0.95),
        (Link(100 * MBIT, 256 * KIB, 100 * US), 4, 0.1, 0.5),
        (Link(1 * GBIT, 256 * KIB, 50 * US), 2, 0.01, 0.92),
        (Link(1 * GBIT, 256 * KIB, 50 * US), 2, 0.05, 0.7),
        # What is lost costs a round trip to ask and one to send again: 40 of 110 ms.
        (Link(100 * MBIT, 256 * KIB, 10 * MS), 2, 0.01, 0.6),
    ],
    ids=str,
)
def test_random_losses_cost_little_more_than_sending_them_again(
    link: Link, workers: int, loss: float, least: float
) -> None:
    run = network(link, workers=workers, loss=loss, tensors=10)
    run.run()
    check_sums(run)
    assert run.lost > 0
    assert run.retransmissions <= run.lost + run.dropped, "nothing is sent again that has come"
    assert share(run) >= least


@pytest.mark.parametrize("seed", [2, 3])
def test_bursts_that_many_lose_hold_nobody_up_for_long(seed: int) -> None:
    """Processes that share cores: whoever wakes up sends all at once, into queues that hold half of it."""
    link = Link(1 * GBIT, 128 * KIB, 50 * US)
    run = network(link, workers=8, chunks=800, seed=seed, naps=20 * MS, nap=5 * MS)
    run.run()
    check_sums(run)
    assert run.dropped > 100
    assert run.retransmissions <= run.dropped
    # Of nine that are asleep a fifth of the time one nearly always is; the link alone takes 21 ms.
    assert run.now < 400 * MS


@pytest.mark.parametrize(
    ("kind", "ways", "begins", "least"),
    [
        (VirtualTcp, (0,), 0, 1 / 3),
        (VirtualCubic, (0,), 0, 1 / 3),
        (VirtualCubic, (1,), 400 * MS, 1 / 3),
        (VirtualCubic, (0, 1), 400 * MS, 1 / 3),
        # What it takes for the length of the path has our backlog in it, and it minds no losses. By when it begins: 0.11 to 0.45.
        (VirtualBbr, (0, 1), 400 * MS, 0.1),
    ],
    ids=["reno-up", "cubic-up", "cubic-down-later", "cubic-both-later", "bbr-both-later"],
)
def test_a_bulk_flow_of_tcp_beside_leaves_and_gets_a_third(
    kind: type[VirtualTcp], ways: tuple[int, ...], begins: int, least: float
) -> None:
    job = network(Link(100 * MBIT, 256 * KIB, 100 * US), chunks=20_000, tensors=1)
    job.start()
    while job.now < begins:
        job.step()
    # Of the first worker's link: from the switch to it is place 0, the other way place `workers`.
    places = ((job.workers, 0), (0, job.workers))
    flows = [kind(job, *places[way]) for way in ways]
    begin = None
    while job.now < 2500 * MS:
        part = min([job, *flows], key=lambda one: one.next_at())
        part.step()
        if begin is None and job.now > 1000 * MS:
            begin = (job.now, job.lowest, [flow.delivered for flow in flows])
    assert begin is not None
    whole = (job.now - begin[0]) * job.conditions.rate / 1_000_000_000
    ours = (job.lowest - begin[1]) * (HEADER_BYTES + PAYLOAD + FRAMING) / whole
    theirs = [(flow.delivered - before) / whole for flow, before in zip(flows, begin[2], strict=True)]
    assert min(ours, *theirs) >= least, (ours, theirs)


@pytest.mark.parametrize(
    "link",
    [
        Link(100 * MBIT, 256 * KIB, 100 * US),
        Link(1 * GBIT, 10_000_000, 50 * US),
        Link(100 * MBIT, 256 * KIB, 10 * MS),
    ],
    ids=str,
)
def test_a_late_rank_makes_the_others_send_a_few_packets_again(link: Link) -> None:
    run = network(link, late=300 * MS, chunks=500, tensors=2)
    run.run()
    check_sums(run)
    assert run.dropped == 0
    # After 100 ms of silence one, and one after 200 ms more.
    assert run.retransmissions <= 2
    punctual = network(link, chunks=500, tensors=2)
    punctual.run()
    # Of the first round trip nobody knows how long the packets were on their way.
    assert run.now - 300 * MS < 1.1 * punctual.now + 2 * link.delay, "and the window has not suffered"


@pytest.mark.parametrize(
    ("link", "late", "least"),
    [
        # Fewer packets than the smallest backlog of each: who comes first has more.
        (Link(100 * MBIT, 64 * KIB, 100 * US), 0, 0.35),
        (Link(100 * MBIT, 256 * KIB, 100 * US), 0, 0.4),
        (Link(100 * MBIT, 256 * KIB, 10 * MS), 0, 0.4),
        (Link(1 * GBIT, 256 * KIB, 50 * US), 0, 0.4),
        # The second begins while the first fills the link, and never sees the queue empty.
        (Link(100 * MBIT, 4096 * KIB, 100 * US), 50 * MS, 0.4),
    ],
    ids=str,
)
def test_two_jobs_on_one_link_have_at_least_two_fifths_of_it_each(
    link: Link, late: int, least: float
) -> None:
    jobs = [network(link, chunks=1500), network(link, chunks=1500, seed=2, late=late)]
    begin = [0, 0]
    for job in jobs:
        job.share_links(jobs[0])
        job.start()
    while not any(job.done() for job in jobs):
        min(jobs, key=VirtualNetwork.next_at).step()
        if begin == [0, 0] and all(job.ended for job in jobs):
            begin = [job.lowest for job in jobs]
    assert begin != [0, 0]
    progress = [job.lowest - at for job, at in zip(jobs, begin, strict=True)]
    assert min(progress) >= least * sum(progress), progress


def test_jobs_on_the_same_links_have_right_sums() -> None:
    jobs = [network(Link(100 * MBIT, 64 * KIB, 100 * US), chunks=200, seed=seed) for seed in (1, 2, 3)]
    run_together(*jobs)
    for job in jobs:
        check_sums(job)
    alone = network(Link(100 * MBIT, 64 * KIB, 100 * US), chunks=200)
    alone.run()
    assert max(job.now for job in jobs) > 2.5 * alone.now


def _gathers_and_scatters(chunks: int, tensors: int, link: Link) -> tuple[VirtualNetwork, VirtualNetwork]:
    """All-gathers of as many bytes as reduce-scatters have, by 4 workers in a job each."""
    workers, elements = 4, chunks * ELEMENTS
    part = elements // workers
    rng = np.random.default_rng(1)
    words = tuple(rng.integers(1, 1 << 32, part, np.uint32) for _ in range(workers))
    floats = tuple(rng.integers(-1000, 1000, elements).astype(np.float32) for _ in range(workers))
    firsts = tuple(rank * part for rank in range(workers))
    gather = Task(WORDS, elements, words, firsts, part=part, others=True)
    scatter = Task(BLOCKS, elements, floats, part=part)
    conditions = NetworkConditions(delay=link.delay, jitter=1 * US, rate=link.rate, queue=link.queue)
    first, second = (
        VirtualNetwork(
            workers, 512, PAYLOAD, (task,) * tensors, conditions, seed, limit=1 << 62, patient=True
        )
        for seed, task in ((1, gather), (2, scatter))
    )
    return first, second


def _check_parts(gather: VirtualNetwork, scatter: VirtualNetwork) -> None:
    words = np.concatenate(gather.tasks[0].sources)
    sums = np.sum(np.stack(scatter.tasks[0].sources), axis=0)
    for rank in range(gather.workers):
        assert all(np.array_equal(result, words) for result in gather.results(rank))
        mine = scatter.tasks[0].wanted(rank)
        assert all(np.array_equal(result[mine], sums[mine]) for result in scatter.results(rank))


def _of_link(run: VirtualNetwork, tensors: float) -> float:
    """What so many tensors take of the time, if all of each goes down a link; packets without elements are not counted."""
    chunks = run.tasks[0].count // ELEMENTS
    return (
        tensors * chunks * (HEADER_BYTES + PAYLOAD + FRAMING) * 1_000_000_000 / run.conditions.rate / run.now
    )


def test_a_gather_brings_a_rank_what_it_has_not() -> None:
    """3/4 of the tensor, as a ring does; and a reduce-scatter takes as much from it."""
    gather, scatter = _gathers_and_scatters(2000, 2, Link(200 * MBIT, 256 * KIB, 100 * US))
    gather.run()
    scatter.run()
    _check_parts(gather, scatter)
    shares = _of_link(gather, 2 * 3 / 4), _of_link(scatter, 2 * 3 / 4)
    assert min(shares) >= 0.92, shares  # the rest: headers, and the first round trips


def test_gathers_and_reduce_scatters_fill_both_ways_of_a_link() -> None:
    """In less than the 3/2 of a tensor's time that they take one after the other; gloo takes 9/4: its reduce-scatter is an
    all-reduce.
    """
    jobs = _gathers_and_scatters(2000, 3, Link(200 * MBIT, 256 * KIB, 100 * US))
    run_together(*jobs)
    _check_parts(*jobs)
    assert min(_of_link(job, 3) for job in jobs) >= 0.7
