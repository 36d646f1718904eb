"""A model of Stable-Baselines3 that is in memory: saved to a temporary folder and read as its file would be."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from understudy.data import EnvSpec
from understudy.env_names import of_gym
from understudy.errors import UserError
from understudy.policies.policy import Policy
from understudy.teachers.sb3 import load_sb3
from understudy.teachers.vecnormalize import read_normalizer

_SEEN_THROUGH = ("DummyVecEnv", "SubprocVecEnv", "VecMonitor", "VecNormalize", "VecTransposeImage")
"""Vector environments that show what their environments show, or whose change the policy does itself here."""
_NO_EFFECT = ("Monitor", "RecordEpisodeStatistics")


def is_model(source: Any) -> bool:
    """Say whether an object is a model of Stable-Baselines3 or sb3-contrib; neither is imported for it."""
    bases = [(base.__module__.split(".")[0], base.__name__) for base in type(source).__mro__]
    return ("stable_baselines3", "BaseAlgorithm") in bases


def is_recurrent(model: Any) -> bool:
    """Say whether a model has a memory."""
    policy = getattr(model, "policy", None)
    return any(base.__name__ == "RecurrentActorCriticPolicy" for base in type(policy).__mro__)


def load_model(model: Any) -> Policy:
    """Return the model's policy as it is now, with the statistics of its ``VecNormalize``, for its environment.

    Raises:
        UserError: It cannot be saved, or holds something whose meaning is not known for certain.
    """
    name = f"{type(model).__name__} model"
    with tempfile.TemporaryDirectory() as folder:
        file, statistics = Path(folder) / "model.zip", Path(folder) / "vecnormalize.pkl"
        try:
            model.save(file)
        except Exception as error:  # what it holds may not be made to be saved
            raise UserError(f"the {name} cannot be saved ({type(error).__name__}: {error})") from error
        normalizer = None
        behind = _normalizers(model.get_vec_normalize_env())
        acting = [one for one in behind if one.norm_obs]
        if len(acting) > 1:
            raise UserError(
                f"the {name} sees observations that {len(acting)} VecNormalize changed one after the other, which is "
                "not supported: train it behind one (norm_obs=False for the others)"
            )
        if acting:
            acting[0].save(str(statistics))
            normalizer = read_normalizer(statistics)
        try:
            policy = load_sb3(file, normalizer, _environment(model.get_env()), complete=bool(behind))
        except UserError as error:
            text = str(error).replace(str(file), f"the {name}")
            raise UserError(text.replace(str(statistics), "its VecNormalize")) from error
    policy.about.source = name
    return policy


def _normalizers(env: Any) -> list[Any]:
    """Return every ``VecNormalize`` around an environment, from the outside."""
    found = []
    while env is not None:
        if any(base.__name__ == "VecNormalize" for base in type(env).__mro__):
            found.append(env)
        env = getattr(env, "venv", None)
    return found


def _environment(env: Any) -> EnvSpec | None:
    """Describe the model's environment; None where it cannot be built again as it is."""
    while env is not None and type(env).__name__ in _SEEN_THROUGH and hasattr(env, "venv"):
        env = env.venv
    if env is None or type(env).__name__ not in _SEEN_THROUGH:
        return None
    spec = env.get_attr("spec")[0]
    if spec is None or any(wrapper.name not in _NO_EFFECT for wrapper in spec.additional_wrappers):
        return None
    return of_gym(spec)
