"""A report as one HTML file that loads nothing: style, script, charts, pictures and film are inside.

Jinja2 escapes whatever comes from a run; it comes along with PyTorch, which needs it too.
"""

from __future__ import annotations

import base64
import io
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from PIL import Image

from understudy import __version__
from understudy.data import Array
from understudy.evaluation.evaluate import counted
from understudy.evaluation.tables import number
from understudy.report import tables, views
from understudy.report.content import Content
from understudy.report.svg import Panel, both, stacked
from understudy.report.svg_dots import dots, in_view

_ASSETS = Path(__file__).parent / "assets"
MOST_FILM = 4_000_000
"""Bytes of a film that is embedded: larger ones make a file that cannot be sent."""
_MINUS = re.compile(r"(?<![\w.)\]/])-(?=\d)")
_KINDS = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}


@lru_cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_unbroken,
    )  # fmt: skip


def _unbroken(value: Any) -> Any:
    """Keep a number and its percent sign on one line, and write minus signs; what is to be copied is left alone."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _MINUS.sub("−", value.replace(" %", "\u00a0%").replace("->", "→"))


def to_html(content: Content) -> str:
    """Return the page."""
    environment = _environment()
    table = environment.get_template("table.html.j2")

    def draw_table(found: tables.Table) -> Markup:
        return Markup(table.render(t=found))  # rendered with escaping

    return environment.get_template("page.html.j2").render(
        c=content,
        version=__version__,
        command=escape(content.command),
        configuration=escape(content.configuration),
        style=_asset("style.css"),
        script=_asset("script.js"),
        table=draw_table,
        saved=tables.savings_table(content.saved),
        curves=_curves(content),
        returns=_returns(content),
        sizes=tables.sizes_table(content),
        states=_states(content),
        film=_film(content),
        picture=None if content.picture is None else _uri("image/png", content.picture.read_bytes()),
    )


def _asset(name: str) -> Markup:
    return Markup((_ASSETS / name).read_text(encoding="utf-8"))


def _curves(content: Content) -> dict[str, Any] | None:
    panels = views.panels_of(content)
    if not panels:
        return None
    keys = [(color, curve.label) for color, curve in panels[0].curves if curve.points]
    return {
        "caption": views.curves_caption(content, panels),
        "colors": keys,
        "drawing": both(lambda width: stacked(panels, _spoken(panels), width)),
        "numbers": tables.curve_numbers(panels),
    }


def _spoken(panels: list[Panel]) -> str:
    """Describe the charts to someone who does not see them."""
    parts = []
    for panel in panels:
        for _, curve in panel.curves:
            if curve.points:
                first, last = curve.points[0], curve.points[-1]
                told = f"{curve.label} from {number(first.value)} to {number(last.value)}"
                parts.append(f"{panel.title}: {told} at {last.steps:,.0f} env steps")
    return "; ".join(parts)


def _returns(content: Content) -> dict[str, Any] | None:
    samples = views.samples_of(content)
    if not samples:
        return None
    near, far = in_view(samples)
    spoken = "; ".join(f"{s.label}: mean return {number(s.mean)} of {counted(len(s.returns))}" for s in samples)
    table = tables.comparison_table(content)
    return {
        "caption": views.returns_caption(near, far),
        "drawing": both(lambda width: dots(near, spoken, width)),
        "table": table,
        "legend": table.legend if table else "",
    }


def _states(content: Content) -> dict[str, Any] | None:
    found = content.disagreement
    if found is None:
        return None
    alike = found.agreement
    text = (
        f"Among {alike.states:,} states that the student itself got into, both act alike in {100 * alike.share:.1f} % "
        f"({'action components within 5 % of the range' if alike.difference is not None else 'the same action'}). "
    )
    text += f"Measured: {found.measure}; mean {found.mean:.3g}, 95 % of the states below {found.quantile:.3g}. "
    if found.states:
        text += "The largest, no two within ten steps of each other; bold numbers are unusual, two deviations or more "
        text += "from the mean."
    rows = []
    unit = "nats" if found.measure.endswith("nats") else "%"
    for state in found.states:
        shown, more = views.shown_values(state)
        rows.append(
            {
                "amount": f"{number(state.amount, 3)} {unit}",
                "teacher": views.action_text(state.teacher, alike.difference is not None),
                "student": views.action_text(state.student, alike.difference is not None),
                "shown": shown,
                "more": more,
                "pictures": [
                    {"data": picture_uri(image), "alt": f"observation {key}".strip()} for key, image in state.pictures
                ],
            }
        )
    return {"text": text, "rows": rows}


def picture_uri(image: Array) -> str:
    """[H, W] or [H, W, 3] uint8 -> PNG inside of a data URI."""
    target = io.BytesIO()
    Image.fromarray(image).save(target, "PNG", optimize=True)
    return _uri("image/png", target.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _film(content: Content) -> dict[str, Any] | None:
    if content.film is None:
        return None
    data = content.film.read_bytes()
    if len(data) > MOST_FILM:
        line = f"the film {content.film} is not inside: {len(data) / 1e6:.1f} MB is too much to send"
        content.missing.append(line)
        return None
    kind = _KINDS[content.film.suffix.lower()]
    return {
        "data": _uri(kind, data),
        "video": kind.startswith("video"),
        "alt": f"{content.film.name}: policies in the same episode of {content.env}",
    }
