"""A report as Markdown: a model card for the Hugging Face hub, or for a repository."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from understudy import __version__
from understudy.report import tables, views
from understudy.report.content import Content

_MARKUP = {"|": "\\|", "<": "&lt;", ">": "&gt;", "\n": " "}


def plain_text(text: str) -> str:
    """Make text safe inside of Markdown: no table is broken, no HTML gets in."""
    for sign, safe in _MARKUP.items():
        text = text.replace(sign, safe)
    return text


def to_markdown(content: Content, source: str = "") -> str:
    """Return the report as Markdown.

    Args:
        content: What it says.
        source: What loads the policy: the id of its repository, or its file; empty: how is not said.
    """
    parts = [_front_matter(content), f"# {plain_text(content.title)}"]
    parts.append(f"**{content.verdict.headline}.** {plain_text(content.verdict.text)}")
    for card in content.cards:
        rows = "\n".join(f"- {name}: {plain_text(value)}" for name, value in card.rows)
        parts.append(f"**{card.role}** {plain_text(card.name)}\n\n{rows}".rstrip())
    parts.append("\n".join(f"- {name}: {plain_text(value)}" for name, value in content.facts))
    parts += _how_to_use(source) if source else []
    saved = tables.savings_table(content.saved)
    if saved is not None:
        parts += ["## Env steps to the teacher's score", saved.text, _table(saved), saved.legend]
    panels = views.panels_of(content)
    if panels and panels[0].curves and panels[0].title.startswith("Return"):
        numbers = tables.curve_numbers(panels)
        parts += ["## Learning", views.curves_caption(content, panels), _table(numbers)]
    parts += _rest(content)
    return "\n\n".join(part for part in parts if part) + "\n"


def _how_to_use(source: str) -> list[str]:
    code = (
        f"import understudy\n\npolicy = understudy.load({source!r})\n"
        "action, state = policy.predict(observation, state=None, deterministic=True)"
    )
    shell = f"understudy evaluate {source} --episodes 20\nunderstudy export {source} --format onnx --out policy.onnx"
    return ["## Use it", f"```python\n{code}\n```", f"```console\n{shell}\n```"]


def _rest(content: Content) -> list[str]:
    parts: list[str] = []
    found = tables.comparison_table(content)
    if found is not None:
        parts += ["## Returns", _table(found), plain_text(found.legend)]
    sizes = tables.sizes_table(content)
    if sizes is not None:
        parts += ["## Size and speed", _table(sizes), plain_text(sizes.legend)]
    if content.disagreement is not None:
        alike = content.disagreement.agreement
        parts += [
            "## Where they disagree",
            f"Both act alike in {100 * alike.share:.1f} % of {alike.states:,} states that the student got into. "
            f"{content.disagreement.measure}: mean {content.disagreement.mean:.3g}, 95 % of the states below "
            f"{content.disagreement.quantile:.3g}.",
        ]
    parts += ["## Do it again", f"```console\n$ {content.command}\n```"]
    parts.append(", ".join(f"{name} {value}" for name, value in content.versions) + " made this report.")
    parts.append(f"```yaml\n{content.configuration}```")
    if content.missing:
        parts += ["## What is missing", "\n".join(f"- {plain_text(line)}" for line in content.missing)]
    return parts


def _table(found: tables.Table) -> str:
    lines = [" | ".join(map(plain_text, found.headers)), " | ".join(["---"] + ["---:"] * (len(found.headers) - 1))]
    for row in found.rows:
        lines.append(" | ".join(plain_text(f"{cell.text} {cell.note}".strip()) for cell in row.cells))
    return "\n".join(f"| {line} |" for line in lines)


def _front_matter(content: Content) -> str:
    """Return the metadata that the hub shows: task, tags, and the result in its own scheme."""
    data: dict[str, Any] = {
        "library_name": "understudy",
        "pipeline_tag": "reinforcement-learning",
        "tags": _tags(content),
    }
    result = _result(content)
    if result is not None:
        mean, std = result
        task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        metric = {"type": "mean_reward", "name": "mean_reward", "verified": False}
        metric["value"] = f"{mean:.2f}" if std is None else f"{mean:.2f} +/- {std:.2f}"
        dataset = {"name": content.env, "type": content.env}
        first = content.groups[0]
        of = f", seed {first.runs[0].settings.get('seed', 0)} of {len(first.runs)} runs" if len(first.runs) > 1 else ""
        data["model-index"] = [
            {
                "name": f"understudy {__version__}{of}",
                "results": [{"task": task, "dataset": dataset, "metrics": [metric]}],
            }
        ]
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---"


def _tags(content: Content) -> Sequence[str]:
    words = ["understudy", "reinforcement-learning", content.env]
    return words + {"distill": ["distillation"], "kickstart": ["kickstarting"], "train": []}[content.kind]


def _result(content: Content) -> tuple[float, float | None] | None:
    """Return mean and deviation of the student's returns."""
    if content.table is not None and content.kind != "train":
        found = content.table.rows[len(content.teachers)].evaluation
        return found.mean, found.std
    score = (content.groups[0].runs[0].summary or {}).get("score")
    return None if score is None else (float(score), None)
