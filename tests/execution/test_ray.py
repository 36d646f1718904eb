"""Ray: the same rollouts as one process, and faults that end or are mended, never hang. Ray starts once for all."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from understudy.data import EnvSpec
from understudy.envs.make import spaces_of
from understudy.errors import UserError
from understudy.execution.base import EvaluationJob, Faults, Portable, Setup
from understudy.execution.ray_cluster import Cluster, check_address
from understudy.execution.ray_execution import RayExecution
from understudy.execution.restarts import WorkerError
from understudy.execution.single import SingleExecution
from understudy.io.checkpoint import read_arrays
from understudy.policies.policy import Policy
from understudy.policies.spec import PolicySpec, space_to_json
from understudy.policies.weights import named_arrays
from understudy.rollouts.behaviour import Mixture
from understudy.training import train

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
PENDULUM = EnvSpec("Pendulum-v1", backend="gymnasium")
CARTPOLE = EnvSpec("CartPole-v1", backend="gymnasium")
PROBES = "understudy.envs.probes:understudy/"


@pytest.fixture(scope="module")
def ray():
    """Executions find Ray started, use it and leave it."""
    cluster = Cluster("", 4, 0)
    yield cluster.ray
    cluster.close()


def policy(env, seed):
    torch.manual_seed(seed)
    observations, actions = spaces_of(env)
    options = {"std": "constant"} if hasattr(actions, "high") else {}
    family = "gaussian" if options else "categorical"
    spaces = space_to_json(observations), space_to_json(actions)
    return Policy(PolicySpec(*spaces, family, hidden=(8,), value_hidden=(8,), **options)).eval()


def setup(env, envs=8, steps=30, traced=False):
    student, teacher = policy(env, 0), policy(env, 1)
    portable = Portable(teacher.spec, named_arrays(teacher))
    plan = Setup(env, tuple(range(100, 100 + envs)), steps, student.spec, portable, 4, traced)
    return plan, named_arrays(student)


def flat(rollout):
    """All arrays of a rollout, copied."""
    trace = rollout.trace
    parts = {name: value for name, value in vars(rollout).items() if name != "trace"}
    parts |= {} if trace is None else {f"trace.{name}": value for name, value in vars(trace).items()}
    return {name: np.copy(value) for name, value in parts.items() if value is not None}


def gather(execution, arrays, mixture, steps):
    """Two rollouts, one from new episodes, and one with half its steps."""
    found = []
    for number, restart, count in ((1.0, None, steps), (0.5, None, steps), (1.5, 3, steps), (1.0, None, steps // 2)):
        weights = {name: array * np.float32(number) for name, array in arrays.items()}
        execution.begin_collect(mixture, weights, count, restart)
        rollout, info = execution.end_collect()
        found.append(flat(rollout) | {"env_steps": info.env_steps, "returns": np.array(info.returns)})
        assert rollout.shape == (count, 8)
    return found


@needs_ray
@pytest.mark.parametrize("env", [PENDULUM, CARTPOLE], ids=lambda env: env.id)
@pytest.mark.parametrize("traced", [True, False])
def test_two_actors_equal_one_process(ray, env, traced):
    plan, arrays = setup(env, traced=traced)
    mixture = Mixture(0.0, sample=True) if traced else Mixture(0.5, noise=0.3, noise_share=0.5)
    jobs = [EvaluationJob("student", tuple(range(5)), arrays), EvaluationJob("teacher", (0,))]
    results = []
    for execution in (SingleExecution(plan), RayExecution(plan, 2, timeout=60)):
        try:
            results.append(gather(execution, arrays, mixture, plan.steps))
            results[-1].append({f"evaluation {i}": found.returns for i, found in enumerate(execution.evaluate(jobs))})
            assert execution.faults == Faults()
        finally:
            execution.close()
    for one, other in zip(*results, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            expected, got = one[name], other[name]
            if name == "returns":  # by worker, so in another order
                expected, got = np.sort(expected), np.sort(got)
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4, err_msg=name)


@needs_ray
@pytest.mark.parametrize(
    ("preset", "env", "more"),
    [("dqn", CARTPOLE, {}), ("sac", PENDULUM, {}), ("ape-x", CARTPOLE, {"exploration__epsilon": "0.4"})],
    ids=("dqn", "sac", "ape-x"),
)
def test_learning_from_a_replay_equals_one_process(ray, tmp_path, preset, env, more):
    """Weights and replays of two actors are those of one process; Ape-X's actors send their priorities."""
    settings = {
        "env": {"id": env.id, "backend": env.backend}, "rollout": {"num_envs": 4, "steps": 8},
        "replay": {"warm_up": 64, "capacity": 2000, "batch_size": 32}, "policy": {"hidden": [16, 16]},
        "evaluation": {"every": 0, "final": 0}, "stop": {"env_steps": 320},
    }  # fmt: skip
    found = []
    for kind in ("single", "ray"):
        result = train(env, preset, settings, run=tmp_path / kind, execution__type=kind, **more)
        found.append((result.updates, read_arrays(tmp_path / kind / "state.safetensors")[0]))
    (updates, one), (others, other) = found
    assert updates == others > 0
    assert set(one) == set(other) and "replay:action" in one
    for name, array in one.items():
        np.testing.assert_allclose(other[name], array, rtol=1e-3, atol=1e-4, err_msg=name)


def process_of(execution, worker):
    """Wait until a worker has made steps; returns its process."""
    ray = execution._cluster.ray
    for _ in range(200):
        actor = execution.pool.places[worker].actor
        steps, process, _ = ray.get(actor.beat.options(concurrency_group="watch").remote(), timeout=30)
        if steps:
            return process
        time.sleep(0.05)
    raise AssertionError("the worker made no step")


def gone(process):
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@needs_ray
def test_a_killed_actor_is_replaced(ray, capsys):
    plan, arrays = setup(PENDULUM, envs=4, steps=8_000)
    execution = RayExecution(plan, 2, timeout=60, restarts=1)
    try:
        execution.begin_collect(Mixture(0.0), arrays, plan.steps)
        kept = process_of(execution, 0)
        os.kill(process_of(execution, 1), signal.SIGKILL)
        rollout, info = execution.end_collect()
        assert info.env_steps == 4 * 8_000 and execution.faults == Faults(1, 2)
        assert np.abs(rollout.obs).sum(axis=(0, 2)).min() > 0 and rollout.episode_start[0].all()
        assert process_of(execution, 0) == kept
        assert "died: its process ended unexpectedly; replaced, restart 1 of 1" in capsys.readouterr().err
        execution.begin_collect(Mixture(0.0), arrays, plan.steps)
        os.kill(process_of(execution, 1), signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"worker 1 .*died.*\(all 1 restarts are used up\)"):
            execution.end_collect()
    finally:
        execution.close()
    assert gone(kept)


@needs_ray
def test_an_exception_is_shown_and_the_actor_replaced(ray, capsys):
    plan, arrays = setup(EnvSpec(f"{PROBES}Raising-v0", {"after": 10}), envs=2)
    execution = RayExecution(plan, 2, timeout=60, restarts=2)
    try:
        with pytest.raises(
            WorkerError, match="RuntimeError: this probe raises in step 10.*2 restarts are used"
        ) as caught:
            execution.begin_collect(Mixture(0.0), arrays, plan.steps)
            execution.end_collect()
        assert "Traceback" in caught.value.details and "probes.py" in caught.value.details
        assert execution.faults == Faults(2, 2)
        assert capsys.readouterr().err.count("Traceback") == 2
    finally:
        execution.close()


@needs_ray
def test_a_hanging_actor_is_replaced(ray):
    plan, arrays = setup(EnvSpec(f"{PROBES}Hanging-v0", {"after": 3}), envs=1)
    execution = RayExecution(plan, 1, timeout=1.5, restarts=1)
    try:
        execution.begin_collect(Mixture(0.0), arrays, plan.steps)
        hung = process_of(execution, 0)
        with pytest.raises(WorkerError, match=r"worker 0 .*made no step for 1.5 s.*\(all 1 restarts"):
            execution.end_collect()
        assert gone(hung)
    finally:
        execution.close()


@needs_ray
def test_a_mistake_of_the_user_ends_the_run_at_once(ray):
    plan, _ = setup(CARTPOLE, envs=2)
    execution = RayExecution(replace(plan, teacher=None), 2, timeout=60, restarts=5)
    try:
        execution.begin_collect(Mixture(1.0), None, 5)
        with pytest.raises(WorkerError, match=r"^worker \d: behaviour: beta > 0 needs a teacher that can act$"):
            execution.end_collect()
        assert execution.faults == Faults()
    finally:
        execution.close()


@needs_ray
def test_more_workers_than_the_cluster_has_cpus(ray):
    with pytest.raises(UserError, match="Ray has 4 CPUs, fewer than 5 workers"):
        RayExecution(setup(CARTPOLE)[0], 5)


def test_addresses_that_do_not_answer(monkeypatch):
    begin = time.perf_counter()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        for name in (address, "auto"):
            with pytest.raises(UserError, match=f"no Ray cluster answers at {address} \\(Connection refused"):
                check_address(name)
        listener.listen()  # accepts, and says nothing
        with pytest.raises(UserError, match=f"no Ray cluster answers at {address} \\(timed out"):
            check_address(address)
    assert time.perf_counter() - begin < 10
    for address in ("nonsense", "host:", "host:0", "host:99999", "http://host:6379", "a b:1"):
        with pytest.raises(UserError, match="is not understood"):
            check_address(address)
    with pytest.raises(UserError, match="clients outside a cluster are not supported"):
        check_address("ray://host:10001")


@pytest.mark.skipif(sys.platform != "linux", reason="the reaper is Linux's")
def test_a_ray_that_does_not_start_is_one_line_and_leaves_nothing(monkeypatch):
    started = []

    class Slow:
        is_initialized = staticmethod(lambda: False)

        @staticmethod
        def init(_temp_dir, **_):
            waiting = [sys.executable, "-c", "import time; time.sleep(60)", f"{_temp_dir}/session"]
            started.append((subprocess.Popen(waiting, start_new_session=True), _temp_dir))
            raise Exception("the node timed out during startup.\nMore than a user wants to know")

    monkeypatch.setitem(sys.modules, "ray", Slow)
    with pytest.raises(UserError, match=r"^Ray does not start on this machine: the node timed out during startup\.$"):
        Cluster("", 1, 0)
    ((process, folder),) = started
    assert process.wait(30) == -signal.SIGKILL and not os.path.exists(folder)


def test_ray_is_imported_only_on_demand():
    """Without the package there is one line; nothing else needs it."""
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import understudy.execution.sync, understudy.execution.ray_actor, understudy.execution.ray_execution\n"
        "from understudy.errors import UserError\n"
        "from understudy.execution.ray_cluster import Cluster\n"
        "try: Cluster('', 1, 0)\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "--execution ray needs the package 'ray': run pip install 'understudy[ray]'\n"
