"""Digest lists (P4Runtime specification, section 9.11): buffer, send, and forget after an answer or a time. No I/O, no clock.

Messages of one digest gather in a buffer until there are `max_list_size` of them or the first is `max_timeout_ns` old.
What was sent and is not acknowledged is not sent again for `ack_timeout_ns`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from switchml.switch_emulator.p4runtime.refusal import exists, not_found

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


@dataclass
class _Sent:
    messages: frozenset[Message]
    at: int


@dataclass
class _Digest:
    config: DigestConfig
    buffer: dict[Message, None] = field(default_factory=dict)  # a set that keeps the order
    first_at: int = 0
    sent: dict[int, _Sent] = field(default_factory=dict)  # list id -> list without an answer


class DigestBuffers:
    """All digests of a pipeline. Times are nanoseconds of any one clock."""

    def __init__(self) -> None:
        self._digests: dict[str, _Digest] = {}
        self._next_id = 1

    def insert(self, name: str, config: DigestConfig) -> None:
        if name in self._digests:
            raise exists(f"digest {name} is configured already; use MODIFY")
        self._digests[name] = _Digest(config)

    def modify(self, name: str, config: DigestConfig) -> None:
        self._get(name).config = config

    def delete(self, name: str) -> None:
        self._get(name)
        del self._digests[name]

    def configs(self) -> dict[str, DigestConfig]:
        return {name: digest.config for name, digest in self._digests.items()}

    def receive(self, name: str, message: Message, now: int) -> DigestMessages | None:
        """A message from the pipeline; the list it completes, if any."""
        digest = self._digests.get(name)
        if digest is None:  # not asked for
            return None
        self._forget(digest, now)
        if message in digest.buffer or any(message in sent.messages for sent in digest.sent.values()):
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
            digest.sent.pop(list_id, None)

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
            digest.sent[list_id] = _Sent(frozenset(messages), now)
        return DigestMessages(name, list_id, messages, digest.first_at)

    @staticmethod
    def _forget(digest: _Digest, now: int) -> None:
        timeout = digest.config.ack_timeout_ns
        for list_id in [key for key, sent in digest.sent.items() if now - sent.at >= timeout]:
            del digest.sent[list_id]
