"""What a worker process is made of."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.data import EnvSpec
from understudy.envs.make import spaces_of
from understudy.execution.base import EvaluationJob, Setup
from understudy.execution.processes import cores, shared_memory
from understudy.execution.sync import SyncExecution
from understudy.policies.policy import Policy
from understudy.policies.weights import named_arrays
from understudy.rollouts.behaviour import Mixture
from understudy.settings.train import NetworkSettings
from understudy.training_parts import policy_spec


def test_a_worker_that_needs_no_torch_does_not_load_it():
    """Seconds of start, and hundreds of megabytes, for every worker and every replacement; after real work."""
    env = EnvSpec("CartPole-v1")
    spec = policy_spec(NetworkSettings(hidden=(8,)), *spaces_of(env), True)
    arrays = named_arrays(Policy(spec))
    execution = SyncExecution(Setup(env, (0, 1), 16, spec, None, 1, traced=True), 1, timeout=60)
    try:
        execution.begin_collect(Mixture(0.0, sample=True), arrays, 16)
        _, info = execution.end_collect()
        (episodes,) = execution.evaluate([EvaluationJob("student", (1, 2), arrays)])
        mapped = Path(f"/proc/{execution.pool.processes[0].pid}/maps").read_text()
    finally:
        execution.close()
    assert info.env_steps == 32 and len(episodes) == 2
    assert "numpy" in mapped and "torch" not in mapped


def test_a_learner_of_pictures_does_not_import_the_compiler():
    """PyTorch's, which costs seconds and memory before the first step; after all that a learner needs was made."""
    code = """if True:
        import sys
        import gymnasium as gym, numpy as np, torch
        from understudy.execution.pool import weight_shapes
        from understudy.objectives.optimizers import Adam
        from understudy.policies.policy import Policy
        from understudy.policies.weights import named_arrays
        from understudy.settings.train import NetworkSettings
        from understudy.training_parts import policy_spec

        space = gym.spaces.Box(0, 10, (7, 7, 3), np.uint8)
        for encoder in ("grid_mlp", "impala_resnet"):
            before = torch.get_rng_state()
            spec = policy_spec(NetworkSettings(encoder=encoder), space, gym.spaces.Discrete(3), True)
            shapes = weight_shapes(spec)
            assert torch.equal(before, torch.get_rng_state()), "no random number of the run is used up"
            policy = Policy(spec)
            assert {k: (a.shape, str(a.dtype)) for k, a in named_arrays(policy).items()} == shapes
            optimizer = Adam(list(policy.parameters()))
            optimizer.zero_grad()
            policy(torch.zeros(2, 7, 7, 3, dtype=torch.uint8)).params.sum().backward()
            optimizer.step(0.1)
        print("torch._dynamo" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux alone has memory without a file system")
def test_shared_memory_needs_no_room_in_a_file_system():
    """Docker gives /dev/shm 64 MB: rollouts of pictures that are larger ended the workers by a bus error."""
    with shared_memory() as file:
        assert os.readlink(f"/proc/self/fd/{file.fileno()}").startswith("/memfd:")
        file.truncate(1000)
        file.write(b"x")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.max": "nonsense\n"}, 8),
    ],
)
def test_cores_are_those_that_a_container_may_use(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cores(tmp_path) == expected
