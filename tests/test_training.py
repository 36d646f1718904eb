"""Training as users meet it: every method learns a probe, executions agree, resume is exact."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from understudy import training_session
from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.execution.station import Station
from understudy.io.checkpoint import read_arrays
from understudy.objectives.actor_critic_kernel import ActorCriticKernel
from understudy.objectives.adam_states import as_vectors, by_parameter
from understudy.policies.files import load_policy, read_policy
from understudy.policies.policy import Policy
from understudy.preset_files import preset, presets
from understudy.settings import METHODS as SETTINGS
from understudy.terminal_training import limit
from understudy.training import resolve_training, train
from understudy.training_parts import student_of
from understudy.training_session import TrainSession


def quick(tmp_path, env="understudy/ConstantAction-v0", **settings):
    """Train in a folder without evaluations beside, and return the result and the weights at the end."""
    options = {"evaluation__every": 0, "evaluation__final": 0, "policy__hidden": [16], "rollout__num_envs": 8}
    result = train(env, run=tmp_path, **{**options, "rollout__steps": 16, **settings})
    policy = load_policy(tmp_path / "last.safetensors")
    return result, {name: tensor.numpy() for name, tensor in policy.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ppo", {"update__minibatch": 32, "update__lr": "1e-2"}),
        ("a2c", {"update__lr": "3e-2"}),
        ("reinforce", {"rollout__steps": 20, "update__lr": "5e-2"}),
        ("impala", {"execution__type": "single", "update__lr": "1e-2", "rollout__num_envs": 8}),
    ],
)
def test_every_method_learns_the_constant_action(tmp_path, name, settings):
    """Reward 1 for action 1, ten steps: 10 is the best, 5 is chance."""
    budget = {"stop__env_steps": 8_000, "evaluation__every": 0, "evaluation__final": 10, "evaluation__num_envs": 2}
    small = {"policy__hidden": [16], "rollout__num_envs": 8, "rollout__steps": 16}
    result = train("understudy/ConstantAction-v0", name, run=tmp_path, **{**small, **budget, **settings})
    assert result.score == 10.0
    assert repr(result).startswith(f"<TrainResult in {tmp_path}: return 10 [10, 10], ")


def test_a3c_learns_the_constant_action(tmp_path):
    budget = {"stop__env_steps": 20_000, "evaluation__every": 0, "evaluation__final": 10, "evaluation__num_envs": 2}
    result = train(
        "understudy/ConstantAction-v0", "a3c", run=tmp_path, policy__lstm=0, policy__hidden=[16], update__lr="2e-3",
        **budget,
    )  # fmt: skip
    assert result.score == 10.0
    # What its workers did adds up to the time that they had, also on a machine with other work.
    seconds = result.seconds
    assert seconds["gradient"] > seconds["learn"]
    share = limit(result.env_steps, seconds, "async") * result.env_steps / 1e6 / (seconds["collect"] + seconds["learn"])
    assert 0.3 < share < 1.3


def test_a3c_counts_what_was_learnt_from(tmp_path):
    """Two workers with a rollout of 20 steps each; what both share, what is told and what is saved is the same."""
    rows = []
    for stop in (1_500, 2_500):
        result = train(
            "understudy/ConstantAction-v0", "a3c", run=tmp_path, resume=stop > 1_500, report=rows.append,
            rollout__steps=5, rollout__num_envs=8, policy__hidden=[8], stop__env_steps=stop, evaluation__every=0,
            evaluation__final=0, objective__normalize_reward=True,
        )  # fmt: skip
        arrays, data = read_arrays(tmp_path / "state.safetensors")
        assert arrays["reward_scale"][:, 2].sum() == result.env_steps  # it goes on after a resume
        assert stop <= result.env_steps < stop + 2 * 20 and result.updates * 20 == result.env_steps
        assert (arrays["env_steps"][:, 0].sum(), arrays["updates"][:, 0].sum()) == (result.env_steps, result.updates)
        for told in (rows[-1], data["progress"], json.loads((tmp_path / "summary.json").read_text())):
            assert (told["env_steps"], told["updates"]) == (result.env_steps, result.updates)
        assert read_policy(tmp_path / "last.safetensors")[2]["extra"]["env_steps"] == result.env_steps
    assert all(before["env_steps"] <= after["env_steps"] for before, after in zip(rows[:-1], rows[1:], strict=True))


@pytest.mark.parametrize("env", ["understudy/IdentityMultiDiscrete-v0", "understudy/IdentityBox-v0"])
def test_every_kind_of_action_is_learnt(tmp_path, env):
    """One-step episodes: the action that is shown is the right one. Random play scores far below the bound."""
    settings = {"update__minibatch": 64, "update__lr": "3e-3", "update__epochs": 4, "policy__log_std": -1.0}
    result = train(
        env, "ppo", run=tmp_path, policy__normalize=False, objective__normalize_reward=False,
        evaluation__every=0, evaluation__final=50, rollout__steps=64, stop__env_steps=30_000, **settings,
    )  # fmt: skip
    assert result.score > (0.9 if "Discrete" in env else -0.05)


@pytest.mark.parametrize("cell", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
def test_memory_is_learnt_through_whole_sequences(tmp_path, cell):
    """What to do in the last step is shown in the first only: without memory half of the episodes fail."""
    result = train(
        "understudy/Memory-v0", "ppo", run=tmp_path, policy__lstm=16, policy__hidden=[16], policy__normalize=False,
        policy__cell=cell, rollout__num_envs=16, rollout__steps=32, update__minibatch=128, update__epochs=4,
        update__lr="1e-2",
        objective__normalize_reward=False, stop__env_steps=28_000, evaluation__every=0, evaluation__final=40,
    )  # fmt: skip
    assert result.score > 0.95


def test_the_same_seed_gives_the_same_run(tmp_path):
    _, one = quick(tmp_path / "1", "CartPole-v1", stop__env_steps=1000)
    _, same = quick(tmp_path / "2", "CartPole-v1", stop__env_steps=1000)
    _, other = quick(tmp_path / "3", "CartPole-v1", stop__env_steps=1000, seed=1)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_weights_that_begin_with_data_depend_on_the_seed_alone(tmp_path, monkeypatch):
    """Whatever the execution; and a run that is resumed does not look around again."""
    looks, look = [], training_session.look_around
    monkeypatch.setattr(training_session, "look_around", lambda *args: looks.append(args) or look(*args))
    options = {
        "policy__encoder": "nature_cnn", "policy__features": 16, "policy__init": "data", "rollout__num_envs": 4,
        "update__lr": "0",
    }  # fmt: skip
    found, runs = (
        {},
        {
            "single": {},
            "sync": {"execution__type": "sync"},
            "other": {"seed": 1},
            "plain": {"policy__init": "orthogonal"},
        },
    )
    for name, more in runs.items():
        _, found[name] = quick(tmp_path / name, "tests.odd_environments:Pictures", stop__env_steps=64, **options | more)
    assert len(looks) == 3
    _, again = quick(
        tmp_path / "single", "tests.odd_environments:Pictures", stop__env_steps=128, resume=True, **options
    )
    assert len(looks) == 3
    layer = "cnns._.cnn.0.weight"
    for name, same in {"sync": True, "other": False, "plain": False}.items():
        assert np.array_equal(found["single"][layer], found[name][layer]) == same, name
    assert all(np.array_equal(array, again[name]) for name, array in found["single"].items())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_convolutions_act_in_the_precision_in_which_they_learn(tmp_path, monkeypatch, precision):
    """What evaluations play and the run saves is in float32 in any case."""
    acting, found, see = [], [], Policy.see_in_half
    monkeypatch.setattr(Policy, "see_in_half", lambda self: acting.append(self) or see(self))
    for name in ("first", "second"):
        result, weights = quick(
            tmp_path / name, "tests.odd_environments:Pictures", stop__env_steps=256, policy__encoder="nature_cnn",
            policy__features=16, rollout__num_envs=4, update__precision=precision, update__lr="1e-2",
        )  # fmt: skip
        assert result.updates > 0 and all(array.dtype == np.float32 for array in weights.values())
        found.append(weights)
    assert all(np.array_equal(array, found[1][name]) for name, array in found[0].items())
    assert len(acting) == (0 if precision == "float32" else 2)
    for policy in acting:
        assert {p.dtype for p in policy.cnns.parameters()} == {torch.bfloat16}
        assert policy.head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("seed", "first", "begin"),
    [(0, 1_000_000, 0), (3, 1_000_000, 3_000), (0, 0, None), (1_001_000, 1_000_000, None), (73, 2**30, 73_000)],
)
def test_evaluation_episodes_are_never_gathered_from(tmp_path, seed, first, begin):
    """Neither at first, nor after checkpoints, nor by a worker in the place of another; seeds follow from the run's."""
    evaluation = {"seed": first, "final": 50_000, "episodes": 50_000}
    settings = {"env": {"id": "CartPole-v1"}, "seed": seed, "evaluation": evaluation, "rollout": {"num_envs": 4}}
    session = TrainSession(resolve_training(settings, "ppo"), tmp_path)
    try:
        setup, judged = session.execution._station._setup, set(session.settings.final_seeds)
    finally:
        session.close()
    judged |= set(range(session.settings.evaluation_seed, session.settings.evaluation_seed + 50_000))
    stations = [Station(replace(setup, attempt=attempt), range(4), 1) for attempt in (0, 1)]
    found = [tuple(station._seeds(restart)) for station in stations for restart in range(400)]
    assert found == [tuple(station._seeds(restart)) for station in stations for restart in range(400)]
    if begin is not None:
        assert found[0] == tuple(range(begin, begin + 4))
    every = [one for seeds in found for one in seeds]
    assert not judged & set(every) and len(set(every)) == len(every) and max(every) < 2**31


def test_schedules_take_shares_of_the_run(tmp_path):
    """A learning rate and an entropy bonus that fall over the whole run, said in shares and in steps."""
    ends = []
    for name, steps in (("share", "100%"), ("steps", "1024")):
        moving = {"update__lr": f"linear(1e-2, 0, {steps})", "objective__entropy_weight": f"linear(0.1, 0, {steps})"}
        ends.append(quick(tmp_path / name, "CartPole-v1", stop__env_steps=1024, **moving)[1])
    _, still = quick(tmp_path / "still", "CartPole-v1", stop__env_steps=1024, update__lr="1e-2")
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert any(not np.array_equal(ends[0][name], still[name]) for name in still)


METHODS = {
    "ppo": {"objective__clip": 0.2, "update__minibatch": 32, "update__epochs": 2, "objective__normalize_reward": True},
    "a2c": {},
    "vtrace": {"objective__estimator": "vtrace"},
    "lstm": {"policy__lstm": 8, "update__minibatch": 64},
}


@pytest.mark.parametrize("method", METHODS)
def test_sync_with_two_workers_equals_single(tmp_path, method):
    """2 x 4 environments give what 8 in one process give, to float tolerance (DESIGN.md, decision 4)."""
    settings = {**METHODS[method], "stop__env_steps": 1024, "policy__normalize": method != "lstm"}
    _, single = quick(tmp_path / "single", "CartPole-v1", **settings)
    _, sync = quick(tmp_path / "sync", "CartPole-v1", execution__type="sync", **settings)
    for name in single:
        np.testing.assert_allclose(single[name], sync[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("method", ["ppo", "vtrace"])
def test_async_without_lag_equals_sync(tmp_path, method):
    settings = {**METHODS[method], "stop__env_steps": 1024, "execution__num_workers": 1}
    _, sync = quick(tmp_path / "sync", "CartPole-v1", execution__type="sync", **settings)
    _, late = quick(tmp_path / "async", "CartPole-v1", execution__type="async", execution__max_lag=0, **settings)
    assert all(np.array_equal(sync[name], late[name]) for name in sync)


@pytest.mark.parametrize("lag", [1, 2, 4])
def test_the_lag_is_bounded_and_told(tmp_path, lag):
    seen = []
    quick(
        tmp_path, "CartPole-v1", execution__type="async", execution__max_lag=lag, stop__env_steps=8192,
        report=lambda metrics: seen.append(metrics["lag"]),
    )  # fmt: skip
    assert 0 < max(seen) <= lag


@pytest.mark.parametrize("execution", ["single", "sync"])
@pytest.mark.parametrize("method", ["ppo", "lstm"])
def test_resume_equals_the_uninterrupted_run_bit_for_bit(tmp_path, execution, method):
    """Weights, optimiser, normalisers, schedules and random numbers: the run goes on as if nothing had happened."""
    settings = {
        **METHODS[method], "execution__type": execution, "checkpoint_every": 512, "policy__normalize": method == "ppo",
        "update__lr": "linear(1e-2, 1e-3, 2048)", "objective__entropy_weight": "linear(0.1, 0, 2048)",
    }  # fmt: skip
    _, whole = quick(tmp_path / "whole", "CartPole-v1", stop__env_steps=2048, **settings)
    quick(tmp_path / "parts", "CartPole-v1", stop__env_steps=1024, **settings)
    _, parts = quick(tmp_path / "parts", "CartPole-v1", stop__env_steps=2048, resume=True, **settings)
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    (one, about), (other, found) = (read_arrays(tmp_path / name / "state.safetensors") for name in ("whole", "parts"))
    assert all(np.array_equal(one[name], other[name]) for name in one) and set(one) == set(other)
    assert about["learner"] == found["learner"]


def test_a_resumed_run_tells_the_evaluations_of_before(tmp_path):
    looks = {"evaluation__every": 512, "evaluation__episodes": 2, "evaluation__wait": True, "checkpoint_every": 512}
    first, _ = quick(tmp_path, "CartPole-v1", stop__env_steps=1024, **looks)
    second, _ = quick(tmp_path, "CartPole-v1", stop__env_steps=2048, resume=True, **looks)
    assert len(first.curve) == 2 and second.curve[:2] == first.curve
    assert [steps for steps, _ in second.curve] == [512, 1024, 1536, 2048]


@pytest.mark.parametrize("before", [0, 20_000])
def test_a_resumed_run_evaluates_and_saves_as_its_settings_say_now(tmp_path, before):
    saved = []
    quick(tmp_path, "CartPole-v1", stop__env_steps=256, evaluation__every=before, checkpoint_every=before)
    result, _ = quick(
        tmp_path, "CartPole-v1", stop__env_steps=1024, resume=True, evaluation__every=256, evaluation__episodes=2,
        evaluation__wait=True, checkpoint_every=256,
        report=lambda row: saved.append(read_arrays(tmp_path / "state.safetensors")[1]["progress"]["env_steps"]),
    )  # fmt: skip
    assert [steps for steps, _ in result.curve] == [512, 768, 1024] and (tmp_path / "best.safetensors").exists()
    assert len(set(saved)) >= 3  # that of before, and two of its own at least


def test_evaluation_runs_beside_and_keeps_the_best(tmp_path):
    seen = []
    result = train(
        "CartPole-v1", "ppo-cartpole", run=tmp_path, stop__env_steps=100_000, evaluation__every=4_000,
        evaluation__episodes=4, evaluation__final=4, report=seen.append,
    )  # fmt: skip
    found = [metrics for metrics in seen if "eval_return" in metrics]
    assert len(found) >= 2 and len(result.curve) == len(found)
    best = load_policy(tmp_path / "best.safetensors")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["env_steps"] == result.env_steps and summary["seconds"]["evaluate"] > 0
    assert best.about.env.id == "CartPole-v1"


def test_the_run_ends_at_a_score(tmp_path):
    result = train(
        "CartPole-v1", "ppo-cartpole", run=tmp_path, stop__score=60, evaluation__every=2_000, evaluation__episodes=4,
        evaluation__final=0, stop__env_steps=10**7,  # the evaluator may need long to start
    )  # fmt: skip
    assert result.stopped == "score" and result.curve[-1][1] >= 60


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"update__minibatch": 100}, "update.minibatch 100 does not divide the 128 samples"),
        ({"policy__lstm": 8, "update__minibatch": 8}, "whole sequences"),
        ({"policy__cell": "gru"}, "policy.lstm is its width"),
        ({"policy__init": "data"}, "policy.init data is for convolutions that see pictures; the policy in .* has none"),
        ({"execution__type": "sync", "execution__num_workers": 3}, "does not divide among"),
        ({"execution__type": "sync", "execution__num_workers": 0}, "num_workers is 0; it must be at least 1"),
        ({"execution__shared_gradients": True}, "needs --execution async"),
        ({"update__lr": "falling"}, "update.lr"),
        ({"rollout__step": 1}, "did you mean|steps"),
        ({"objective__normalize_advantage": True, "update__minibatch": 1}, "with one sample per gradient step"),
        (
            {"objective__normalize_advantage": True, "rollout__num_envs": 1, "rollout__steps": 1, "policy__lstm": 4},
            "with one sample per gradient step",
        ),
        (
            {
                "objective__normalize_advantage": True,
                "rollout__num_envs": 2,
                "rollout__steps": 1,
                "execution__type": "async",
                "execution__shared_gradients": True,
            },
            "with one sample per gradient step",
        ),
        ({"stop__score": 20, "evaluation__every": 0}, "stop.score is .* but evaluation.every is 0"),
    ],
)
def test_contradictions_are_refused_before_anything_starts(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        quick(tmp_path / "run", "CartPole-v1", **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("family", ["gaussian", "squashed_gaussian"])
def test_the_initial_deviation_is_what_was_asked_for(family):
    settings = resolve_training({"env": {"id": "Pendulum-v1"}, "policy": {"family": family, "log_std": -2}}, "ppo")
    _, policy = student_of(settings)
    with torch.no_grad():
        log_std = policy.forward(torch.zeros(1, 3)).params[0, 1]
    assert float(log_std) == pytest.approx(-2, abs=0.05)


def _of_training(name):
    return not name.startswith(("distill", "demo", "dagger")) and "teaching" not in preset(name)


@pytest.mark.parametrize("name", [name for name in presets() if _of_training(name)])
def test_every_preset_is_valid(name):
    env = {} if "env" in preset(name) else {"env": {"id": "CartPole-v1"}}
    assert type(resolve_training(env, name)) is SETTINGS[preset(name).get("method", "actor_critic")]


@pytest.mark.parametrize(("what", "message"), [("obs", "observation"), ("reward", "reward")])
def test_nan_from_the_environment_is_named(tmp_path, what, message):
    env = EnvSpec("understudy/Bad-v0", {"what": what, "after": 5})
    with pytest.raises(UserError, match=message):
        train(env, run=tmp_path, stop__env_steps=1000, evaluation__every=0, evaluation__final=0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_finite_never_reaches_a_checkpoint(tmp_path):
    """A learning rate that blows the weights up: the error names place and step, the saved policy is finite."""
    with pytest.raises(UserError, match=r"not finite in the update after \d+ env steps"):
        quick(tmp_path, "Pendulum-v1", update__lr="1e30", stop__env_steps=5_000, update__max_grad_norm=0.0,
              checkpoint_every=128)  # fmt: skip
    if (tmp_path / "last.safetensors").exists():
        saved = load_policy(tmp_path / "last.safetensors").state_dict().values()
        assert all(bool(tensor.isfinite().all()) for tensor in saved)


@pytest.mark.parametrize("action", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("first", [True, False])
def test_a_run_goes_on_with_the_other_way_to_take_its_steps(tmp_path, action, first):
    """Kernel to autograd and back: Adam's statistics are taken over, and what is saved again is what was read."""
    settings = {**METHODS["ppo"], "policy__hidden": [8, 8], "policy__value_hidden": [4], "rollout__num_envs": 4}
    for name in ("same", "other"):
        quick(tmp_path / name, action, stop__env_steps=128, update__kernel=first, **settings)
    ends = [
        quick(tmp_path / name, action, stop__env_steps=256, resume=True, update__kernel=kernel, **settings)[1]
        for name, kernel in (("same", first), ("other", not first))
    ]
    for name in ends[0]:
        np.testing.assert_allclose(ends[0][name], ends[1][name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_statistics_of_the_optimiser_survive_both_ways(tmp_path):
    quick(tmp_path, "Pendulum-v1", stop__env_steps=128, update__kernel=False)
    policy, (arrays, _) = load_policy(tmp_path / "last.safetensors"), read_arrays(tmp_path / "state.safetensors")
    saved = {name.removeprefix("optimizer:"): a for name, a in arrays.items() if name.startswith("optimizer:")}
    kernel = ActorCriticKernel.from_policy(
        policy, 8, clip=None, value_clip=None, value_weight=0.5, max_grad_norm=None, normalize_advantage=False
    )
    vectors = as_vectors(policy, kernel.named, kernel.parameters, saved, {})
    kernel.restore(*vectors)
    back = by_parameter(policy, *kernel.state())
    assert set(back) == set(saved) and all(np.array_equal(back[name], saved[name]) for name in saved)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({}, {"update__optimizer": "rmsprop"}, "without changing update.optimizer"),
        ({"update__optimizer": "rmsprop"}, {"update__optimizer": "adam"}, "same update.optimizer"),
        (
            {"update__optimizer": "rmsprop"},
            {"update__optimizer": "adam", "update__kernel": False},
            "without changing update.optimizer",
        ),
    ],
)
def test_what_a_run_cannot_go_on_with_is_one_line(tmp_path, before, after, message):
    quick(tmp_path, "CartPole-v1", stop__env_steps=128, **before)
    with pytest.raises(UserError, match=message):
        quick(tmp_path, "CartPole-v1", stop__env_steps=256, resume=True, **after)


@pytest.mark.parametrize("env", ["Acrobot-v1", "MountainCarContinuous-v0"])
def test_a_run_does_not_go_on_in_another_environment(tmp_path, env):
    quick(tmp_path, "CartPole-v1", stop__env_steps=128)
    with pytest.raises(UserError, match=rf"goes on in its own environment \(id CartPole-v1, not {env}\)"):
        quick(tmp_path, env, stop__env_steps=256, resume=True)
    with pytest.raises(UserError, match=f"than {env} has now: resume it without changing env"):
        train(run=tmp_path, resume=True, settings={"env": {"id": env}, "stop": {"env_steps": 256}})
    with pytest.raises(UserError, match=r"another network .*without changing policy\.\*"):
        quick(tmp_path, "CartPole-v1", stop__env_steps=256, resume=True, policy__hidden=[5])
