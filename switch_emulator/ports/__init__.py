"""Where frames enter and leave a pipeline: UDP, Linux interfaces, pcap files; and wrappers around any of them."""

from __future__ import annotations

from switchml.switch_emulator.ports.interface import Frame, Ports, WrappedPorts

__all__ = ["Frame", "Ports", "WrappedPorts"]
