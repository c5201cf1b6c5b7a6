"""The few pieces of protobuf's wire format that are written without a message class."""

from __future__ import annotations

__all__ = ["length_delimited", "varint"]

_64_BITS = (1 << 64) - 1


def varint(value: int) -> bytes:
    """Return *value* in base 128, least significant group first; negative as 64-bit two's complement."""
    value &= _64_BITS
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def length_delimited(tag: bytes, payload: bytes) -> bytes:
    """Return a field of wire type 2: *tag*, the length, *payload*."""
    return tag + varint(len(payload)) + payload
