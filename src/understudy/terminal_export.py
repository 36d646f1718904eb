"""What ``understudy export`` prints."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from rich.markup import escape

from understudy.envs.unity.options import is_unity
from understudy.scene_flags import words_of
from understudy.terminal_progress import console


def run_export(arguments: argparse.Namespace) -> None:
    """Export a student, and play the exported file beside it where that is asked for."""
    from understudy.io.export.export import export

    found = export(
        arguments.student, arguments.format, arguments.out, int8=arguments.int8, env=arguments.env,
        data=arguments.data, states=arguments.states, seed=arguments.seed, force=arguments.force,
        algorithm=arguments.algorithm,
    )  # fmt: skip
    console.print(f"[bold]{escape(str(found.path))}[/]: {found.format}, {found.precision}", soft_wrap=True)
    _row("check", f"{found.difference.text()}")
    _row("states", found.states)
    for name, text in found.facts:
        _row(name, text)
    for path in found.files:
        if path != found.path:
            _row("also", str(path))
    for note in found.notes:
        _row("note", note)
    if arguments.check_episodes:
        _parity(arguments, found)
    else:
        env = ["--env", arguments.env] if arguments.env else []
        if found.env is not None and is_unity(found.env.id) and found.env.id == arguments.env:
            env += words_of(found.env)
        _row("play it", shlex.join(["understudy", "evaluate", str(found.path), *env]))


def _row(name: str, text: str) -> None:
    console.print(f"  {name:10} {escape(text)}", soft_wrap=True)


def _parity(arguments: argparse.Namespace, found: Any) -> None:
    """Play the student and the exported file on the same episodes, and say whether the file is on par."""
    from understudy.distill_job import load_for
    from understudy.evaluation.compare import compare
    from understudy.evaluation.tables import print_comparison

    student = load_for(arguments.student, arguments.env)
    exported = load_for(str(found.path), student.about.env or arguments.env)
    played = compare(
        [student, exported], student.about.env, arguments.check_episodes, seed=arguments.seed,
        names=["student", found.path.name],
    )  # fmt: skip
    row = played.rows[1]
    if row.parity is None:  # a note of the comparison says why
        console.print("[bold]no test was possible[/]")
        return print_comparison(played, console)
    verdict = "on par" if row.parity.passed else "NOT on par"
    share = f"at 95 % confidence the file reaches at least {played.wanted_ratio:.0%} of the student's return"
    shown = share if row.parity.passed else f"not shown that {share}"
    console.print(f"[bold]{verdict}[/]: {shown} (p {row.parity.p_value:.2g})", soft_wrap=True)
    print_comparison(played, console)
