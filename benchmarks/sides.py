"""One run of one side in a process of its own: ``python benchmarks/sides.py JOB``, a JSON object; see ``fresh.py``.

Ours runs through ``understudy.train`` as a user calls it; Stable-Baselines3 is told the same settings, translated by
``sb3_model``. Everything that has to be imported is imported before a clock starts (``warm``); workers of either side
import in their own time.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import understudy.training as training
from fresh import RESULT
from understudy.envs.make import env_backend, make
from understudy.objectives.schedules import parse
from understudy.settings import ReplayedSettings, TrainSettings
from understudy.settings.replayed import DeterministicSettings, QLearningSettings, SoftSettings
from understudy.settings.replayed_sections import SoftObjective
from understudy.terminal_training import limit
from understudy.training import resolve_training
from understudy.training_session import TrainSession

Predict = Callable[[np.ndarray[Any, Any]], Any]


class Done(Exception):  # noqa: N818 (nothing went wrong)
    """The run has shown what it was to show."""


def play(predict: Predict, env_id: str, seeds: Sequence[int], num_envs: int = 50) -> list[float]:
    """Return the undiscounted return of one episode per seed, in plain gymnasium environments: neither side's code."""
    envs = [gym.make(env_id, disable_env_checker=True) for _ in range(min(num_envs, len(seeds)))]
    returns: list[float] = []
    for first in range(0, len(seeds), len(envs)):
        wave = seeds[first : first + len(envs)]
        obs = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, wave, strict=False)])
        total, active = np.zeros(len(wave)), list(range(len(wave)))
        while active:
            actions = predict(obs[active])
            left = []
            for i, action in zip(active, actions, strict=True):
                obs[i], reward, terminated, truncated, _ = envs[i].step(action)
                total[i] += float(reward)
                if not (terminated or truncated):
                    left.append(i)
            active = left
        returns += total.tolist()
    for env in envs:
        env.close()
    return returns


class Watch:
    """The clock of one run: told after every round, stands still while the policy of that moment is evaluated.

    ``after`` (env steps) of the job says from which round on the rate counts; ``every`` (env steps), ``score``,
    ``episodes`` and ``env`` say when it evaluates, and at which mean return the run is done.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._job, self._next = job, job.get("every", 0)
        self._paused, self._begin = 0.0, time.perf_counter()
        self.marks: list[tuple[float, int]] = []
        self.cpu: list[float] = []
        """CPU seconds of this process at every mark: what a busy machine disturbs less."""
        self.curve: list[tuple[int, float, float]] = []
        """(env steps, seconds without evaluation, mean return) of every evaluation."""

    @property
    def seconds(self) -> float:
        """Since the beginning, without evaluation."""
        return time.perf_counter() - self._begin - self._paused

    def round(self, env_steps: int, predict: Predict) -> None:
        """Note that so many steps were made and learnt from.

        Raises:
            Done: The score is reached.
        """
        self.marks.append((self.seconds, env_steps))
        self.cpu.append(time.process_time())
        if not self._next or env_steps < self._next:
            return
        self._next += self._job["every"]
        before = time.perf_counter()
        mean = float(np.mean(self.judge(predict)))
        self._paused += time.perf_counter() - before
        self.curve.append((env_steps, self.marks[-1][0], mean))
        if mean >= self._job["score"]:
            raise Done

    def judge(self, predict: Predict) -> list[float]:
        """Play the job's episodes, the same for every run of the same seed, whoever learnt."""
        first = 10_000_000 + 100_000 * int(self._job.get("seed", 0))
        return play(predict, self._job["env"], range(first, first + self._job["episodes"]))

    def result(self) -> dict[str, Any]:
        """Return the rate from the first round's end to the last one's, and the evaluations."""
        begin = next(i for i, mark in enumerate(self.marks) if mark[1] >= self._job.get("after", 0))
        (first, begun), (last, ended) = self.marks[begin], self.marks[-1]
        spent = self.cpu[-1] - self.cpu[begin]
        cpu_rate = (ended - begun) / spent if spent > 0 else float("nan")
        rate = (ended - begun) / (last - first) if last > first else float("nan")
        solved = bool(self.curve) and self.curve[-1][2] >= self._job["score"]
        return {
            "rate": rate, "cpu_rate": cpu_rate, "env_steps": ended, "wall": last, "first_round": first,
            "curve": self.curve, "solved": solved,
        }  # fmt: skip


def warm(settings: TrainSettings | ReplayedSettings) -> None:
    """Import what either side imports late: simulators, emulators, PyTorch's compiler (its optimisers ask for it)."""
    spec = settings.env.spec()
    make(spec, 1).close()
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    from torch.utils import tensorboard  # noqa: F401

    import understudy.execution.asynchronous
    import understudy.execution.single
    import understudy.execution.sync  # noqa: F401


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Train with ``understudy.train``."""
    settings = resolve_training(job["settings"], job.get("preset"))
    warm(settings)
    sessions: list[TrainSession] = []

    class Seen(TrainSession):
        """Tells us of itself, so that the policy of the moment can be judged; otherwise as it is."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            sessions.append(self)

    def predict(obs: Any) -> Any:
        return sessions[0].policy.predict(obs, deterministic=True)[0]

    last: dict[str, Any] = {}

    def report(metrics: dict[str, Any]) -> None:
        last.update(metrics)
        watch.round(metrics["env_steps"], predict)

    training.TrainSession = Seen  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(job)
        with contextlib.suppress(Done):
            training.train(settings=settings, run=Path(folder) / "run", report=report)
        found = watch.result()
        seconds = {name.removeprefix("seconds/"): value for name, value in last.items() if name.startswith("seconds/")}
        found["seconds"] = seconds
        execution = settings.execution
        if not getattr(
            execution, "shared_gradients", False
        ):  # the profile does not know of learning inside the workers
            wall = 1e6 * (seconds["collect"] + seconds["learn"]) / last["env_steps"]
            found["limit_share"] = limit(last["env_steps"], seconds, execution.type) / wall
        if job.get("final"):
            found["returns"] = watch.judge(predict)
    return found


def sb3_envs(settings: TrainSettings | ReplayedSettings, kind: str, seed: int) -> Any:
    """Return Stable-Baselines3's vector environment: ``dummy``, ``subproc``, or an adapter where ale-py has its own."""
    from stable_baselines3.common import vec_env as sb3

    spec, count = settings.env.spec(), settings.rollout.num_envs
    if kind == "atari":
        return atari_as_shipped(spec.id, count, seed)
    if env_backend(spec) == "ale":
        return emulators(spec, count, seed)
    makers = [lambda: gym.make(spec.id) for _ in range(count)]
    envs: Any = sb3.SubprocVecEnv(makers) if kind == "subproc" else sb3.DummyVecEnv(makers)
    envs.seed(seed)
    objective = settings.objective
    if isinstance(settings, TrainSettings) and (settings.policy.normalize or objective.normalize_reward):
        envs = sb3.VecNormalize(
            envs,
            norm_obs=settings.policy.normalize,
            norm_reward=objective.normalize_reward,
            clip_reward=objective.reward_clip or float("inf"),
            gamma=objective.gamma,
        )
    return envs


def atari_as_shipped(env_id: str, count: int, seed: int) -> Any:
    """Return what the documentation of Stable-Baselines3 tells its users to take for Atari; needs OpenCV."""
    import ale_py
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gym.register_envs(ale_py)
    raw = {"frameskip": 1, "repeat_action_probability": 0.0}  # its wrapper skips four frames; nothing is sticky
    return VecFrameStack(make_atari_env(env_id, n_envs=count, seed=seed, env_kwargs=raw), 4)


def emulators(spec: Any, count: int, seed: int) -> Any:
    """Return ale-py's vector environment, the one that ours uses as well, as one of Stable-Baselines3.

    It is faster than that library's own AtariWrapper in a DummyVecEnv (and needs no OpenCV), which favours the peer.
    """
    from stable_baselines3.common.vec_env import VecEnv

    class Emulators(VecEnv):
        """B games; what is not needed for training is not there."""

        def __init__(self) -> None:
            self._games = make(spec, count)
            super().__init__(count, self._games.observation_space, self._games.action_space)

        def reset(self) -> Any:
            return self._games.reset(range(seed, seed + count))

        def step_async(self, actions: Any) -> None:
            self._actions = actions

        def step_wait(self) -> Any:
            step = self._games.step(self._actions)
            infos: list[dict[str, Any]] = [{} for _ in range(count)]
            done = step.terminated | step.truncated
            for i in np.flatnonzero(done):
                infos[i] = {"terminal_observation": step.final_obs[i], "TimeLimit.truncated": bool(step.truncated[i])}
            return step.obs, np.clip(step.reward, -1, 1), done, infos

        def close(self) -> None:
            self._games.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * count

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            raise NotImplementedError

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            raise NotImplementedError

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * count

    return Emulators()


def sb3_replayed(settings: ReplayedSettings, envs: Any, seed: int) -> Any:
    """Return a DQN, SAC or TD3 model with our settings; it gathers and learns in the same turns."""
    from stable_baselines3 import SAC, TD3

    replay, update, rollout = settings.replay, settings.update, settings.rollout
    assert replay.n_step == 1 and not replay.prioritised, "Stable-Baselines3 has neither"
    common: dict[str, Any] = {
        "learning_rate": parse(update.lr, "update.lr").value(0),
        "buffer_size": replay.capacity,
        "learning_starts": replay.warm_up,
        "batch_size": replay.batch_size,
        "tau": update.tau,
        "gamma": settings.objective.gamma,  # type: ignore[attr-defined]
        "train_freq": rollout.steps,
        "gradient_steps": int(rollout.num_envs * rollout.steps * update.update_to_data),
        "seed": seed,
        "device": "cpu",
    }
    if isinstance(settings, QLearningSettings):
        return sb3_dqn(settings, envs, common)
    assert isinstance(settings, SoftSettings | DeterministicSettings)
    assert not update.max_grad_norm, "Stable-Baselines3 does not limit these gradients"
    policy, objective = settings.policy, settings.objective
    critic_hidden = policy.hidden if policy.critic_hidden is None else policy.critic_hidden
    common["policy_kwargs"] = {
        "net_arch": {"pi": list(policy.hidden), "qf": list(critic_hidden)},
        "activation_fn": ACTIVATIONS[policy.activation],
        "n_critics": objective.critics,
    }
    if isinstance(objective, SoftObjective):
        return SAC("MlpPolicy", envs, **common)
    from stable_baselines3.common.noise import NormalActionNoise

    assert isinstance(settings, DeterministicSettings)
    size = envs.action_space.shape[0]
    std = parse(settings.exploration.std, "exploration.std").value(0)
    return TD3(
        "MlpPolicy",
        envs,
        policy_delay=objective.actor_every,
        target_policy_noise=objective.target_noise,
        target_noise_clip=objective.target_noise_clip,
        action_noise=NormalActionNoise(np.zeros(size), np.full(size, std)),
        **common,
    )


ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}


def sb3_dqn(settings: QLearningSettings, envs: Any, common: dict[str, Any]) -> Any:
    """Return a DQN with our settings; its target network moves by env steps, ours by updates."""
    from stable_baselines3 import DQN

    policy, objective, update = settings.policy, settings.objective, settings.update
    assert (objective.double, objective.distribution, policy.dueling, policy.noisy) == (False, "none", False, 0.0)
    epsilon, budget = parse(settings.exploration.epsilon, "exploration.epsilon"), settings.stop.env_steps
    model = DQN(
        "MlpPolicy",
        envs,
        target_update_interval=round(update.target_every / update.update_to_data),
        max_grad_norm=update.max_grad_norm or float("inf"),
        policy_kwargs={"net_arch": list(policy.hidden), "activation_fn": ACTIVATIONS[policy.activation]},
        **common,
    )
    model.exploration_schedule = lambda left: epsilon.value(round((1 - left) * budget))
    return model


def sb3_model(settings: TrainSettings | ReplayedSettings, envs: Any, seed: int) -> Any:
    """Return a model of the settings' method."""
    return (sb3_replayed if isinstance(settings, ReplayedSettings) else sb3_actor_critic)(settings, envs, seed)


def sb3_actor_critic(settings: TrainSettings, envs: Any, seed: int) -> Any:
    """Return a PPO or A2C model with our settings.

    Its value loss is the mean square, ours half of it, so ``vf_coef`` is half of our ``value_weight``. Its learning
    rate follows our schedule; it initialises its layers orthogonally, as ours.
    """
    from stable_baselines3 import A2C, PPO

    policy, objective, update, rollout = settings.policy, settings.objective, settings.update, settings.rollout
    if objective.value_clip or objective.target_kl or update.optimizer != "adam" or policy.lstm:
        raise SystemExit("these settings have no translation for Stable-Baselines3 here")
    lr, entropy = parse(update.lr, "update.lr"), parse(objective.entropy_weight, "objective.entropy_weight")
    budget = settings.stop.env_steps
    value_hidden = policy.hidden if policy.value_hidden is None else policy.value_hidden
    network: dict[str, Any] = {
        "net_arch": {"pi": list(policy.hidden), "vf": list(value_hidden)},
        "activation_fn": {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[policy.activation],
        "log_std_init": policy.log_std,
        "optimizer_class": torch.optim.Adam,
        "optimizer_kwargs": {"eps": update.eps},
    }
    picture = len(envs.observation_space.shape) == 3
    if picture:
        assert policy.encoder == "nature_cnn", "of our encoders, Stable-Baselines3 has this one"
        network["features_extractor_kwargs"] = {"features_dim": policy.features}
    common: dict[str, Any] = {
        "n_steps": rollout.steps,
        "learning_rate": lambda left: lr.value(int((1 - left) * budget)),
        "gamma": objective.gamma,
        "gae_lambda": objective.lam,
        "ent_coef": entropy.value(0),
        "vf_coef": objective.value_weight / 2,
        "max_grad_norm": update.max_grad_norm or float("inf"),
        "normalize_advantage": objective.normalize_advantage,
        "policy_kwargs": network,
        "seed": seed,
        "device": "cpu",
    }
    kind = "CnnPolicy" if picture else "MlpPolicy"
    if not objective.clip:
        assert update.epochs == 1 and not update.minibatch, "A2C takes one step on every rollout"
        return A2C(kind, envs, use_rms_prop=False, **common)
    minibatch = update.minibatch or rollout.num_envs * rollout.steps
    return PPO(kind, envs, batch_size=minibatch, n_epochs=update.epochs, clip_range=objective.clip, **common)


def sb3(job: dict[str, Any]) -> dict[str, Any]:
    """Train with Stable-Baselines3, told the same settings."""
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecNormalize

    settings = resolve_training(job["settings"], job.get("preset"))
    warm(settings)
    torch.set_num_threads(int(job.get("threads", 1)))

    def predict(obs: Any) -> Any:
        envs = model.get_vec_normalize_env()
        seen = envs.normalize_obs(obs) if isinstance(envs, VecNormalize) else obs
        return model.predict(seen, deterministic=True)[0]

    class Told(BaseCallback):
        """Tells the watch of every rollout that has been learnt from."""

        def _on_rollout_start(self) -> None:
            if self.num_timesteps:
                watch.round(self.num_timesteps, predict)

        def _on_step(self) -> bool:
            return True

    watch = Watch(job)
    model = sb3_model(settings, sb3_envs(settings, job.get("vec", "dummy"), settings.seed), settings.seed)
    try:
        model.learn(settings.stop.env_steps, callback=Told())
        watch.round(model.num_timesteps, predict)
    except Done:
        pass
    found = watch.result()
    if job.get("final"):
        found["returns"] = watch.judge(predict)
    model.env.close()
    return found


def a3c(job: dict[str, Any]) -> dict[str, Any]:
    """Run the A3C baseline."""
    from a3c_baseline import measure

    return dict(measure(job["processes"], job["env_steps"]))


def start(job: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds from the call of ``understudy.train`` to the first update, and where they went."""
    settings = resolve_training(job["settings"], job.get("preset"))
    warm(settings)
    built: list[float] = []

    class Seen(TrainSession):
        """Notes when everything is built."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            built.append(time.perf_counter())

    told: dict[str, Any] = {}

    def report(metrics: dict[str, Any]) -> None:
        told.update(metrics, at=time.perf_counter())
        raise Done

    training.TrainSession = Seen  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with contextlib.suppress(Done):
            training.train(settings=settings, run=Path(folder) / "run", report=report)
        closed = time.perf_counter() - told["at"]
    parts = {name: told[f"seconds/{name}"] for name in ("start", "collect", "learn")}
    found = {"total": told["at"] - begin, "session": built[0] - begin, **parts}
    found["other"] = found["total"] - found["session"] - sum(parts.values())
    found["closing"] = closed
    return found | pieces(settings)


def pieces(settings: TrainSettings) -> dict[str, float]:
    """Return what parts of a start cost by themselves, one after the other, with nothing beside them."""
    import subprocess

    spec, count = settings.env.spec(), settings.rollout.num_envs
    begin = time.perf_counter()
    env = make(spec, count)
    made = time.perf_counter()
    env.reset(range(count))
    reset = time.perf_counter()
    env.close()
    imports = "import understudy.execution.station, understudy.execution.board, understudy.rollouts.buffers"
    actor = "import understudy.policies.arrays"
    times = []
    for code in ("pass", imports, f"{imports}; {actor}; from understudy.envs.make import make; make({spec!r}, 1)"):
        code = f"from understudy.data import EnvSpec; {code}" if "EnvSpec" in code else code
        before = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        times.append(time.perf_counter() - before)
    return {
        "envs made": made - begin, "envs reset": reset - made, "interpreter": times[0],
        "worker imports": times[1] - times[0], "simulator import and one env": times[2] - times[1],
    }  # fmt: skip


SIDES = {"ours": ours, "sb3": sb3, "a3c": a3c, "start": start}


def main() -> None:
    """Run the job of the command line."""
    warnings.filterwarnings("ignore")
    job = json.loads(sys.argv[1])
    torch.set_num_threads(int(job.get("threads", 1)))
    load = os.getloadavg()[0]
    found = SIDES[job["side"]](job)
    print(RESULT + json.dumps(found | {"load": load}), flush=True)


if __name__ == "__main__":
    main()
