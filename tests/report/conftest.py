"""Three small runs, made once: a distillation, a training, and a kickstart against scratch."""

from __future__ import annotations

import contextlib

import pytest

from understudy.cli import main

BALANCE = """
import numpy as np

def balance(obs):
    return (obs[:, 2] + 0.5 * obs[:, 3] + 0.1 * obs[:, 1] > 0).astype(np.int64)
"""
DISTILL = [
    "distill", "mine:balance", "--env", "CartPole-v1", "--student.hidden", "16", "16", "--execution", "single",
    "--data.num_envs", "2", "--data.steps", "250", "--data.first_steps", "0", "--learning.update_to_data", "0.8",
    "--evaluation.episodes", "10", "--evaluation.final", "12",
]  # fmt: skip
LEARN = ["--preset", "ppo-cartpole", "--env-steps", "2048", "--evaluate-every", "1024", "--evaluation.final", "6",
         "--evaluation.episodes", "4"]  # fmt: skip


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Return the folder in which ``run``, ``trained`` and ``taught`` lie; it is the working directory of the calls."""
    folder = tmp_path_factory.mktemp("reports")
    (folder / "mine.py").write_text(BALANCE)
    with contextlib.chdir(folder):
        main([*DISTILL, "--run", "run"])
        main(["train", *LEARN, "--run", "trained"])
        teaching = ["--preset", "kickstarting", "ppo-cartpole", "--teacher", "mine:balance", "--env", "CartPole-v1"]
        main(["kickstart", *teaching, *LEARN[2:], "--against-scratch", "--seeds", "2", "--run", "taught"])
    return folder


@pytest.fixture
def here(runs, monkeypatch):
    """Stand in the folder of the runs."""
    monkeypatch.chdir(runs)
    return runs
