"""Twelve balls, from a large teacher to a file for Unity; ``python benchmarks/unity.py distill`` runs it.

A DDPG teacher of 400x300 learns the scene (or is given), a student of 32x32 is distilled from it until our stop test
says that it is on par, and is exported for Unity. The file is then asked in onnxruntime for the actions in states that
the student met, and so is the student.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from understudy.data import EnvSpec
from understudy.distillation import distill
from understudy.evaluation.evaluate import evaluate
from understudy.io.export.export import export
from understudy.training import train

TEACHER, STUDENT = [400, 300], [32, 32]
STATES = 5000


def distill_row(scene: EnvSpec, teacher: Path | None, folder: Path, env_steps: int, seed: int) -> dict[str, Any]:
    """Train the teacher unless there is one, distil, export, and compare the file with the student."""
    if teacher is None:
        found = train(
            scene, "ddpg-3dball", {"policy": {"hidden": TEACHER}, "seed": seed, "stop": {"env_steps": env_steps}},
            run=folder / "teacher",
        )  # fmt: skip
        teacher = found.folder
    settings = {"student": {"hidden": STUDENT}, "seed": seed}
    result = distill(str(teacher), scene, settings, run=folder / "student")
    made = export(result.student, "unity", folder / "student.onnx", env=scene, force=True)
    judged = {
        name: evaluate(policy, scene, episodes=48, num_envs=12, seed=20_000)
        for name, policy in (("teacher", result.teacher), ("student", result.student), ("file", str(made.path)))
    }
    student, parameters = result.student, result.teacher.parameters_count
    return {
        "teacher_hidden": TEACHER, "student_hidden": STUDENT, "stopped": result.stopped, "ratio": result.ratio,
        "agent_steps": result.env_steps, "updates": result.updates, "seconds": result.seconds,
        "teacher_parameters": parameters, "student_parameters": student.parameters_count,
        "difference": largest_difference(student, made.path, folder / "student"), "states": STATES,
        "lengths": {name: one.mean_length for name, one in judged.items()},
        "returns": {name: one.mean for name, one in judged.items()},
    }  # fmt: skip


def largest_difference(student: Any, file: Path, run: Path) -> float:
    """Return the largest |difference| of an action, file against student, over states of the run."""
    import onnxruntime
    from safetensors.numpy import load_file

    parts = [load_file(path) for path in sorted((run / "data").glob("*.safetensors"))]
    states = np.concatenate([next(v for k, v in part.items() if k.startswith("obs")) for part in parts])
    states = states[np.linspace(0, len(states) - 1, STATES).astype(int)]
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    assert names == ["obs_0"], names
    (actions,) = session.run(["deterministic_continuous_actions"], {"obs_0": states.astype(np.float32)})
    return float(np.abs(actions - student.predict(states, deterministic=True)[0]).max())


def print_row(console: Any, row: dict[str, Any]) -> None:
    """Print what became of it."""
    seconds, lengths, returns = row["seconds"], row["lengths"], row["returns"]
    sizes = f"{row['teacher_hidden']} into {row['student_hidden']}"
    console.print(
        f"{sizes}: stopped by {row['stopped']} at {row['ratio']:.1%} after {row['agent_steps']:,} agent steps, "
        f"{row['updates']:,} updates, {seconds['total']:.0f} s",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    for name, length in lengths.items():
        console.print(f"  {name:8} {length:.1f} steps of an episode, return {returns[name]:.2f} (48 fresh episodes)")
    console.print(
        f"  {row['teacher_parameters']:,} parameters into {row['student_parameters']:,}; largest difference of an "
        f"action in {row['states']:,} states, onnxruntime against the student: {row['difference']:.2g}",
        soft_wrap=True,
    )
