"""What ``understudy report``, ``push`` and ``pull`` do: read, measure, write one file, publish it, fetch a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.markup import escape

from understudy.errors import UserError
from understudy.policies.files import write_atomic
from understudy.terminal_progress import console

_SUFFIXES = {"html": (".html", ".htm"), "markdown": (".md", ".markdown")}


def run_report(arguments: argparse.Namespace) -> None:
    """Write a report of one or several runs."""
    if arguments.out:
        _check_out(Path(arguments.out), arguments.format)
    content, home = content_of(arguments.run, not arguments.no_play, arguments.episodes, arguments.film)
    path = Path(arguments.out) if arguments.out else home / f"report{_SUFFIXES[arguments.format][0]}"
    text = render(content, arguments.format)
    write_atomic(path, text.encode())
    console.print(f"[bold]{escape(content.verdict.headline)}[/]", soft_wrap=True)
    for line in content.missing:
        console.print(f"  missing: {escape(line)}", soft_wrap=True, style="dim")
    console.print(f"report: {escape(str(path))} ({len(text.encode()) / 1000:,.0f} kB)", soft_wrap=True)


def _check_out(path: Path, kind: str) -> None:
    """Refuse a file that would not be what its name says, before anything is played.

    Raises:
        UserError: A folder, or another ending.
    """
    if path.is_dir():
        raise UserError(f"--out {path} is a folder: name the file to write")
    if path.suffix.lower() not in _SUFFIXES[kind]:
        other = next((k for k, endings in _SUFFIXES.items() if path.suffix.lower() in endings), "")
        also = f", or pass --format {other}" if other else ""
        raise UserError(f"--out {path}: a report in {kind} ends in {_SUFFIXES[kind][0]}: take that{also}")


def run_push(arguments: argparse.Namespace) -> None:
    """Publish a run with a model card."""
    from understudy.report.share import push, repository

    repo = repository(arguments.repo_id)
    content, home = content_of([arguments.run], not arguments.no_play, arguments.episodes, False)
    for line in content.missing:
        console.print(f"  missing: {escape(line)}", soft_wrap=True, style="dim")
    pushed = push(content, home, repo, private=arguments.private)
    console.print(f"pushed: {', '.join(pushed)}", soft_wrap=True)
    console.print(f"load it with understudy.load({repo!r})", soft_wrap=True)


def run_pull(arguments: argparse.Namespace) -> None:
    """Fetch a run."""
    from understudy.report.share import pull

    folder = pull(arguments.repo_id, arguments.out)
    names = sorted(path.name for path in folder.iterdir())
    console.print(f"{escape(str(folder))}: {', '.join(names)}", soft_wrap=True)


def content_of(runs: list[str], play: bool, episodes: int, film: bool) -> tuple[Any, Path]:
    """Return what the report says, and the folder that it belongs to.

    Raises:
        UserError: A path is no run, or they do not belong into one report.
    """
    if episodes < 0:
        raise UserError(f"--episodes must be 0 or more, not {episodes}")
    from understudy.report.content import compose
    from understudy.report.folder import gather
    from understudy.report.measure import Plan, take_measures

    groups, comparison, home = gather(runs)
    missing: list[str] = []
    with console.status("reading") as status:
        measured = take_measures(groups, Plan(play, episodes, film), missing, status.update)
    return compose(groups, comparison, measured, missing), home


def render(content: Any, kind: str) -> str:
    """Return the file's text."""
    if kind == "markdown":
        from understudy.report.markdown import to_markdown

        student = content.groups[0].runs[0].student
        return to_markdown(content, "" if student is None else str(student))
    from understudy.report.html import to_html

    return to_html(content)
