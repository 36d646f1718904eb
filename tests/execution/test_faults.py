"""Real faults in real runs: workers, evaluators and trainers that are killed, raise, hang, or are interrupted.

Every fault is injected from outside or by a probe, at a moment that the test knows; none is simulated.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml

from understudy.config import merge, plain
from understudy.data import EnvSpec
from understudy.envs.make import spaces_of
from understudy.errors import Interrupted, UserError
from understudy.execution import processes
from understudy.execution.base import Setup
from understudy.execution.evaluator import Evaluator
from understudy.execution.pool import Pool
from understudy.execution.restarts import WorkerError
from understudy.io.checkpoint import read_arrays
from understudy.io.log import read_log
from understudy.loop import train as loop
from understudy.policies.files import load_policy
from understudy.policies.policy import Policy
from understudy.policies.weights import named_arrays
from understudy.rollouts.behaviour import Mixture
from understudy.settings.train import NetworkSettings
from understudy.training import resolve_training, train
from understudy.training_parts import policy_spec
from understudy.training_session import TrainSession

EXECUTIONS = {
    "sync": {"type": "sync"},
    "async": {"type": "async"},
    "a3c": {"type": "async", "shared_gradients": True},
}
SMALL = {
    "policy": {"hidden": [16]},
    "rollout": {"num_envs": 4, "steps": 32},
    "evaluation": {"every": 0, "final": 0, "episodes": 2, "num_envs": 2},
}
PROBES = "understudy.envs.probes:understudy/"
PROMPT = 30.0
"""Seconds within which what takes a moment is over, also on a machine with much else to do; less than the time limits
that would end it otherwise."""


def small(execution, env="CartPole-v1", kwargs=None, env_steps=12_000, evaluation=None, checkpoint_every=0, **limits):
    """Settings of a run of seconds."""
    return resolve_training(
        {
            **SMALL,
            "env": {"id": env, "kwargs": kwargs or {}},
            "execution": {**EXECUTIONS.get(execution, {}), **limits},
            "evaluation": {**SMALL["evaluation"], **(evaluation or {})},
            "stop": {"env_steps": env_steps},
            "checkpoint_every": checkpoint_every,
        },
        None,
    )


def spec_of(env, hidden=(16,)):
    """A policy for an environment."""
    return policy_spec(NetworkSettings(hidden=hidden), *spaces_of(env), True)


class Watched:
    """A run whose parts a test can reach."""

    def __init__(self, settings, folder, at=None, do=None, enough=None):
        """Call ``do(session)`` once, in the round after ``at`` env steps; end when there is ``enough``."""
        self.session, self.rounds = TrainSession(settings, folder), []
        self._at, self._do, self._enough = at, do, enough

    def __call__(self, metrics):
        self.rounds.append(metrics)
        if self._do is not None and self.session.progress.env_steps >= self._at:
            do, self._do = self._do, None
            do(self.session)
        if self._enough is not None and self._enough(self.session):
            self.session.progress.stopped = "enough"

    def run(self):
        try:
            loop(self.session.run(self))
            last = {}
            self.session.examiner.finish(last)
            self.rounds.append(last)
        finally:
            self.session.close()
        return self.session


SYNC = [
    "--execution", "sync", "--num-envs", "4", "--rollout.steps", "32", "--policy.hidden", "16",
    "--evaluate-every", "2000", "--evaluation.episodes", "2", "--evaluation.final", "0",
]  # fmt: skip


def start(folder, *words):
    """Begin ``understudy train --run run`` in a process group of its own, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, "-m", "understudy.cli", "train", "--run", "run", *map(str, words)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell in the background has its tests ignore Ctrl-C, nohup the end of a terminal; a user's terminal neither.
        preexec_fn=lambda: [signal.signal(sign, signal.SIG_DFL) for sign in (signal.SIGINT, signal.SIGHUP)],
    )


def end(driver):
    """Leave nobody behind, whatever a test found."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()


def again(flag):
    """Whether somebody took the flag, was replaced, and the new worker steps."""
    seen = {}

    def enough(session):
        pool = session.execution.pool
        for failure in pool.restarts.failures:
            beats = int(pool._beats[failure.worker, 0])
            if beats > seen.setdefault(failure.worker, beats):
                return not flag.exists()
        return False

    return enough


def gone(pid):
    """Whether no process has this number; one that is dead and not waited for counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def workers_of(pid):
    """The numbers of all workers and evaluators that a process started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


def until(condition, seconds=120.0):
    """Wait for something."""
    begin = time.time()
    while not condition():
        assert time.time() - begin < seconds, "it never happened"
        time.sleep(0.01)


def all_is_finite(folder):
    """The policy and the state in a folder can be loaded, and hold numbers."""
    arrays, data = read_arrays(folder / "state.safetensors")
    weights = load_policy(folder / "last.safetensors").state_dict()
    assert weights and all(bool(tensor.isfinite().all()) for tensor in weights.values())
    assert all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f")
    return data["progress"]


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_killed_worker_is_replaced_at_once(tmp_path, execution):
    killed = []

    def kill(session):
        until(lambda: session.execution.pool._beats[1, 0] > 0)
        session.execution.pool.processes[1].kill()
        killed.append(time.time())

    watched = Watched(small(execution, restarts=1), tmp_path, 2_000, kill)
    before = watched.session.execution.pool.processes
    session = watched.run()
    (failure,) = session.execution.pool.restarts.failures
    assert failure.worker == 1 and failure.reason == "died (exit code -9)"
    assert 0 <= failure.time - killed[0] < PROMPT
    assert session.execution.faults.restarts == 1
    assert session.execution.faults.lost_episodes == 2, "those of its two environments, not those of the other worker"
    # A round is 128 steps; two workers of A3C end after at most a rollout of 64 steps each.
    assert session.progress.env_steps == -(-12_000 // 128) * 128 or execution == "a3c"
    assert 12_000 <= session.progress.env_steps < 12_128 and session.progress.env_steps % 64 == 0
    assert session.progress.stopped == "env_steps"
    assert all(gone(p.pid) for p in (*before, *session.execution.pool.processes))


@pytest.mark.parametrize("execution", ["sync", "a3c"])
def test_workers_killed_before_their_first_answer(tmp_path, execution):
    """All of them, the evaluator too, while they import what they need: no episode had begun, so none is lost."""
    watched = Watched(small(execution, evaluation={"every": 2_000}, env_steps=4_000), tmp_path)
    session = watched.session
    for process in (*session.execution.pool.processes, *session.evaluator._pool.processes):
        process.kill()
    watched.run()
    assert session.execution.faults.restarts == 2 and session.execution.faults.lost_episodes == 0
    assert session.faults.restarts == 3, "the evaluator is counted as well"
    assert any("eval_return" in metrics for metrics in watched.rounds)


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_a_killed_evaluator_plays_its_episodes_again(tmp_path, execution):
    """Killed before its job is done: the run goes on, and the result is that of the weights it was ordered for."""
    settings = small(execution, evaluation={"every": 2_000, "episodes": 4}, env_steps=4_000)

    def kill(session):
        assert session.evaluator.busy
        session.evaluator._pool.processes[0].kill()

    watched = Watched(settings, tmp_path, 2_000, kill)
    # So that it is not done before it is killed.
    os.kill(watched.session.evaluator._pool.processes[0].pid, signal.SIGSTOP)
    session = watched.run()
    found = [metrics for metrics in watched.rounds if "eval_return" in metrics]
    assert found and 2_000 <= found[0]["eval_env_steps"] < 2_200
    assert session.evaluator.restarts_used == 1 and session.faults.restarts == 1
    assert session.faults.lost_episodes == 0


def test_an_evaluator_that_stands_still_never_stops_the_learner():
    """A stopped process reads nothing: weights of megabytes must not go through its pipe."""
    env = EnvSpec("CartPole-v1")
    spec = spec_of(env, (1024, 1024))
    evaluator = Evaluator(Setup(env, (0,), 8, spec, None, 1), timeout=1.0, restarts=1)
    try:
        os.kill(evaluator._pool.processes[0].pid, signal.SIGSTOP)
        begin = time.perf_counter()
        evaluator.begin(named_arrays(Policy(spec)), (1, 2), deterministic=True)
        assert evaluator.result() is None
        assert time.perf_counter() - begin < PROMPT
    finally:
        begin = time.perf_counter()
        evaluator.close()
    assert time.perf_counter() - begin < PROMPT


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_an_exception_in_one_environment_is_shown_once(tmp_path, execution, capfd):
    flag = tmp_path / "flag"
    watched = Watched(
        small(execution, PROBES + "Raising-v0", {"flag": str(flag)}, 10**9, restarts=3), tmp_path / "run", 1_000,
        lambda session: flag.touch(), again(flag),
    )  # fmt: skip
    session = watched.run()
    error = capfd.readouterr().err
    assert error.count("Traceback (most recent call last)") == 1
    assert error.count("RuntimeError: this probe raises in step") == 2, "in the traceback, and in the line about it"
    assert error.strip().endswith("replaced, restart 1 of 3")
    assert session.execution.faults.restarts == 1 and session.execution.faults.lost_episodes == 2


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_hang_is_noticed_in_time(tmp_path, execution):
    flag, timeout = tmp_path / "flag", 2.0
    watched = Watched(
        small(execution, PROBES + "Hanging-v0", {"flag": str(flag)}, 10**9, worker_timeout=timeout, restarts=1),
        tmp_path / "run", 1_000, lambda session: flag.touch(), again(flag),
    )  # fmt: skip
    session = watched.run()
    (taken,) = tmp_path.glob("flag.*")
    (failure,) = session.execution.pool.restarts.failures
    assert failure.reason == "made no step for 2 s: its environment hangs?"
    # The worker may have been made to wait between its last sign of life and the moment of the flag.
    assert timeout / 2 <= failure.time - taken.stat().st_ctime < timeout + PROMPT
    assert gone(int(taken.suffix[1:])), "the one that hung was killed"
    assert session.execution.faults.restarts == 1


def test_who_was_stopped_with_its_workers_does_not_take_them_for_hanging(tmp_path):
    """Ctrl-Z and fg: driver and workers stand still for longer than the limit, and nothing is wrong with anybody."""
    driver = start(tmp_path, "--env", "CartPole-v1", *SYNC, "--env-steps", 10**9, "--worker-timeout", 2)
    try:
        log = tmp_path / "run" / "log.jsonl"
        until(lambda: log.exists() and log.stat().st_size > 0)
        os.killpg(driver.pid, signal.SIGSTOP)
        time.sleep(4)
        size = log.stat().st_size
        os.killpg(driver.pid, signal.SIGCONT)
        until(lambda: log.stat().st_size > 2 * size)
        rows = [json.loads(line) for line in log.read_text().splitlines()[:-1]]
        assert rows[-1]["restarts"] == 0
    finally:
        end(driver)


def test_a_worker_that_was_stopped_has_time_for_a_slow_step(monkeypatch):
    """By a clock of the test's: the machine sleeps for 700 s of 600, then the worker needs 5 s, or stands still."""
    pool = Pool(Setup(EnvSpec("CartPole-v1"), (0,), 8, spec_of("CartPole-v1"), None), [range(1)], timeout=600)
    try:
        os.kill(pool.processes[0].pid, signal.SIGSTOP)
        pool.order(0, ("collect", Mixture(0.0), 8, None, 0))
        with monkeypatch.context() as patched:
            begin = time.perf_counter()
            for passed in (700, 705):
                patched.setattr(time, "perf_counter", lambda passed=passed: begin + passed)
                assert pool.answers([0], block=False) == []
            patched.setattr(time, "perf_counter", lambda: begin + 715)
            with pytest.raises(WorkerError, match="did not come to its first step for 600 s"):
                pool.answers([0], block=False)
    finally:
        pool.close()


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_restarts_used_up_end_the_run_and_keep_what_was_learnt(tmp_path, execution):
    """The env raises in its 60th step in every worker, so that all of them fail, again and again."""
    folder = tmp_path / "run"
    settings = small(execution, PROBES + "Raising-v0", {"after": 60}, 10**6, restarts=2)
    if execution == "a3c":  # tells of 640 steps at a time
        settings = small(
            execution, PROBES + "Raising-v0", {"after": 60, "flag": str(tmp_path / "f")}, 10**6, restarts=0
        )

    def report(metrics):
        if metrics["env_steps"] >= 1_000:
            (tmp_path / "f").touch()

    with pytest.raises(WorkerError) as caught:
        train(settings=settings, run=folder, report=report)
    message = str(caught.value)
    assert re.match(r"worker \d raised RuntimeError: this probe raises in step \d+", message)
    assert execution == "a3c" or "(all 2 restarts are used up)" in message
    assert f"go on with: understudy train --resume {folder}" in message and "\n" not in message
    assert "this probe raises" in caught.value.details and "Traceback" in caught.value.details
    assert all_is_finite(folder)["env_steps"] >= (1_000 if execution == "a3c" else 128)


def test_a_mistake_that_only_workers_see_is_no_reason_to_restart(tmp_path, capfd):
    """An environment that is registered in the learner's process alone: one line, and nobody tries again."""
    gym.register("OnlyHere-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=50)
    try:
        with pytest.raises(UserError, match=r"^worker \d: .*OnlyHere-v0") as caught:
            train(settings=small("sync", "OnlyHere-v0"), run=tmp_path)
    finally:
        gym.registry.pop("OnlyHere-v0")
    assert not isinstance(caught.value, WorkerError) and "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
    assert not workers_of(os.getpid())


def test_what_was_started_ends_when_the_start_fails(tmp_path):
    with pytest.raises(UserError, match="CartPole-v7"):
        Pool(Setup(EnvSpec("CartPole-v7"), (0,), 8, None, None), [range(1)])
    assert not workers_of(os.getpid())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_nan_never_reaches_a_checkpoint(tmp_path, execution):
    """Weights blow up under a learning rate of 1e30, while checkpoints are written all the time."""
    settings = merge(plain(small(execution, "Pendulum-v1", env_steps=10**6, checkpoint_every=512)), {
        "update": {"lr": "piecewise(0:1e-3, 8000:1e-3, 8001:1e30)", "max_grad_norm": 0.0}
    })  # fmt: skip
    with pytest.raises(
        UserError, match=r"not finite in the update after \d+ env steps|holds NaN or infinity"
    ) as caught:
        train(settings=resolve_training(settings, None), run=tmp_path)
    assert not isinstance(caught.value, WorkerError)
    assert all_is_finite(tmp_path)["env_steps"] > 0


@pytest.mark.parametrize("execution", ["single", *EXECUTIONS, "evaluator"])
def test_nan_from_the_environment_costs_nothing_learnt(tmp_path, execution):
    """No checkpoint was due before: in the 90th step (async is at most 64 ahead), of an evaluation after 32 steps."""
    judged = {"every": 128 if execution == "evaluator" else 0, "wait": True}
    settings = small(execution, "understudy/Bad-v0", {"what": "reward", "after": 90}, evaluation=judged)
    with pytest.raises(UserError, match="reward of environment . is nan in step 90") as caught:
        train(settings=settings, run=tmp_path)
    assert not isinstance(caught.value, WorkerError)
    saved = all_is_finite(tmp_path)["env_steps"]
    line = f"; {saved:,} env steps are saved in {tmp_path}; go on with: understudy train --resume {tmp_path}"
    assert saved > 0 and str(caught.value).endswith(line)


@pytest.mark.parametrize("hear", [True, False])
def test_close_is_quick_when_workers_are_busy(hear, monkeypatch):
    """Those in a long rollout leave when told to; those that hear nothing are killed."""
    monkeypatch.setattr(processes, "LEAVE_SECONDS", 2 * PROMPT if hear else 0.5)
    env = EnvSpec(PROBES + "Hanging-v0", {"after": 5, "seconds": 3600.0})
    plan = Setup(env, (0, 1, 2), 64, spec_of(env), None, traced=True)
    pool = Pool(plan, [range(i, i + 1) for i in range(3)], timeout=60)
    pool.board.publish(named_arrays(Policy(plan.student)))
    for i in range(3):
        pool.order(i, ("collect", Mixture(0.0, sample=True), 64, None, 0))
    until(lambda: all(pool._beats[:, 0] > 0))
    for process in () if hear else pool.processes:
        os.kill(process.pid, signal.SIGSTOP)
    begin = time.perf_counter()
    pool.close()
    assert time.perf_counter() - begin < PROMPT
    assert [process.returncode for process in pool.processes] == [0 if hear else -9] * 3


def test_a_worker_whose_pipe_is_held_open_by_its_child_is_noticed():
    """An environment may start programs; that one of them lives on must not hide the worker's death."""
    pool = Pool(Setup(EnvSpec("CartPole-v1"), (0,), 8, spec_of("CartPole-v1"), None), [range(1)], timeout=60)
    try:
        real = pool._processes[0]
        # A pipe that never ends, in the place of the dead worker's.
        ours, theirs = Pipe()
        real.kill()
        real.wait()
        pool._controls[0] = ours
        begin = time.perf_counter()
        with pytest.raises(WorkerError, match=r"died \(exit code -9\)"):
            pool.answers([0])
        assert time.perf_counter() - begin < PROMPT
        theirs.close()
    finally:
        pool.close()


@pytest.mark.parametrize("hangs", [False, True])
def test_a_killed_driver_leaves_nobody(tmp_path, hangs):
    """Nobody is told anything: the kernel ends the workers, also one that hangs in its environment."""
    flag = tmp_path / "flag"
    env = ["--env", PROBES + "Hanging-v0", "--env.kwargs", f"{{flag: {flag}}}"] if hangs else ["--env", "CartPole-v1"]
    driver = start(tmp_path, *env, *SYNC, "--env-steps", 10**9)
    try:
        log = tmp_path / "run" / "log.jsonl"
        until(lambda: log.exists() and log.stat().st_size > 0)
        workers = workers_of(driver.pid)
        assert len(workers) == 3, "two workers and an evaluator"
        if hangs:
            flag.touch()
            until(lambda: not flag.exists())
        driver.kill()
        until(lambda: all(map(gone, workers)))
    finally:
        end(driver)


def test_a_driver_killed_while_it_starts_leaves_nobody(tmp_path):
    driver = start(tmp_path, "--env", "CartPole-v1", *SYNC)
    try:
        until(lambda: len(workers_of(driver.pid)) >= 2)
        workers = workers_of(driver.pid)
        driver.kill()
        until(lambda: all(map(gone, workers)))
    finally:
        end(driver)


def test_resume_after_kills_at_random_moments(tmp_path):
    """SIGKILL at any moment, also within a save: the last checkpoint loads, and the end is that of a run without kills.

    Checkpoints begin new episodes, so that what follows depends on them alone.
    """
    words = ["--env", "CartPole-v1", *SYNC, "--env-steps", 10**9, "--checkpoint_every", 512, "--evaluate-every", 0]
    rng, run, reached = np.random.default_rng(0), tmp_path / "run", []
    state = run / "state.safetensors"
    driver = start(tmp_path, *words)
    try:
        for _ in range(3):
            until(state.exists)
            before = state.stat().st_mtime_ns
            until(lambda before=before: state.stat().st_mtime_ns != before)  # it learns again
            time.sleep(rng.uniform(0, 0.3))
            driver.kill()
            _, error = driver.communicate()
            assert error == "", "no worker was replaced: another one lives other episodes"
            reached.append(all_is_finite(run)["env_steps"])
            last = [] if len(reached) < 3 else ["--env-steps", reached[-1] + 2_000]
            driver = start(tmp_path, "--resume", "run", *last)
        _, error = driver.communicate(timeout=400)
        assert driver.returncode == 0 and error == "", error
    finally:
        end(driver)
    assert reached == sorted(set(reached)), "each run came further than the one before"
    whole = train(run=tmp_path / "whole", settings=yaml.safe_load((run / "config.yaml").read_text())["settings"])
    assert json.loads((run / "summary.json").read_text())["env_steps"] == whole.env_steps >= reached[-1] + 2_000
    assert (
        read_log(run / "log.jsonl")[-1]["restarts"] == read_log(tmp_path / "whole" / "log.jsonl")[-1]["restarts"] == 0
    )
    mine = load_policy(run / "last.safetensors").state_dict()
    assert all(bool((tensor == mine[name]).all()) for name, tensor in whole.policy.state_dict().items())


@pytest.mark.parametrize(
    ("moment", "sign"),
    [
        ("training", signal.SIGINT),
        ("hanging", signal.SIGINT),
        ("training", signal.SIGTERM),
        ("training", signal.SIGHUP),
    ],
)
def test_ctrl_c_and_its_kin_save_and_leave_nobody(tmp_path, moment, sign):
    """To the whole process group, as a terminal sends it, or to the driver alone; no checkpoint was due before."""
    flag = tmp_path / "flag"
    env = ["--env", "CartPole-v1"]
    if moment == "hanging":
        env = ["--env", PROBES + "Hanging-v0", "--env.kwargs", f"{{flag: {flag}}}"]
    driver = start(tmp_path, *env, *SYNC, "--env-steps", 10**9, "--checkpoint_every", 10**9)
    try:
        log = tmp_path / "run" / "log.jsonl"
        until(lambda: log.exists() and log.stat().st_size > 2_000)
        workers = workers_of(driver.pid)
        if moment == "hanging":
            flag.touch()
            until(lambda: not flag.exists())
        assert not (tmp_path / "run" / "state.safetensors").exists()
        (os.kill if sign == signal.SIGTERM else os.killpg)(driver.pid, sign)
        if sign == signal.SIGHUP:  # the shell says it, too, while the run is being saved
            time.sleep(0.02)
            with contextlib.suppress(ProcessLookupError):
                os.kill(driver.pid, sign)
        _, error = driver.communicate(timeout=2 * PROMPT)
    finally:
        end(driver)
    assert driver.returncode == 128 + sign
    assert all(map(gone, workers))
    env_steps = all_is_finite(tmp_path / "run")["env_steps"]
    rows = [json.loads(line)["env_steps"] for line in log.read_text().splitlines()]
    assert env_steps >= rows[-1]
    line = (
        f"understudy: interrupted; {env_steps:,} env steps are saved in run; go on with: understudy train --resume run"
    )
    # Workers get a closed terminal's signal too, and may be gone before the driver has heard of it.
    assert (error.strip().splitlines()[-1] if sign == signal.SIGHUP else error.strip()) == line


def test_nohup_is_heeded(tmp_path):
    """A run that was told to ignore the end of its terminal goes on after it."""
    words = ["-m", "understudy.cli", "train", "--run", "run", "--env", "CartPole-v1", *SYNC, "--env-steps", "8000"]
    driver = subprocess.Popen(
        ["nohup", sys.executable, *words], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        log = tmp_path / "run" / "log.jsonl"
        until(lambda: log.exists() and log.stat().st_size > 0)
        driver.send_signal(signal.SIGHUP)
        assert driver.wait(400) == 0
    finally:
        driver.kill()
        driver.wait()


def test_ctrl_c_while_it_starts_is_one_line(tmp_path):
    """Workers that have only begun to import get the signal too, and say nothing."""
    driver = start(tmp_path, "--env", "CartPole-v1", *SYNC)
    try:
        until(lambda: len(workers_of(driver.pid)) >= 2)
        workers = workers_of(driver.pid)
        os.killpg(driver.pid, signal.SIGINT)
        _, error = driver.communicate(timeout=2 * PROMPT)
    finally:
        end(driver)
    assert driver.returncode == 130 and error.strip().count("\n") == 0, error
    assert error.startswith("understudy: interrupted") and all(map(gone, workers))


@pytest.mark.parametrize("kind", [ZeroDivisionError, UserError, SystemExit])
def test_an_exception_in_the_learners_process_keeps_what_was_learnt(tmp_path, kind):
    def report(metrics):
        if metrics["env_steps"] >= 512:
            raise kind("enough")

    with pytest.raises(kind, match="enough") as caught:
        train(settings=small("single"), run=tmp_path, report=report)
    assert caught.value.__notes__ == [
        f"512 env steps are saved in {tmp_path}; go on with: understudy train --resume {tmp_path}"
    ]
    assert all_is_finite(tmp_path)["env_steps"] == 512


def test_a_second_ctrl_c_during_the_save_does_no_harm(tmp_path, monkeypatch):
    """The first one came after a checkpoint; the second comes in the middle of the next: the first stays whole."""
    settings = small("single", checkpoint_every=512)

    def report(metrics):
        if metrics["env_steps"] > 512:
            monkeypatch.setattr(os, "replace", interrupt)
            raise KeyboardInterrupt

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        train(settings=settings, run=tmp_path, report=report)
    assert not isinstance(caught.value, Interrupted)
    assert all_is_finite(tmp_path)["env_steps"] == 512
