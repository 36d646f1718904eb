"""What ``understudy sweep`` shows: a line for each size, then the table, the picture, and the smallest on par."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape

from understudy.evaluation.tables import print_comparison
from understudy.terminal_progress import console


def run_sweep(
    teachers: Sequence[str],
    env: Sequence[str] | None,
    sizes: Sequence[str],
    settings: Mapping[str, Any],
    preset: str | None,
    run: str,
    ensemble: str | None,
) -> None:
    """Distil the ladder and tell what came out."""
    from understudy.evaluation.ladder import draw
    from understudy.sweeping import sweep

    def tell(name: str, what: str) -> None:
        console.print(f"{name:>10}  {what}", soft_wrap=True)

    found = sweep(
        list(teachers),
        list(env) if env else None,
        sizes,
        settings,
        preset=preset,
        run=run,
        ensemble=ensemble,
        tell=tell,
    )
    print_comparison(found.comparison, console)
    level = f"level {found.comparison.alpha:.3g} each, 0.05 for all {len(found.sizes)} together"
    if found.smallest is None:
        console.print(f"[bold]no student of these sizes was shown to be on par[/] ({level})", soft_wrap=True)
    else:
        row = next(row for row in found.comparison.rows if row.name == found.smallest)
        teacher = found.comparison.reference.parameters
        share = f", {100 * row.parameters / teacher:.2g} % of the teacher's" if row.parameters and teacher else ""
        console.print(
            f"[bold]smallest on par: {escape(found.smallest)}[/], {row.parameters:,} parameters{share} ({level})",
            soft_wrap=True,
        )
    picture = draw(found.comparison, found.folder / "sweep.png")
    console.print(f"picture: {escape(str(picture))}", soft_wrap=True)
    console.print(f"numbers: {escape(str(found.folder / 'sweep.json'))}", soft_wrap=True)
