"""A whole run with teachers in the hand-derived kernel against the same one through autograd."""

import numpy as np
import pytest
import torch

import understudy
from understudy.learning.kernel_updater import KernelUpdater
from understudy.policies.files import load_policy

COMMON = {
    "policy": {"hidden": [8], "value_hidden": [8]}, "rollout": {"num_envs": 4, "steps": 32},
    "execution": {"type": "single"}, "evaluation": {"every": 0, "final": 2}, "stop": {"env_steps": 640},
}  # fmt: skip


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_the_kernel_learns_what_autograd_learns(env, tmp_path, monkeypatch):
    """The same student, and the same numbers in the log; the teacher goes after 512 of 640 env steps."""
    understudy.train(env, "ppo", COMMON, run=tmp_path / "teacher", seed=1)
    steps = []
    monkeypatch.setattr(KernelUpdater, "step", lambda *a, step=KernelUpdater.step: steps.append(1) or step(*a))
    found = {}
    for kernel in (True, False):
        rows, folder = [], tmp_path / str(kernel)
        own = {"teaching": {"weight": "linear(1, 0, 512)"}, "update": {"kernel": kernel, "epochs": 2, "minibatch": 64}}
        teacher = tmp_path / "teacher" / "last.safetensors"
        understudy.kickstart(env, teacher, "kickstarting", {**COMMON, **own}, run=folder, report=rows.append, seed=3)
        found[kernel] = (load_policy(folder / "last.safetensors"), rows)
        assert len(steps) == 20  # 5 rollouts, 2 epochs, 2 minibatches, and none without the kernel
    (ours, our_rows), (theirs, their_rows) = found[True], found[False]
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), parameter, atol=2e-4, rtol=1e-3)
    for name in (
        "loss", "teacher", "teacher_weight", "kl/teacher", "entropy", "approx_kl", "value_regression", "grad_norm",
    ):  # fmt: skip
        numbers = [[row.get(name, -1.0) for row in rows] for rows in (our_rows, their_rows)]
        np.testing.assert_allclose(*numbers, rtol=1e-3, atol=1e-5, err_msg=name)
