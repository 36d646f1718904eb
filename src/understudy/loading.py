"""``understudy.load``: any trained policy becomes a teacher; the environment says the spaces that it does not."""

from __future__ import annotations

from functools import wraps
from typing import Any

from understudy.envs.make import spaces_of
from understudy.policies.policy import PolicyLike
from understudy.teachers import load as teachers
from understudy.teachers.opaque import SpacesError


@wraps(teachers.load)
def load(source: Any, **options: Any) -> PolicyLike:
    """Load as ``teachers.load``, with the spaces of ``env`` where nobody else says them."""
    try:
        return teachers.load(source, **options)
    except SpacesError:
        spec = teachers.env_spec(options.get("env"))
        if spec is None:
            raise
        for name, space in zip(("observation_space", "action_space"), spaces_of(spec), strict=True):
            options[name] = options.get(name) or space
        return teachers.load(source, **options)
