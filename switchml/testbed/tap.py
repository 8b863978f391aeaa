"""TAP interfaces: their frames are read and written by this process."""

from __future__ import annotations

import fcntl
import os
import struct

from switchml.errors import TestbedError

# linux/if_tun.h
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_CHECKSUM, _TSO4, _TSO6, _USO4, _USO6 = 0x01, 0x02, 0x04, 0x20, 0x40
_TCP_TRAINS = _CHECKSUM | _TSO4 | _TSO6
_ALL_TRAINS = _TCP_TRAINS | _USO4 | _USO6


def open_tap(interface: str) -> int:
    """Make an interface in the calling thread's namespace. It lives as long as the descriptor returned; reads do not wait.

    A read or write is one frame behind a `virtio_net_hdr`, which carries segmentation trains as the kernel's own links do: whole,
    checksums not yet computed (trains of UDP since Linux 6.2).

    Raises:
        TestbedError: this kernel or user cannot have one.
    """
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TestbedError(f"/dev/net/tun: {error.strerror}") from error
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", interface.encode(), flags))
        try:
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _ALL_TRAINS)
        except OSError:
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _TCP_TRAINS)
    except OSError as error:
        os.close(descriptor)
        raise TestbedError(f"TAP interface {interface}: {error.strerror}") from error
    return descriptor
