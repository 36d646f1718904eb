"""A Stable-Baselines3 or sb3-contrib zip becomes a native policy, with its observation normaliser inside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.policies.policy import About, Policy
from understudy.policies.spaces import members
from understudy.policies.spec import PolicySpec
from understudy.policies.weights import build
from understudy.teachers.sb3_layouts import translate
from understudy.teachers.sb3_zip import read_zip
from understudy.teachers.vecnormalize import Normalizer


def load_sb3(
    path: Path, normalizer: Normalizer | None = None, env: EnvSpec | None = None, complete: bool = False
) -> Policy:
    """Translate a zip; ``predict`` of the result takes raw observations.

    Args:
        path: The file that ``model.save`` wrote.
        normalizer: Statistics of the ``VecNormalize`` that the policy was trained behind, None for none.
        env: The environment it fits today, if that is known.
        complete: Whether it is known that no other statistics belong to it.

    Raises:
        UserError: The file is damaged, or holds something whose meaning is not known for certain.
    """
    saved = read_zip(path)
    try:
        translation = translate(saved)
        spec = translation.spec()
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, ArithmeticError) as error:
        # Fields of 'data' can hold anything; what is not as Stable-Baselines3 writes it is damaged or forged.
        raise UserError(f"{path}: 'data' is not as expected ({type(error).__name__}: {str(error)[:120]})") from error
    if normalizer is not None:
        spec = _with_normalizer(spec, normalizer, path)
    about = About(saved.algorithm, str(path), env, [*translation.notes])
    on_policy = saved.kind in ("actor_critic", "ars")
    if normalizer is None and not complete and on_policy and saved.data.get("_last_original_obs") is not None:
        # On-policy algorithms keep these only behind a VecNormalize (which may be for rewards alone).
        about.notes.append("trained behind VecNormalize, no statistics found: if it normalised observations, they lack")
    if saved.version:
        about.notes.append(f"saved by Stable-Baselines3 {saved.version}")
    arrays = {name: tensor.numpy() for name, tensor in translation.arrays.items()}
    for key in spec.normalized:
        assert normalizer is not None
        arrays[f"normalizer_mean:{key}"], arrays[f"normalizer_var:{key}"] = normalizer.stats[key]
    try:
        return build(spec, arrays, about)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _with_normalizer(spec: PolicySpec, normalizer: Normalizer, path: Path) -> PolicySpec:
    """Add the normaliser to the description, checking that it fits the observation space."""
    spaces = members(spec.observations)
    for key, (mean, _) in normalizer.stats.items():
        shape = tuple(spaces[key].shape or ()) if key in spaces else None
        if shape != mean.shape:
            name = f"key {key!r} of the observations" if key else "observations"
            raise UserError(f"{normalizer.source} normalises {name} of shape {mean.shape}, but {path} sees {shape}")
    return replace(
        spec,
        normalized=tuple(normalizer.stats),
        normalizer_clip=normalizer.clip,
        normalizer_epsilon=normalizer.epsilon,
    )
