"""Side channels: what travels beside observations and actions. Framing and contents, bytes in and out.

A packet is the channel's 16 bytes (a UUID, first three groups little endian), an int32 length, and that many bytes.
"""

from __future__ import annotations

import math
import struct
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from understudy.errors import UserError, suggest

ENGINE = uuid.UUID("e951342c-4f7e-11ea-b238-784f4387d1f7")
PARAMETERS = uuid.UUID("534c891e-810f-11ea-a9d0-822485860400")
STATS = uuid.UUID("a1d8f7b7-cec8-50f9-b78b-d3e165a78520")
LARGEST = 3.4e38
"""The greatest number that travels: numbers have 32 bits."""
_SAMPLERS = {"uniform": ("min_value", "max_value"), "gaussian": ("mean", "st_dev"), "multirangeuniform": ("intervals",)}
"""In the order of their numbers on the wire."""


def pack(channel: uuid.UUID, payload: bytes) -> bytes:
    """Return one framed packet."""
    return channel.bytes_le + struct.pack("<i", len(payload)) + payload


def unpack(data: bytes) -> Iterator[tuple[uuid.UUID, bytes]]:
    """Yield (channel, payload) of every packet.

    Raises:
        ValueError: The bytes end inside a packet.
    """
    at = 0
    while at < len(data):
        if at + 20 > len(data):
            raise ValueError("a side channel packet is cut off")
        channel = uuid.UUID(bytes_le=data[at : at + 16])
        (size,) = struct.unpack_from("<i", data, at + 16)
        if size < 0 or at + 20 + size > len(data):
            raise ValueError("a side channel packet is longer than its message")
        yield channel, data[at + 20 : at + 20 + size]
        at += 20 + size


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<i", len(raw)) + raw


def engine(options: Mapping[str, Any]) -> bytes:
    """Return the packets that set resolution, quality, time scale and frame rates; None leaves one as it is."""
    found = b""
    if options["width"] and options["height"]:
        found += pack(ENGINE, struct.pack("<iii", 0, options["width"], options["height"]))
    if options["quality_level"] is not None:
        found += pack(ENGINE, struct.pack("<ii", 1, options["quality_level"]))
    if options["time_scale"] is not None:
        found += pack(ENGINE, struct.pack("<if", 2, options["time_scale"]))
    if options["target_frame_rate"] is not None:
        found += pack(ENGINE, struct.pack("<ii", 3, options["target_frame_rate"]))
    if options["capture_frame_rate"] is not None:
        found += pack(ENGINE, struct.pack("<ii", 4, options["capture_frame_rate"]))
    return found


def parameters(values: Mapping[str, Any], seed: int) -> bytes:
    """Return the packets that set environment parameters: numbers, or samplers as ML-Agents' YAML writes them.

    A sampler is ``{sampler_type: uniform, sampler_parameters: {min_value: 0, max_value: 1}}``, or ``gaussian`` with
    ``mean`` and ``st_dev``, or ``multirangeuniform`` with ``intervals``; its seed is ``seed`` plus its position.

    Raises:
        UserError: A value is neither, a number does not travel, or a name is no text.
    """
    found = b""
    for i, (key, value) in enumerate(values.items()):
        if not isinstance(key, str):
            raise UserError(f"the environment parameter {key!r} needs a name that is text: put it in quotes")
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST:
            found += pack(PARAMETERS, _text(key) + struct.pack("<if", 0, value))
            continue
        kind, numbers = _sampler(key, value)
        body = struct.pack("<iii", 1, (seed + i) % 2**31, list(_SAMPLERS).index(kind))
        if kind == "multirangeuniform":
            body += struct.pack("<i", len(numbers))
        found += pack(PARAMETERS, _text(key) + body + struct.pack(f"<{len(numbers)}f", *numbers))
    return found


def _sampler(key: str, value: Any) -> tuple[str, Sequence[float]]:
    kind = value.get("sampler_type") if isinstance(value, Mapping) else None
    if kind not in _SAMPLERS:
        near = suggest(str(kind), _SAMPLERS) if kind else ""
        raise UserError(
            f"the environment parameter {key!r} is {value!r}; it can be a number of 32 bits, or {{sampler_type: "
            f"{'|'.join(_SAMPLERS)}, sampler_parameters: {{...}}}}{near}"
        )
    given = value.get("sampler_parameters")
    wanted = _SAMPLERS[kind]
    if not isinstance(given, Mapping) or set(given) != set(wanted):
        raise UserError(f"the sampler of the environment parameter {key!r} needs {' and '.join(wanted)}, not {given!r}")
    try:
        numbers = [given[name] for name in wanted]
        if kind == "multirangeuniform":
            numbers = [end for low, high in numbers[0] for end in (low, high)]
        found = [float(number) for number in numbers]
    except (TypeError, ValueError, OverflowError):
        found = [math.nan]
    if not all(abs(number) <= LARGEST for number in found):
        raise UserError(f"the sampler of the environment parameter {key!r} needs numbers of 32 bits, not {given!r}")
    return kind, found


def stats(payload: bytes) -> tuple[str, float]:
    """Return the name and value of a statistic that the scene reports.

    Raises:
        ValueError: The bytes are no statistic.
    """
    try:
        (size,) = struct.unpack_from("<i", payload)
        (value,) = struct.unpack_from("<f", payload, 4 + size)
        return payload[4 : 4 + size].decode(), float(value)
    except struct.error as error:
        raise ValueError(f"a statistic is malformed: {error}") from None
