"""Pieces of C: names, numbers, the signature and the header."""

from __future__ import annotations

import re

import numpy as np

from understudy import __version__
from understudy.errors import UserError
from understudy.io.export.c.plan import Plan

_KEYWORDS = frozenset((
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern", "float",
    "for", "goto", "if", "inline", "int", "long", "main", "register", "restrict", "return", "short", "signed", "sizeof",
    "static", "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "while",
))  # fmt: skip


def identifier(text: str) -> str:
    """Return a C identifier that resembles a text.

    Raises:
        UserError: Nothing of it is left.
    """
    name = re.sub(r"\W", "_", text, flags=re.ASCII).strip("_").lower()
    if not name or name[0].isdigit():
        name = f"student_{name}".rstrip("_")
    if name in _KEYWORDS:
        raise UserError(f"{name} is a word of C: choose another name for the file")
    return name


def number(value: float) -> str:
    """Return a float32 literal of C."""
    text = f"{float(np.float32(value)):.9g}"
    return f"{text}f" if any(letter in text for letter in ".e") else f"{text}.0f"


def wrapped(words: list[str]) -> str:
    """Return words with commas between them, in indented lines."""
    lines, line = [], "   "
    for i, word in enumerate(words):
        piece = f" {word}" + ("," if i < len(words) - 1 else "")
        if len(line) + len(piece) > 110:
            lines.append(line)
            line = "   "
        line += piece
    return "\n".join([*lines, line])


def action_type(plan: Plan) -> str:
    """Return the C type of an action component."""
    return "float" if plan.policy.family.continuous else "int32_t"


def actions_count(plan: Plan) -> int:
    """Return how many components an action has."""
    return plan.policy.family.sizes[0] if plan.policy.family.continuous else len(plan.policy.family.sizes)


def signature(plan: Plan, name: str) -> str:
    """Return the arguments of ``NAME_act``."""
    inputs = [f"const {one.ctype} {one.argument}[{one.size}]" for one in plan.inputs]
    return f"{name}_state *s, {', '.join(inputs)}, {action_type(plan)} action[{actions_count(plan)}]"


def header(plan: Plan, name: str, sizes: dict[str, int]) -> str:
    """Return the text of the header; ``sizes`` are those of the buffers in the state."""
    policy, guard = plan.policy, f"{name.upper()}_H"
    env = policy.about.env.id if policy.about.env else "an environment that is not known"
    memory = plan.width * len(plan.lstm)
    remembered = f"h[{memory}]" if plan.past else f"h[{memory}], c[{memory}]"
    kept = [f"    float {remembered};{' ' * 4}/* what it remembers */"] if memory else []
    kind = "int16_t" if plan.int8 else "float"
    work = [f"float a[{sizes['a']}], b[{sizes['b']}];"]
    work += [f"int16_t q[{sizes['q']}];"] if sizes["q"] else []
    pairs = [f"{buffer}[{sizes[buffer]}]" for buffer in "mn" if sizes[buffer]]
    work += [f"{kind} {', '.join(pairs)};"] if pairs else []
    lines = [
        f"/* A policy for {env.replace('*/', '* /')}, written by Understudy {__version__}.",
        " *",
        f" * {name}_reset(&s) before every episode; {name}_act(&s, obs, action) in every step.",
        " * Observations are as the environment gives them: the normaliser is inside.",
        " * Actions are in the environment's units and within its bounds; s.params holds the distribution afterwards:",
        f" * {_meaning(plan)}.",
        " * A state belongs to one episode at a time; several may be used side by side (there are no globals).",
        " */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        "#include <stdint.h>",
        "",
        f'#define {name.upper()}_VERSION "{__version__}"',
        f"#define {name.upper()}_ACTIONS {actions_count(plan)}",
        f"#define {name.upper()}_PARAMS {policy.family.param_size}",
        "",
        "typedef struct {",
        *kept,
        f"    float params[{policy.family.param_size}];",
        *(f"    {line}" for line in work),
        f"}} {name}_state;",
        "",
        f"void {name}_reset({name}_state *s);",
        f"void {name}_act({signature(plan, name)});",
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def _meaning(plan: Plan) -> str:
    return {
        "categorical": "a logit for each action",
        "multi_categorical": "a logit for each choice, part after part",
        "q_values": "a value for each action",
        "gaussian": "means, then log standard deviations, in the environment's units",
        "squashed_gaussian": "means, then log standard deviations, before the tanh",
        "deterministic": "the action",
    }[plan.policy.family.name]
