"""Runs on the Hugging Face hub (the extra ``hub``): a policy as safetensors, its numbers, and a model card."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from safetensors.numpy import save

from understudy.envs.unity.options import PREFIX
from understudy.errors import UserError, missing_extra
from understudy.policies.stored import read_policy
from understudy.report.content import Content
from understudy.report.folder import RunFolder
from understudy.report.markdown import to_markdown
from understudy.report.measure import shown
from understudy.teachers.foreign import PULLED
from understudy.teachers.hub import PATTERNS, download

_REPOSITORY = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_NUMBERS = (
    "summary.json",
    "result.json",
    "result.png",
    "scores.json",
    "log.jsonl",
    "comparison.json",
    "comparison.png",
    "population.jsonl",
    "population.png",
)
_EXPORTED = (".onnx", ".c", ".h", ".mp4", ".gif", ".webm")
_ABSOLUTE = re.compile(r"(?<![\w/.:~-])(?:/[^\s/\"',]+){2,}")
"""A path in a sentence."""
MOST_BYTES = 20_000_000
"""Of one file beside the policy; larger logs and films stay at home."""


def repository(name: str) -> str:
    """Return the id of a repository.

    Raises:
        UserError: It is not ``org/name``.
    """
    if not _REPOSITORY.match(name):
        raise UserError(f"{name!r} is not the id of a repository: write org/name, such as my-org/halfcheetah-64x64")
    return name


def push(content: Content, home: Path, repo: str, private: bool = False, api: Any = None) -> list[str]:
    """Upload a run: its policy, its configuration and numbers, and the report as ``README.md``.

    Args:
        content: The report.
        home: The folder that it belongs to: of the run, or of its comparison with scratch.
        repo: ``org/name``; made if there is none.
        private: Whether only its owner sees it.
        api: A client of the hub; ``huggingface_hub.HfApi()``, with the token of this machine, by default.

    Returns:
        The names of the files.

    Raises:
        UserError: huggingface_hub is not installed, there is no policy yet, or the hub refuses.
    """
    try:
        from huggingface_hub import HfApi, errors
    except ImportError:
        raise missing_extra("huggingface_hub", "hub", "understudy push") from None
    run = content.groups[0].runs[0]
    if run.student is None:
        raise UserError(f"{run.path} holds no policy yet: there is nothing to push")
    client = HfApi() if api is None else api
    lost: Any = errors.HfHubHTTPError.__bases__  # errors of its HTTP library, which has had several names
    with tempfile.TemporaryDirectory() as staged:
        names = stage(content, run, home, Path(staged), repo)
        try:
            client.create_repo(repo, private=private, repo_type="model", exist_ok=True)
            client.upload_folder(repo_id=repo, folder_path=staged, commit_message=f"{content.title} (understudy)")
        except errors.LocalTokenNotFoundError:
            raise UserError("the hub knows you by a token, and there is none on this machine: hf auth login") from None
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise UserError(f"the hub did not take {repo} ({reason}): is the name yours? hf auth login") from error
        except lost as error:
            raise UserError(f"the hub cannot be reached ({error}): {repo} was not pushed") from error
    return names


def stage(content: Content, run: RunFolder, home: Path, folder: Path, repo: str) -> list[str]:
    """Write what is to be uploaded into a folder; paths of this machine are shortened."""
    assert run.student is not None
    stored = read_policy(run.student)
    (folder / run.student.name).write_bytes(save(stored.arrays, {"understudy": json.dumps(shortened(stored.about))}))
    config = shortened({key: value for key, value in run.config.items() if key != PULLED})
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    for path in _beside(run, home):
        if path.suffix in (".json", ".jsonl"):
            (folder / path.name).write_text(_json_for_strangers(path), encoding="utf-8")
        elif path.suffix not in _EXPORTED or not _names_this_machine(path, run):
            shutil.copyfile(path, folder / path.name)
    (folder / "README.md").write_text(_for_strangers(to_markdown(content, f"hf://{repo}"), run, home), encoding="utf-8")
    return sorted(path.name for path in folder.iterdir())


def shortened(data: Any) -> Any:
    """Return JSON with its absolute paths shortened, also those in a sentence or behind ``unity:``."""
    if isinstance(data, dict):
        return {key: shortened(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [shortened(value) for value in data]
    if not isinstance(data, str):
        return data
    if data.startswith((PREFIX, "/")):
        scheme = PREFIX if data.startswith(PREFIX) else ""
        return scheme + shown(data.removeprefix(scheme))
    return _ABSOLUTE.sub(lambda found: shown(found[0]), data)


def _json_for_strangers(path: Path) -> str:
    """Return JSON, or lines of it, with shortened paths; what names none, or cannot be read, stays as it is."""
    text = path.read_text(encoding="utf-8")
    parts = text.splitlines(keepends=True) if path.suffix == ".jsonl" else [text]
    for i, part in enumerate(parts):
        with contextlib.suppress(ValueError):  # the line that a killed run had begun
            data = json.loads(part)
            if shortened(data) != data:
                parts[i] = json.dumps(shortened(data), indent=None if path.suffix == ".jsonl" else 2) + "\n"
    return "".join(parts)


def _names_this_machine(path: Path, run: RunFolder) -> bool:
    """Say whether an exported file names a folder of this machine; it cannot be changed, and stays at home."""
    folders = {Path.home(), run.path.absolute(), *(Path(teacher).parent for teacher in run.teachers)}
    content = path.read_bytes()
    return any(f.is_absolute() and len(f.parts) > 1 and str(f).encode() in content for f in folders)


def _for_strangers(text: str, run: RunFolder, home: Path) -> str:
    """Shorten paths of this machine: they help nobody else, and say who works where."""
    for path in sorted({*run.teachers, str(run.path), str(home)}, key=len, reverse=True):
        if Path(path).is_absolute():
            text = text.replace(path, shown(path))
    text = _ABSOLUTE.sub(lambda found: shown(found[0]), text)
    return text.replace(str(Path.home()), "~") if len(Path.home().parts) > 1 else text


def _beside(run: RunFolder, home: Path) -> Iterator[Path]:
    """Yield the files that go with the policy; those of the run itself win over those of its comparison."""
    seen = set()
    for folder in dict.fromkeys((run.path, home)):
        exported = sorted(path for path in folder.iterdir() if path.suffix in _EXPORTED)
        for path in (*(folder / name for name in _NUMBERS), *exported):
            plain = path.is_file() and not path.is_symlink() and not path.name.startswith(".")
            if plain and path.name not in seen and path.stat().st_size <= MOST_BYTES:
                seen.add(path.name)
                yield path


def _mark(config: Path, source: str) -> None:
    """Write into a configuration where it came from: what it names is not the user's word."""
    with contextlib.suppress(OSError, yaml.YAMLError, ValueError, TypeError, RecursionError):  # nobody can read it
        found = yaml.safe_load(config.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            marked = yaml.safe_dump({**found, PULLED: source}, sort_keys=False, allow_unicode=True)
            config.write_text(marked, encoding="utf-8")


def pull(source: str, out: str | os.PathLike[str] | None = None) -> Path:
    """Fetch a run from the hub, or from the local cache where the hub cannot be reached, into a folder.

    Args:
        source: ``org/name`` or ``org/name@revision``.
        out: The folder to make; ``runs/NAME`` by default.

    Raises:
        UserError: Neither hub nor cache has it, it holds no policy, or the folder is there already.
    """
    name, _, revision = source.removeprefix("hf://").partition("@")
    repository(name)
    folder = Path(out) if out is not None else Path("runs") / name.partition("/")[2]
    if folder.exists():
        raise UserError(f"{folder} is there already: name another folder with --out")
    patterns = (*PATTERNS, "*.json", "*.jsonl", "*.md", "*.png", *(f"*{suffix}" for suffix in _EXPORTED))
    found = download(f"{name}@{revision}" if revision else name, patterns)
    files = [path for path in sorted(found.iterdir()) if path.is_file()]
    if not any(path.suffix in (".safetensors", ".zip", ".pt", ".ts", ".onnx") for path in files):
        raise UserError(f"hf://{name} holds no policy")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as staged:
        for path in files:
            shutil.copyfile(path, Path(staged) / path.name)  # the cache holds links
        _mark(Path(staged) / "config.yaml", f"hf://{source.removeprefix('hf://')}")
        shutil.copytree(staged, folder)
    return folder
