"""The search: every state that workers, switch and network can come to.

Theory of operation
-------------------
A state is the state of each worker, of the switch, and what is on the way. From each state one may

    deliver a worker's packet to the switch      its answer is on the way then
    deliver an answer to a worker                what the worker sends upon it is on the way then
    let a worker take an unanswered packet for lost (only where sendings are counted, or a congestion window holds packets back:
                                                 then others may leave in its place)
    where workers ask, have one mean to ask the switch for an unanswered packet, and have what it asks leave

Without a bound on retransmissions the network is a set: whatever was ever sent may arrive at any time, any number of times, or
never. This covers loss, duplication and reordering of every kind and any number of retransmissions, because a packet that is
sent again has the same bytes. More on the way forbids nothing: so a question is there as soon as its packet has left, and so is
every answer that the switch has had to it. What a worker makes of one still depends on its having asked. With a bound a packet
arrives at most once for every time it was sent.

Racks: the switches are a tree. What is said of workers' packets and of answers holds for what goes up and down between switches.

A switch may be lost, with all that is on the way, and the workers go on at another that has seen nothing: those of them that have
a result give it to the others, as worker/failover.py has them do. What they tell each other there is a collective like any other,
and is taken as done in one step; but the new switch may be lost in its turn when only some of them have come to its end.

A worker's step depends on its own state and the packet alone, the switch's likewise, so each is computed once and then looked up.

Safety: no worker takes a result that is not the sum, and the switch takes no worker's packet for one before its turn.
Liveness: in every state all that is on the way may be lost, and still the workers finish once
they send again what is unanswered and nothing more is lost. Workers that ask do not send it again: they ask for it, and the
answers have to lead to the end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from switchml.aggregation.slot_machine import AHEAD, RETRANSMIT
from switchml.check.machines import (
    JOB,
    Member,
    SwitchMachine,
    Tensor,
    WorkerMachine,
    WrongResultError,
    agree,
    bare_answer,
    word_tensors,
)
from switchml.errors import CollectiveError, UsageError
from switchml.protocol.header import parse_header
from switchml.protocol.messages import ASK
from switchml.worker.window import WORDS

_REPORT_EVERY = 1 << 14

_BY_ITSELF = ("sends again", "is to ask", "asks", "")
_AGAIN, _IS_TO_ASK, _ASKS, _RESTART = range(4)
"""What happens without a packet. What a worker does by itself: all but that it asks is counted. Last: the switch is lost."""

_BEHIND = 5
"""Positions of a new switch that the workers' agreement has taken: no multiple of a window, so that slots begin out of turn."""


@dataclass(frozen=True)
class Configuration:
    """What is searched.

    Attributes:
        workers: ranks of the job, or of each rack.
        window: slots, a power of two.
        chunks: of each tensor.
        retransmissions: how often workers send a packet again or ask for one, all together; None: as often as they like.
        kind: worker.window.WORDS (integers) or BLOCKS (float32 with exponents).
        paper: the published slot machine, without stamps.
        start: position at which the streams begin.
        sparse: ranks take turns to have anything but zeros, which go as headers.
        to_one: each rank wants a part of the sums only.
        but_one: each rank gives a part of the words, and wants those of the others.
        in_flight: packets that each rank's congestion window lets be under way, the last for all further ranks; 0: no limit.
        asks: workers may ask the switch for packets, at any time.
        racks: 0: one switch. Else so many switches are below each that has no workers.
        levels: of switches, where there are racks.
        restarts: how often the workers may lose their switch and go on at one that has seen nothing.
    """

    workers: int = 2
    window: int = 1
    chunks: tuple[int, ...] = (4,)
    retransmissions: int | None = None
    kind: int = WORDS
    paper: bool = False
    start: int = 0
    sparse: bool = False
    to_one: bool = False
    but_one: bool = False
    in_flight: tuple[int, ...] = (0,)
    asks: bool = False
    racks: int = 0
    levels: int = 2
    restarts: int = 0

    @property
    def ranks(self) -> int:
        """Of the job."""
        return self.workers * self.racks ** (self.levels - 1) if self.racks else self.workers

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors of all ranks."""
        return word_tensors(
            self.kind,
            self.ranks,
            self.chunks,
            sparse=self.sparse,
            to_one=self.to_one,
            but_one=self.but_one,
        )


class Step(NamedTuple):
    """One step of a trace.

    Attributes:
        at_switch: it arrives at the switch; else at a worker.
        rank: whose packet it is, or who takes it.
        packet: what arrives; empty: the worker does something by itself.
        verdict: the switch's, 0 elsewhere.
        sent: what leaves, with the rank that is to get it or None for all.
        does: what the worker does by itself, or what happens to all (rank -1).
        names: the switch, who sent it the packet, and who gets what leaves.
    """

    at_switch: bool
    rank: int
    packet: bytes
    verdict: int = 0
    sent: tuple[tuple[int | None, bytes], ...] = ()
    does: str = ""
    names: tuple[str, str, str] = ("", "", "")


@dataclass
class Finding:
    """What a search found.

    Attributes:
        states: different states reached.
        steps: arrivals and sendings looked at.
        complete: every reachable state was looked at.
        wrong: what is wrong with the first wrong result or refusal; "": nothing.
        stuck: states of workers and switch from which not all workers finish.
        trace: the steps to the wrong result, or to a state that is stuck.
    """

    configuration: Configuration
    states: int = 0
    steps: int = 0
    seconds: float = 0.0
    complete: bool = False
    wrong: str = ""
    stuck: int = 0
    trace: list[Step] = field(default_factory=list)

    @property
    def violations(self) -> int:
        """Wrong results and states that are stuck."""
        return self.stuck + bool(self.wrong)


class _Numbers:
    """Numbers for byte strings, in the order they come."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self.values: list[bytes] = []

    def of(self, value: bytes) -> int:
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


class _Step(NamedTuple):
    """A machine's step: its new state, what leaves (number of a message each), and what was wrong."""

    state: int
    sent: tuple[int, ...]
    verdict: int = 0
    wrong: str = ""


class _Message(NamedTuple):
    """A packet on the way.

    Attributes:
        place: where it goes: a worker's rank, or from the number of workers on a switch.
        sender: its number at the switch that it goes to.
        packet: its bytes.
    """

    place: int
    sender: int
    packet: bytes


class _Switch(NamedTuple):
    """A switch of the tree.

    Attributes:
        members: what is below it.
        below: their places.
        above: place of the switch above; -1: none.
        number: its own, there.
    """

    members: tuple[Member, ...]
    below: tuple[int, ...]
    above: int = -1
    number: int = -1


def _tree(configuration: Configuration) -> list[_Switch]:
    """The switches, by level from the lowest."""
    switches: list[_Switch] = []
    nodes: list[tuple[int, Member]] = [(rank, rank) for rank in range(configuration.ranks)]
    size, first = configuration.workers, len(nodes)
    while True:
        groups = [nodes[at : at + size] for at in range(0, len(nodes), size)]
        nodes = []
        for group in groups:
            place, members = first + len(switches), tuple(member for _, member in group)
            for number, (below, _) in enumerate(group):
                if below >= first:
                    switches[below - first] = switches[below - first]._replace(above=place, number=number)
            switches.append(_Switch(members, tuple(below for below, _ in group)))
            ranks = [member if isinstance(member, frozenset) else {member} for member in members]
            nodes.append((place, frozenset().union(*ranks)))
        if len(nodes) == 1:
            return switches
        size = configuration.racks


class _Restart(NamedTuple):
    """The switch is lost, and all go on at another.

    Attributes:
        workers: their new states.
        sent: what leaves, number of a message each.
        first: ranks that had got on at a switch that was lost before the others had, by bit.
        wrong: what is wrong then.
    """

    workers: State
    sent: tuple[int, ...]
    first: int
    wrong: str = ""


State = tuple[int, ...]
"""One number a worker, one a switch, then the network's: bits by message, or with a bound the messages on the way in order, and
the retransmissions left first."""


class Search:
    """One search.

    Args:
        limit: states after which it gives up.
        progress: called now and then with the states found.

    Raises:
        UsageError: a configuration that cannot be.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        limit: int = 10_000_000,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        if configuration.asks and configuration.paper:
            raise UsageError("the published machine knows no questions")
        if configuration.workers < 1 or not configuration.chunks or min(configuration.chunks) < 1:
            raise UsageError("a search needs a worker, a tensor and a chunk at least")
        if configuration.racks and (
            configuration.racks < 2 or configuration.levels < 2 or configuration.paper
        ):
            raise UsageError("racks are two or more, on two levels or more, and not of the published machine")
        if configuration.restarts < 0 or (
            configuration.restarts and (configuration.racks or configuration.paper)
        ):
            raise UsageError("a switch that is lost is one alone, and not the published machine")
        self._configuration, self._limit, self._progress = configuration, limit, progress
        tensors, limits = configuration.tensors(), configuration.in_flight
        if not limits or min(limits) < 0:
            raise UsageError("what may be in flight is a number of packets, or 0 for no limit")
        try:
            self._workers = [
                WorkerMachine(
                    rank,
                    configuration.ranks,
                    configuration.window,
                    tensors,
                    configuration.start,
                    limits[min(rank, len(limits) - 1)],
                    keeps=configuration.restarts > 0,
                )
                for rank in range(configuration.ranks)
            ]
        except ValueError as error:
            raise UsageError(str(error)) from None
        self._tree = _tree(configuration)
        self._switches = [
            SwitchMachine(
                len(switch.members),
                configuration.window,
                paper=configuration.paper,
                start=configuration.start,
                members=switch.members,
                above=switch.above >= 0,
            )
            for switch in self._tree
        ]
        self._ways = {
            below: (len(self._workers) + place, number)
            for place, switch in enumerate(self._tree)
            for number, below in enumerate(switch.below)
        }
        self._saved = [_Numbers() for _ in (*self._workers, *self._tree)]
        self._finished: list[set[int]] = [set() for _ in self._workers]
        self._messages: dict[_Message, int] = {}
        self._by_number: list[_Message] = []
        self._steps: dict[tuple[int, int, int], _Step] = {}
        self._questions: dict[tuple[int, int], int] = {}
        self._answers: dict[tuple[tuple[int, ...], int], int] = {}
        self._asked = 0  # messages that are a switch's to answer or to pass on
        self._alone: dict[tuple[int, int], tuple[tuple[int, _Step], ...]] = {}
        self._new_switch = -1
        self._restarts: dict[State, tuple[_Restart, ...]] = {}

    def _message(self, message: _Message) -> int:
        number = self._messages.setdefault(message, len(self._by_number))
        if number == len(self._by_number):
            self._by_number.append(message)
            if message.place >= len(self._workers) and parse_header(message.packet).msg_type == ASK:
                self._asked |= 1 << number
        return number

    def _save_worker(self, rank: int) -> int:
        number = self._saved[rank].of(self._workers[rank].save())
        if self._workers[rank].finished():
            self._finished[rank].add(number)
        return number

    def _up(self, rank: int, packets: list[bytes]) -> tuple[int, ...]:
        return tuple(self._message(_Message(*self._ways[rank], packet)) for packet in packets)

    def _step(self, place: int, state: int, message: int) -> _Step:
        """The step of a worker or a switch upon a message."""
        key = place, state, message
        if key not in self._steps:
            at = self._at_worker if place < len(self._workers) else self._at_switch
            self._steps[key] = at(place, state, message)
        return self._steps[key]

    def _at_worker(self, rank: int, state: int, message: int) -> _Step:
        machine = self._load(rank, state)
        try:
            if not machine.take(self._by_number[message].packet):
                return _Step(state, ())
        except WrongResultError as error:
            return _Step(state, (), wrong=f"worker {rank}: {error}")
        return self._sent(rank, machine)

    def _at_switch(self, place: int, state: int, message: int) -> _Step:
        at = place - len(self._workers)
        tree, machine = self._tree[at], self._switches[at]
        machine.load(self._saved[place].values[state])
        _, sender, packet = self._by_number[message]
        answer = machine.take(sender, packet)
        if answer.verdict == AHEAD:
            wrong = f"{self._name(place)} refuses a packet of {self._whose(place, sender)} before its turn"
            return _Step(state, (), AHEAD, wrong)
        sent = tuple(
            self._message(_Message(tree.below[member], self._number_of_above(tree.below[member]), told))
            for member, told in answer.deliveries(len(tree.below))
        )
        if answer.up:
            sent += (self._message(_Message(tree.above, tree.number, answer.up)),)
        after = self._saved[place].of(machine.save())
        asked = parse_header(packet).msg_type == ASK
        wrong = "a question changes the switch" if asked and after != state else ""
        return _Step(after, sent, answer.verdict, wrong)

    def _number_of_above(self, place: int) -> int:
        """What a switch is to one below it; nothing to a worker."""
        return len(self._tree[place - len(self._workers)].members) if place >= len(self._workers) else 0

    def _name(self, place: int) -> str:
        at = place - len(self._workers)
        if at < 0:
            return f"worker {place}"
        return (
            "the switch"
            if len(self._tree) == 1
            else "the root"
            if self._tree[at].above < 0
            else f"switch {at}"
        )

    def _whose(self, place: int, sender: int) -> str:
        tree = self._tree[place - len(self._workers)]
        return self._name(tree.above if sender == len(tree.below) else tree.below[sender])

    def _start(self) -> State:
        sent: tuple[int, ...] = ()
        states = []
        for rank, machine in enumerate(self._workers):
            sent += self._up(rank, machine.send())
            states.append(self._save_worker(rank))
        for place, switch in enumerate(self._switches, len(self._workers)):
            states.append(self._saved[place].of(switch.save()))
        if self._configuration.restarts:
            new = SwitchMachine(self._configuration.workers, self._configuration.window, start=_BEHIND)
            self._new_switch = self._saved[-1].of(new.save())
        return self._moved((*states, *self._network((), ())), len(states) - 1, states[-1], (), sent)

    # What is on the way

    def _network(self, before: State, sent: tuple[int, ...]) -> State:
        bound = self._configuration.retransmissions
        if bound is None:
            bits = before[0] if before else 0
            for message in sent:
                bits |= 1 << message
            return (bits,)
        left, *under_way = before or (bound,)
        return (left, *sorted([*under_way, *sent]))

    def _moved(self, state: State, place: int, new: int, network: State, sent: tuple[int, ...]) -> State:
        """The state after a machine's step."""
        machines = list(state[: len(self._saved)])
        machines[place] = new
        network = self._network(network, sent)
        if self._configuration.asks and self._configuration.retransmissions is None:
            network = (self._with_answers(machines, network[0]),)
        return (*machines, *network)

    def _with_answers(self, machines: Sequence[int], bits: int) -> int:
        """What is on the way, with all questions that there can be, and the switches' answers to them."""
        workers = len(self._workers)
        for rank, state in enumerate(machines[:workers]):
            if (rank, state) not in self._questions:
                asking = self._to_ask(rank, state, *self._load(rank, state).waiting()).state
                asked = self._sent(rank, self._load(rank, asking)).sent
                self._questions[rank, state] = self._network((0,), asked)[0]
            bits |= self._questions[rank, state]
        key = tuple(machines[workers:]), bits & self._asked
        if key not in self._answers:
            self._answers[key] = self._answers_to(machines, key[1])
        return bits | self._answers[key]

    def _answers_to(self, machines: Sequence[int], questions: int) -> int:
        """What the switches say to questions and pass on of them."""
        answers, left = 0, questions
        while left:
            message = (left & -left).bit_length() - 1
            place, sender, packet = self._by_number[message]
            step = self._step(place, machines[place], message)
            sent = step.sent
            if step.verdict == RETRANSMIT:
                # Who came last may not have been told that it has come. Had it, there would be no state for each order.
                below = self._tree[place - len(self._workers)].below[sender]
                bare = bare_answer(packet, come=True)
                sent += (self._message(_Message(below, self._number_of_above(below), bare)),)
            left ^= 1 << message
            new = self._network((0,), sent)[0] & ~answers
            answers |= new
            left |= new & self._asked & ~questions
        return answers

    def _arrivals(self, network: State) -> Iterator[tuple[int, State]]:
        """Each message that may arrive, and what is on the way after it."""
        if self._configuration.retransmissions is None:
            bits = network[0]
            while bits:
                low = bits & -bits
                yield low.bit_length() - 1, network
                bits ^= low
            return
        for at in range(1, len(network)):
            if at == 1 or network[at] != network[at - 1]:
                yield network[at], network[:at] + network[at + 1 :]

    def _following(self, state: State) -> Iterator[tuple[State, int, _Step]]:
        """Each next state, the message that led there (below 0: what a worker did by itself, and its rank), and the step."""
        network = state[len(self._saved) :]
        for message, rest in self._arrivals(network):
            place = self._by_number[message].place
            step = self._step(place, state[place], message)
            if step.wrong or step.sent or step.state != state[place] or rest is not network:
                yield self._moved(state, place, step.state, rest, step.sent), message, step
        configuration = self._configuration
        counted = configuration.retransmissions is not None
        if configuration.restarts:
            for restart in self._restarted(state[: len(self._workers)]):
                fresh = self._network((network[0],) if counted else (), restart.sent)
                following = self._moved(
                    (*restart.workers, self._new_switch, *fresh),
                    len(self._workers),
                    self._new_switch,
                    fresh,
                    (),
                )
                yield (
                    following,
                    -1 - (len(_BY_ITSELF) * restart.first + _RESTART),
                    _Step(self._new_switch, restart.sent, wrong=restart.wrong),
                )
        if not counted and not configuration.asks and not any(configuration.in_flight):
            return  # what is sent again is on the way already, and changes nothing
        for rank in range(len(self._workers)):
            for does, step in self._by_itself(rank, state[rank]):
                costs = counted and does != _ASKS
                if costs and network[0] == 0:
                    continue
                left = (network[0] - 1, *network[1:]) if costs else network
                following = self._moved(state, rank, step.state, left, step.sent)
                yield following, -1 - (len(_BY_ITSELF) * rank + does), step

    def _by_itself(self, rank: int, state: int) -> tuple[tuple[int, _Step], ...]:
        """What a worker may do without a packet that comes: what it is, and the step."""
        if (rank, state) not in self._alone:
            machine = self._load(rank, state)
            asking, waiting = machine.asking(), machine.waiting()
            steps = [(_AGAIN, self._lost(rank, state, slot)) for slot in waiting]
            if self._configuration.asks:
                steps += [(_IS_TO_ASK, self._to_ask(rank, state, slot)) for slot in waiting]
            if asking:
                steps.append((_ASKS, self._sent(rank, self._load(rank, state))))
            self._alone[rank, state] = tuple(steps)
        return self._alone[rank, state]

    def _restarted(self, states: State) -> tuple[_Restart, ...]:
        """Every way in which workers in these states can go on at a new switch."""
        if states not in self._restarts:
            ways: tuple[_Restart, ...] = ()
            if self._load(0, states[0]).job < JOB + self._configuration.restarts:
                # All at once; or after an attempt that some, but not all, had got through.
                ways = tuple(self._restart(states, first) for first in range(2 ** len(states) - 1))
            self._restarts[states] = ways
        return self._restarts[states]

    def _restart(self, states: State, first: int) -> _Restart:
        machines = [self._load(rank, state) for rank, state in enumerate(states)]
        job = machines[0].job
        try:
            if first:
                agree(machines)
                for rank, machine in enumerate(machines):
                    if first >> rank & 1:
                        machine.begin_anew(job, _BEHIND)
                        machine.send()  # in vain, but it is kept
                    else:
                        self._load(rank, states[rank])
            agree(machines)
        except (CollectiveError, WrongResultError) as error:
            return _Restart(states, (), first, f"where the workers agree on where to go on: {error}")
        sent: tuple[int, ...] = ()
        for rank, machine in enumerate(machines):
            machine.begin_anew(job + 1, _BEHIND)
            sent += self._up(rank, machine.send())
        return _Restart(tuple(self._save_worker(rank) for rank in range(len(machines))), sent, first)

    def _load(self, rank: int, state: int) -> WorkerMachine:
        self._workers[rank].load(self._saved[rank].values[state])
        return self._workers[rank]

    def _lost(self, rank: int, state: int, *slots: int) -> _Step:
        """The worker takes the slots' packets for lost."""
        machine = self._load(rank, state)
        machine.lose(*slots)
        return self._sent(rank, machine)

    def _to_ask(self, rank: int, state: int, *slots: int) -> _Step:
        """The worker means to ask for the slots' packets."""
        self._load(rank, state).ask(*slots)
        return _Step(self._save_worker(rank), ())

    def _sent(self, rank: int, machine: WorkerMachine) -> _Step:
        """The worker sends what may leave."""
        packets = machine.send()
        return _Step(self._save_worker(rank), self._up(rank, packets))

    def run(self) -> Finding:
        """Search until every state is known, a result is wrong or the limit is reached."""
        finding = Finding(self._configuration)
        begin = time.perf_counter()
        start = self._start()
        numbers = {start: 0}
        states, parents, messages = [start], [-1], [0]
        number = 0
        while number < len(states) <= self._limit and not finding.wrong:
            for following, message, step in self._following(states[number]):
                finding.steps += 1
                found = numbers.setdefault(following, len(states))
                if found == len(states):
                    states.append(following)
                    parents.append(number)
                    messages.append(message)
                if step.wrong:
                    finding.wrong = step.wrong
                    finding.trace = self._trace(states, parents, messages, number)
                    finding.trace.append(self._told(states[number], message))
                    break
            number += 1
            if number % _REPORT_EVERY == 0:
                self._progress(len(states))
        finding.states = len(states)
        finding.complete = number == len(states) and not finding.wrong
        if finding.complete:
            stuck = self._stuck(states)
            finding.stuck = len(stuck)
            if stuck:
                finding.trace = self._trace(states, parents, messages, stuck[0])
        finding.seconds = time.perf_counter() - begin
        return finding

    def _stuck(self, states: Sequence[State]) -> list[int]:
        """The first state for each of workers and switch from which sending again does not lead to the end."""
        ends: dict[State, bool] = {}
        stuck = []
        for number, state in enumerate(states):
            machines = state[: len(self._saved)]
            if machines in ends:
                continue
            path = []
            while machines not in ends and not self._is_end(machines):
                ends[machines] = False  # for one that comes back to itself
                path.append(machines)
                machines = self._round(machines)
            good = ends.get(machines, True)
            ends[machines] = good
            ends.update(dict.fromkeys(path, good))
            if not good:
                stuck.append(number)
        return stuck

    def _round(self, machines: State) -> State:
        """Every worker sends again, or asks for, what is unanswered, and all that comes of it arrives."""
        states = list(machines)
        on_the_way: deque[int] = deque()
        for rank in range(len(self._workers)):
            state, waiting = states[rank], self._load(rank, states[rank]).waiting()
            if self._configuration.asks:
                asking = self._to_ask(rank, state, *waiting).state
                step = self._sent(rank, self._load(rank, asking))
            else:
                step = self._lost(rank, state, *waiting)
            states[rank] = step.state
            on_the_way.extend(step.sent)
        while on_the_way:
            message = on_the_way.popleft()
            place = self._by_number[message].place
            step = self._step(place, states[place], message)
            states[place] = step.state
            on_the_way.extend(step.sent)
        return tuple(states)

    def _is_end(self, state: State) -> bool:
        return all(state[rank] in finished for rank, finished in enumerate(self._finished))

    def _trace(self, states: list[State], parents: list[int], messages: list[int], number: int) -> list[Step]:
        steps = []
        while parents[number] >= 0:
            steps.append(self._told(states[parents[number]], messages[number]))
            number = parents[number]
        return steps[::-1]

    def _told(self, state: State, message: int) -> Step:
        if message < 0:
            rank, does = divmod(-1 - message, len(_BY_ITSELF))
            if does == _RESTART:
                return Step(False, -1, b"", does=_lost_switch(rank))
            return Step(False, rank, b"", 0, (), _BY_ITSELF[does])
        place, sender, packet = self._by_number[message]
        step = self._step(place, state[place], message)
        at_switch = place >= len(self._workers)
        if not at_switch:
            return Step(False, place, packet)
        sent = [self._by_number[number] for number in step.sent]
        everyone = len(sent) > 1 and len({each.packet for each in sent}) == 1
        told = tuple(
            (None if everyone else each.place, each.packet) for each in (sent[:1] if everyone else sent)
        )
        to = "" if everyone or not sent else self._name(sent[0].place)
        names = self._name(place), self._whose(place, sender), to
        return Step(True, sender, packet, step.verdict, told, names=names)


def _lost_switch(first: int) -> str:
    """What happened then, as a sentence. first: as in `_Restart`."""
    ranks = [str(rank) for rank in range(first.bit_length()) if first >> rank & 1]
    again = f"; {' and '.join(ranks)} had got on at one that was lost before the others had" if ranks else ""
    return f"the switch is lost, and the workers go on at another{again}"
