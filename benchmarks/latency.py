"""How long one action takes: torch, NumPy, onnxruntime and exported C, at batch 1 on one thread; and flash sizes.

    python benchmarks/latency.py [STUDENT]

Without a student, one of 64x64 tanh units with random weights, 17 inputs and 6 outputs (HalfCheetah's). The candidates
take turns and the best mean of each counts, so that a busy machine slows all alike.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnxruntime
import torch

from understudy.io.export.c.compensate import compensate
from understudy.io.export.c.plan import build_plan
from understudy.io.export.c.ranges import calibrate
from understudy.io.export.c.simulate import simulate
from understudy.io.export.c.source import write_sources
from understudy.io.export.c.timing import time_sources
from understudy.io.export.export import export
from understudy.io.export.formats import describe
from understudy.io.export.states import read_states
from understudy.policies.arrays import ArrayPolicy
from understudy.policies.policy import Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec
from understudy.policies.weights import named_arrays
from understudy.teachers.load import load

FEATURES, ACTIONS = 17, 6
ROUNDS, CALLS = 200, 50
_SECONDS = 0.5


def random_student() -> Policy:
    """Return a 64x64 tanh student with a normaliser."""
    torch.manual_seed(0)
    see, act = gym.spaces.Box(-np.inf, np.inf, (FEATURES,)), gym.spaces.Box(-1, 1, (ACTIONS,))
    spec = PolicySpec(space_to_json(see), space_to_json(act), "deterministic", normalized=("",), hidden=(64, 64))
    return Policy(spec).eval()


def in_c(policy: Policy, states: Path, int8: bool, flag: str) -> float:
    """Microseconds of the C of a policy, timed by a loop in C: the best of many rounds."""
    seen = read_states(states, policy)
    plan = build_plan(policy, calibrate(policy, seen) if int8 else None)
    if int8:
        compensate(plan, seen)
    precision = "int8" if int8 else "float32"
    text = describe(policy, "c", precision, [one.key for one in plan.inputs])
    sources = write_sources(plan, "timed", text, seen, simulate(plan, seen))
    return time_sources(plan, sources, "timed", _SECONDS, flag).best


def session(path: Path) -> Any:
    """Open an ONNX file for one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def microseconds(functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Best mean wall time over ``CALLS``, the candidates taking turns."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(ROUNDS):
        for name, function in functions.items():
            begin = time.perf_counter()
            for _ in range(CALLS):
                function()
            best[name] = min(best[name], (time.perf_counter() - begin) / CALLS * 1e6)
    return best


def main() -> None:
    """Print microseconds for one action, and bytes of flash."""
    torch.set_num_threads(1)
    found = load(sys.argv[1]) if len(sys.argv) > 1 else random_student()
    if not isinstance(found, Policy) or found.spec.lstm or not isinstance(found.observation_space, gym.spaces.Box):
        sys.exit("latency.py measures policies of ours without memory that see one vector")
    inputs, actions = int(np.prod(found.observation_space.shape)), found.family.sizes[0]
    with tempfile.TemporaryDirectory() as text:
        folder, rng = Path(text), np.random.default_rng(0)
        np.savez(folder / "states.npz", obs=rng.normal(size=(500, inputs)))
        made = {
            (form, int8): export(
                found, form, folder / f"{form}{8 if int8 else 32}.{form}", int8=int8, data=folder / "states.npz"
            )
            for form in ("onnx", "c")
            for int8 in (False, True)
        }
        obs = rng.normal(size=(1, inputs)).astype(np.float32)
        arrays = ArrayPolicy(found.spec, named_arrays(found))
        sessions = {int8: session(made["onnx", int8].path) for int8 in (False, True)}
        times = microseconds({
            "torch (Policy.predict)": lambda: found.predict(obs, deterministic=True),
            "NumPy (ArrayPolicy.predict)": lambda: arrays.predict(obs, deterministic=True),
            "onnxruntime float32": lambda: sessions[False].run(["action"], {"obs": obs}),
            "onnxruntime int8": lambda: sessions[True].run(["action"], {"obs": obs}),
        })  # fmt: skip
        for int8, name in ((False, "float32"), (True, "int8")):
            for flag in ("-O2", "-O3"):
                times[f"C {name} {flag}"] = in_c(found, folder / "states.npz", int8, flag)
        print(f"{inputs} inputs, {found.spec.hidden} hidden, {actions} outputs; load average {os.getloadavg()[0]:.1f}")
        for name, value in times.items():
            print(f"{name:30} {value:8.2f} us")
        for int8, name in ((False, "float32"), (True, "int8")):
            facts = dict(made["c", int8].facts)
            print(f"C {name:28} {facts['flash']}; {facts['stack']} of stack; {facts['state']}")


if __name__ == "__main__":
    main()
