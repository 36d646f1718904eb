"""Presets and the YAML files that hold them; what they say is merged by ``config``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from understudy.config import merge
from understudy.errors import UserError, suggest

Presets = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""Name of a preset or path of a YAML file, or several, merged from left to right."""


def presets() -> dict[str, Path]:
    """Return the presets by name: those of the package, and YAML files of ``./presets``."""
    shipped = Path(__file__).parent / "presets"
    folders = [folder for folder in (shipped, Path("presets")) if folder.is_dir()]
    return {p.stem: p for folder in folders for end in ("yml", "yaml") for p in sorted(folder.glob(f"*.{end}"))}


class _OnceLoader(yaml.SafeLoader):
    """Refuses a mapping with a key twice, of which YAML would keep the last in silence; merges (``<<``) are none."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Return the node of a mapping."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in lines:
                    raise yaml.YAMLError(f"the key {key.value!r} in line {line} stands in line {lines[name]} already")
                lines[name] = line
        return node


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys.

    Raises:
        UserError: It is missing, broken, not a mapping, or has a key twice.
    """
    try:
        data = yaml.load(path.read_text(), _OnceLoader)  # noqa: S506 (it is a SafeLoader)
    except FileNotFoundError:
        raise UserError(f"no configuration file at {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold keys and values, not {type(data).__name__}")
    return data


def preset(name: str) -> dict[str, Any]:
    """Read a preset by name, or any YAML file by path.

    Raises:
        UserError: There is no such preset; the nearest names are suggested.
    """
    return read_yaml(preset_path(name))


def preset_names(given: Presets | None) -> list[str]:
    """Return names or paths of presets, of which one may be given, several or none.

    Raises:
        UserError: Something else is given.
    """
    several = [given] if isinstance(given, (str, os.PathLike)) else given or ()
    if not isinstance(several, (list, tuple)) or not all(isinstance(one, (str, os.PathLike)) for one in several):
        raise UserError(f"preset is {given!r}; it must be a name or the path of a YAML file, or a list of them")
    return [os.fspath(name) for name in several if name]


def merged_presets(given: Presets | None) -> dict[str, Any]:
    """Return what presets say, merged from left to right.

    Raises:
        UserError: There is no such preset.
    """
    merged: dict[str, Any] = {}
    for name in preset_names(given):
        merged = merge(merged, preset(name))
    return merged


def preset_path(name: str) -> Path:
    """Return the file of a preset; the path of a YAML file is one already.

    Raises:
        UserError: There is no such preset; the nearest names are suggested.
    """
    known = presets()
    if name in known:
        return known[name]
    if name.lower().endswith((".yaml", ".yml")):
        return Path(name)
    if Path(name).is_file():
        raise UserError(f"the preset {name} must be a YAML file whose name ends in .yaml or .yml")
    raise UserError(f"no preset {name!r}{suggest(name, known)} (presets: {', '.join(sorted(known))})")
