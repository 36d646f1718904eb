"""What agents see: from the wire's observations to a space and to rows of its arrays."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from PIL import Image

from understudy.data import Array
from understudy.envs.unity.messages import PNG

MASK = "action_mask"
"""Observation key: 1 for every choice that is allowed."""


class SensorError(Exception):
    """An observation is not what the sensor showed before, or is not finite."""


class Sensor(NamedTuple):
    """One observation of an agent.

    Attributes:
        key: Of the observation; the sensor's name.
        shape: As we give it: pictures are [C, H, W], whatever the scene sends.
        picture: Whether it comes compressed, as 8-bit pictures; otherwise as float32.
    """

    key: str
    shape: tuple[int, ...]
    picture: bool

    @property
    def space(self) -> gym.Space[Any]:
        """Of its observations."""
        if self.picture:
            return gym.spaces.Box(0, 255, self.shape, np.uint8)
        return gym.spaces.Box(-np.inf, np.inf, self.shape, np.float32)

    def read(self, seen: Any) -> Array:
        """Return an observation on the wire as an array of this sensor.

        Raises:
            SensorError: It has another shape or kind than it had, is no picture, or holds NaN or infinity.
        """
        if (seen.compression_type == PNG) != self.picture:
            raise SensorError(f"the sensor {self.key} changed between compressed and plain observations")
        if self.picture:
            array, wanted = read_picture(seen), self.shape
            if array.shape != wanted:
                raise SensorError(f"the sensor {self.key} shows {array.shape}, it was {wanted} before")
            return array
        numbers = np.array(seen.float_data.data, np.float32)
        if numbers.size != math.prod(self.shape):
            raise SensorError(f"the sensor {self.key} shows {numbers.size} numbers, it was {self.shape} before")
        # A vector's product with itself is finite where all its elements are, and not huge.
        with np.errstate(over="ignore"):
            suspicious = not math.isfinite(numbers.dot(numbers))
        if suspicious and not np.isfinite(numbers).all():
            raise SensorError(f"the sensor {self.key} shows {numbers[~np.isfinite(numbers)][0]}")
        return numbers.reshape(self.shape)


def sensors_of(observations: Sequence[Any]) -> tuple[Sensor, ...]:
    """Describe the observations of one agent.

    Raises:
        SensorError: A picture cannot be read.
    """
    found: list[Sensor] = []
    for i, seen in enumerate(observations):
        # Keys become parts of the names of weights, where dots separate.
        key = re.sub(r"[^A-Za-z0-9_-]+", "_", seen.name) or f"sensor_{i}"
        if any(sensor.key == key for sensor in found):
            key = f"{key}_{i}"
        if seen.compression_type == PNG:
            found.append(Sensor(key, read_picture(seen).shape, True))
        else:
            found.append(Sensor(key, tuple(seen.shape), False))
    return tuple(found)


def space_of(sensors: Sequence[Sensor], mask: int) -> gym.Space[Any]:
    """Return the observation space: of the only sensor, or a dict; with a mask of ``mask`` choices unless that is 0."""
    spaces: dict[str, gym.Space[Any]] = {sensor.key: sensor.space for sensor in sensors}
    if mask:
        spaces[MASK] = gym.spaces.Box(0, 1, (mask,), np.float32)
    return gym.spaces.Dict(spaces) if len(spaces) > 1 else next(iter(spaces.values()))


def read_picture(seen: Any) -> Array:
    """Return [C, H, W] uint8 of one or several PNG files, three channels each, put one behind another.

    The channel mapping says which output channel each of their channels belongs to (-1: none); several for one channel
    are averaged. Without a mapping one channel is the mean of the first file's, more are the first so many.

    Raises:
        SensorError: They are no PNG files, or do not fit the shape or the mapping.
    """
    try:
        files = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in _split(seen.compressed_data)]
        channels = np.concatenate(files, axis=2).transpose(2, 0, 1)  # [3 n, H, W]
    except (OSError, ValueError, SyntaxError) as error:
        raise SensorError(f"the sensor {seen.name} sent a picture that cannot be read ({error})") from None
    shape, (height, width) = tuple(seen.shape), channels.shape[1:]
    # Packages before 3.0 say [H, W, C], later ones [C, H, W].
    if shape[1:] == (height, width):
        count = shape[0]
    elif shape[:2] == (height, width):
        count = shape[2]
    else:
        raise SensorError(f"the sensor {seen.name} sent a picture of {width} x {height} for the shape {shape}")
    mapping = np.array(seen.compressed_channel_mapping, int)
    if mapping.size:
        if mapping.size != len(channels) or mapping.max() + 1 != count:
            raise SensorError(f"the sensor {seen.name} has a channel mapping that does not fit its pictures")
        return np.stack([_mean(channels[mapping == c]) for c in range(count)])
    if count == 1:
        return _mean(channels[:3])[None]
    if count > len(channels):
        raise SensorError(f"the sensor {seen.name} has {count} channels, but its pictures {len(channels)}")
    return channels[:count]


def _mean(channels: Array) -> Array:
    """[n, H, W] -> [H, W], rounded."""
    if not len(channels):
        raise SensorError("a channel mapping leaves a channel out")
    if len(channels) == 1:
        only: Array = channels[0]
        return only
    mean: Array = np.rint(channels.mean(axis=0)).astype(np.uint8)
    return mean


_PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def _split(data: bytes) -> list[bytes]:
    """Return the PNG files that were put one behind another: each is a head and chunks up to one called IEND."""
    files, begin = [], 0
    while begin < len(data):
        if data[begin : begin + 8] != _PNG_HEAD:
            raise ValueError("it does not begin as a PNG file")
        at, kind = begin + 8, b""
        while kind != b"IEND":
            if at + 12 > len(data):
                raise ValueError("it is cut off")
            kind = data[at + 4 : at + 8]
            at += 12 + int.from_bytes(data[at : at + 4], "big")
        files.append(data[begin:at])
        begin = at
    if not files:
        raise ValueError("it is empty")
    return files
