"""Runs that begin or end badly: no reader of the output, starts that fail or hang, what cannot be closed."""

import contextlib
import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from multiprocessing import Pipe
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from understudy.cli import main
from understudy.data import EnvSpec
from understudy.distillation import distill
from understudy.envs.make import spaces_of
from understudy.errors import Interrupted, tell
from understudy.execution.base import EvaluationJob, Setup
from understudy.execution.line import Line
from understudy.execution.processes import end_all
from understudy.execution.restarts import WorkerError
from understudy.execution.station import Station
from understudy.execution.sync import SyncExecution
from understudy.io.log import RunLog, read_log
from understudy.policies.files import remove_leftovers
from understudy.policies.policy import Policy
from understudy.policies.weights import named_arrays
from understudy.settings.train import NetworkSettings
from understudy.terminal_progress import console as terminal_console
from understudy.training import resolve_training, train
from understudy.training_parts import policy_spec
from understudy.training_session import TrainSession

SMALL = {
    "policy": {"hidden": [16]},
    "rollout": {"num_envs": 4, "steps": 32},
    "evaluation": {"every": 0, "final": 0},
    "stop": {"env_steps": 256},
}


def children():
    """The processes that this one has started and that live, workers or not."""
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()


def without_reader(*words, cwd):
    """Begin a command whose standard output and error are pipes that nobody reads."""
    here, there = os.pipe()
    os.close(here)
    with os.fdopen(there, "w") as nobody:
        return subprocess.Popen([sys.executable, "-m", "understudy", *words], cwd=cwd, stdout=nobody, stderr=nobody)


def test_a_run_whose_output_nobody_reads_ends_normally(tmp_path):
    """Also where a worker dies, which is told on stderr."""
    words = ["--env", "CartPole-v1", "--execution", "sync", "--num-envs", "4", "--rollout.steps", "32"]
    words += ["--policy.hidden", "8", "--evaluate-every", "0", "--evaluation.final", "0", "--env-steps", "20000"]
    run = without_reader("train", *words, "--run", "run", cwd=tmp_path)
    try:
        log = tmp_path / "run" / "log.jsonl"
        while not (log.exists() and log.stat().st_size):
            assert run.poll() is None
            time.sleep(0.01)
        os.kill(int(Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()[0]), signal.SIGKILL)
        assert run.wait(400) == 0
    finally:
        run.kill()
    assert read_log(log)[-1]["restarts"] == 1
    names = {"last.safetensors", "state.safetensors", "summary.json"}
    assert names <= {path.name for path in (tmp_path / "run").iterdir()}


def test_what_only_shows_something_ends_without_a_reader(tmp_path):
    assert without_reader("presets", cwd=tmp_path).wait(60) == 1


def test_a_run_that_a_broken_pipe_ends_does_not_claim_success(monkeypatch):
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr("understudy.terminal_training.run_train", broken)
    with pytest.raises(BrokenPipeError):
        main(["train", "--env", "CartPole-v1"])


@pytest.mark.parametrize("needs_reader", [False, True], ids=["run", "show"])
def test_a_full_disk_takes_what_is_shown_and_not_the_run(monkeypatch, capsys, needs_reader):
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        console = type(terminal_console)(highlight=False)
        console.needs_reader = needs_reader
        with pytest.raises(SystemExit) if needs_reader else contextlib.nullcontext():
            console.print("a line")
        console.print("and one more")
        assert os.path.samestat(os.fstat(stream.fileno()), os.stat(os.devnull)), "what is left goes nowhere"
    ends = "it ends here" if needs_reader else "the run goes on, and shows nothing more"
    assert capsys.readouterr().err == (
        f"understudy: what is shown cannot be written (No space left on device): {ends}\n"
    )


def test_what_the_system_refuses_is_one_line(monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit) as left:
        main(["train", "--env", "CartPole-v1", "--preset", "ppo", "--run", str(tmp_path / ("x" * 300))])
    assert left.value.code == 2
    said = f"understudy: error: the system says: File name too long: {tmp_path}"
    assert capsys.readouterr().err.startswith(said)

    def refused(*_):
        error = OSError(errno.EMFILE, "Too many open files")
        error.add_note("100 env steps are saved in here")
        raise error

    monkeypatch.setattr("understudy.terminal_training.run_train", refused)
    with pytest.raises(SystemExit):
        main(["train", "--env", "CartPole-v1"])
    said = "understudy: error: the system says: Too many open files; 100 env steps are saved in here\n"
    assert capsys.readouterr().err == said


def test_what_nobody_reads_is_told_without_harm(monkeypatch):
    here, there = os.pipe()
    os.close(here)
    with os.fdopen(there, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        for _ in range(2):
            tell("nobody hears this\n")
        assert os.path.samestat(os.fstat(there), os.stat(os.devnull)), "what is left to be written goes nowhere"
    monkeypatch.setattr(sys, "stderr", None)
    tell("nor this\n")


def test_weights_are_not_sent_to_a_worker_that_does_not_read(monkeypatch):
    monkeypatch.setattr("understudy.execution.pool.START_SECONDS", 0.5)
    env = EnvSpec("CartPole-v1")
    spec = policy_spec(NetworkSettings(hidden=(512, 512)), *spaces_of(env), False)
    execution = SyncExecution(Setup(env, (0,), 8, spec, None, 1), 1, timeout=0.5)
    try:
        os.kill(execution.pool.processes[0].pid, signal.SIGSTOP)
        with pytest.raises(WorkerError, match="did not come to its first step"):
            execution.evaluate([EvaluationJob("student", (1, 2), named_arrays(Policy(spec)))])
    finally:
        execution.close()


class Noting(gym.Env):
    """Notes the signs of life that were seen whenever it is built, reset or stepped; ends every third step."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)
    signs, seen, seconds = np.zeros(2, np.int64), [], 0.0

    def __init__(self, **_):
        self.seen.append(int(self.signs[1]))

    def reset(self, *, seed=None, options=None):
        self.seen.append(int(self.signs[1]))
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.seen.append(int(self.signs[1]))
        time.sleep(self.seconds)
        self.count += 1
        return np.zeros(1, np.float32), 0.0, False, self.count == 3, {}


@pytest.mark.parametrize("kwargs", [{}, {"tasks": ["Noting-v0", "Noting-v0"]}], ids=["one", "tasks"])
def test_every_slow_environment_gives_a_sign_of_life(kwargs, monkeypatch):
    """Several that begin new episodes in one step were taken for one that hangs."""
    gym.register("Noting-v0", Noting)
    monkeypatch.setattr(Noting, "signs", np.zeros(2, np.int64))
    monkeypatch.setattr(Noting, "seconds", 0.025)
    monkeypatch.setattr(Noting, "seen", [])
    spec = EnvSpec("multitask" if kwargs else "Noting-v0", kwargs)
    station = Station(Setup(spec, (0, 1), 8, None, None), range(2), 2, beat=Noting.signs)
    try:
        env = station._make(spec, 2)
        env.reset([0, 1])
        for _ in range(4):
            env.step(np.zeros(2, int))
        assert Noting.seen == list(range(1, 2 * (1 + 1 + 4 + 1) + 1)), "built, reset, four steps, one new episode"
        assert Noting.signs[0] == 4
    finally:
        gym.registry.pop("Noting-v0")


class Unclosable(Noting):
    """Cannot be closed."""

    def close(self):
        raise RuntimeError("no\nway")


@pytest.mark.parametrize("interrupted", [False, True])
def test_an_environment_that_cannot_be_closed_costs_no_result(tmp_path, capsys, monkeypatch, interrupted):
    closed, close = [], RunLog.close
    monkeypatch.setattr(RunLog, "close", lambda log: (closed.append(log), close(log)))

    def report(metrics):
        if interrupted:
            raise KeyboardInterrupt

    settings = {**SMALL, "execution": {"type": "single"}}
    if interrupted:
        with pytest.raises(Interrupted, match="128 env steps are saved"):
            train(Unclosable, settings=settings, run=tmp_path, report=report)
    else:
        assert train(Unclosable, settings=settings, run=tmp_path).env_steps == 256
    told = capsys.readouterr().err.splitlines()
    assert told[-1].endswith("Unclosable: close() raised RuntimeError: no way in 4 environments")
    assert len(closed) == 1


def test_the_log_is_closed_where_the_processes_cannot_be(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(RunLog, "close", lambda log: closed.append(log))
    monkeypatch.setattr(TrainSession, "close", lambda session: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train("CartPole-v1", settings={**SMALL, "execution": {"type": "single"}}, run=tmp_path)
    assert len(closed) == 1


@pytest.mark.parametrize("seconds", [2.2e6, 1e12, float("inf")])
def test_a_line_waits_for_as_long_as_anybody_likes(seconds):
    here, there = Pipe()
    other = Line(there)
    timer, line, begin = threading.Timer(0.1, other.signal), Line(here, seconds), time.perf_counter()
    timer.start()
    line.wait()
    assert time.perf_counter() - begin >= 0.1 and not line.heard()
    timer.join()


def test_what_killed_writers_left_is_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = [f".state.safetensors.{gone.pid}.tmp", f".best.safetensors.{os.getppid()}.tmp", ".notes.tmp"]
    names += [f".{10**30}.tmp", f".x.{10**30}.tmp"]
    for folder in (tmp_path, tmp_path / "data"):
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).touch()
    train("CartPole-v1", settings={**SMALL, "execution": {"type": "single"}}, run=tmp_path)
    for folder in (tmp_path, tmp_path / "data"):
        assert {path.name for path in folder.glob(".*.tmp")} == set(names[1:])
    remove_leftovers(tmp_path / "nowhere")


def balance(obs):
    return (obs[:, 2] + 0.5 * obs[:, 3] > 0).astype(np.int64)


@pytest.mark.parametrize("missing", ["TeacherLabels", "ActorCritic", "SharedWeights", "make_execution"])
def test_no_process_outlives_a_start_that_fails(tmp_path, monkeypatch, missing):
    def fail(*_, **__):
        raise ZeroDivisionError

    home = "distill_session" if missing == "TeacherLabels" else "training_session"
    monkeypatch.setattr(f"understudy.{home}.{missing}", fail)
    before = children()
    with pytest.raises(ZeroDivisionError):
        if missing == "TeacherLabels":
            distill(balance, "CartPole-v1", run=tmp_path, execution__type="sync")
        elif missing == "make_execution":  # the learner has a second process
            train("Pendulum-v1", "sac", run=tmp_path, execution__learner_threads=2)
        else:
            shared = missing == "SharedWeights"
            execution = {"type": "async" if shared else "sync", "shared_gradients": shared}
            TrainSession(
                resolve_training({**SMALL, "env": {"id": "CartPole-v1"}, "execution": execution}, None), tmp_path
            )
    assert children() == before


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seen", [False, True])
def test_an_interrupt_in_the_middle_of_a_look_leaves_no_end_that_waits_for_ever(seen):
    """Where an interrupt comes between taking and keeping the lock of ``Popen.poll``, nobody gives it back."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    if seen:
        process.kill()
        process.wait()
    process._waitpid_lock.acquire()
    end_all([process])
    assert process.returncode in (-signal.SIGKILL, -signal.SIGTERM)
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


@pytest.mark.parametrize(
    ("preset", "more"),
    [
        ("ppo", {"rollout__steps": 32, "execution__type": "sync", "execution__num_workers": 1, "evaluation__every": 9}),
        ("dqn", {"replay__capacity": 200, "replay__warm_up": 20}),
    ],
)
def test_a_run_that_is_over_holds_no_memory(tmp_path, monkeypatch, preset, more):
    held = []

    def close(session):
        end(session)
        held.extend(weakref.ref(part) for part in (session, session.learner, session.execution))

    end = TrainSession.close
    monkeypatch.setattr(TrainSession, "close", close)
    quiet = {"evaluation__every": 0, "evaluation__final": 0, "stop__env_steps": 128, "policy__hidden": [8]}
    gc.disable()  # it comes once in many runs, and replays and shared memory are large
    try:
        train("CartPole-v1", preset, run=tmp_path, **{**quiet, **more})
        assert [part() for part in held] == [None, None, None]
    finally:
        gc.enable()
