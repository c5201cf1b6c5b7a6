"""The protobuf wire format's smallest parts: variable-length integers and tags.

Source: the encoding chapter of the Protocol Buffers documentation.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = [
    "LENGTH_DELIMITED",
    "encode_length_delimited_header",
    "encode_varint",
    "length_delimited_fields",
    "read_varint",
]

LENGTH_DELIMITED = 2
"""Wire type of bytes, strings, messages and packed repeated fields."""

_VARINT, _FIXED64, _FIXED32 = 0, 1, 5
_MAX_LENGTH = 2**31 - 1
_ONE_BYTE = [bytes([value]) for value in range(0x80)]


def encode_varint(value: int) -> bytes:
    """Return *value*, 0 or more, seven bits a byte, lowest first."""
    if value <= 0x7F:
        return _ONE_BYTE[value]
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_length_delimited_header(field_number: int, length: int) -> bytes:
    """Return the tag and the length, in bytes, that stand before a length-delimited value."""
    return encode_varint(field_number << 3 | LENGTH_DELIMITED) + encode_varint(length)


def read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """Return the length that starts at *position*, and the position after it.

    Raises:
        ValueError: It is longer than five bytes or above 2**31 - 1, which no length is.
        IndexError: *data* ends inside it.
    """
    value = 0
    for shift in range(0, 35, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > _MAX_LENGTH:
                break
            return value, position
    raise ValueError(f"no length within 2**31 - 1 ends before byte {position}")


def length_delimited_fields(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each length-delimited field of the message in ``data[start:stop]``.

    Numbers of other kinds are stepped over.

    Raises:
        ValueError: The message has a group, or a field reaches beyond *stop*.
        IndexError: *data* ends inside a field.
    """
    position = start
    while position < stop:
        tag, position = read_varint(data, position)
        wire_type = tag & 7
        if wire_type == LENGTH_DELIMITED:
            length, position = read_varint(data, position)
            yield tag >> 3, position, position + length
            position += length
        elif wire_type == _VARINT:
            while data[position] & 0x80:
                position += 1
            position += 1
        elif wire_type == _FIXED64:
            position += 8
        elif wire_type == _FIXED32:
            position += 4
        else:
            raise ValueError(f"field {tag >> 3} has wire type {wire_type}, which no message here has")
    if position != stop:
        raise ValueError(f"a field ends at byte {position}, the message at {stop}")
