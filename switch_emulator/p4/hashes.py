"""Hash algorithms of BMv2 (`calculations`): bytes to an unsigned number."""

from __future__ import annotations

import binascii
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from switchml.packets.ethernet import checksum

Hash = Callable[[bytes], int]


@dataclass(frozen=True)
class CrcParameters:
    """What makes a CRC, as BMv2 lets the control plane set it."""

    width: int
    polynomial: int
    initial: int = 0
    final_xor: int = 0
    reflect_data: bool = False
    reflect_remainder: bool = False


def crc(parameters: CrcParameters) -> Hash:
    """A CRC by table, most significant bit first, data and remainder mirrored where the parameters say so."""
    width, mask = parameters.width, (1 << parameters.width) - 1
    table = [_divide(byte << (width - 8), width, parameters.polynomial) for byte in range(256)]
    mirrored = (
        [int(f"{byte:08b}"[::-1], 2) for byte in range(256)] if parameters.reflect_data else list(range(256))
    )

    def compute(data: bytes) -> int:
        remainder = parameters.initial
        for byte in data:
            remainder = table[mirrored[byte] ^ (remainder >> (width - 8))] ^ (remainder << 8 & mask)
        if parameters.reflect_remainder:
            remainder = int(f"{remainder:0{width}b}"[::-1], 2)
        return remainder ^ parameters.final_xor

    return compute


def _divide(dividend: int, width: int, polynomial: int) -> int:
    for _ in range(8):
        top = dividend >> (width - 1)
        dividend = (dividend << 1) & ((1 << width) - 1)
        if top:
            dividend ^= polynomial
    return dividend


def crc_ccitt(data: bytes) -> int:
    """CRC-16/CCITT-FALSE: polynomial 0x1021, from 0xFFFF on."""
    return binascii.crc_hqx(data, 0xFFFF)


def identity(data: bytes) -> int:
    """The first eight bytes as a number."""
    return int.from_bytes(data[:8], "big")


def xor_of_words(size: int) -> Hash:
    """Makes the XOR of words of `size` bytes, the last one padded with zeros."""

    def compute(data: bytes) -> int:
        padded = data + bytes(-len(data) % size)
        result = 0
        for start in range(0, len(padded), size):
            result ^= int.from_bytes(padded[start : start + size], "big")
        return result

    return compute


def hash_ex(data: bytes) -> int:
    """simple_switch's 32-bit FNV variant, over signed bytes as there."""
    value = 2166136261
    for byte in data:
        value = (value ^ (byte - 256 if byte > 127 else byte)) * 16777619 & 0xFFFFFFFF
    value = (value + (value << 13)) & 0xFFFFFFFF
    value ^= value >> 7
    value = (value + (value << 3)) & 0xFFFFFFFF
    value ^= value >> 17
    return (value + (value << 5)) & 0xFFFFFFFF


def round_robin() -> Hash:
    """No hash: counts its calls."""
    count = iter(range(1 << 64))
    return lambda data: next(count)


def round_robin_consistent() -> Hash:
    """Numbers every input at its first call."""
    seen: dict[bytes, int] = {}
    return lambda data: seen.setdefault(data, len(seen))


# By name in the JSON: a function that makes the hash, given the switch's random numbers.
ALGORITHMS: dict[str, Callable[[random.Random], Hash]] = {
    "crc32": lambda rng: zlib.crc32,
    "crc16": lambda rng: crc(CrcParameters(16, 0x8005, 0, 0, True, True)),
    "crcCCITT": lambda rng: crc_ccitt,
    "crc8_custom": lambda rng: crc(CrcParameters(8, 0x07)),
    "crc16_custom": lambda rng: crc(CrcParameters(16, 0x8005, 0, 0, True, True)),
    "crc32_custom": lambda rng: crc(CrcParameters(32, 0x04C11DB7, 0xFFFFFFFF, 0xFFFFFFFF, True, True)),
    "crc64_custom": lambda rng: crc(CrcParameters(64, 0x1B, 0, 0, True, True)),
    "csum16": lambda rng: checksum,
    "cksum16": lambda rng: checksum,
    "identity": lambda rng: identity,
    "xor16": lambda rng: xor_of_words(2),
    "xor32": lambda rng: xor_of_words(4),
    "hash_ex": lambda rng: hash_ex,
    "round_robin": lambda rng: round_robin(),
    "round_robin_consistent": lambda rng: round_robin_consistent(),
    "random": lambda rng: lambda data: rng.getrandbits(64),
}
