"""Teachers on the Hugging Face hub (the extra ``hub``); what is in the local cache also loads offline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from understudy.errors import UserError, missing_extra

_NAME = re.compile(r"^(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>.+))?$")
PATTERNS = ("*.safetensors", "*.zip", "*.yml", "*.yaml", "*.pkl", "*.pt", "*.ts", "*.onnx")
"""What ``load`` can read."""


def download(source: str, patterns: Sequence[str] = PATTERNS) -> Path:
    """Return the local copy of ``org/name[@revision][/file]``: its folder, or the file in it.

    Only files of these patterns are fetched, by default those that ``load`` can read. Where the hub cannot be reached,
    the cache is used.

    Raises:
        UserError: huggingface_hub is not installed, the name is malformed, or neither hub nor cache has it.
    """
    match = _NAME.match(source)
    if match is None:
        raise UserError(f"{source!r} is not a hub id: write hf://org/name, hf://org/name/file or org/name@revision")
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise missing_extra("huggingface_hub", "hub", f"loading hf://{source}") from None
    repo, revision, file = match["repo"], match["revision"], match["file"]
    if ".." in Path(file or "").parts:
        raise UserError(f"hf://{source} leaves its repository")
    client: Any = errors.HfHubHTTPError.__bases__  # errors of its HTTP library, which has had several names
    try:
        folder = _snapshot(huggingface_hub.snapshot_download, repo, revision, list(patterns))
    except (*client, errors.LocalEntryNotFoundError, errors.HFValidationError, OSError) as error:
        reason = str(error).strip().split("\n")[0][:160]
        raise UserError(f"hf://{repo} is neither on the hub nor in the local cache ({reason})") from error
    path = folder / file if file else folder
    if not path.exists():
        raise UserError(f"hf://{repo} has no file {file!r}")
    return path


def _snapshot(fetch: object, repo: str, revision: str | None, patterns: list[str]) -> Path:
    """Ask the hub, then the cache: ``snapshot_download`` only falls back by itself for some network errors."""
    assert callable(fetch)
    try:
        return Path(str(fetch(repo, revision=revision, allow_patterns=patterns)))
    except Exception as error:
        try:
            return Path(str(fetch(repo, revision=revision, allow_patterns=patterns, local_files_only=True)))
        except Exception:
            raise error from None  # why the hub refused says more than that the cache is empty
