"""What the charts and lists of a report show, and the sentences beneath them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from understudy.evaluation.statistics import bootstrap_interval
from understudy.evaluation.tables import number
from understudy.report.content import Content
from understudy.report.curves import Curve, learning_curve, metric
from understudy.report.disagreement import State
from understudy.report.folder import Group
from understudy.report.lessons import lessons
from understudy.report.svg import Mark, Panel
from understudy.report.svg_dots import Sample
from understudy.report.tables import RANDOM, color, color_in_table

_METRICS = {
    "distill": (("loss", "Loss of the distillation"),),
    "train": (("entropy", "Entropy, nats"), ("approx_kl", "KL of an update, nats")),
}
_MOST_VALUES = 32


def panels_of(content: Content) -> list[Panel]:
    """Return the learning curves, and beneath them what moved: lambda and the distance, the loss, or the entropy."""
    groups, known = content.groups, dict(content.references)
    distill = content.kind == "distill"
    # A distilled student is good from its first evaluation on: a line from chance would squeeze what matters.
    start = None if distill else known.get("random")
    curves = [(color(i), learning_curve(g, start)) for i, g in enumerate(groups)]
    found = []
    if any(len(curve.points) > (start is not None) for _, curve in curves):
        marks = [Mark(value, name) for name, value in content.references if not (distill and name == "random")]
        if distill and len(known) == 2:
            goal = float(groups[0].runs[0].settings["stop"]["ratio"])
            score = known["random"] + goal * (known["teacher"] - known["random"])
            marks.append(Mark(score, f"goal ({100 * goal:g} %)"))
        found.append(Panel("Return, evaluation episodes", tuple(curves), 230, tuple(marks)))
    for name, title, logarithmic in _beneath(content.kind, groups):
        lines = [(color(i), metric(group, name)) for i, group in enumerate(groups)]
        lines = [(k, line) for k, line in lines if line.points]
        if any(len(line.points) > 1 for _, line in lines):
            found.append(Panel(title, tuple(lines), 84, zero=not logarithmic, logarithmic=logarithmic))
    return found


def _beneath(kind: str, groups: Sequence[Group]) -> list[tuple[str, str, bool]]:
    """Return (metric, title, logarithmic) of the panels under the curves."""
    if kind != "kickstart":
        return [(name, title, name in ("loss", "approx_kl")) for name, title in _METRICS[kind]]
    return [(name, title, False) for name, title in lessons([run for group in groups for run in group.runs])]


def curves_caption(content: Content, panels: Sequence[Panel]) -> str:
    """Say what lines and bands are."""
    first = panels[0].curves[0][1] if panels else Curve("", ())
    text = "Mean return of separate evaluation episodes while learning. "
    if any(run.members for group in content.groups for run in group.runs):
        text += "Of a population: of the member that was the best on them, interval by interval. "
    if first.interval:
        text += f"Shaded: {first.interval}. "
    if first.singles:
        text += "Thin lines are single runs. "
    random = dict(content.references).get("random")
    if content.kind == "distill" and random is not None:
        text += f"Random actions earn {number(random)}. "
    if content.kind == "kickstart":
        text += "Where λ is 0 for good, the teacher is not asked, and no distance to it is known."
    return text.strip()


def samples_of(content: Content) -> list[Sample]:
    """Return the episodes that can be shown: those of the table, else those of the last evaluation."""
    if content.table is not None:
        rows = content.table.rows
        found = [
            Sample(
                row.name, color_in_table(content, i), tuple(map(float, row.evaluation.returns)),
                row.evaluation.mean, row.evaluation.mean_interval,
            )
            for i, row in enumerate(rows)
        ]  # fmt: skip
        random = content.table.random
        episodes = tuple(map(float, random.returns))
        return [*found, Sample("random", RANDOM, episodes, random.mean, random.mean_interval)]
    found = []
    for i, group in enumerate(content.groups):
        returns = [v for run in group.runs for v in (run.summary or {}).get("returns", [])]
        if returns:
            values = np.array(returns, np.float64)
            low, high = bootstrap_interval(values)
            name = "policy" if len(content.groups) == 1 else group.label
            found.append(Sample(name, color(i), tuple(map(float, values)), float(values.mean()), (low, high)))
    return found


def returns_caption(samples: Sequence[Sample], far: Sequence[Sample]) -> str:
    """Say what dots are, and who is not in the picture."""
    count = len(samples[0].returns)
    dots = "The dot is one fresh episode" if count == 1 else f"Every dot is one of {count} fresh episodes"
    text = f"{dots}; the bar is the 95 % interval of the mean."
    for sample in far:
        side = "left" if sample.mean < samples[0].mean else "right"
        low, high = map(number, sample.interval)
        text += (
            f" The policy of random actions, {number(sample.mean)} [{low}, {high}], is off the picture to the {side}."
        )
    return text


def shown_values(state: State) -> tuple[list[tuple[str, str, bool]], int]:
    """Return (name, value, unusual) of the observation, at most so many as can be read, and how many are left out.

    The unusual ones, more than two deviations from the mean of the visited states, are kept first.
    """
    keep = sorted(range(len(state.values)), key=lambda i: -abs(state.values[i][2]))[:_MOST_VALUES]
    chosen = [state.values[i] for i in sorted(keep)]
    return [(n, f"{v:.3g}", abs(z) > 2) for n, v, z in chosen], len(state.values) - len(chosen)


def action_text(action: Sequence[float], continuous: bool) -> str:
    """Write an action: numbers with three digits, or choices."""
    if continuous:
        return " ".join(f"{v:.2f}" for v in action)
    return " ".join(f"{v:.0f}" for v in action)
