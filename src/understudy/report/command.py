"""The command that repeats a run: the preset that is nearest to its settings, and a flag for each difference."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from itertools import chain
from typing import Any

import yaml

from understudy.config import build, merge, plain
from understudy.errors import UserError
from understudy.preset_files import preset, presets
from understudy.report.folder import RunFolder, flatten, short
from understudy.settings import DistillSettings, KickstartSettings, TrainSettings

_CLASSES: dict[str, Any] = {"distill": DistillSettings, "kickstart": KickstartSettings, "train": TrainSettings}
_LEAVES = ("env.kwargs",)
"""Settings that are mappings themselves."""


def command_of(run: RunFolder, comparison: Mapping[str, Any] | None = None) -> str:
    """Return a command line that resolves to the settings of the run.

    Args:
        run: Whose settings.
        comparison: Of a run with ``--against-scratch``.
    """
    words = ["understudy", run.kind]
    if run.kind == "distill":
        words += run.teachers
        words += _environments(run)
    settings = {key: value for key, value in run.settings.items()}
    if run.kind == "kickstart":
        words += list(chain.from_iterable(("--teacher", teacher) for teacher in run.teachers))
        settings["teaching"] = {k: v for k, v in settings["teaching"].items() if k != "teachers"}
    names, flags = nearest(run.kind, settings)
    words += ["--preset", *names] if names else []
    for key, value in flags.items():
        if comparison is not None and key in ("evaluation.wait", "seed"):
            continue
        words += [f"--{key}", *_values(value)]
    if comparison is not None:
        words += ["--against-scratch", "--seeds", str(len(comparison["student"]))]
        if comparison.get("teacher_steps") is not None:
            words += ["--teacher-steps", f"{comparison['teacher_steps']:g}"]
        if settings.get("seed"):
            words += ["--seed", str(settings["seed"])]
    return " ".join(map(shlex.quote, words))


def _environments(run: RunFolder) -> list[str]:
    given = run.config.get("env")
    if given is None:
        return ["--ensemble", run.config["ensemble"]] if run.config.get("ensemble") else []
    words = ["--env", *(e if isinstance(e, str) else e["id"] for e in given)]
    return words + (["--ensemble", run.config["ensemble"]] if run.config.get("ensemble") else [])


def _values(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [_word(item) for item in value]
    return [_word(value)]


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value)  # which is YAML
    return short(value)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten settings, but for those that are mappings themselves."""
    out: dict[str, Any] = {}
    for section, value in settings.items():
        if isinstance(value, Mapping) and section == "env":
            out |= {f"env.{key}": inner for key, inner in value.items()}
        else:
            out |= flatten({section: value})
    return out


def nearest(kind: str, settings: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the presets that leave the fewest flags, and these flags by name.

    Distillation needs exactly one preset, since it takes that of the teacher's kind of action otherwise; kickstarting
    merges up to two.
    """
    wanted, cls = _flat(settings), _CLASSES[kind]
    known = {name: preset(name) for name in presets()}
    choices: list[tuple[str, ...]] = [(name,) for name in known]
    if kind == "train":
        choices.append(())
    if kind == "kickstart":
        choices += [(a, b) for a in known if "teaching" in known[a] for b in known if a != b]
    best: tuple[tuple[str, ...], dict[str, Any]] | None = None
    for names in choices:
        base: dict[str, Any] = {}
        for name in names:
            base = merge(base, known[name])
        try:
            resolved = _flat(plain(build(cls, base)))
        except UserError:
            continue
        flags = {key: value for key, value in wanted.items() if resolved.get(key) != value}
        if best is None or (len(flags), len(names)) < (len(best[1]), len(best[0])):
            best = names, flags
    assert best is not None
    return best


def configuration(run: RunFolder) -> str:
    """Return the whole configuration as YAML."""
    return str(yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True))
