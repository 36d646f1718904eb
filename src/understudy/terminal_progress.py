"""A progress line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from understudy.errors import tell


class _Terminal(Console):
    """Standard output. A run goes on when its reader goes away (``| head``); what only shows something ends there.

    The same holds where a full disk takes no more of it, or the terminal is gone.

    Attributes:
        needs_reader: Whether it ends.
    """

    needs_reader = True

    def on_broken_pipe(self) -> None:
        """Say nothing more."""
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()
        if self.needs_reader:
            raise SystemExit(1)

    def _check_buffer(self) -> None:
        """Write what is due; Rich itself knows broken pipes alone."""
        try:
            super()._check_buffer()
        except OSError as error:
            ends = "it ends here" if self.needs_reader else "the run goes on, and shows nothing more"
            tell(f"understudy: what is shown cannot be written ({error.strerror}): {ends}\n")
            self.on_broken_pipe()


console = _Terminal(highlight=False)


class ProgressLine:
    """What a run says of itself while it goes on, against its budget of env steps; shown within ``with``."""

    def __init__(self, title: str, budget: int, every: float = 0.0) -> None:
        """Start the clock.

        Args:
            title: The first word of the line.
            budget: Env steps of the whole run.
            every: Least seconds between two plain lines.
        """
        columns = (
            TextColumn(f"[bold]{title}[/]"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:,}/{task.total:,} env steps"),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self._task = self._progress.add_task(title, total=budget, text="starting") if self._progress else None
        self._every = every
        self._begin = self._shown = time.perf_counter()

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def update(self, env_steps: int, text: str) -> None:
        """Say how far the run is."""
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=env_steps, text=text)
        elif time.perf_counter() - self._shown >= self._every:
            self._shown = time.perf_counter()
            self.add(env_steps, text)

    def add(self, env_steps: int, text: str) -> None:
        """Print a line that stays."""
        seconds = time.perf_counter() - self._begin
        console.print(f"{seconds:6.1f} s  {env_steps:>10,} env steps  {text}", soft_wrap=True)
