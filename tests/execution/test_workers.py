"""What a worker process is made of."""

from pathlib import Path

from understudy.data import EnvSpec
from understudy.envs.make import spaces_of
from understudy.execution.base import EvaluationJob, Setup
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
