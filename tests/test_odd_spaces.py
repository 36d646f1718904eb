"""Unusual spaces: what an environment is given is in its space, and what cannot be supported is refused in one line."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tests.odd_environments import PICTURE, VECTOR, WRONG, Narrow, Whole

from understudy.data import EnvSpec, map_obs
from understudy.distill_job import check_fit
from understudy.envs.checks import check_space
from understudy.envs.make import make
from understudy.errors import UserError
from understudy.evaluation.evaluate import evaluate
from understudy.io.checkpoint import read_arrays
from understudy.io.export.formats import FORMATS, obstacles
from understudy.io.export.graph import Graph
from understudy.policies.arrays import ArrayPolicy
from understudy.policies.family import ActionMap
from understudy.policies.files import load_policy
from understudy.policies.policy import Policy, as_tensors
from understudy.policies.spaces import space_from_json
from understudy.policies.spec import PolicySpec, space_to_json
from understudy.policies.weights import named_arrays
from understudy.rollouts.behaviour import Behaviour, Mixture
from understudy.settings.train import NetworkSettings
from understudy.training import train
from understudy.training_parts import policy_spec

REPLAYED = {"replay__warm_up": 16, "replay__capacity": 1000, "replay__batch_size": 8}
ON_POLICY = {"rollout__steps": 16, "update__minibatch": 16, "update__epochs": 1}


def quick(tmp_path, env, preset, **more):
    """Train for a few steps."""
    settings = {
        "rollout__num_envs": 2, "policy__hidden": [8], "stop__env_steps": 64, "evaluation__every": 0,
        "evaluation__final": 2, "evaluation__num_envs": 2, "execution__type": "single",
        **(ON_POLICY if preset == "ppo" else REPLAYED), **more,
    }  # fmt: skip
    return train(f"tests.odd_environments:{env}", preset, run=tmp_path, **settings)


def test_unit_actions_become_the_nearest_whole_number_and_reach_both_bounds():
    action_map = ActionMap(Whole.action_space)
    unit = np.linspace(-1, 1, 401, dtype=np.float32)[:, None].repeat(2, axis=1)
    found = action_map.to_env(unit)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, np.rint(unit * 2 + [2, 0]))
    np.testing.assert_allclose(action_map.to_env(action_map.to_unit(found)), found)
    assert action_map.to_env(np.float32([[3.6, -1.6]]), unit=False).tolist() == [[4, -2]]


@pytest.mark.parametrize("mixture", [Mixture(0.0, uniform=True), Mixture(0.0, noise=0.5)])
def test_random_whole_numbers_are_spread_evenly(mixture):
    class Still:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.full((len(observation), 2), [2, 0]), state

    behaviour = Behaviour(Whole.action_space, [3, 4])
    behaviour.begin(mixture, Still(), None, 2000)
    found = np.stack([behaviour.act(t, np.zeros((2, 3)), np.zeros(2, bool))[0] for t in range(2000)])
    shares = [np.bincount(column.ravel(), minlength=5) / column.size for column in (found[..., 0], found[..., 1] + 2)]
    for share in shares:
        assert share.min() > 0.15 if mixture.uniform else np.abs(share - share[::-1]).max() < 0.05


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(-0.1, 0.1, np.float64), (0.3, 0.3, np.float64), (-0.1, 0.1, np.float16), (0, 2**31 - 1, np.int32)],
)
def test_actions_are_within_the_bounds_in_the_dtype_of_the_space(low, high, dtype):
    space = gym.spaces.Box(low, high, (1,), dtype)
    for unit in (True, False):
        for action in ActionMap(space).to_env(np.float32([[-1], [0.2], [1], [5e9]]), unit=unit):
            assert space.contains(action)


@pytest.mark.parametrize("preset", ["ppo", "sac", "td3"])
@pytest.mark.parametrize("env", ["Whole", "Fine", "Constant"])
def test_training_acts_in_the_space(tmp_path, env, preset):
    result = quick(tmp_path, env, preset)
    assert result.score == 5.0
    assert all(bool(parameter.isfinite().all()) for parameter in result.policy.parameters())


def test_critics_do_not_look_at_a_constant_action(tmp_path):
    quick(tmp_path, "Constant", "td3", replay__save=True)
    arrays = read_arrays(tmp_path / "state.safetensors")[0]
    (target,) = (array for name, array in arrays.items() if name.endswith("target:critics"))
    weights = target.reshape(-1)[: 2 * 8 * 5].reshape(2, 8, 5)  # 2 critics, 8 units, 3 features and 2 actions
    assert (weights[..., 4] == 0).all() and (weights[..., 3] != 0).all()


@pytest.mark.parametrize(
    ("env", "preset", "lstm"),
    [("Grid", "ppo", 0), ("Grid", "ppo", 4), ("Bits", "ppo", 0), ("Bits", "ppo", 4), ("Number", "dqn", None)],
)
def test_choices_on_two_axes_and_numbers_without_one(tmp_path, env, preset, lstm):
    more = {} if lstm is None else {"policy__lstm": lstm}
    result = quick(tmp_path, env, preset, **more)
    assert result.score == 5.0
    again = load_policy(tmp_path / "last.safetensors")
    observation, action = result.policy.observation_space, result.policy.action_space
    assert (again.observation_space, again.action_space) == (observation, action)
    assert action.contains(again.predict(observation.sample())[0])
    assert space_from_json(space_to_json(observation)) == observation
    if lstm == 0:
        tensors = as_tensors(map_obs(lambda a: np.stack((a, a)), observation.sample()))
        graph = Graph(again)
        inputs = [tensors[key] if isinstance(tensors, dict) else tensors for key in graph.keys]
        torch.testing.assert_close(graph(*inputs)[0], again(tensors).params)
        assert obstacles(again.spec, "sb3") and not obstacles(again.spec, "onnx")


def policy_for(actions, head=0.0):
    """Return a policy for vectors whose last layer always says ``head``."""
    spec = policy_spec(NetworkSettings(hidden=()), VECTOR, actions, True)
    policy = Policy(spec)
    with torch.no_grad():
        policy.head.weight.zero_()
        policy.head.bias.fill_(head)
    return policy


@pytest.mark.parametrize(
    ("own", "env"),
    [
        (spaces.Discrete(2, start=3), "Odd"),
        (spaces.MultiDiscrete([[2, 3], [4, 6]]), "GridActions"),
        (spaces.Discrete(3), "Odd"),
    ],
)
def test_a_policy_for_other_choices_is_refused(own, env):
    policy, name = policy_for(own), f"tests.odd_environments:{env}"
    with pytest.raises(UserError, match="acts in .*, but .* takes"):
        evaluate(policy, env=name, episodes=2)
    with pytest.raises(UserError, match="acts in .*, but .* takes"):
        check_fit(policy, EnvSpec(name))


@pytest.mark.parametrize(("low", "high"), [([-1, 0], [3, 0.5]), ([-np.inf] * 2, [np.inf] * 2), ([-5] * 2, [1] * 2)])
@pytest.mark.parametrize("head", [9.0, -9.0])
def test_a_policy_for_other_bounds_stays_within_those_of_the_environment(low, high, head):
    policy = policy_for(spaces.Box(np.array(low, np.float32), np.array(high, np.float32)), head)
    name = "tests.odd_environments:Narrow"
    check_fit(policy, EnvSpec(name))
    assert evaluate(policy, env=name, episodes=2).mean == 5.0
    behaviour = Behaviour(Narrow.action_space, [0])
    behaviour.begin(Mixture(1.0), None, policy, 1)
    action, _ = behaviour.act(0, np.zeros((1, 3), np.float32), np.ones(1, bool))
    assert Narrow.action_space.contains(action[0])


def test_an_export_of_whole_numbers_is_refused():
    spec = PolicySpec(*map(space_to_json, (Whole.observation_space, Whole.action_space)), "gaussian", std="constant")
    for form in FORMATS:
        assert "actions of whole numbers" in obstacles(spec, form)


@pytest.mark.parametrize("case", WRONG)
def test_a_first_observation_that_is_not_of_its_space_is_refused(case):
    env = make(EnvSpec("tests.odd_environments:Wrong", {"case": case}), 2)
    with pytest.raises(UserError, match=f"odd_environments:Wrong.*{WRONG[case][2]}"):
        env.reset([0, 1])
    env.close()


def test_observations_that_cast_safely_are_taken():
    env = make("tests.odd_environments:Lists", 2)
    obs = env.reset([0, 1])
    assert obs["a"].tolist() == [1, 1] and obs["c"].tolist() == [[0, 1]] * 2
    env.close()


@pytest.mark.parametrize("choice", [7, 4, -1])
def test_a_choice_outside_of_its_space_is_named(choice):
    env = make(EnvSpec("tests.odd_environments:Outside", {"choice": choice}), 2)
    policy = Policy(policy_spec(NetworkSettings(hidden=(4,)), env.observation_space, env.action_space, True))
    env.reset([0, 1])
    for _ in range(2):
        obs = env.step(np.zeros(2, np.int64)).obs
    for one in (policy, ArrayPolicy(policy.spec, named_arrays(policy))):
        with pytest.raises(UserError, match=rf"Discrete\(4\) shows {choice}, which is not one"):
            one.predict(obs, deterministic=True)
    env.close()


@pytest.mark.parametrize("limit", [{}, {"max_episode_steps": 9}], ids=["plain", "wrapped"])
@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("seed", UserError, r"Old: reset\(seed=..., .*unexpected keyword argument 'seed'"),
        ("four", UserError, r"Old: step\(action\) must return .* not enough values to unpack"),
        ("array", UserError, r"Old: step\(action\) must return .* a number as reward, .* with a sequence"),
        ("inside", ValueError, "^my own$"),
    ],
)
def test_an_environment_of_another_interface_is_named(what, error, message, limit):
    env = make(EnvSpec("tests.odd_environments:Old", {"what": what, **limit}), 1)
    with pytest.raises(error, match=message):
        env.reset([0])
        env.step(np.zeros(1, int))


FLAT = r'try the wrapper {"type": "flatten_observation"}'
ONE_SIZE = "let the environment show arrays of one size instead"
MISSION = r"key 'mission'\), even where other keys are chosen; try the wrapper {\"type\": \"mission\", \"length\": 64}"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Sequence(VECTOR), ONE_SIZE),
        (spaces.Dict(a=VECTOR, b=spaces.Sequence(VECTOR)), rf"key 'b'\), even .*; {ONE_SIZE}"),
        (spaces.Tuple([VECTOR, VECTOR]), FLAT),
        (spaces.Dict(a=spaces.Dict(b=VECTOR)), rf"key 'a'\).*; {FLAT}"),
        (spaces.Dict(image=PICTURE, mission=spaces.Text(9)), MISSION),
    ],
)
def test_a_remedy_is_named_only_where_it_helps(space, message):
    with pytest.raises(UserError, match=message):
        check_space("Some-v0", space)


@pytest.mark.filterwarnings("error")
def test_unbounded_actions_pass_without_a_warning():
    action_map = ActionMap(spaces.Box(-np.inf, np.inf, (2,), np.float32))
    np.testing.assert_array_equal(action_map.to_env(np.float32([[3, -9]])), [[3, -9]])
