"""Switches off what a network card would do for the kernel (ethtool), so that an interface carries frames as a wire does."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

from switchml.errors import TestbedError

_SIOCETHTOOL = 0x8946
_SET_TX_CHECKSUM, _SET_TSO, _SET_GSO, _SET_GRO = 0x17, 0x1F, 0x24, 0x2C


def switch_off_offloads(interface: str) -> None:
    """Checksums are computed and trains cut before frames leave; none are joined on arrival.

    Acts in the namespace of the calling thread. Programs that read frames as they are (BMv2, tcpdump) then see those of a wire.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in (_SET_TX_CHECKSUM, _SET_TSO, _SET_GSO, _SET_GRO):
            value = array.array("I", (command, 0))
            request = struct.pack("16sP8x", interface.encode(), value.buffer_info()[0])
            try:
                fcntl.ioctl(sock, _SIOCETHTOOL, request)
            except OSError as error:
                raise TestbedError(f"ethtool on {interface}: {error.strerror}") from error
