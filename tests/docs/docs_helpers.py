"""Reads pages as text, and runs what stands in their blocks, without mkdocs."""

import contextlib
import io
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from understudy.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    text: str


class Command(NamedTuple):
    """A command of a console block, and what the page says that it prints."""

    words: tuple[str, ...]
    output: tuple[str, ...]
    first: bool
    """Whether a block begins with it; each begins in the same folder."""


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str, language: str = "") -> list[Block]:
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)
    return [Block(name, text) for name, text in found if language in ("", name)]


def prose(page: str) -> str:
    """The page without its blocks of code and its code in lines, in which nothing is a link or a heading."""
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<!\[)`[^`\n]+`(?!\])", "", text)


def links(page: str) -> list[str]:
    """Targets of links and pictures that lead to files; those to the web are left out."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in found if not target.startswith(("http://", "https://"))]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading; mkdocs.yml chooses the same."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def anchors(page: str) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def commands(page: str) -> list[Command]:
    """The commands of all console blocks of a page, in their order."""
    found: list[Command] = []
    for block in blocks(page, "console"):
        text = re.sub(r" \\\n\s*", " ", block.text)
        for i, part in enumerate(re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]):
            line, *output = part.rstrip("\n").split("\n")
            found.append(Command(tuple(shlex.split(line)), tuple(output), i == 0))
    return found


def site() -> dict[str, Any]:
    """mkdocs.yml; its tags name Python objects, which are not made."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
    return yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)  # noqa: S506 (a safe loader, without the tags)


def nav(entries: list[Any] | None = None) -> list[str]:
    """The pages of the navigation, in their order."""
    found: list[str] = []
    for entry in site()["nav"] if entries is None else entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += nav(value) if isinstance(value, list) else [value]
    return found


def run(command: Command, folder: Path) -> str:
    """Run a command of a page in this process (a new one would import PyTorch again), and return what it prints."""
    name, *words = command.words
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        if name == "understudy":
            main(words)
        elif name == "python" and words[0] == "-c":
            exec(compile(words[1], "<page>", "exec"), {"__name__": "__main__"})
        elif name == "python":
            _run_file(Path(words[0]))
        else:
            raise AssertionError(f"a page asks to run {name}")
    return printed.getvalue()


def _run_file(path: Path) -> None:
    before, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(path.parent.absolute()))
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.path[:] = before
        for name in set(sys.modules) - known:
            if getattr(sys.modules[name], "__file__", "").__str__().startswith(str(path.parent.absolute())):
                del sys.modules[name]


def run_page(page: str, folder: Path) -> dict[str, str]:
    """Run all commands of a page in a folder, and check what they print against the page; returns it by command.

    Numbers differ from machine to machine and are not compared: of every line that the page shows, the words before its
    first number must have been printed. Lines with plots, rules, verdicts or "…" are left out.
    """
    where, seen = folder, {}
    for command in commands(page):
        where = folder if command.first else where
        if command.words[0] == "cd":
            where = folder / command.words[1]
            continue
        printed = run(command, where)
        seen[" ".join(command.words)] = printed
        flat = " ".join(printed.split())  # lines may be broken elsewhere
        for line in command.output:
            if not _CHANGING.search(line):
                assert _head(line) in flat, f"{page}: {line!r} is not in\n{printed}"
    return seen


_VERDICT = r"^on par|^(On|Not shown to be on) par with its teacher$|^budget|yes|no \(p"
_CHANGING = re.compile(rf"…|missing:|env steps  |env steps,|{_VERDICT}|[⠀-⣿━┃┡└│┏]")


def _head(line: str) -> str:
    """The words of a line before its first number, whatever space is between them."""
    return " ".join(re.split(r"[-−+<≥]?\d|\[|–", line, maxsplit=1)[0].split())
