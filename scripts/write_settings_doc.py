"""Write docs/settings.md, the flags of all commands with settings: ``python scripts/write_settings_doc.py``."""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

from understudy.config import flags
from understudy.preset_files import preset
from understudy.settings import METHODS, TAUGHT, DistillSettings, KickstartSettings, TrainSettings

PAGES = (
    ("distill", DistillSettings, ("distill-continuous", "distill-discrete", "dagger", "demo")),
    ("train", TrainSettings, ("ppo", "a2c", "a3c", "impala", "reinforce")),
    ("train", METHODS["q_learning"], ("dqn", "rainbow", "ape-x")),
    ("train", METHODS["deterministic"], ("td3", "ddpg")),
    ("train", METHODS["soft"], ("sac",)),
    (
        "kickstart",
        KickstartSettings,
        (
            "kickstarting",
            "distill-student",
            "distill-teacher",
            "n-distill",
            "eer",
            "ppd",
            "jsrl",
            "finetune",
            "value-shaping",
        ),
    ),
    ("kickstart", TAUGHT["q_learning"], ("qdagger",)),
    ("kickstart", TAUGHT["soft"], ("sac-from-teacher",)),
)
HEAD = """# Settings

Written by `python scripts/write_settings_doc.py`. Each row is a flag (`--student.hidden 64 64`), a key of a YAML preset
(`student: {hidden: [64, 64]}`) and a keyword of `understudy.distill`, `understudy.train` or
`understudy.kickstart` (`student__hidden=[64, 64]`). A preset's column is empty where it leaves the default; the other
presets are printed by `understudy presets NAME`. Short forms: `--env`, `--execution`, `--num-workers`, `--num-envs`,
`--env-steps`, `--evaluate-every`, `--worker-timeout`, `--ray-address`, `--population`.

`sweep` takes the settings of `distill`. `kickstart` takes those of `train` by the same method, and what its own tables
say beside them; with `ddpg` and `td3` (method deterministic) these are as with `soft`.
"""


def shown(value: Any) -> str:
    """Write a value as it would stand after its flag."""
    words = map(str, value) if isinstance(value, tuple | list) else [str(value)]
    return f"`{' '.join(w.lower() if w in ('True', 'False', 'None') else w for w in words)}`".replace("``", "")


def about_group(settings: Any, group: str) -> str:
    """Return the sentence of a group of settings."""
    here = settings
    for part in filter(None, group.split(".")):
        here = get_type_hints(here)[part]
    return str(here.__doc__) if group else "The run as a whole."


def section(data: dict[str, Any], group: str) -> dict[str, Any]:
    """Return a preset's part for a group."""
    for part in filter(None, group.split(".")):
        data = data.get(part, {})
    return data


def tables(settings: Any, names: tuple[str, ...]) -> str:
    """Return one table for each group of settings."""
    found: dict[str, str] = {}
    # Kickstarting has the settings of training too; they stand in that table.
    alone = {KickstartSettings: TrainSettings} | {kind: METHODS[method] for method, kind in TAUGHT.items()}
    known = {name for name, _, _ in flags(alone[settings])} if settings in alone else set()
    for name, _, field in flags(settings):
        if name in known:
            continue
        group, _, leaf = name.rpartition(".")
        if group not in found:
            found[group] = f"\n### {group or 'run'}\n\n{about_group(settings, group)}\n\n"
            found[group] += f"| flag | default | {' | '.join(names)} | what it is |\n|{'---|' * (len(names) + 3)}\n"
        own = [preset(p) for p in names]
        set_to = [shown(section(p, group).get(leaf, ())) for p in own]
        default = () if field.default is MISSING else field.default
        about = field.metadata["help"].replace("|", "\\|")
        if bounds := str(field.metadata["bounds"]):
            about += f" ({bounds})"
        found[group] += f"| `--{name}` | {shown(default)} | {' | '.join(set_to)} | {about} |\n"
    return "".join(found.values())


def page() -> str:
    """Return the page."""
    text = HEAD
    for command, settings, names in PAGES:
        method = next((f.default for f in fields(settings) if f.name == "method"), "")
        which = f", method {method}" if method not in ("", "actor_critic") else ""
        text += f"\n## Settings of `understudy {command}`{which}\n" + tables(settings, names)
    return text


def main() -> None:
    """Write the page."""
    Path("docs/settings.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
