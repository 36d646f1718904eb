"""How long the C of a policy takes for one action: compiled beside a program that calls it in a loop, and run."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from understudy.errors import UserError
from understudy.io.export.c.plan import Plan, build_plan
from understudy.io.export.c.simulate import simulate
from understudy.io.export.c.source import Sources, write_sources
from understudy.io.export.c.text import action_type, actions_count
from understudy.io.export.formats import describe, refuse
from understudy.io.export.states import States
from understudy.policies.policy import Policy
from understudy.teachers.exported_c import FLAGS, compile_c

LARGEST = 300_000
"""Weights that a source may have to be compiled on the way: with the million of a Nature CNN gcc takes a minute."""
_NAME = "timed"
_CALLS = 50
_TIMER = """#define _POSIX_C_SOURCE 199309L
#include "{stem}.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static double now(void)
{{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}}
static int smaller(const void *a, const void *b)
{{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}}
int main(void)
{{
    static {name}_state s;
    static double means[20000];
{inputs}    {action} action[{actions}];
    const double end = now() + {seconds};
    int rounds = 0, i;
    {name}_reset(&s);
    while (rounds < 3 || (rounds < 20000 && now() < end)) {{
        const double begin = now();
        for (i = 0; i < {calls}; i++)
            {name}_act(&s, {arguments}, action);
        means[rounds++] = (now() - begin) / {calls} * 1e6;
    }}
    qsort(means, (size_t)rounds, sizeof(double), smaller);
    printf("%g %g", means[rounds / 2], means[0]);
    return 0;
}}
"""


@dataclass(frozen=True)
class Timing:
    """Microseconds of one action, over rounds of 50 calls: the median and the best round."""

    median: float
    best: float


def time_policy(policy: Policy, seconds: float = 0.2) -> Timing:
    """Write a policy as C in float32, compile and time it; nothing is kept.

    Raises:
        UserError: C cannot express it, it is larger than ``LARGEST``, or there is no compiler.
    """
    refuse(policy, "c")
    if policy.parameters_count > LARGEST:
        raise UserError(
            f"not compiled on the way, as it has more than {LARGEST:,} weights: export it and measure there"
        )
    plan = build_plan(policy)
    states = States({one.key: np.zeros((1, one.size)) + (one.start or 0) for one in plan.inputs}, np.array([True]), "")
    text = describe(policy, "c", "float32", [one.key for one in plan.inputs])
    return time_sources(plan, write_sources(plan, _NAME, text, states, simulate(plan, states)), _NAME, seconds)


def time_sources(plan: Plan, sources: Sources, name: str, seconds: float = 0.2, optimise: str = "-O3") -> Timing:
    """Compile and time a source.

    The policy is a file of its own, so that no compiler can see through the loop.

    Args:
        plan: What the source computes.
        sources: The source and its header.
        name: Its prefix.
        seconds: Wall time of the loop.
        optimise: The compiler's flag.

    Raises:
        UserError: There is no compiler, or it refuses.
    """
    inputs = "".join(f"    static {one.ctype} {one.argument}[{one.size}];\n" for one in plan.inputs)
    timer = _TIMER.format(
        stem=sources.stem, name=name, inputs=inputs, action=action_type(plan), actions=actions_count(plan),
        seconds=seconds, calls=_CALLS, arguments=", ".join(one.argument for one in plan.inputs),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        program, files = folder / "timer", {"timer.c": timer, f"{sources.stem}.c": sources.source}
        for file, content in {**files, f"{sources.stem}.h": sources.header}.items():
            (folder / file).write_text(content, encoding="utf-8")
        flags = [flag for flag in FLAGS if flag != "-O3"]
        compile_c([*flags, optimise, "-o", str(program), *(str(folder / file) for file in files)], "timing C")
        try:
            done = subprocess.run([str(program)], capture_output=True, text=True, timeout=120, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(f"what was compiled to time C cannot be run here ({error})") from None
    median, best = (float(number) for number in done.stdout.split())
    return Timing(median, best)
