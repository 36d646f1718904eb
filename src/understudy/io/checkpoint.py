"""A run's folder: what stands in it, and how it is resumed.

    RUN/config.yaml            the resolved configuration
    RUN/best.safetensors       the student with the best evaluation so far
    RUN/last.safetensors       the student of the last round
    RUN/state.safetensors      everything needed to go on: weights, optimiser, counters, random generators, evaluations
    RUN/data/00003.safetensors the samples of round 3, of a distillation
    RUN/scores.json            what teachers and the random policy reach, of a kickstarted run
    RUN/log.jsonl, RUN/tensorboard, RUN/summary.json, RUN/result.json, RUN/result.png

``state`` is one file, replaced atomically, with a checksum: there is no moment at which a kill leaves half of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from understudy.data import Array
from understudy.errors import UserError
from understudy.policies.files import write_atomic


def _digest(arrays: Mapping[str, Array], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
    """Write arrays and JSON-able data as one file, atomically and with a checksum."""
    text = json.dumps(data)
    solid = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    write_atomic(path, save(solid, {"data": text, "sha256": _digest(solid, text)}))


def read_arrays(path: Path) -> tuple[dict[str, Array], Any]:
    """Read what ``write_arrays`` wrote.

    Raises:
        UserError: The file is missing, truncated, or differs from what was written.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            meta = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: nothing to resume there") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): truncated or damaged") from None
    if meta.get("sha256") != _digest(arrays, meta.get("data", "")):
        raise UserError(f"{path} is damaged: its checksum does not match")
    return arrays, json.loads(meta["data"])
