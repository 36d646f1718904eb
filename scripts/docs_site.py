"""What mkdocs does to a page before it is built: what leads out of docs/ leads to the same thing on the site.

The pages are read in the repository too, where links to source files, presets and the README are right as they stand.
"""

import re
from pathlib import Path
from typing import Any

_PRESETS = Path(__file__).parents[1] / "src" / "understudy" / "presets"
_SOURCE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+src/understudy/([\w/]+)\.py\)")
_README = re.compile(r"\((?:\.\./)+README\.md\)")
_PRESET_LINE = re.compile(r"^Presets?: .*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to source files into references to API pages, a line of presets into their text, README into Start."""
    markdown = _PRESET_LINE.sub(_with_text, markdown)
    markdown = _SOURCE.sub(lambda m: f"[{m[1]}][understudy.{m[2].replace('/', '.')}]", markdown)
    return _README.sub(f"({'../' * page.file.src_uri.count('/')}index.md)", markdown)


def _with_text(line: re.Match[str]) -> str:
    names = re.findall(r"presets/([\w-]+)\.yaml", line[0])
    files = ((name, (_PRESETS / f"{name}.yaml").read_text(encoding="utf-8")) for name in names)
    return "\n\n".join(f'```yaml title="presets/{name}.yaml"\n{text}```' for name, text in files)
