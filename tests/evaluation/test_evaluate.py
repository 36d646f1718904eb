import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from evaluation_helpers import new_policy
from rich.console import Console

import understudy
from understudy.cli import main
from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.evaluation.compare import compare
from understudy.evaluation.evaluate import evaluate
from understudy.evaluation.latency import kilobytes_of, latency
from understudy.evaluation.play import play
from understudy.evaluation.tables import print_comparison, print_evaluation, write_table
from understudy.policies.files import save_policy
from understudy.policies.policy import About


def test_drawn_actions_follow_from_the_seed_and_leave_pytorchs_generator_alone():
    policy, before = new_policy(), torch.random.get_rng_state()
    first = evaluate(policy, episodes=5, seed=3, deterministic=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    again, other = (evaluate(policy, episodes=5, seed=seed, deterministic=False) for seed in (3, 4))
    assert again.returns.tolist() == first.returns.tolist()
    assert other.returns[:4].tolist() != first.returns[1:].tolist()


def test_evaluate_is_what_gymnasium_says():
    policy = new_policy()
    found = evaluate(policy, episodes=5, seed=3)
    wanted = []
    for seed in range(3, 8):
        env = gym.make("CartPole-v1")
        obs, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policy.predict(obs, deterministic=True)[0])
            total, over = total + reward, terminated or truncated
        wanted.append(total)
    assert found.returns.tolist() == wanted and found.seeds.tolist() == [3, 4, 5, 6, 7]
    assert found.mean == np.mean(wanted) and found.std == pytest.approx(np.std(wanted, ddof=1))
    assert (found.min, found.max, found.env_steps) == (min(wanted), max(wanted), sum(wanted))
    assert found.mean_interval.low <= found.mean <= found.mean_interval.high
    assert found.iqm_interval.low <= found.iqm <= found.iqm_interval.high
    assert (found.env, found.name, found.episodes) == ("CartPole-v1", "runs/policy0", 5)


def test_path_and_random(tmp_path):
    path = save_policy(new_policy(), tmp_path / "run" / "best.safetensors")
    found = evaluate(str(path), episodes=3)
    assert found.name == "run/best"
    assert found.returns.tolist() == evaluate(path, env="CartPole-v1", episodes=3, num_envs=1).returns.tolist()
    random = evaluate("random", env="CartPole-v1", episodes=10)
    assert 10 < random.mean < 60 and random.returns.tolist() == evaluate("random", "CartPole-v1", 10).returns.tolist()


def test_one_episode_is_not_written_as_several(tmp_path):
    with open(tmp_path / "out", "w") as file:
        console = Console(width=120, record=True, file=file)
        print_evaluation(evaluate(new_policy(), episodes=1), console)
        print_comparison(compare([new_policy(), "random"], episodes=1, measure_latency=False), console)
    text = console.export_text()
    assert "1 episode, seed 0;" in text and "1 episode each" in text and "1 episodes" not in text


@pytest.mark.parametrize(("flag", "message"), [("--video", "cannot write a video"), ("--picture", "cannot draw")])
def test_a_film_that_cannot_be_written_is_refused_before_anybody_plays(flag, message, capsys):
    with pytest.raises(SystemExit):
        main(["compare", "random", "random", "--env", "CartPole-v1", flag, "x.xyz"])
    told = capsys.readouterr()
    assert message in told.err and not told.out


def test_printed_and_written(tmp_path):
    found = evaluate(new_policy(), episodes=4)
    console = Console(width=80, record=True, quiet=False, file=open(tmp_path / "out", "w"))  # noqa: SIM115
    print_evaluation(found, console)
    text = console.export_text()
    assert "mean return" in text and "4 episodes, seeds 0 to 3" in text and "95 % interval" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    data = json.loads(write_table(found, tmp_path / "e.json").read_text())
    assert data["mean"] == found.mean and data["mean_interval"] == list(found.mean_interval)
    with pytest.raises(UserError, match="cannot write a table"):
        write_table(found, tmp_path / "e.xls")


@pytest.mark.parametrize(
    ("policy", "kwargs", "message"),
    [
        ("random", {}, "random policy plays in any environment"),
        ("/no/such/policy.zip", {}, "no teacher at /no/such"),
        (new_policy(), {"env": "Pendulum-v1"}, "acts in Discrete"),
        (new_policy(), {"env": "Acrobot-v1"}, "acts in Discrete.2.*takes Discrete.3"),
        (new_policy(), {"episodes": 0}, "at least 1 episode"),
        (new_policy(), {"episodes": 2.5}, "episodes is 2.5; it must be a whole number"),
        ("random", {"env": "CartPole-v1", "seed": 1.5}, "seed is 1.5; it must be a whole number"),
        (new_policy(), {"seed": -1}, "seeds are not negative"),
        (new_policy(), {"seed": 2**64 - 1}, "seeds are at most 4294967295"),
    ],
)
def test_refusals(policy, kwargs, message):
    with pytest.raises(UserError, match=message):
        evaluate(policy, **kwargs)


def test_a_policy_without_an_environment():
    policy = new_policy()
    policy.about = About()
    with pytest.raises(UserError, match="does not say which environment"):
        evaluate(policy)
    assert evaluate(policy, EnvSpec("CartPole-v1"), episodes=2).episodes == 2


def test_missing_wrapper_is_named():
    with pytest.raises(UserError, match="is a wrapper missing"):
        evaluate(new_policy("MountainCar-v0"), env=EnvSpec("Acrobot-v1"))


@pytest.mark.parametrize("kwargs", [{}, {"lstm": 8}])
def test_latency(kwargs):
    policy = new_policy(**kwargs)
    found = latency(policy, seconds=0.02)
    assert 1 < found.predict_us < 20_000
    assert found.array_us is not None
    if not kwargs:
        assert found.best_us == min(found.predict_us, found.array_us)
        assert kilobytes_of(policy) == 4 * (4 * 16 + 16 + 16 * 2 + 2) / 1000


class Answers:
    """Acts as the tests say."""

    def __init__(self, answer):
        self._answer = answer

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return self._answer(len(observation)), None


class OneArgument:
    def predict(self, x):
        return np.zeros(len(x), np.int64)


class NoState(Answers):
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return self._answer(len(observation))


@pytest.mark.parametrize(
    ("policy", "env", "words"),
    [
        (Answers(lambda n: np.full(n, 7)), "CartPole-v1", r"predict of Answers answers 7, which is not in Discrete"),
        (Answers(lambda n: np.zeros((n, 1), int)), "CartPole-v1", r"int64 of shape \(2, 1\) for 2 observations"),
        (Answers(lambda n: np.zeros(n)), "Pendulum-v1", r"shape \(2,\) .* are numbers of shape \(2, 1\)"),
        (Answers(lambda n: np.zeros(n, str)), "CartPole-v1", "are numbers of shape"),
        (Answers(lambda n: 1), "CartPole-v1", r"shape \(\) for 2 observations"),
        (NoState(lambda n: np.zeros(n, int)), "CartPole-v1", "must return actions and a state"),
        (OneArgument(), "CartPole-v1", r"predict of OneArgument takes \(x\), but policies are asked"),
    ],
)
def test_objects_that_answer_wrongly_are_refused(policy, env, words):
    with pytest.raises(UserError, match=words):
        evaluate(policy, env, episodes=2)
    with pytest.raises(UserError, match="predict of"):
        play(policy, env)


def test_objects_that_answer_rightly_act_as_they_are():
    found = evaluate(Answers(lambda n: [1.0] * n), "CartPole-v1", episodes=3)
    again = evaluate(Answers(lambda n: np.ones(n, np.int64)), "CartPole-v1", episodes=3)
    assert np.array_equal(found.returns, again.returns)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:9", "meta"])
def test_devices_that_are_not_there(device):
    with pytest.raises(UserError, match="device"):
        understudy.load(lambda obs: obs, device=device)
    with pytest.raises(UserError, match="predict of OneArgument takes"):
        understudy.load(OneArgument(), env="CartPole-v1")
