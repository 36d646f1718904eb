"""Write docs/settings.md, all flags of ``understudy distill``: ``python scripts/write_settings_doc.py``."""

from pathlib import Path
from typing import Any, get_type_hints

from understudy.config import flags, preset
from understudy.settings import DistillSettings

PRESETS = ("distill-continuous", "distill-discrete", "demo")
HEAD = """# Settings of `understudy distill`

Written by `python scripts/write_settings_doc.py`. Each row is a flag (`--student.hidden 64 64`), a key of a YAML preset
(`student: {hidden: [64, 64]}`) and a keyword of `understudy.distill` (`student__hidden=[64, 64]`). A preset's column is
empty where it leaves the default. `--execution`, `--num-workers` and `--env-steps` are short forms.
"""


def shown(value: Any) -> str:
    """Write a value as it would stand after its flag."""
    words = map(str, value) if isinstance(value, tuple | list) else [str(value)]
    return f"`{' '.join(w.lower() if w in ('True', 'False', 'None') else w for w in words)}`".replace("``", "")


def main() -> None:
    """Write the page."""
    page, kinds = HEAD, get_type_hints(DistillSettings)
    for name, _, field in flags(DistillSettings):
        group, _, leaf = name.rpartition(".")
        if f"\n## {group or 'run'}\n" not in page:
            page += f"\n## {group or 'run'}\n\n{kinds[group].__doc__ if group else 'The run as a whole.'}\n\n"
            page += f"| flag | default | {' | '.join(PRESETS)} | what it is |\n|{'---|' * (len(PRESETS) + 3)}\n"
        set_to = [shown(preset(p).get(group, {}).get(leaf, ())) for p in PRESETS]
        text = field.metadata["help"].replace("|", "\\|")
        page += f"| `--{name}` | {shown(field.default)} | {' | '.join(set_to)} | {text} |\n"
    Path("docs/settings.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
