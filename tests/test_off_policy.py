"""Off-policy methods as users meet them: every preset learns a probe, executions agree, resume is exact."""

import numpy as np
import pytest
from gymnasium import spaces

from understudy.errors import UserError
from understudy.io.checkpoint import read_arrays
from understudy.learning.continuous_learner import ContinuousLearner
from understudy.learning.from_replay import replayed_spec
from understudy.learning.q_learner import QLearner
from understudy.policies.files import load_policy
from understudy.preset_files import preset
from understudy.teachers.load import load
from understudy.training import resolve_training, train

QUIET = {"evaluation__every": 0, "evaluation__final": 0}
SMALL = {"policy__hidden": [16, 16], "replay__warm_up": 200, "replay__capacity": 2000, "replay__batch_size": 32}
PICTURE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
DISCRETE = ["dqn", "double-dqn", "dueling", "per", "n-step", "c51", "qr-dqn", "rainbow", "ape-x"]


def quick(tmp_path, env, name, **settings):
    """Train in a folder without evaluations, and return the result and the weights at the end."""
    result = train(env, name, run=tmp_path, **{**QUIET, **SMALL, **settings})
    policy = load_policy(tmp_path / "last.safetensors")
    return result, {name: tensor.numpy() for name, tensor in policy.state_dict().items()}


@pytest.mark.parametrize("name", DISCRETE)
def test_every_discrete_preset_learns_what_is_shown(tmp_path, name):
    """One-step episodes; the action that is shown earns 1, chance 1/3."""
    more = {"objective__low": -1, "objective__high": 2} if name in ("c51", "rainbow") else {}
    if name != "rainbow":
        more |= {"exploration__epsilon": "linear(1, 0.1, 1500)"}
    result = train(
        "understudy/IdentityDiscrete-v0", name, run=tmp_path, evaluation__every=0, evaluation__final=40,
        evaluation__num_envs=2, stop__env_steps=4_000, update__lr="3e-3", update__target_every=50,
        update__update_to_data=0.25, **SMALL, **more,
    )  # fmt: skip
    assert result.score == 1.0
    assert result.updates == int((result.env_steps - 200) * 0.25)


@pytest.mark.parametrize("name", ["ddpg", "td3", "sac"])
def test_every_continuous_preset_learns_what_is_shown(tmp_path, name):
    """One-step episodes; minus the squared distance to the two numbers that are shown. Random play earns -1.33."""
    result = train(
        "understudy/IdentityBox-v0", name, run=tmp_path, evaluation__every=0, evaluation__final=40,
        evaluation__num_envs=2, stop__env_steps=2_200, update__lr="3e-3", update__tau=0.02,
        **{**SMALL, "policy__hidden": [32, 32]},
    )  # fmt: skip
    assert result.score > -0.05
    assert result.updates == result.env_steps - 200


@pytest.mark.parametrize(("name", "epsilon"), [("dqn", "0.5"), ("n-step", "linear(1, 0.02, 1000)")])
def test_truncation_bootstraps_from_the_final_observation(tmp_path, name, epsilon):
    """Reward 1 for action 1, for ever, but time runs out after ten steps: every value is 1 / (1 - gamma).

    Taken for a termination, the last step would be worth 1, and its value 2 (gamma 0.5) could not be learnt.
    """
    quick(tmp_path, "understudy/ConstantAction-v0", name, objective__gamma=0.5, stop__env_steps=4_000,
          update__lr="3e-3", update__target_every=20, exploration__epsilon=epsilon)  # fmt: skip
    policy = load_policy(tmp_path / "last.safetensors")
    seen = np.arange(10, dtype=np.float32)[:, None]
    values = policy.label(seen)[0].params.numpy()
    np.testing.assert_allclose(values[:, 1], 2.0, atol=0.2)


def test_dict_observations_are_learnt_from_by_key(tmp_path):
    """The right action stands under one of two keys; chance earns 5 of 10."""
    result = train(
        "understudy/Privileged-v0", "dqn", run=tmp_path, evaluation__every=0, evaluation__final=10,
        evaluation__num_envs=2, stop__env_steps=2_500, update__lr="3e-3", update__target_every=50,
        exploration__epsilon="0.2", objective__gamma=0.5, policy__keys=["privileged"], **SMALL,
    )  # fmt: skip
    assert result.score == 10.0


METHODS = {
    "dqn": ("CartPole-v1", {}),
    "rainbow": ("CartPole-v1", {}),
    "sac": ("Pendulum-v1", {}),
    "ddpg": ("Pendulum-v1", {}),
}


@pytest.mark.parametrize("name", METHODS)
def test_resume_is_exact(tmp_path, name):
    env, more = METHODS[name]
    settings = {**more, "checkpoint_every": 256, "rollout__num_envs": 2, "rollout__steps": 16, "replay__warm_up": 64}
    settings |= {"update__update_to_data": 0.3}
    _, whole = quick(tmp_path / "whole", env, name, stop__env_steps=512, **settings)
    quick(tmp_path / "parts", env, name, stop__env_steps=256, **settings)
    _, parts = quick(tmp_path / "parts", env, name, stop__env_steps=512, resume=True, **settings)
    assert all(np.array_equal(whole[key], parts[key]) for key in whole)
    (one, about), (other, found) = (read_arrays(tmp_path / each / "state.safetensors") for each in ("whole", "parts"))
    assert set(one) == set(other) and all(np.array_equal(one[key], other[key]) for key in one)
    assert about["learner"] == found["learner"]


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_normalised_observations_have_the_statistics_of_every_step_and_resume_exactly(tmp_path, name):
    env = METHODS[name][0]
    settings = {"policy__normalize": True, "checkpoint_every": 256, "rollout__num_envs": 2, "rollout__steps": 16}
    settings["policy__hidden"] = [160, 144]  # wide enough for oneDNN
    _, whole = quick(tmp_path / "whole", env, name, stop__env_steps=512, **settings)
    quick(tmp_path / "parts", env, name, stop__env_steps=256, **settings)
    _, parts = quick(tmp_path / "parts", env, name, stop__env_steps=512, resume=True, **settings)
    assert all(np.array_equal(whole[key], parts[key]) for key in whole)
    arrays, _ = read_arrays(tmp_path / "whole" / "state.safetensors")
    seen = arrays["replay:obs:"][arrays["replay:valid"]].astype(np.float64)
    assert len(seen) == 512
    np.testing.assert_allclose(whole["normalizer_mean:"], seen.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(whole["normalizer_var:"], seen.var(axis=0), rtol=1e-9)


@pytest.mark.parametrize(("name", "learner"), [("dqn", QLearner), ("ddpg", ContinuousLearner)])
def test_an_interrupt_between_gradient_steps_loses_none(tmp_path, interrupted_after, name, learner):
    """400 env steps owe 100 after the warm-up, of which 50 are taken; the others are when the run goes on."""
    settings = {"rollout__num_envs": 1, "rollout__steps": 400, "update__update_to_data": 0.5}
    with interrupted_after(learner, 50):
        quick(tmp_path, METHODS[name][0], name, stop__env_steps=800, **settings)
    _, data = read_arrays(tmp_path / "state.safetensors")
    assert data["progress"]["updates"] == data["learner"]["core"]["updates"] == data["learner"]["owed"] == 50
    result, _ = quick(tmp_path, METHODS[name][0], name, stop__env_steps=800, resume=True, **settings)
    assert result.updates == 300


def test_a_run_without_its_replay_gathers_anew_before_it_learns(tmp_path):
    settings = {"replay__save": False, "rollout__steps": 16, "checkpoint_every": 400}
    first, _ = quick(tmp_path, "CartPole-v1", "dqn", stop__env_steps=400, **settings)
    arrays, _ = read_arrays(tmp_path / "state.safetensors")
    assert not any(name.startswith("replay:") for name in arrays)
    result, _ = quick(tmp_path, "CartPole-v1", "dqn", stop__env_steps=800, resume=True, **settings)
    again = result.env_steps - first.env_steps
    assert result.updates - first.updates == (again - 200) // 2


def test_what_was_owed_for_a_lost_replay_is_not_taken_from_the_next_one(tmp_path, interrupted_after):
    """50 of 100 updates are taken before Ctrl-C; 400 env steps more owe 100, after 200 to gather anew."""
    settings = {"rollout__num_envs": 1, "rollout__steps": 400, "update__update_to_data": 0.5, "replay__save": False}
    with interrupted_after(QLearner, 50):
        quick(tmp_path, "CartPole-v1", "per", stop__env_steps=800, **settings)
    _, data = read_arrays(tmp_path / "state.safetensors")
    assert data["learner"]["owed"] == 50  # in async they were due before anything was gathered
    result, _ = quick(tmp_path, "CartPole-v1", "per", stop__env_steps=800, resume=True, **settings)
    assert result.updates == 50 + 100


@pytest.mark.parametrize("name", METHODS)
def test_sync_with_two_workers_equals_single(tmp_path, name):
    env, more = METHODS[name]
    settings = {**more, "rollout__num_envs": 4, "rollout__steps": 8, "stop__env_steps": 320, "replay__warm_up": 64}
    one, single = quick(tmp_path / "single", env, name, **settings)
    two, sync = quick(tmp_path / "sync", env, name, execution__type="sync", **settings)
    assert one.updates == two.updates
    for key in single:
        np.testing.assert_allclose(single[key], sync[key], rtol=1e-3, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_async_takes_as_many_updates_as_single(tmp_path, name):
    env = METHODS[name][0]
    settings = {"rollout__num_envs": 4, "rollout__steps": 8, "stop__env_steps": 640, "update__update_to_data": 0.3}
    results = [quick(tmp_path / kind, env, name, execution__type=kind, **settings)[0] for kind in ("single", "async")]
    assert [r.updates for r in results] == [int((640 - 200) * 0.3)] * 2


def test_a_trained_policy_is_a_teacher(tmp_path):
    quick(tmp_path / "q", "CartPole-v1", "rainbow", stop__env_steps=300)
    quick(tmp_path / "soft", "Pendulum-v1", "sac", stop__env_steps=300)
    assert load(tmp_path / "q").family.name == "q_values"
    assert load(tmp_path / "soft").family.name == "squashed_gaussian"
    action, _ = load(tmp_path / "soft").predict(np.zeros(3, np.float32), deterministic=True)
    assert -2 <= float(action[0]) <= 2


@pytest.mark.parametrize(
    ("name", "env", "settings", "message"),
    [
        ("dqn", "CartPole-v1", {"objective__clip": 0.2}, "unknown key objective.clip.*the method is q_learning"),
        ("sac", "Pendulum-v1", {"exploration__epsilon": "0.1"}, "unknown key exploration.*the method is soft"),
        ("ppo", "CartPole-v1", {"replay__n_step": 3}, "unknown key replay.*the method is actor_critic"),
        ("dqn", "Pendulum-v1", {}, "needs one discrete action, not Box.*take --preset sac"),
        ("sac", "CartPole-v1", {}, "method soft needs continuous actions, not Discrete.*--preset dqn"),
        ("dqn", "CartPole-v1", {"replay__max_bytes": 3e4}, r"of 2,000 steps takes 0\.00 GB.*take --replay"),
        ("dqn", "CartPole-v1", {"method": "sofft"}, "method is 'sofft'.*did you mean soft"),
        ("dueling", "CartPole-v1", {"policy__hidden": [15]}, "it must be even"),
        ("dqn", "CartPole-v1", {"replay__initial": "actors"}, "needs replay.prioritised true"),
        ("sac", "Pendulum-v1", {"update__tau": 0}, "update.tau is 0.0"),
        ("dqn", "CartPole-v1", {"stop__score": 20, "evaluation__every": 0}, "stop.score .* but evaluation.every is 0"),
        ("sac", "Pendulum-v1", {"replay__warm_up": 5_000}, "must lie between 0 and replay.capacity 2000"),
        ("sac", "Pendulum-v1", {"rollout__steps": 1_500}, "too small for rollouts of 1500 steps.*replay.capacity 3000"),
    ],
)
def test_nonsense_is_refused_before_anything_starts(tmp_path, name, env, settings, message):
    with pytest.raises(UserError, match=message):
        quick(tmp_path / "run", env, name, **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (PICTURE, "but what is observed needs a nature_cnn: take --preset ppo"),
        (spaces.Dict(eye=PICTURE), "but the observation 'eye' needs a nature_cnn: take --preset ppo"),
        (
            spaces.Dict(eye=PICTURE, x=spaces.Box(-1, 1, (3,))),
            "but the observation 'eye' needs a nature_cnn: name others with --policy.keys, or take --preset ppo",
        ),
    ],
)
def test_pictures_are_refused_by_critics_of_continuous_actions(observations, message):
    settings = resolve_training({"env": {"id": "Pendulum-v1"}}, "sac")
    with pytest.raises(UserError, match=f"method soft learns from vectors, {message}$"):
        replayed_spec(settings, observations, spaces.Box(-1, 1, (2,)))


def test_a_replay_too_small_for_rollouts_of_stacks_is_refused_before_anything_starts(tmp_path):
    pytest.importorskip("ale_py")
    settings = {
        "env__wrappers": [{"type": "atari"}],
        "rollout__num_envs": 1,
        "rollout__steps": 25,
        "policy__hidden": [16],
    }
    small = {"replay__capacity": 100, "replay__warm_up": 50}  # an episode needs three more rows for its first stack
    with pytest.raises(UserError, match=r"too small for rollouts of 25 steps.*take --replay\.capacity 125 or more"):
        quick(tmp_path / "run", "ALE/Pong-v5", "dqn", **settings, **small)
    assert not (tmp_path / "run").exists()


def test_the_ladder_has_a_rung_for_each_environment():
    from understudy.learning.q_learner import QLearner
    from understudy.policies.policy import Policy
    from understudy.policies.spec import PolicySpec

    settings = resolve_training({"env": {"id": "CartPole-v1"}}, "ape-x")
    box = {"type": "Box", "shape": [4], "dtype": "float32", "low": -1.0, "high": 1.0}
    spec = PolicySpec(box, {"type": "Discrete", "n": 2}, "q_values", hidden=(64, 128))
    noise = QLearner(Policy(spec), settings).behaviour(0, 8).noise
    np.testing.assert_allclose(noise, [0.4 ** (1 + 7 * i / 7) for i in range(8)])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numbers_that_are_not_finite_end_the_run(tmp_path):
    with pytest.raises(UserError, match=r"not finite in the updates after \d+ env steps"):
        quick(tmp_path, "Pendulum-v1", "sac", update__lr="1e30", stop__env_steps=1_000)


@pytest.mark.parametrize("name", [*DISCRETE, "ddpg", "td3", "sac"])
def test_presets_say_their_method(name):
    settings = resolve_training({"env": {"id": "CartPole-v1"}}, name)
    assert settings.method == preset(name)["method"] != "actor_critic"
