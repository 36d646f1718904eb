"""Teachers on their way to other processes, and back."""

from __future__ import annotations

from understudy.execution.base import Portable
from understudy.imports import packed
from understudy.policies.policy import Policy, PolicyLike
from understudy.policies.weights import build, named_arrays
from understudy.teachers.ensemble import Ensemble
from understudy.teachers.routing import TaskTeachers


def portable(teacher: PolicyLike) -> Portable | None:
    """Return a teacher as it travels to workers; None for a Python object that holds what cannot be copied."""
    if isinstance(teacher, Policy):
        arrays = {name: array.copy() for name, array in named_arrays(teacher).items()}
        return Portable(teacher.spec, arrays, teacher.about)
    if isinstance(teacher, (Ensemble, TaskTeachers)):
        parts = [portable(member) for member in teacher.members]
        kind = teacher.kind if isinstance(teacher, Ensemble) else "tasks"
        found = tuple(part for part in parts if part is not None)
        return Portable(kind=kind, parts=found) if len(found) == len(parts) else None
    recipe = getattr(teacher, "recipe", None)
    if recipe:
        return Portable(source=recipe["source"], load_kwargs=recipe["kwargs"])
    code = packed(teacher)
    return None if code is None else Portable(code=code)


def restored(found: Portable) -> PolicyLike:
    """Return the teacher that ``portable`` was given."""
    if found.parts:
        members = [restored(part) for part in found.parts]
        return TaskTeachers(members) if found.kind == "tasks" else Ensemble(members, found.kind)
    if found.spec is not None:
        assert found.arrays is not None
        return build(found.spec, found.arrays, found.about)
    opened: PolicyLike = found.opened()
    return opened
