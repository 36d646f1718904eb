"""Learning on a device other than the CPU: the same weights, nothing mixed, and no step that waits for the device.

``test_accelerator.py`` runs these tests in a process of their own.
"""

import numpy as np
import pytest
import torch

import accelerator
import understudy
from test_distill_learner import CASES, dataset, settings, student
from understudy import checks
from understudy.learning.autograd_updater import AutogradUpdater
from understudy.learning.distill_learner import AutogradLearner, make_learner
from understudy.learning.q_learner import QLearner
from understudy.policies.weights import named_arrays
from understudy.training import resolve_training, train

pytestmark = pytest.mark.skipif(not accelerator.AVAILABLE, reason="this PyTorch has no devices written in Python")
CARTPOLE = {"env": {"id": "CartPole-v1"}, "rollout": {"num_envs": 4, "steps": 16}, "stop": {"env_steps": 128}}
PENDULUM = CARTPOLE | {"env": {"id": "Pendulum-v1"}}
PONG = {
    "env": {"id": "ALE/Pong-v5", "wrappers": [{"type": "atari"}]},
    "rollout": {"num_envs": 2, "steps": 8},
    "stop": {"env_steps": 32},
}
GRID = {
    "env": {"backend": "gymnasium"}, "execution": {"type": "single"},
    "rollout": {"num_envs": 4, "steps": 8}, "update": {"minibatch": 16, "epochs": 2}, "stop": {"env_steps": 64},
}  # fmt: skip
MINIBATCHES = {"update": {"minibatch": 32, "epochs": 2}}


@pytest.fixture
def on(monkeypatch, tmp_path):
    """Return a function that trains on a device and returns the weights."""
    monkeypatch.setattr(checks, "check_device", lambda name: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)

    def run(device, preset, settings):
        update = {"kernel": False} | settings.get("update", {})
        own = {"device": device, "seed": 3, "evaluation": {"every": 0, "final": 0}, "update": update}
        result = train(settings=resolve_training(settings | own, preset), run=tmp_path / device)
        return {name: array.copy() for name, array in named_arrays(result.policy).items()}

    return run


def watched(monkeypatch, kind, method, device):
    """Return a list to which every call of the method adds what it waited for."""
    found, call = [], getattr(kind, method)

    def call_and_note(self, *args):
        before = len(device.waits)
        result = call(self, *args)
        found.append(device.waits[before:])
        return result

    monkeypatch.setattr(kind, method, call_and_note)
    return found


def learnt_alike(on, monkeypatch, kind, method, preset, settings):
    """Train on both devices, compare the weights, and return what every call of the learner's method waited for."""
    here = on("cpu", preset, settings)
    with accelerator.Accelerator() as device:
        waits = watched(monkeypatch, kind, method, device)
        there = on(accelerator.NAME, preset, settings)
    close(here, there)
    return waits


def close(one, other):
    """Compare weights."""
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=3e-6, err_msg=name)


ACTOR_CRITIC = {
    "ppo": ("ppo", CARTPOLE | MINIBATCHES),
    "ppo, continuous, normalised": ("ppo", PENDULUM | MINIBATCHES | {"policy": {"normalize": True}}),
    "ppo, target KL": ("ppo", CARTPOLE | MINIBATCHES | {"objective": {"value_clip": 0.2}}),
    "ppo, lstm": ("ppo", CARTPOLE | MINIBATCHES | {"policy": {"lstm": 16}}),
    "ppo, gru": ("ppo", CARTPOLE | MINIBATCHES | {"policy": {"lstm": 16, "cell": "gru"}}),
    "a2c": ("a2c", CARTPOLE),
    "reinforce": ("reinforce", CARTPOLE),
    "pong": ("ppo", PONG | {"update": {"minibatch": 8, "epochs": 2}}),
    "impala": ("impala", PONG | {"execution": {"type": "single"}}),
    "babyai": ("ppo-babyai-gotolocal", GRID),
    "doorkey": ("ppo-minigrid-doorkey", GRID),
}


@pytest.mark.parametrize("case", ACTOR_CRITIC)
def test_actor_critics_learn_there_as_here(case, on, monkeypatch):
    waits = learnt_alike(on, monkeypatch, AutogradUpdater, "step", *ACTOR_CRITIC[case])
    assert len(waits) > 1
    assert waits == [[]] * len(waits)


@pytest.mark.parametrize("options", [{}, {"lstm": 8}, {"lstm": 8, "cell": "gru"}])
@pytest.mark.parametrize("case", CASES)
def test_students_are_fitted_there_as_here(case, options):
    teacher, family, actions, distance = CASES[case]
    data = dataset(teacher, 20 if options else 1)
    chosen = {"learning.kernel": False, "learning.sequence": 20, "learning.burn_in": 4}

    def learn(place):
        learner = make_learner(student(family, actions, **options), teacher, distance, settings(**chosen, device=place))
        assert isinstance(learner, AutogradLearner)
        learner.update(data, 2, 0)  # the device's own beginnings
        return learner, lambda: learner.update(data, 10, 0)

    here, go_on = learn("cpu")
    go_on()
    with accelerator.Accelerator() as device:
        there, go_on = learn(accelerator.NAME)
        device.waits.clear()
        go_on()
        assert len(device.waits) <= 5  # the loss and its parts, at the end
        close(here.weights(), there.weights())


REPLAYED = {"replay": {"warm_up": 64, "batch_size": 32}, "update": {"target_every": 10, "update_to_data": 0.5}}
Q_LEARNING = {
    "dqn": ("dqn", CARTPOLE | REPLAYED),
    "double-dqn": ("double-dqn", CARTPOLE | REPLAYED),
    "dueling": ("dueling", CARTPOLE | REPLAYED),
    "c51": ("c51", CARTPOLE | REPLAYED),
    "qr-dqn": ("qr-dqn", CARTPOLE | REPLAYED),
    "pictures": ("dqn", PONG | REPLAYED | {"replay": {"warm_up": 16, "batch_size": 8, "capacity": 1000}}),
}
PRIORITISED = {"per": ("per", CARTPOLE | REPLAYED), "rainbow": ("rainbow", CARTPOLE | REPLAYED)}


@pytest.mark.parametrize("case", [*Q_LEARNING, *PRIORITISED])
def test_action_values_are_learnt_there_as_here(case, on, monkeypatch):
    waits = learnt_alike(on, monkeypatch, QLearner, "update", *(Q_LEARNING | PRIORITISED)[case])
    assert len(waits) > 4
    # The replay is on the CPU, and priorities come from the device.
    assert [len(each) for each in waits] == [1 if case in PRIORITISED else 0] * len(waits)


KICKSTARTS = {
    "kickstarting": (["kickstarting", "ppo"], MINIBATCHES),
    "with memory": (["kickstarting", "ppo"], MINIBATCHES | {"policy": {"lstm": 16}}),
    "eer": (["eer", "ppo"], MINIBATCHES),
    "n-distill": (["n-distill", "ppo"], MINIBATCHES),
    "qdagger": (["qdagger"], REPLAYED | {"teaching": {"offline_steps": 64, "offline_updates": 8, "weight": "1"}}),
}


@pytest.mark.parametrize("case", KICKSTARTS)
def test_kickstarted_there_as_here(case, on, tmp_path):
    preset, settings = KICKSTARTS[case]
    kind = "dqn" if case == "qdagger" else "ppo"
    on("cpu", kind, CARTPOLE | (REPLAYED if kind == "dqn" else MINIBATCHES))

    def learn(device):
        own = {"device": device, "seed": 3, "evaluation": {"every": 0, "final": 0}}
        own["update"] = {"kernel": False} | settings.get("update", {})
        whole = CARTPOLE | settings | own
        result = understudy.kickstart(None, tmp_path / "cpu", preset, whole, run=tmp_path / f"taught-{device}")
        return {name: array.copy() for name, array in named_arrays(result.policy).items()}

    here = learn("cpu")
    with accelerator.Accelerator():
        there = learn(accelerator.NAME)
    close(here, there)
