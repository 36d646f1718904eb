"""A run's folder as it is read afterwards, or while the run goes on; nothing in it has to be complete."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from understudy.errors import UserError
from understudy.io.log import read_log
from understudy.policies.stored import BEHAVIOURS
from understudy.population.values import LOG as POPULATION
from understudy.population.values import read as read_population

STUDENTS = ("best.safetensors", "last.safetensors")
_FILMS = (".mp4", ".webm", ".gif")


@dataclass(frozen=True)
class RunFolder:
    """What a run's folder holds; what is not there (yet) is None or empty.

    Attributes:
        path: The folder.
        kind: ``distill``, ``train`` or ``kickstart``.
        config: ``config.yaml``.
        rows: ``log.jsonl``, with rising env steps: what a killed run logged and a resumed one repeated is left out. Of
            a population: the best member of each interval.
        summary: ``summary.json``; a run that has none was interrupted, or goes on.
        result: ``result.json``, the table of a distillation on fresh episodes.
        scores: ``scores.json``, mean returns of the teachers and of the random policy.
    """

    path: Path
    kind: str
    config: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    scores: dict[str, Any] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved settings."""
        found: dict[str, Any] = self.config["settings"]
        return found

    @property
    def env_id(self) -> str:
        """Id of the environment."""
        found = self.config.get("environment") or self.settings.get("env") or {}
        return str(found.get("id", "")) or "unknown environment"

    @property
    def teachers(self) -> list[str]:
        """Where the teachers are, as the run was told; empty without teachers."""
        if self.kind == "distill":
            return [str(teacher) for teacher in self.config["teachers"]]
        return [str(teacher) for teacher in self.settings.get("teaching", {}).get("teachers", [])]

    @property
    def student(self) -> Path | None:
        """The policy that the run is known for: the best of a distillation, else the last."""
        order = STUDENTS if self.kind == "distill" else STUDENTS[::-1]
        return next((self.path / name for name in order if (self.path / name).is_file()), None)

    @property
    def film(self) -> Path | None:
        """A film in the folder, if there is one."""
        films = sorted(p for p in self.path.iterdir() if p.suffix.lower() in _FILMS and not p.name.startswith("."))
        return films[0] if films else None

    @property
    def budget(self) -> int:
        """Env steps at which the run ends in any case."""
        return int(self.settings["stop"]["env_steps"])

    @property
    def members(self) -> int:
        """Size of the population; 0 for a single student."""
        size = int((self.settings.get("pbt") or {}).get("population", 0))
        return 0 if size and (self.path / "log.jsonl").exists() else size

    @property
    def picture(self) -> Path | None:
        """The picture of the population, which is drawn when it ends or is interrupted."""
        path = self.path / "population.png"
        return path if self.members and path.is_file() else None

    def last(self, name: str) -> Any:
        """Return the newest value of a metric; None where it was never logged."""
        return next((row[name] for row in reversed(self.rows) if row.get(name) is not None), None)


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is none or it is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def read_run(path: str | os.PathLike[str], log: bool = True) -> RunFolder:
    """Read a run's folder, however far the run is; its log may be left out.

    Raises:
        UserError: There is no such folder, or it is not one of a run.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"no run at {folder}: there is no such folder")
    config = _config(folder)
    kind = "distill" if "teachers" in config else "kickstart" if "teaching" in config["settings"] else "train"
    parts = {name: read_json(folder / f"{name}.json") for name in ("summary", "result", "scores")}
    if parts["result"] is not None and "rows" not in parts["result"]:
        parts["result"] = None
    run = RunFolder(folder, kind, config, [], **parts)
    if log:
        run.rows.extend(population_rows(folder) if run.members else read_log(folder / "log.jsonl"))
    return run


def population_rows(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each interval of a population: its best member, and how many have finished the interval.

    Raises:
        UserError: ``population.jsonl`` holds something else.
    """
    path = folder / POPULATION
    known = {(r.interval, r.member): r for r in read_population(path)} if path.is_file() else {}  # the newest of each
    rows = []
    for interval in sorted({interval for interval, _ in known}):
        results = [result for (i, _), result in known.items() if i == interval]
        best = max(results, key=lambda r: (r.score, -r.member))
        row = {"env_steps": best.env_steps, "wall": max(r.time for r in results), "finished": len(results)}
        row |= {"interval": interval, "member": best.member, "eval_env_steps": best.env_steps}
        rows.append({**row, "eval_return": best.score, "teacher_weight": best.values.get("weight")})
    return rows


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    inside = sorted(found.parent.name for found in folder.glob("*/config.yaml"))
    if inside and (not path.exists() or (folder / BEHAVIOURS).exists()):
        raise UserError(f"{folder} holds runs, and is none itself: name one of them, such as {folder / inside[0]}")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(
            f"{folder} is not the folder of a run: there is no {path.name} in it (understudy distill, train and "
            "kickstart write one)"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    settings = config.get("settings") if isinstance(config, Mapping) else None
    if not isinstance(settings, Mapping) or not isinstance(settings.get("stop"), Mapping):
        raise UserError(f"{path} does not describe a run: it lacks the settings")
    return dict(config)


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds only."""

    label: str
    runs: tuple[RunFolder, ...]

    def name_of(self, run: RunFolder) -> str:
        """Call one of its runs by the label, and by the seed where there are several."""
        return self.label if len(self.runs) == 1 else f"{self.label}, seed {run.settings.get('seed', 0)}"


def gather(paths: Sequence[str | os.PathLike[str]]) -> tuple[list[Group], dict[str, Any] | None, Path]:
    """Read run folders, and group those with equal settings but for the seed.

    A folder of ``kickstart --against-scratch`` stands for all runs in it.

    Returns:
        The groups, in the order of the first run of each; the comparison with scratch, if one of the folders holds one;
        and the folder that the report belongs to.

    Raises:
        UserError: A path is no run, there is none, they are runs in different environments, or two hold comparisons.
    """
    comparison: dict[str, Any] | None = None
    labelled: dict[str, list[RunFolder]] = {}
    for path in map(Path, paths):
        found = read_json(path / "comparison.json")
        if found is None:
            run = read_run(path)
            labelled.setdefault(json.dumps(_without_seed(run), sort_keys=True, default=str), []).append(run)
            continue
        if comparison is not None:
            raise UserError(
                f"{path} holds another comparison with scratch, and a report shows one: make a report of each, or name "
                "single runs in them"
            )
        comparison = found
        if (path / "config.yaml").is_file():  # a kickstarted run that was pulled from the hub
            labelled.setdefault("kickstarted", []).append(read_run(path))
        for kind in ("kickstarted", "scratch"):
            folders = sorted(path.glob(f"{kind}-*"), key=lambda p: (len(p.name), p.name))
            labelled.setdefault(kind, []).extend(read_run(folder) for folder in folders)
    groups = [Group(key, tuple(runs)) for key, runs in labelled.items() if runs]
    if not groups:
        raise UserError("there is nothing to report: name at least one run folder")
    environments = {run.env_id for group in groups for run in group.runs}
    if len(environments) > 1:
        raise UserError(
            f"these are runs in {', '.join(sorted(environments))}: returns of different environments do not go into "
            "one picture; make a report of each"
        )
    return _named(groups), comparison, Path(paths[0])


def _without_seed(run: RunFolder) -> dict[str, Any]:
    settings = {key: value for key, value in run.settings.items() if key != "seed"}
    return {"kind": run.kind, "teachers": run.teachers, "settings": settings}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` -> ``{"a.b": 1}``; mappings inside of lists stay."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            out |= flatten(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _named(groups: list[Group]) -> list[Group]:
    """Call every group by the settings in which it differs from the others."""
    if len(groups) == 1:
        return [Group("student", groups[0].runs)]
    if all(group.label in ("kickstarted", "scratch") for group in groups):
        return groups
    flat = [flatten(group.runs[0].settings) for group in groups]
    keys = [k for k in dict.fromkeys(k for f in flat for k in f) if k != "seed"]
    differ = [k for k in keys if len({json.dumps(f.get(k), default=str) for f in flat}) > 1]
    named = []
    for group, own in zip(groups, flat, strict=True):
        text = ", ".join(f"{key} {short(own[key])}" for key in differ if key in own)
        label = text if 0 < len(differ) <= 2 and text else group.runs[0].path.name
        named.append(Group(group.label if group.label in ("kickstarted", "scratch") else label, group.runs))
    return named


def short(value: Any) -> str:
    """Write a setting as on the command line."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "()"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


__all__ = [
    "Group",
    "RunFolder",
    "flatten",
    "gather",
    "population_rows",
    "read_json",
    "read_run",
    "short",
]
