"""Observation statistics from ``vecnormalize.pkl``, read without unpickling it (see ``safe_pickle``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import UserError
from understudy.teachers.safe_pickle import Inert, as_array, read_pickle

_CLASS = "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"


@dataclass(frozen=True)
class Normalizer:
    """Running statistics of observations.

    Attributes:
        stats: Mean and variance, each of the observation's shape, by observation key (``""`` if it is not a dict).
        clip: Normalised observations are clipped to plus or minus this.
        epsilon: Added to the variance.
        source: The file.
    """

    stats: dict[str, tuple[np.ndarray, np.ndarray]]
    clip: float
    epsilon: float
    source: Path


def read_normalizer(path: Path) -> Normalizer | None:
    """Read the statistics; None if the file says that observations are not normalised.

    Raises:
        UserError: The file is missing, damaged, or not a ``VecNormalize`` of Stable-Baselines3.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"no normaliser at {path}: {error.strerror}") from None
    saved = read_pickle(data, str(path))
    if not isinstance(saved, Inert) or saved.origin != _CLASS:
        what = saved.origin if isinstance(saved, Inert) else type(saved).__name__
        raise UserError(f"{path} does not hold a VecNormalize of Stable-Baselines3, but {what}")
    if not isinstance(saved.state, dict):
        raise UserError(f"{path}: the VecNormalize inside is empty")
    if not saved.state.get("norm_obs", True):
        return None
    if "obs_rms" not in saved.state:
        raise UserError(f"{path}: the VecNormalize inside holds no statistics of observations")
    try:
        clip, epsilon = float(saved.state["clip_obs"]), float(saved.state["epsilon"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: clip_obs or epsilon is missing or no number") from error
    return Normalizer(_stats(saved, path), clip, epsilon, path)


def _stats(saved: Inert, path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = saved.get("obs_rms")
    if not isinstance(found, dict):
        return {"": _mean_and_variance(found, "", path)}
    keys: Any = saved.get("norm_obs_keys") or list(found)
    if not isinstance(keys, (list, tuple)) or set(keys) - set(found):
        raise UserError(f"{path}: norm_obs_keys {keys!r} are not among the statistics of {', '.join(map(str, found))}")
    return {str(key): _mean_and_variance(found[key], str(key), path) for key in keys}


def _mean_and_variance(record: Any, key: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    where = f"{path}: the statistics" + (f" of key {key!r}" if key else "")
    if not isinstance(record, Inert) or not record.origin.endswith(".RunningMeanStd"):
        raise UserError(f"{where} are not a RunningMeanStd")
    mean, variance = as_array(record.get("mean"), where), as_array(record.get("var"), where)
    if mean.shape != variance.shape or (variance < 0).any():
        raise UserError(f"{where} are not a mean and a variance")
    return mean, variance
