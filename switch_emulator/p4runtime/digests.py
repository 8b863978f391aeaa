"""Digest lists (P4Runtime specification, section 9.11): buffer, send, and forget after an answer or a time. No I/O, no clock.

Messages of one digest gather in a buffer until there are `max_list_size` of them or the first is `max_timeout_ns` old.
What was sent and is not acknowledged is not sent again for `ack_timeout_ns`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from switchml.p4runtime.refusals import exists, not_found

Message = tuple[int, ...]


@dataclass(frozen=True)
class DigestConfig:
    """max_timeout_ns: 0 = send at once. max_list_size: 0 = no limit but `LONGEST`. ack_timeout_ns: 0 = never wait."""

    max_timeout_ns: int = 0
    max_list_size: int = 0
    ack_timeout_ns: int = 0


@dataclass(frozen=True)
class DigestMessages:
    """One list to be sent: `timestamp` is that of its first message, as given."""

    name: str
    list_id: int
    messages: tuple[Message, ...]
    timestamp: int


LONGEST = 1024  # messages of a list that has no limit of its own
REMEMBERED = 1 << 16  # messages without an answer, of one digest; more, and the oldest may be sent again


@dataclass
class _Sent:
    messages: tuple[Message, ...]
    at: int


@dataclass
class _Digest:
    """sent: lists without an answer, oldest first; unanswered: their messages."""

    config: DigestConfig
    buffer: dict[Message, None] = field(default_factory=dict)  # a set that keeps the order
    first_at: int = 0
    sent: dict[int, _Sent] = field(default_factory=dict)
    unanswered: set[Message] = field(default_factory=set)

    def remember(self, list_id: int, messages: tuple[Message, ...], now: int) -> None:
        self.sent[list_id] = _Sent(messages, now)
        self.unanswered.update(messages)
        while len(self.unanswered) > REMEMBERED:
            self.forget(next(iter(self.sent)))

    def forget(self, list_id: int) -> None:
        if sent := self.sent.pop(list_id, None):
            self.unanswered.difference_update(sent.messages)

    def forget_before(self, limit: int) -> None:
        """Lists sent at `limit` or earlier."""
        while self.sent and next(iter(self.sent.values())).at <= limit:
            self.forget(next(iter(self.sent)))


class DigestBuffers:
    """All digests of a pipeline. Times are nanoseconds of any one clock."""

    def __init__(self) -> None:
        self._digests: dict[str, _Digest] = {}
        self._next_id = 1

    def insert(self, name: str, config: DigestConfig) -> None:
        """Begin to gather a digest. Raises ALREADY_EXISTS."""
        if name in self._digests:
            raise exists(f"digest {name} is configured already; use MODIFY")
        self._digests[name] = _Digest(config)

    def modify(self, name: str, config: DigestConfig) -> None:
        """Change how a digest gathers. Raises NOT_FOUND."""
        self._get(name).config = config

    def delete(self, name: str) -> None:
        """Gather a digest no longer; what waits is lost. Raises NOT_FOUND."""
        self._get(name)
        del self._digests[name]

    def configs(self) -> dict[str, DigestConfig]:
        """The digests that gather, by name."""
        return {name: digest.config for name, digest in self._digests.items()}

    def receive(self, name: str, message: Message, now: int) -> DigestMessages | None:
        """A message from the pipeline; the list it completes, if any."""
        digest = self._digests.get(name)
        if digest is None:  # not asked for
            return None
        digest.forget_before(now - digest.config.ack_timeout_ns)
        if message in digest.buffer or message in digest.unanswered:
            return None
        if not digest.buffer:
            digest.first_at = now
        digest.buffer[message] = None
        limit = digest.config.max_list_size or LONGEST
        if digest.config.max_timeout_ns == 0 or len(digest.buffer) >= limit:
            return self._send(name, digest, now)
        return None

    def acknowledge(self, name: str, list_id: int) -> None:
        """A list's answer. An unknown list is nothing: its time may have passed."""
        if digest := self._digests.get(name):
            digest.forget(list_id)

    def forget_unanswered(self) -> None:
        """Another client is the primary: what the one before it did not answer may have been lost with it."""
        for digest in self._digests.values():
            digest.sent.clear()
            digest.unanswered.clear()

    def expire(self, now: int) -> list[DigestMessages]:
        """Lists whose time has come."""
        return [
            self._send(name, digest, now)
            for name, digest in self._digests.items()
            if digest.buffer and now - digest.first_at >= digest.config.max_timeout_ns
        ]

    def next_timer(self) -> int | None:
        """When `expire` has something to do; None while it has not."""
        return min(
            (
                digest.first_at + digest.config.max_timeout_ns
                for digest in self._digests.values()
                if digest.buffer
            ),
            default=None,
        )

    def _get(self, name: str) -> _Digest:
        digest = self._digests.get(name)
        if digest is None:
            raise not_found(f"digest {name} is not configured; INSERT its DigestEntry first")
        return digest

    def _send(self, name: str, digest: _Digest, now: int) -> DigestMessages:
        messages = tuple(digest.buffer)
        digest.buffer.clear()
        list_id = self._next_id
        self._next_id += 1
        if digest.config.ack_timeout_ns > 0:
            digest.remember(list_id, messages, now)
        return DigestMessages(name, list_id, messages, digest.first_at)
