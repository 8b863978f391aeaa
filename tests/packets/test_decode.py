"""`switchml decode`: what is in a capture, who sent it, what was sent again and what was lost."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from made_packets import MadePackets
from typer.testing import CliRunner

from switchml.cli import app
from switchml.packets.account import Unfinished, WorkerAccount, account_of, lost_between
from switchml.packets.decoding import decode
from switchml.packets.ethernet import UdpHeaders, mac_bytes
from switchml.packets.made_macs import rank_mac, rank_of
from switchml.packets.tape import TapeFile, note, write
from switchml.protocol.header import Header
from switchml.protocol.messages import ASK, SUM, SUM8

CHUNK = Header(SUM, job_number=3, tsi=4, slot=4, e0=-3, e1=5)
NEXT = CHUNK._replace(tsi=12, version=1)


def asked(chunk: Header, answer: int = 0) -> Header:
    return chunk._replace(msg_type=ASK, e0=answer)


@pytest.fixture
def made() -> MadePackets:
    """Two ranks: rank 1's first packet of a chunk does not come, then the result to rank 0 is lost; the next has none."""
    packets = MadePackets()
    packets.up(0, CHUNK, [1, -2])
    packets.up(1, asked(CHUNK))
    packets.down(1, asked(CHUNK))
    packets.up(1, CHUNK, [3, 4])
    packets.down(0, CHUNK, [4, 2])
    packets.down(1, CHUNK, [4, 2])
    packets.up(0, CHUNK, [1, -2])
    packets.down(0, CHUNK, [4, 2])
    packets.up(0, NEXT, [5, 6])
    return packets


def test_a_packet_is_decoded(made: MadePackets) -> None:
    capture = decode(made.records)
    first = capture.packets[0]
    assert (first.header, first.values, first.rank, first.to_switch) == (CHUNK, [1, -2], 0, True)
    assert (first.kind, first.elements, first.worker[1], first.switch[1]) == ("SUM", 2, 50000, 40000)
    assert [packet.to_switch for packet in capture.packets[:5]] == [True, True, False, True, False]


def test_narrow_lanes_are_read_as_such() -> None:
    made = MadePackets()
    made.up(0, CHUNK._replace(msg_type=SUM8), [-128, 127, 0])
    assert decode(made.records).packets[0].values == [-128, 127, 0]


def test_other_frames_and_cut_ones_are_told_apart() -> None:
    made = MadePackets()
    ends = (b"\2" * 6, b"\4" * 6, socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.2"))
    made.frame(UdpHeaders(*ends, 5353, 5353), b"a name")
    made.frame(UdpHeaders(*ends, 5000, 0xBEE0), b"short")
    capture = decode(made.records)
    assert (capture.packets, capture.cut, capture.others) == ([], [2], 1)


@pytest.mark.parametrize("port", [5000, 0xBEE1])
def test_without_made_up_addresses_the_switch_is_where_all_packets_pass(port: int) -> None:
    """A reference client takes one of our ports, too."""
    made = MadePackets()
    switch = socket.inet_aton("10.0.0.254")
    for number in (1, 2):
        worker = socket.inet_aton(f"10.0.0.{number}")
        made.frame(UdpHeaders(b"\2" * 6, b"\4" * 6, worker, switch, port, 0xBEE0), bytes(10))
        made.frame(UdpHeaders(b"\4" * 6, b"\2" * 6, switch, worker, 0xBEE0, port), bytes(10))
    group = socket.inet_aton("239.1.2.3")
    made.frame(UdpHeaders(b"\4" * 6, mac_bytes("01:00:5e:01:02:03"), switch, group, 0xBEE0, port), bytes(10))
    packets = decode(made.records).packets
    assert [packet.to_switch for packet in packets] == [True, False, True, False, False]
    assert [packet.everyone for packet in packets] == [False] * 4 + [True]
    assert {packet.switch for packet in packets} == {("10.0.0.254", 0xBEE0)}
    assert packets[0].rank is None


def test_a_mac_address_tells_the_rank() -> None:
    assert rank_of(rank_mac(7, 300).to_bytes(6, "big")) == 300
    assert rank_of(bytes(6)) is None


def test_the_account(made: MadePackets) -> None:
    account = account_of(decode(made.records).packets)
    numbers = {worker.rank: each for worker, each in account.workers.items()}
    assert numbers == {
        0: WorkerAccount(sent=3, again=1, results=2, results_again=1),
        1: WorkerAccount(sent=1, asked=1, missing=1, results=1),
    }
    slot = account.slots[3, 4]
    assert (slot.chunks, slot.completed, slot.again, slot.asked, slot.results_again) == (2, 1, 1, 1, 1)
    assert [
        (event.packet.number, event.worker.rank, event.what, event.after) for event in account.events
    ] == [
        (3, 1, "not come", None),
        (7, 0, "packet again", 600_000),
        (8, 0, "result again", 700_000),
    ]
    assert account.events[1].why.startswith("its result had left")
    (open_chunk,) = account.unfinished
    assert open_chunk[:3] == (3, 12, 4) == Unfinished(3, 12, 4, ())[:3]
    assert [worker.rank for worker in open_chunk.missing] == [1]


def test_what_is_sent_again_because_it_had_not_come_is_told_so() -> None:
    """As where the emulator loses a packet after the capture has it."""
    made = MadePackets()
    made.up(0, CHUNK, [1])
    made.up(0, asked(CHUNK))
    made.down(0, asked(CHUNK))
    made.up(0, CHUNK, [1])
    events = account_of(decode(made.records).packets).events
    assert [event.what for event in events] == ["not come", "packet again"]
    assert events[1].why == "it was told that it had not come"


def test_a_file_of_made_up_workers_does_not_take_its_square_in_memory() -> None:
    made = MadePackets()
    for rank in range(300):
        made.up(rank, CHUNK._replace(tsi=rank), [1])
    account = account_of(decode(made.records).packets)
    assert len(account.workers) == len(account.unfinished) == 300
    assert max(len(each.missing) for each in account.unfinished) == 256


def test_what_was_lost_between_two_places(made: MadePackets) -> None:
    """The switch has rank 0's packet once, and rank 0 sent it twice; its result left twice and came once."""
    switch, rank = MadePackets(), MadePackets()
    switch.up(0, CHUNK, [1])
    switch.up(1, CHUNK, [1])  # rank 1 has no capture
    switch.down(0, CHUNK, [2])
    switch.down(0, CHUNK, [2])
    rank.up(0, CHUNK, [1])
    rank.up(0, CHUNK, [1])
    rank.down(0, CHUNK, [2])
    both = [decode(each.records).packets for each in (switch, rank)]
    losses = [(loss.packet.to_switch, loss.more, loss.fewer, loss.times) for loss in lost_between(both)]
    assert losses == [(True, 1, 0, 1), (False, 0, 1, 1)]
    assert lost_between(both[:1]) == []


def call(*words: object) -> str:
    done = CliRunner().invoke(app, ["decode", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command(made: MadePackets, tmp_path: Path) -> None:
    path = made.write(tmp_path / "a.pcap")
    text = call(path)
    for words in ("rank 0 >", "> rank 1", "by worker", "by slot", "not come", "without a result"):
        assert words in text
    assert "> rank 1" not in call(path, "--rank", "0", "--no-summary")
    assert "8 more: --count N" in call(path, "--count", "1")
    assert "nothing was lost" in call(path, path)


def test_json(made: MadePackets, tmp_path: Path) -> None:
    told = json.loads(call(made.write(tmp_path / "a.pcap"), "--json", "--values", "--slot", "4"))
    assert [packet["number"] for packet in told["packets"]] == list(range(1, 10))
    assert told["packets"][0] | CHUNK._asdict() == told["packets"][0]
    assert told["packets"][0]["values"] == [1, -2]
    assert [event["what"] for event in told["again"]] == ["not come", "packet again", "result again"]
    assert told["unfinished"][0]["missing"][0]["rank"] == 1
    assert json.loads(call(tmp_path / "a.pcap", "--json", "--job", "9"))["packets"] == []


def test_a_file_has_to_be_named() -> None:
    done = CliRunner().invoke(app, ["decode"])
    assert done.exit_code == 1


def test_a_file_that_took_no_more_is_told_at_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "wire.pcap"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with TapeFile(path) as file:
        os.close(reader)
        note(file.tape, 1, 2, 3, 4, 5, 6, np.zeros(16, np.uint8), 0, 16)
        write(file.tape)
        assert file.tape.state[0]["fd"] < 0
    assert f"{path} took no more packets" in caplog.text
    assert len(caplog.records) == 1
