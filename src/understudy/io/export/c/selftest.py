"""The self-test in a generated source: recorded states, what the student did there, and a ``main``."""

from __future__ import annotations

import numpy as np

from understudy.io.export.c.plan import Plan
from understudy.io.export.c.text import action_type, actions_count, number, wrapped
from understudy.io.export.check import largest_of
from understudy.io.export.states import Answers, States

_NUMBERS = 20_000
"""Numbers of recorded observations at most: they stand in the source as text."""
_STATES = 32
TOLERANCE = {False: 1e-4, True: 1e-3}
"""By int8 or not: of parameters, relative where they are above 1. Compilers round differently; in int8 an integer next
to a half then becomes another one."""


def tested_states(plan: Plan, available: int) -> int:
    """Return how many recorded states the self-test holds."""
    size = sum(one.size for one in plan.inputs)
    return max(min(_STATES, available, _NUMBERS // size), min(2, available))


def write_selftest(plan: Plan, name: str, states: States, answers: Answers) -> str:
    """Write the part of the source that exists with ``-DNAME_SELF_TEST`` only.

    Args:
        plan: What the source computes.
        name: Its prefix.
        states: Recorded states, the first of them the start of an episode.
        answers: What the source should say there, parameters as it publishes them.
    """
    count = tested_states(plan, len(states))
    out = [f"\n#ifdef {name.upper()}_SELF_TEST\n#include <stdio.h>\n\n"]

    def table(label: str, kind: str, rows: np.ndarray) -> None:
        flat = np.asarray(rows).ravel()
        words = [number(v) for v in flat] if kind == "float" else [str(int(v)) for v in flat]
        out.append(f"static const {kind} {label}[{len(flat)}] = {{\n{wrapped(words)}\n}};\n")

    for one in plan.inputs:
        table(f"test_{one.argument}", one.ctype, states.obs[one.key][:count])
    table("test_start", "int", states.start[:count])
    table("test_params", "float", answers.params[:count])
    kind = action_type(plan)
    table("test_action", kind, answers.action[:count])
    arguments = ", ".join(f"test_{one.argument} + i * {one.size}" for one in plan.inputs)
    params, actions = plan.policy.family.param_size, actions_count(plan)
    tolerance = number(TOLERANCE[plan.int8] * largest_of(answers.params[:count]))
    wrong = f"wrong += (int)(action[k] != test_action[i * {actions} + k]);"
    if kind == "float":
        span = number(TOLERANCE[plan.int8] * max(1.0, float(np.abs(answers.action[:count]).max())))
        wrong = (
            f"error = action[k] - test_action[i * {actions} + k];\n"
            f"            wrong += (int)(!(error <= {span} && error >= -{span}));"
        )
    out.append(f"""
int main(void)
{{
    static {name}_state s;
    {kind} action[{actions}];
    float error, largest = 0.0f;
    int i, k, wrong = 0;
    for (i = 0; i < {count}; i++) {{
        if (test_start[i])
            {name}_reset(&s);
        {name}_act(&s, {arguments}, action);
        for (k = 0; k < {params}; k++) {{
            error = s.params[k] - test_params[i * {params} + k];
            error = error < 0.0f ? -error : error;
            largest = error > largest ? error : largest;
            wrong += (int)!(error <= {tolerance});
        }}
        for (k = 0; k < {actions}; k++) {{
            {wrong}
        }}
    }}
    printf("%s: {count} states, largest error %g\\n", wrong ? "FAILED" : "ok", (double)largest);
    return wrong != 0;
}}
#endif
""")
    return "".join(out)
