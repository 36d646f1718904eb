"""What a training run is made of, as its settings say: the student, the execution, the threads."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from threadpoolctl import threadpool_limits

from understudy.envs.make import spaces_of
from understudy.errors import UserError
from understudy.execution.base import Execution, Setup
from understudy.execution.processes import cores
from understudy.learning.continuous_updates import by_hand
from understudy.learning.from_replay import replayed_policy, replayed_spec
from understudy.policies.initialisation import orthogonal_init, picture_layers, scale_to_data
from understudy.policies.policy import About, Policy, PolicyLike, as_tensors
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PICTURES, PolicySpec, default_encoders, mask_of, vector_keys
from understudy.rollouts.random_play import random_observations
from understudy.settings import ReplayedSettings, TrainSettings
from understudy.settings.train import NetworkSettings


def policy_spec(
    settings: NetworkSettings, observations: gym.Space[Any], actions: gym.Space[Any], value: bool
) -> PolicySpec:
    """Describe the policy's network.

    Raises:
        UserError: A key the environment does not have, or a family that cannot act there.
    """
    encoders = default_encoders(observations, settings.keys, settings.features, settings.encoder, settings.text)
    family = settings.family
    if family == "auto":
        single = isinstance(actions, gym.spaces.Discrete)
        box = isinstance(actions, gym.spaces.Box)
        family = "gaussian" if box else "categorical" if single else "multi_categorical"
    value_hidden = settings.hidden if settings.value_hidden is None else settings.value_hidden
    return PolicySpec(
        observation_space=space_to_json(observations),
        action_space=space_to_json(actions),
        family=family,
        encoders=encoders,
        normalized=vector_keys(encoders) if settings.normalize else (),
        hidden=settings.hidden,
        activation=settings.activation,
        std={"gaussian": "constant", "squashed_gaussian": "state"}.get(family, "none"),
        lstm=settings.lstm,
        cell=settings.cell,
        value_hidden=value_hidden if value else None,
        mask=mask_of(observations, actions) if family in ("categorical", "multi_categorical") else "",
    )


def new_policy(spec: PolicySpec, settings: NetworkSettings, seed: int, about: About) -> Policy:
    """Build a policy with fresh orthogonal weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = Policy(spec, about)
        # Features of deviation 1 would make first values of that size, whose errors would be the first advantages.
        orthogonal_init(policy, value_gain=0.01 if settings.init == "data" else 1.0)
    if spec.std in ("constant", "state"):
        with torch.no_grad():
            deviation = policy.log_std if spec.std == "constant" else policy.log_std_head.bias
            deviation.fill_(settings.log_std)
    return policy


def student_of(settings: TrainSettings | ReplayedSettings) -> tuple[PolicySpec, Policy]:
    """Return the student that the settings describe, with fresh weights.

    Raises:
        UserError: The environment cannot be built, or the method cannot act there.
    """
    env = settings.env.spec()
    about = About("understudy", "", env, [f"trained by reinforcement in {env.id}, seed {settings.seed}"])
    if isinstance(settings, ReplayedSettings):
        spec = replayed_spec(settings, *spaces_of(env))
        return spec, replayed_policy(spec, settings.seed, about)
    spec = policy_spec(settings.policy, *spaces_of(env), bool(settings.objective.value_weight))
    return spec, new_policy(spec, settings.policy, settings.seed, about)


def look_around(policy: Policy, settings: TrainSettings) -> None:
    """Scale the policy's fresh weights to what random play shows; see ``policies.initialisation.scale_to_data``.

    Raises:
        UserError: It has no layers that see pictures, or the environment fails.
    """
    env = settings.env.spec()
    if not picture_layers(policy):
        raise UserError(f"policy.init data is for convolutions that see pictures; the policy in {env.id} has none")
    scale_to_data(policy, as_tensors(random_observations(env, 1_000 * settings.seed)))


def make_execution(
    settings: TrainSettings | ReplayedSettings, setup: Setup, teacher: PolicyLike | None = None
) -> Execution:
    """Start the execution that the settings name.

    Args:
        settings: Of the run.
        setup: Has the teacher that acts in workers.
        teacher: The same as an object, which may act in this process even if it cannot travel.

    Raises:
        UserError: It cannot travel to workers.
    """
    execution = settings.execution
    limits = execution.num_workers, execution.worker_timeout, execution.restarts
    if execution.type == "single":
        from understudy.execution.single import SingleExecution

        return SingleExecution(setup, teacher if setup.teacher is None else None)
    if teacher is not None and setup.teacher is None:
        raise UserError("this teacher cannot be copied to workers: use --execution single")
    if execution.type == "async":
        from understudy.execution.asynchronous import AsyncExecution

        return AsyncExecution(setup, *limits, execution.max_lag)
    if execution.type == "ray":
        from understudy.execution.ray_execution import RayExecution

        return RayExecution(setup, *limits, execution.ray_address)
    from understudy.execution.sync import SyncExecution

    return SyncExecution(setup, *limits)


def set_threads(settings: TrainSettings | ReplayedSettings, policy: Policy) -> None:
    """Set the threads of PyTorch and of NumPy's BLAS in the learner's process, and those of the policy's pictures.

    One for small networks, which are slower with more (ten times, where other processes are busy). Networks that see
    pictures gain from more, but only where the other cores are idle while the learner learns; they have threads of
    their own (``policies.pictures``).
    """
    execution = settings.execution
    waiting = execution.type in ("single", "sync")
    pictures = any(encoder.type in PICTURES for encoder in policy.spec.encoders)
    automatic = cores() if waiting and pictures else 1
    threads = execution.learner_threads or automatic
    if isinstance(settings, ReplayedSettings) and by_hand(policy.spec, settings):
        threads = 1
    policy.threads = threads if pictures else 1
    torch.set_num_threads(1 if pictures else threads)
    threadpool_limits(1, user_api="blas")
