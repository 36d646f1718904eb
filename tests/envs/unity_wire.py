"""Protobuf's wire format by hand, from the field table in docs/unity.md: what a peer of ours must put on the line.

Nothing of Understudy or of the protobuf package is used, so that both sides cannot be wrong together.
"""

import struct


def varint(value):
    value &= (1 << 64) - 1  # negative numbers are sent as 64 bits
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field, value):
    return varint(field << 3) + varint(int(value)) if value else b""


def single(field, value):
    return varint(field << 3 | 5) + struct.pack("<f", value) if value else b""


def data(field, value):
    raw = value.encode() if isinstance(value, str) else bytes(value)
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def singles(field, values):
    return data(field, struct.pack(f"<{len(values)}f", *values)) if len(values) else b""


def numbers(field, values):
    return data(field, b"".join(varint(int(v)) for v in values)) if len(values) else b""


def entry(field, key, value):
    """One entry of a map."""
    return data(field, data(1, key) + data(2, value))


def read(raw):
    """{field: [values]}: ints for varints, bytes for what has a length or 4 or 8 bytes."""
    found, at = {}, 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(raw, at)
        else:
            if kind == 2:
                size, at = _varint(raw, at)
            else:
                size = {1: 8, 5: 4}[kind]
            value, at = raw[at : at + size], at + size
        found.setdefault(tag >> 3, []).append(value)
    return found


def _varint(raw, at):
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def floats(chunks):
    """Repeated floats, packed or one by one."""
    raw = b"".join(chunks)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def ints(chunks):
    """Repeated ints, packed or one by one."""
    found = []
    for chunk in chunks:
        if isinstance(chunk, int):
            found.append(chunk)
            continue
        at = 0
        while at < len(chunk):
            value, at = _varint(chunk, at)
            found.append(value)
    return found
