"""The exhaustive search: nothing is found where nothing is wrong, and what is put in is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from switchml.aggregation import racks, slot_machine
from switchml.aggregation.racks import RISES
from switchml.aggregation.slot_machine import (
    ADDED,
    AHEAD,
    COMPLETE,
    DUPLICATE,
    FIRST,
    FRESH,
    RETRANSMIT,
    STALE,
    UNSEEN,
    WAITING,
)
from switchml.check import machines
from switchml.check.cli import described
from switchml.check.search import Configuration, Finding, Search
from switchml.cli import app
from switchml.errors import UsageError
from switchml.protocol.header import parse_header
from switchml.protocol.messages import ASK, ASKED, ELEMENT_BYTES, size_code
from switchml.worker import failover
from switchml.worker.engine import kept_at
from switchml.worker.failover import summed_up
from switchml.worker.window import BLOCKS, WORDS

ROOT = Path(__file__).parents[2]


def search(**configuration: Any) -> Finding:
    return Search(Configuration(**configuration), limit=200_000).run()


@pytest.mark.parametrize("kind", [WORDS, BLOCKS])
@pytest.mark.parametrize(
    ("workers", "window", "chunks"),
    [(1, 1, (3,)), (2, 1, (5,)), (2, 2, (3, 2)), (3, 1, (3,)), (3, 2, (3,)), (5, 1, (3,))],
)
def test_the_shipped_machines_have_no_violation(
    workers: int, window: int, chunks: tuple[int, ...], kind: int
) -> None:
    finding = search(workers=workers, window=window, chunks=chunks, kind=kind)
    assert finding.complete
    assert (finding.violations, finding.wrong, finding.trace) == (0, "", [])
    assert finding.states > sum(chunks)


@pytest.mark.parametrize("kind", [WORDS, BLOCKS])
@pytest.mark.parametrize(("sparse", "to_one"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    ("workers", "window", "chunks"), [(1, 1, (3,)), (2, 1, (5,)), (2, 2, (3, 2)), (3, 1, (4,))]
)
def test_headers_in_place_of_elements(
    workers: int, window: int, chunks: tuple[int, ...], sparse: bool, to_one: bool, kind: int
) -> None:
    finding = search(workers=workers, window=window, chunks=chunks, kind=kind, sparse=sparse, to_one=to_one)
    assert finding.complete
    assert (finding.violations, finding.wrong, finding.trace) == (0, "", [])


@pytest.mark.parametrize(
    ("workers", "window", "chunks"), [(1, 1, (3,)), (2, 1, (5,)), (2, 2, (3, 2)), (3, 1, (4,))]
)
def test_headers_of_what_a_rank_has_given_itself(workers: int, window: int, chunks: tuple[int, ...]) -> None:
    finding = search(workers=workers, window=window, chunks=chunks, but_one=True)
    assert finding.complete
    assert (finding.violations, finding.wrong, finding.trace) == (0, "", [])


def test_a_switch_that_adds_the_first_elements_to_old_ones_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _instead(monkeypatch, FIRST + COMPLETE, ADDED + COMPLETE)
    assert "should be" in search(chunks=(4,), sparse=True).wrong


def test_a_switch_that_keeps_elements_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    take = machines.SwitchMachine.take

    def faulty(machine: machines.SwitchMachine, rank: int, packet: bytes) -> machines.Answer:
        return take(machine, rank, packet)._replace(named=-1)

    monkeypatch.setattr(machines.SwitchMachine, "take", faulty)
    assert "is not of its kind" in search(chunks=(2,), to_one=True).wrong


def test_a_switch_that_refuses_what_has_its_turn_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _instead(monkeypatch, FRESH, AHEAD)
    assert "before its turn" in search(chunks=(2,)).wrong


def test_sequence_numbers_wrap_without_violation() -> None:
    assert search(chunks=(2, 2), start=2**32 - 2).states == search(chunks=(2, 2)).states
    assert search(chunks=(2, 2), start=2**32 - 2).violations == 0


def test_a_bound_on_retransmissions_is_kept_to() -> None:
    counts = [search(chunks=(3,), retransmissions=bound).states for bound in range(3)]
    assert counts == sorted(counts)
    assert len(set(counts)) == 3
    assert search(chunks=(3,), retransmissions=2).violations == 0


@pytest.mark.parametrize("kind", [WORDS, BLOCKS])
@pytest.mark.parametrize("in_flight", [(1,), (1, 3), (3, 1), (2, 0)])
def test_congestion_windows_that_differ_do_not_wait_for_each_other(
    in_flight: tuple[int, ...], kind: int
) -> None:
    finding = search(window=4, chunks=(2, 1), kind=kind, in_flight=in_flight)
    assert finding.complete
    assert (finding.violations, finding.wrong, finding.trace) == (0, "", [])


def test_a_congestion_window_as_large_as_the_slots_is_none() -> None:
    # What may be taken for lost is looked at as well, and changes nothing.
    limited, free = search(window=2, chunks=(3,), in_flight=(2,)), search(window=2, chunks=(3,))
    assert limited.states == free.states
    # With one packet under way there are orders that cannot be.
    assert search(window=2, chunks=(3,), in_flight=(1,)).states < free.states


def test_a_congestion_window_is_kept_to_where_sendings_are_counted() -> None:
    finding = search(window=2, chunks=(3,), in_flight=(1,), retransmissions=1)
    assert finding.complete
    assert finding.violations == 0


def test_a_congestion_window_that_holds_a_packet_for_ever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        machines,
        "may_leave",
        lambda window, slot, room: slot != 2 and window.stream[0]["bytes_in_flight"] < room,
    )
    finding = search(window=4, chunks=(4,), in_flight=(2,))
    assert finding.wrong == ""
    assert finding.stuck > 0


@pytest.mark.parametrize(
    "configuration",
    [
        {"workers": 1, "chunks": (3,)},
        {"chunks": (5,)},
        {"chunks": (2, 1), "kind": BLOCKS},
        {"chunks": (2, 2), "start": 2**32 - 2},
        {"window": 2, "chunks": (1,)},
        {"workers": 3, "chunks": (1,)},
        {"chunks": (5,), "sparse": True, "to_one": True},
        {"chunks": (3,), "to_one": True, "kind": BLOCKS},
        {"chunks": (4,), "but_one": True},
        {"window": 2, "chunks": (1,), "in_flight": (1,)},
        {"chunks": (2,), "retransmissions": 1},
    ],
    ids=str,
)
def test_workers_that_ask_finish_by_the_answers_alone(configuration: dict[str, Any]) -> None:
    finding = search(**configuration, asks=True)
    assert finding.complete
    assert (finding.violations, finding.wrong, finding.trace) == (0, "", [])
    assert finding.states > search(**configuration).states


def test_every_answer_is_looked_at() -> None:
    looked_at = Search(Configuration(chunks=(2,), asks=True))
    looked_at.run()
    headers = [parse_header(message.packet) for message in looked_at._by_number if message.place < 2]
    size = size_code(ELEMENT_BYTES * machines.ELEMENTS)
    # Of three positions, the descriptor's among them, and of two ranks.
    assert sum(header.msg_type == ASK and header.e0 == 0 for header in headers) == 6
    assert sum(header.msg_type == ASK and header.e0 == 1 for header in headers) == 6
    assert sum(header.size == size ^ ASKED for header in headers) == 6


@pytest.mark.parametrize(
    ("verdict", "other", "wrong"),
    [
        (RETRANSMIT, STALE, ""),
        (RETRANSMIT, WAITING, ""),
        (UNSEEN, STALE, ""),
        (UNSEEN, WAITING, ""),
        (WAITING, RETRANSMIT, "shows ranks that disagree"),
    ],
)
def test_a_switch_that_answers_a_question_wrongly_is_found(
    monkeypatch: pytest.MonkeyPatch, verdict: int, other: int, wrong: str
) -> None:
    _instead(monkeypatch, verdict, other, "inquire")
    finding = search(chunks=(2,), asks=True)
    assert wrong in finding.wrong
    assert bool(finding.stuck) == (wrong == "")
    assert search(chunks=(2,)).violations == 0, "nobody asks"


def test_a_question_that_changes_the_switch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    inquire = slot_machine.inquire

    def faulty(slots: Any, index: int, worker: int, *arguments: int) -> int:
        slot_machine._flip_seen(slots, index, worker)
        return int(inquire(slots, index, worker, *arguments))

    monkeypatch.setattr(machines, "inquire", faulty)
    assert search(chunks=(2,), asks=True).wrong == "a question changes the switch"


def test_a_worker_that_does_not_listen_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "note_answer", lambda *_: None)
    finding = search(chunks=(2,), asks=True)
    assert finding.wrong == ""
    assert finding.stuck > 0


@pytest.mark.parametrize("retransmissions", [None, 1])
def test_the_published_machine_gives_a_wrong_sum(retransmissions: int | None) -> None:
    finding = search(chunks=(3,), paper=True, retransmissions=retransmissions)
    assert finding.violations == 1
    assert "should be" in finding.wrong
    assert finding.trace[-1].at_switch is False
    assert any(step.at_switch and step.sent for step in finding.trace)


def test_the_published_machine_needs_a_retransmission_for_it() -> None:
    assert search(chunks=(3,), paper=True, retransmissions=0).violations == 0


def _instead(monkeypatch: pytest.MonkeyPatch, verdict: int, other: int, machine: str = "admit") -> None:
    """Plant a fault: a verdict becomes another."""
    right = getattr(machines, machine)

    def faulty(*arguments: Any) -> int:
        found = right(*arguments)
        return other if found == verdict else found

    monkeypatch.setattr(machines, machine, faulty)


def test_a_switch_that_adds_stale_packets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _instead(monkeypatch, STALE, FRESH)
    assert "should be" in search(chunks=(3,)).wrong


def test_a_switch_that_does_not_send_results_again_leaves_workers_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _instead(monkeypatch, RETRANSMIT, DUPLICATE)
    finding = search(chunks=(2,))
    assert finding.wrong == ""
    assert finding.stuck > 0
    assert finding.trace


def test_a_switch_that_answers_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _instead(monkeypatch, FRESH, FRESH + COMPLETE)
    assert search(chunks=(2,)).violations > 0


def test_a_search_gives_up_at_its_limit() -> None:
    finding = Search(Configuration(window=2, chunks=(4,)), limit=50).run()
    assert not finding.complete
    assert finding.states > 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"window": 3},
        {"chunks": ()},
        {"chunks": (0,)},
        {"window": 1 << 15},
        {"in_flight": (-1,)},
        {"asks": True, "paper": True},
        {"racks": 1},
        {"racks": 2, "levels": 1},
        {"racks": 2, "paper": True},
        {"restarts": -1},
        {"restarts": 1, "paper": True},
        {"restarts": 1, "racks": 2},
    ],
)
def test_configurations_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        search(**wrong)


@pytest.mark.parametrize(
    "configuration",
    [
        {"workers": 2, "chunks": (3,)},
        {"workers": 2, "chunks": (2,), "kind": BLOCKS},
        {"workers": 2, "chunks": (4,), "sparse": True, "to_one": True},
        {"workers": 2, "chunks": (4,), "but_one": True},
        {"workers": 1, "chunks": (4,), "but_one": True},
        {"workers": 1, "chunks": (2, 1), "start": 2**32 - 2},
        {"workers": 1, "chunks": (2,), "levels": 3},
        {"workers": 1, "chunks": (2,), "retransmissions": 1},
        {"workers": 1, "chunks": (1,), "asks": True},
    ],
    ids=str,
)
def test_racks_have_no_violation(configuration: dict[str, Any]) -> None:
    finding = search(racks=2, **configuration)
    assert finding.complete
    assert (finding.violations, finding.wrong, finding.trace) == (0, "", [])


def test_a_result_that_is_complete_in_its_rack_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _instead(monkeypatch, ADDED + RISES, ADDED + COMPLETE, "rising")
    assert "shows ranks that disagree" in search(racks=2, chunks=(2,)).wrong


def test_a_stale_result_from_above_that_is_taken_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = machines.judge

    def faulty(slots: Any, index: int, rack: int, tsi: int) -> int:
        return COMPLETE if right(slots, index, rack, tsi) == STALE else int(right(slots, index, rack, tsi))

    monkeypatch.setattr(racks, "judge", faulty)
    monkeypatch.setattr(machines, "take_from_above", getattr(racks.take_result, "py_func", racks.take_result))
    assert "should be" in search(racks=2, workers=1, chunks=(3,)).wrong


@pytest.mark.parametrize(("verdict", "other"), [(RETRANSMIT + RISES, DUPLICATE), (RETRANSMIT, DUPLICATE)])
def test_racks_that_wait_for_ever_are_found(
    monkeypatch: pytest.MonkeyPatch, verdict: int, other: int
) -> None:
    _instead(monkeypatch, verdict, other, "rising")
    finding = search(racks=2, workers=1, chunks=(2,))
    assert finding.wrong == ""
    assert finding.stuck > 0


@pytest.mark.parametrize(
    "configuration",
    [
        {"chunks": (3,), "restarts": 2},
        {"chunks": (2, 1), "start": 2**32 - 2},
        {"window": 2, "chunks": (2,)},
        {"window": 2, "chunks": (1, 1), "kind": BLOCKS},
        {"workers": 3, "chunks": (2,)},
        {"chunks": (4,), "sparse": True, "to_one": True},
        {"chunks": (4,), "but_one": True},
        {"chunks": (2,), "retransmissions": 1},
        {"chunks": (2,), "asks": True},
        {"window": 2, "chunks": (3,), "in_flight": (1, 0)},
    ],
    ids=str,
)
def test_a_lost_switch_leads_to_no_violation(configuration: dict[str, Any]) -> None:
    finding = search(**{"restarts": 1, **configuration})
    assert finding.complete
    assert (finding.violations, finding.wrong, finding.trace) == (0, "", [])
    assert finding.states > search(**{**configuration, "restarts": 0}).states


def test_a_packet_that_is_kept_in_the_place_of_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if only the last packet of a slot were kept: what some ranks have the result of is one packet back.
    monkeypatch.setattr(machines, "kept_at", lambda window, slot, _: kept_at(window, slot, 0))
    assert search(chunks=(3,), restarts=1).wrong.startswith("where the workers agree on where to go on: ")


def test_ranks_that_do_not_give_each_other_results_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "contested", lambda standings: np.flatnonzero(standings[0] < 0))
    assert search(chunks=(3,), restarts=1).violations > 0


def test_a_lost_switch_whose_sums_are_not_what_it_sent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_off(facts: Any, sums: Any, packet: Any) -> int:
        sums[-1] += 1  # of a descriptor that is a zero
        return summed_up(facts, sums, packet)

    monkeypatch.setattr(failover, "summed_up", one_off)
    finding = search(chunks=(3,), restarts=1)
    assert finding.wrong.startswith("where the workers agree on where to go on: element 63 of chunk 0")
    assert described(finding)[-1].endswith("the switch is lost, and the workers go on at another")


def test_ranks_that_disagree_after_a_lost_switch_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "summed_up", lambda facts, sums, packet: summed_up(facts, sums - 1, packet))
    assert "shows ranks that disagree" in search(chunks=(3,), restarts=1).wrong


def test_a_second_loss_before_all_have_got_on_is_told() -> None:
    step = Search(Configuration(restarts=1))._told((), -1 - (4 * 2 + 3))
    assert (step.rank, step.does) == (
        -1,
        "the switch is lost, and the workers go on at another; 1 had got on at one that was lost before the others had",
    )


def test_a_rack_that_does_not_pass_questions_on_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _instead(monkeypatch, WAITING + RISES, WAITING, "rising")
    assert search(racks=2, workers=1, chunks=(1,), asks=True).stuck > 0


def test_elements_that_a_rack_keeps_from_who_wants_them_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if of a rack with the rank that gave them nobody else wanted any.
    monkeypatch.setattr(
        machines.SwitchMachine,
        "_named",
        lambda machine, rank, _: next(
            (
                n
                for n, below in enumerate(machine._members)
                if rank in (below if isinstance(below, frozenset) else {below})
            ),
            -1,
        ),
    )
    assert search(racks=2, chunks=(4,), but_one=True).wrong != ""


def test_the_command_names_the_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    _instead(monkeypatch, ADDED + RISES, ADDED + COMPLETE, "rising")
    done = CliRunner().invoke(app, ["check", "--racks", "2", "--workers", "2", "--chunks", "2"])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[1].split()[:3] == ["2", "2", "1"]
    assert "switch 0 gets worker 0's packet of position 0 (slot 0, version 0): FRESH" in done.stdout


def test_the_command_tells_what_it_searched() -> None:
    done = CliRunner().invoke(
        app, ["check", "--workers", "2", "--window", "1", "--chunks", "4", "--retransmissions", "2"]
    )
    assert done.exit_code == 0, done.output
    row = done.stdout.splitlines()[1].split()
    assert row[:8] == ["-", "2", "1", "4", "words", "full", "stamped", "2"]
    assert row[-1] == "0"


def test_the_command_prints_the_way_to_a_violation() -> None:
    done = CliRunner().invoke(app, ["check", "--paper", "--chunks", "3"])
    assert done.exit_code == 1
    assert "violation: worker 0: element 0 of chunk" in done.stdout
    assert "the switch gets worker 0's packet of position 0" in done.stdout


def test_a_packet_script_is_written_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["check", "--paper", "--chunks", "3", "--retransmissions", "1", "--script", "wrong.stf"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1, done.output
    written = (tmp_path / "wrong.stf").read_text()
    assert written.startswith("# worker 0: element 0 of chunk")
    assert (ROOT / "tests/conformance/scripts/found_by_the_search.stf").read_text().endswith(written)


def test_the_command_tells_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    _instead(monkeypatch, WAITING, RETRANSMIT, "inquire")
    done = CliRunner().invoke(app, ["check", "--chunks", "2", "--asks", "--retransmissions", "1"])
    assert done.exit_code == 1
    for sentence in (
        "worker 0 is to ask",
        "the switch gets worker 0's question of position 0 (slot 0, version 0): RETRANSMIT, and a result leaves to worker 0",
    ):
        assert sentence in done.stdout


def test_the_command_as_json() -> None:
    done = CliRunner().invoke(app, ["check", "--chunks", "2,2", "--kind", "blocks", "--json"])
    (finding,) = json.loads(done.stdout)
    assert finding["chunks"] == [2, 2]
    assert finding["kind"] == "blocks"
    assert (finding["violations"], finding["complete"], finding["trace"]) == (0, True, [])


@pytest.mark.parametrize(
    "options",
    [["--chunks", "x"], ["--in-flight", "a"], ["--kind", "bytes"], ["--limit", "0"], ["--script", "f.stf"]],
)
def test_wrong_options_are_told(options: list[str]) -> None:
    done = CliRunner().invoke(app, ["check", *options])
    assert done.exit_code == 1
