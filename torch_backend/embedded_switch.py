"""The embedded switch of this process: started at most once, shared by its groups, closed after the last of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from switchml.control.tls import TlsFiles
from switchml.torch_backend.host_address import local_address_towards

_NO_TLS = TlsFiles()


@dataclass(frozen=True)
class SwitchAddress:
    """A switch's control service, as a rank tells it to the others."""

    address: str  # host:port
    token: str = field(repr=False)
    embedded: bool
    share: int | None = 1  # see `NamedSwitch`


class RunningSwitch(Protocol):
    """A switch that this process started; see `switchml.control.embedded.EmbeddedSwitch`."""

    @property
    def address(self) -> str:
        """Host and port ("host:port") of the control service."""
        ...

    @property
    def token(self) -> str:
        """The join token."""
        ...

    def keep_alive(self) -> None:
        """Start it anew when it ends by itself."""

    def close(self) -> None:
        """End it."""
        ...


def start_embedded(host: str, tls: TlsFiles) -> RunningSwitch:
    """Start a switch that listens on `host`, a local address; ends when closed or when this process ends."""
    from switchml.control import embedded

    return embedded.start(host, tls=tls)


@dataclass
class _Shared:
    running: RunningSwitch | None  # None: started by another process
    users: int = 0


class EmbeddedSwitches:
    """Counts which groups of this process use which embedded switch.

    On a host, all groups use the first that is known and can be reached, whoever started it: the first rank that a subgroup has
    there need not be the process that runs the switch.
    """

    def __init__(self, start: Callable[[str, TlsFiles], RunningSwitch] = start_embedded) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._shared: dict[SwitchAddress, _Shared] = {}
        self._process = os.getpid()

    def acquire(self, host: str, tls: TlsFiles = _NO_TLS, *, keep_alive: bool = False) -> SwitchAddress:
        """The embedded switch on this host that this process knows, else a new one on its address `host` with `tls`.

        One on loopback, started for a group of this host alone, is no switch for a group that is not. Pair with `release`.
        With `keep_alive` it is started anew when it ends by itself.
        """
        with self._lock:
            self._forget_parent()
            for switch, shared in self._shared.items():
                if _serves(switch.address.rpartition(":")[0], host):
                    shared.users += 1
                    if keep_alive and shared.running is not None:
                        shared.running.keep_alive()
                    return switch
            running = self._start(host, tls)
            if keep_alive:
                running.keep_alive()
            switch = SwitchAddress(running.address, running.token, embedded=True)
            self._shared[switch] = _Shared(running, users=1)
            return switch

    def adopt(self, switch: SwitchAddress) -> None:
        """Note one use of a switch that another rank named. Pair with `release`."""
        with self._lock:
            self._forget_parent()
            self._shared.setdefault(switch, _Shared(None)).users += 1

    def release(self, *switches: SwitchAddress) -> None:
        """One use less of each; the last one closes the switch if this process started it. Unknown ones are ignored."""
        for switch in switches:
            self._release(switch)

    def _release(self, switch: SwitchAddress) -> None:
        with self._lock:
            self._forget_parent()
            shared = self._shared.get(switch)
            if shared is None:
                return
            shared.users -= 1
            if shared.users:
                return
            del self._shared[switch]
        if shared.running is not None:
            shared.running.close()

    def _forget_parent(self) -> None:
        """A forked child must not close the switch of its parent."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._shared.clear()


def _serves(known: str, host: str) -> bool:
    """Whether a switch on the address `known` is one for who wants it on `host`, an address of this host."""
    return known == host or (not known.startswith("127.") and local_address_towards(known) == known)


OF_THIS_PROCESS = EmbeddedSwitches()
