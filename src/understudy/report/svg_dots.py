"""Returns of single episodes as dots, one row for each policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from understudy.evaluation.tables import number
from understudy.report.svg import BOTTOM, RIGHT, Scale, compact, frame


@dataclass(frozen=True)
class Sample:
    """Returns of one policy's episodes."""

    label: str
    color: int
    returns: tuple[float, ...]
    mean: float
    interval: tuple[float, float]


def in_view(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Split samples into those that share an axis with the first, and those so far off that it would be squeezed."""
    first = samples[0]
    near: list[Sample] = [first]
    far: list[Sample] = []
    for sample in samples[1:]:
        values = [v for s in near for v in s.returns]
        span = max(max(values) - min(values), 0.05 * max(map(abs, values)), 1e-9)
        gap = max(min(sample.returns) - max(values), min(values) - max(sample.returns), 0)
        (far if sample.label == "random" and gap > 1.2 * span else near).append(sample)
    return near, far


def dots(samples: Sequence[Sample], label: str, width: int) -> Markup:
    """Draw every episode's return as a dot, dots of about the same return on top of each other; the mean beneath."""
    left, right, row, top = 8, width - RIGHT, 112, 30.0
    values = [v for s in samples for v in (*s.returns, *s.interval)]
    space = 0.05 * (max(values) - min(values)) or 0.02 * abs(max(values)) or 1.0
    x = Scale(min(values) - space, max(values) + space, left + 4, right - 4)
    bottom = top + row * len(samples)
    parts = []
    for tick in x.ticks(7 if width > 500 else 4):
        px = x(tick)
        parts.append(f'<line class="grid" x1="{px:.1f}" x2="{px:.1f}" y1="{top - 8}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{px:.1f}" y="{bottom + 18}" text-anchor="middle">{compact(tick)}</text>')
    for i, sample in enumerate(samples):
        if i:
            parts.append(
                f'<line class="axis" x1="0" x2="{right}" y1="{top + row * i - 14}" y2="{top + row * i - 14}"/>'
            )
        parts += _dot_row(sample, x, top + row * i, row)
    parts.append(f'<text class="tick" x="{right}" y="{bottom + 36}" text-anchor="end">return of an episode</text>')
    return frame(parts, width, bottom + BOTTOM + 2, label)


def _dot_row(sample: Sample, x: Scale, top: float, height: float) -> list[str]:
    column = 6.0
    base, most = top + height - 52, height - 66
    places: dict[int, list[float]] = {}
    for value in sorted(sample.returns):
        places.setdefault(round(x(value) / column), []).append(value)
    highest = max(map(len, places.values()))
    step = min(column, most / max(highest - 1, 1))
    text = f"{number(sample.mean)} [{number(sample.interval[0])}, {number(sample.interval[1])}]".replace("-", "−")
    parts = [f'<text class="rowname c{sample.color}" x="2" y="{top + 4:.0f}">{escape(sample.label)}</text>']
    for place, stack in places.items():
        for k, value in enumerate(stack):
            tip = escape(f"{sample.label}: {number(value)}")
            parts.append(
                f'<circle class="dot c{sample.color}" cx="{place * column:.1f}" cy="{base - k * step:.1f}" r="2.7" '
                f'data-tip="{tip}"/>'
            )
    low, high, mean = (x(v) for v in (*sample.interval, sample.mean))
    y = base + 12
    anchor = "start" if mean < 110 else "end" if mean > x.end - 110 else "middle"
    parts.append(f'<line class="whisker c{sample.color}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>')
    parts.append(
        f'<circle class="mean c{sample.color}" cx="{mean:.1f}" cy="{y}" r="4.5" '
        f'data-tip="{escape(sample.label)}: mean {text}"/>'
    )
    parts.append(
        f'<text class="value c{sample.color}" x="{mean:.1f}" y="{y + 17}" text-anchor="{anchor}">{text}</text>'
    )
    return parts
