"""What ``understudy watch`` shows: a run's log, followed in the terminal; TensorBoard is the view for browsers."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.text import Text

from understudy.errors import UserError
from understudy.report.live import Follower, frame, state_of
from understudy.terminal_progress import console

_START_SECONDS = 60.0
"""A run that was just started has no folder yet."""


def run_watch(arguments: argparse.Namespace) -> None:
    """Show frames until the run ends; one where nobody watches or one was asked for."""
    if arguments.every <= 0:
        raise UserError(f"--every is in seconds and above 0, not {arguments.every:g}")
    follower = Follower(Path(arguments.run))
    if arguments.once or not console.is_terminal:
        console.print(_drawn(follower), soft_wrap=True)
        return
    _await_folder(follower.folder)
    with Live(_drawn(follower), console=console, auto_refresh=False) as live:
        while True:
            picture = _drawn(follower)
            live.update(picture, refresh=True)
            if state_of(follower.read(), time.time())[0] == "ended":
                return
            time.sleep(arguments.every)


def _await_folder(folder: Path) -> None:
    """Wait for a run that was started a moment ago."""
    begin = time.monotonic()
    while not (folder / "config.yaml").is_file():
        if not folder.is_dir() or time.monotonic() - begin > _START_SECONDS:
            return  # reading it will say what is wrong
        time.sleep(0.2)


def _drawn(follower: Follower) -> Group:
    lines = frame(follower.read(), console.width, console.height)
    return Group(*(Text(text, style=style, overflow="fold") for style, text in lines))
