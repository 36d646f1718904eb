"""``export``: from a student to a file that runs elsewhere, checked before it is written."""

from __future__ import annotations

import copy
import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.io.export import formats
from understudy.io.export.check import Difference, compare, demand_equal, is_equal, measure
from understudy.io.export.states import STATES, Answers, States, ask, read_states, record
from understudy.policies import distributions
from understudy.policies.files import write_atomic
from understudy.policies.policy import Policy, PolicyLike
from understudy.teachers.load import chosen_env, load

_SUFFIX = {"onnx": ".onnx", "torchscript": ".pt", "c": ".c", "sb3": ".zip", "unity": ".onnx"}
_INT8 = ("onnx", "c")
_MANY = 0.05
"""Share of discrete actions that an int8 export may take differently without a remark."""


@dataclass
class Export:
    """A finished export.

    Attributes:
        path: The file that ``understudy evaluate`` plays.
        files: All that was written.
        format: See ``formats.FORMATS``.
        precision: ``float32`` or ``int8``.
        difference: Of the file and the student, in recorded states.
        states: Where those come from.
        facts: Rows for people: what else is known of the files.
        notes: What a user has to know.
        env: Where the student plays.
    """

    path: Path
    files: list[Path]
    format: str
    precision: str
    difference: Difference
    states: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    env: EnvSpec | None = None


@dataclass(frozen=True)
class _Work:
    """What every format starts from."""

    policy: Policy
    states: States
    answers: Answers
    path: Path
    int8: bool
    algorithm: str | None


def export(
    student: Any,
    form: str,
    out: str | os.PathLike[str] | None = None,
    *,
    int8: bool = False,
    env: str | EnvSpec | None = None,
    data: str | os.PathLike[str] | None = None,
    states: int = STATES,
    seed: int = 0,
    force: bool = False,
    algorithm: str | None = None,
) -> Export:
    """Write a student in another format, after checking that it acts as the student does.

    Args:
        student: A policy, or a path or id of one whose network is known (ours, or of Stable-Baselines3).
        form: ``onnx``, ``torchscript``, ``c``, ``sb3`` or ``unity``.
        out: The file; by default beside the student.
        int8: Quantise (ONNX and C), by the states.
        env: Where the student plays to record states; its own by default.
        data: Instead of playing: a run's folder with its dataset, or an ``.npz`` (see ``states.read_states``).
        states: How many to check (and quantise) by.
        seed: Of the first recorded episode.
        force: Overwrite files that are there.
        algorithm: Which class of Stable-Baselines3 loads the zip; the usual one by default.

    Raises:
        UserError: The format cannot express the student, states do not match, the file cannot be written, or the export
            does not act as the student does.
    """
    _check_request(form, int8, algorithm, states, seed)
    policy = load(student, env=env)
    if not isinstance(policy, Policy):
        raise UserError(f"{_name(policy)} is a black box: only policies whose network is known can be exported")
    if policy is student and env is not None:
        policy = copy.copy(policy)  # the caller's own object keeps its environment
        policy.about = replace(policy.about, env=chosen_env(policy.about.env, env))
    if policy.device.type != "cpu":
        policy = copy.deepcopy(policy).cpu()  # the caller's own object stays where it is
    formats.refuse(policy, form)
    path = _target(policy, form, out, int8)
    _refuse_overwriting(path, form, policy, force)
    seen = _states(policy, data, states, seed)
    work = _Work(policy, seen, ask(policy, seen), path, int8, algorithm)
    makers = {"onnx": _onnx, "torchscript": _torchscript, "c": _c, "sb3": _sb3, "unity": _unity}
    made = makers[form](work)
    made.env = policy.about.env
    made.states = f"{len(seen)} states of {seen.source}"
    return made


def _check_request(form: str, int8: bool, algorithm: str | None, states: int, seed: int) -> None:
    if form not in formats.FORMATS:
        raise UserError(f"the format {form!r} is unknown; there are {', '.join(formats.FORMATS)}")
    if int8 and form not in _INT8:
        raise UserError(f"int8 is for {' and '.join(_INT8)}, not for {form}")
    if algorithm is not None and form != "sb3":
        raise UserError("an algorithm is chosen for the format sb3 only")
    if states < 1:
        raise UserError(f"an export is checked in at least 1 state, not {states}")
    if seed < 0:
        raise UserError(f"seeds are not negative, but seed is {seed}")


def _name(policy: PolicyLike) -> str:
    return policy.about.source or policy.about.algorithm


def _target(policy: Policy, form: str, out: str | os.PathLike[str] | None, int8: bool) -> Path:
    if out is not None:
        path = Path(out).expanduser()
        if path.suffix.lower() != _SUFFIX[form]:
            raise UserError(f"the file of an export to {form} ends in {_SUFFIX[form]}, not {path.name!r}")
        return path
    source = Path(policy.about.source or "student")
    base = source.parent / source.stem if source.suffix and source.parent.is_dir() else Path("student")
    ending = ("-unity" if form == "unity" else "") + ("-int8" if int8 else "")
    return base.with_name(base.name + ending + _SUFFIX[form])


def _refuse_overwriting(path: Path, form: str, policy: Policy, force: bool) -> None:
    """Find out before the work whether the files can be written."""
    if form == "c" and ('"' in path.name or "\\" in path.name or not path.name.isprintable()):
        raise UserError(
            f"C cannot include {path.with_suffix('.h').name!r}: choose a file without quotes, backslashes and line "
            "breaks (--out)"
        )
    others = {"c": [path.with_suffix(".h")], "sb3": [path.with_suffix("")]}.get(form, [])
    there = [file for file in (path, *others) if file.exists()]
    if there and not force:
        raise UserError(f"{there[0]} is there already: --force overwrites it, --out FILE writes another")
    if path.is_dir() or (policy.about.source and path.resolve() == Path(policy.about.source).resolve()):
        raise UserError(
            f"{path} is {'a folder' if path.is_dir() else 'the student itself'}: choose another file (--out)"
        )
    folder = next(parent for parent in path.resolve().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"cannot write {path}: {folder} is not a folder that may be written to")


def _states(policy: Policy, data: str | os.PathLike[str] | None, count: int, seed: int) -> States:
    if data is not None:
        return read_states(Path(data).expanduser(), policy, count)
    if policy.about.env is None:
        raise UserError(
            f"{_name(policy)} does not say its environment, and the export is checked in states of it: give --env ID, "
            "or recorded states with --data"
        )
    return record(policy, policy.about.env, count, seed)


def _played(work: _Work, data: bytes) -> Difference:
    """Compare a file's bytes with the student, through the loader that will read it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / work.path.name
        path.write_bytes(data)
        return compare(work.policy, load(path, env=work.policy.about.env), work.states, work.answers)


def _finish(work: _Work, form: str, files: dict[Path, bytes], found: Difference, **more: Any) -> Export:
    if not work.int8:
        demand_equal(found, str(work.path))
    for path, data in files.items():
        write_atomic(path, data)
    precision = "int8" if work.int8 else "float32"
    made = Export(work.path, list(files), form, precision, found, "", **more)
    if work.int8 and work.states.beginnings:
        made.notes.append(
            "scales come from these states, and no episode ended in them: if later ones look otherwise, give more "
            "(--states N), and play it with --check-episodes"
        )
    if found.discrete and found.action > _MANY:
        made.notes.append("many actions differ (values that lie close together?): play it with --check-episodes")
    return made


def _onnx(work: _Work) -> Export:
    from understudy.io.export.onnx_file import float_model
    from understudy.io.export.onnx_int8 import int8_model

    data = float_model(work.policy)
    if work.int8:
        demand_equal(_played(work, data), f"{work.path} (before quantisation)")
        data = int8_model(work.policy, data, work.states)
    return _finish(work, "onnx", {work.path: data}, _played(work, data), facts=[("size", _kilobytes(len(data)))])


def _torchscript(work: _Work) -> Export:
    from understudy.io.export.torchscript_file import archive

    data = archive(work.policy)
    return _finish(work, "torchscript", {work.path: data}, _played(work, data), facts=[("size", _kilobytes(len(data)))])


def _unity(work: _Work) -> Export:
    from understudy.io.export.unity import unity_model

    data = unity_model(work.policy)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "unity.onnx"
        path.write_bytes(data)
        theirs = ask(load(path, env=work.policy.about.env), work.states)
    # The layout holds actions alone: compare those.
    ours, theirs = (Answers(work.answers.params, one.action) for one in (work.answers, theirs))
    found = measure(work.policy, ours, theirs)
    scale = float(abs(work.answers.action).max()) if work.policy.family.continuous else 1.0
    found = replace(found, params=found.action, relative=found.action / max(1.0, scale))
    return _finish(work, "unity", {work.path: data}, found, facts=[("size", _kilobytes(len(data)))])


def _sb3(work: _Work) -> Export:
    from understudy.io.export.sb3 import compare_written, to_sb3
    from understudy.teachers.zoo import FILES

    model = to_sb3(work.policy, work.states, work.answers, work.algorithm)
    folder = work.path.with_suffix("")
    files = {folder / name: data for name, data in model.folder.items()} | {work.path: model.zip}
    facts = [("algorithm", model.algorithm), ("open with", f"{model.algorithm}.load({str(work.path)!r})")]
    made = _finish(work, "sb3", files, model.difference, facts=facts, notes=model.notes)
    for name in FILES:
        if name not in model.folder:  # of an older export: it would be read with the new zip
            (folder / name).unlink(missing_ok=True)
    if not is_equal(compare_written(work.policy, work.path, work.states, work.answers)):
        raise UserError(f"{work.path} is written, but does not act as the student does: export it into another folder")
    return made


def _c(work: _Work) -> Export:
    from understudy.io.export.c.build import build
    from understudy.io.export.c.compensate import compensate
    from understudy.io.export.c.plan import build_plan
    from understudy.io.export.c.ranges import calibrate
    from understudy.io.export.c.simulate import simulate
    from understudy.io.export.c.source import write_sources
    from understudy.io.export.c.text import identifier
    from understudy.teachers.exported_c import compiler

    plan = build_plan(work.policy, calibrate(work.policy, work.states) if work.int8 else None)
    if work.int8:
        if not (plan.body or plan.lstm or any(one.convolutions for one in plan.inputs)):
            raise UserError("int8 in C leaves the last layer float32, and this student has no other: export it without")
        compensate(plan, work.states)
    name = identifier(work.path.stem)
    precision = "int8" if work.int8 else "float32"
    keys, types = [one.key for one in plan.inputs], [one.ctype for one in plan.inputs]
    text = formats.describe(work.policy, "c", precision, keys, name=name, types=types)
    expected = simulate(plan, work.states)
    sources = write_sources(plan, name, text, work.states, expected, work.path.stem)
    files = {work.path.with_suffix(".h"): sources.header.encode(), work.path: sources.source.encode()}
    if compiler() is None:
        in_unit = _unit_answers(work.policy, expected)
        found = measure(work.policy, work.answers, in_unit)
        note = "there is no C compiler here: checked by a simulation of the source in NumPy, sizes are not known"
        return _finish(work, "c", files, found, notes=[note])
    sizes = build(sources, name)
    with tempfile.TemporaryDirectory() as folder:
        for path, data in files.items():
            (Path(folder) / path.name).write_bytes(data)
        again = load(Path(folder) / work.path.name, env=work.policy.about.env)
        found = compare(work.policy, again, work.states, work.answers)
    facts = [
        ("self-test", sizes.selftest),
        ("flash", f"{sizes.flash:,} bytes (code and constants, -Os)" if sizes.flash is not None else "not known"),
        ("bss", f"{sizes.bss:,} bytes" if sizes.bss is not None else "not known"),
        ("state", f"{sizes.state:,} bytes, kept by the caller ({name}_state)"),
        ("stack", f"{sizes.stack:,} bytes in the worst case (-Os)" if sizes.stack is not None else "not known"),
    ]
    return _finish(work, "c", files, found, facts=facts)


def _unit_answers(policy: Policy, answers: Answers) -> Answers:
    """Bring published parameters to unit actions, as ``ask`` gives them."""
    import torch

    from understudy.policies.family import ActionMap

    action_map = ActionMap(policy.action_space)
    action = answers.action.reshape(-1, *action_map.shape)
    if not policy.family.continuous or policy.family.name == "squashed_gaussian":
        return Answers(answers.params, action)
    params = distributions.to_unit(torch.as_tensor(answers.params), policy.family, action_map)
    return Answers(params.numpy(), action)


def _kilobytes(size: int) -> str:
    return f"{size / 1000:.1f} kB"


__all__ = ["Export", "export"]
