"""The switch's ends of its workers' lifelines: a TCP connection a member, which shows whether its process lives.

A heartbeat needs the interpreter of the one that sends it, which may be in a long call of C or stopped; a connection stands as
long as the process does, and is closed by the kernel when it ends, however that comes about. Over it goes what concerns nobody
else: up the ticket that names the membership, and a byte every now and then from a thread that needs no interpreter; down a byte
that says "ask now", upon which the worker's next heartbeat is due. So the connection needs no TLS: who reads it learns nothing,
who writes to it causes a heartbeat or has a stopped worker waited for, and who cuts it causes a new connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import Callable, Iterable

TICKET_BYTES = 32
WORD = b"\n"
"""What the switch says: ask now."""
_PATIENCE = 5.0  # seconds for a ticket
_STRANGERS = 256  # connections without a ticket at a time; a worker that is not let in comes again


def ticket_of(session: str) -> bytes:
    """What shows a membership's lifeline to be its own, and tells nobody the session."""
    return hashlib.sha256(b"switchml lifeline " + session.encode()).digest()


class Lifelines:
    """Listens from `open` to `close`, on the event loop.

    Args:
        attached: called with a session whose lifeline has come, and whenever something comes over it.
        lost: called with a session whose last lifeline is closed.
    """

    def __init__(self, attached: Callable[[str], None], lost: Callable[[str], None]) -> None:
        self._attached = attached
        self._lost = lost
        self._server: asyncio.Server | None = None
        self._sessions: dict[bytes, str] = {}
        self._lines: dict[str, set[asyncio.StreamWriter]] = {}
        self._strangers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def open(self, host: str, port: int) -> None:
        """Listen on `port`, or on another where that is taken; `self.port` is 0 where there is none."""
        for number in (port, 0):
            with contextlib.suppress(OSError):
                listening = _listen(host, number)
                self._server = await asyncio.start_server(self._serve, sock=listening)
                self.port = listening.getsockname()[1]
                return

    def close(self) -> None:
        """Close all of them; nobody is called lost any more."""
        if self._server is not None:
            self._server.close()
        self._sessions.clear()
        for writer in [*self._strangers, *(each for lines in self._lines.values() for each in lines)]:
            writer.transport.abort()
        self._lines.clear()

    def expect(self, session: str) -> None:
        """A member may bring its lifeline from now on."""
        self._sessions[ticket_of(session)] = session

    def keep(self, sessions: frozenset[str]) -> None:
        """Forget all other sessions."""
        gone = [ticket for ticket, session in self._sessions.items() if session not in sessions]
        for ticket in gone:
            del self._sessions[ticket]

    def tell(self, sessions: Iterable[str]) -> None:
        """There is news for these."""
        for session in sessions:
            for writer in self._lines.get(session, ()):
                with contextlib.suppress(OSError, RuntimeError):
                    writer.write(WORD)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            session = await self._session(reader, writer)
            if session:
                await self._hold(session, reader, writer)
        except (OSError, asyncio.CancelledError):  # cancelled: the loop ends
            pass
        finally:
            writer.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        if len(self._strangers) >= _STRANGERS:
            return ""
        self._strangers.add(writer)
        try:
            async with asyncio.timeout(_PATIENCE):
                return self._sessions.get(await reader.readexactly(TICKET_BYTES), "")
        except (TimeoutError, asyncio.IncompleteReadError):
            return ""
        finally:
            self._strangers.discard(writer)

    async def _hold(self, session: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lines.setdefault(session, set()).add(writer)
        self._attached(session)
        # What happened before it was attached is told now.
        writer.write(WORD)
        try:
            while await reader.read(64):
                self._attached(session)
        finally:
            lines = self._lines.get(session)
            if lines is not None:
                lines.discard(writer)
                if not lines:
                    del self._lines[session]
                    self._lost(session)


def _listen(host: str, port: int) -> socket.socket:
    if ":" in host:
        dual = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=dual)
    return socket.create_server((host, port))
