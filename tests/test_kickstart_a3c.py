"""A3C's workers with teachers: each asks them about its own rollouts."""

import json
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import understudy
from understudy.data import EnvSpec
from understudy.envs.make import spaces_of
from understudy.errors import UserError
from understudy.kickstart_job import KickstartJob
from understudy.kickstarting import Lessons
from understudy.learning.from_gradients import SharedWeights
from understudy.learning.shared_optimizer import shared_shapes
from understudy.learning.teaching import Teaching
from understudy.policies.files import load_policy
from understudy.policies.policy import About, Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import Encoder, PolicySpec
from understudy.settings import KickstartSettings
from understudy.teachers.ensemble import Ensemble

CONSTANT = "understudy/ConstantAction-v0"


def always(logits):
    """A policy of our own whose logits do not depend on what it sees."""
    spaces = map(space_to_json, spaces_of(EnvSpec(CONSTANT)))
    policy = Policy(PolicySpec(*spaces, "categorical", (Encoder(),), hidden=()), About(env=EnvSpec(CONSTANT))).eval()
    with torch.no_grad():
        policy.head.weight.zero_()
        policy.head.bias.copy_(torch.tensor(logits, dtype=torch.float32))
    return policy


RIGHT = [-4, 4]
SMALL = {
    "policy": {"hidden": [16], "lstm": 0, "encoder": "auto"}, "rollout": {"num_envs": 2, "steps": 16},
    "objective": {"gamma": 0.5}, "update": {"lr": "5e-3"},
    "evaluation": {"every": 0, "final": 10, "num_envs": 2}, "stop": {"env_steps": 6000},
}  # fmt: skip


def run(folder, teacher, teaching, **settings):
    given = {**SMALL, "teaching": teaching, **settings}
    result = understudy.kickstart(CONSTANT, teacher, ["kickstarting", "a3c"], given, run=folder, seed=1)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return result, load_policy(folder / "last.safetensors"), rows


def test_without_rewards_the_student_becomes_its_teacher(tmp_path):
    result, student, rows = run(tmp_path / "run", always([1, 0]), {"weight": "1", "rl_weight": "0"})
    p = student.label(np.arange(10, dtype=np.float32)[:, None])[0].params.softmax(-1)[:, 0].numpy()
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-1)), atol=0.05)
    told = [row["kl/teacher"] for row in rows if "kl/teacher" in row]
    assert told[-1] < 5e-3 and result.env_steps >= 6000


def test_a_harmful_teacher_is_outgrown(tmp_path):
    """lambda ends after a third of the run, and with it what the log says of the teacher."""
    result, _, rows = run(tmp_path / "run", always([1.5, -1.5]), {"weight": "linear(1, 0, 2000)"})
    assert result.score == 10
    weights = [row["teacher_weight"] for row in rows if "teacher_weight" in row]
    assert weights[0] > 0 == weights[-1]
    assert "kl/teacher" in rows[0] and "kl/teacher" not in [row for row in rows if "teacher_weight" in row][-1]


def test_a_gate_in_the_workers_follows_the_evaluations(tmp_path):
    """They are the learner's, and reach the workers: a student as good as its teacher has none."""
    evaluation = {"every": 1000, "episodes": 4, "num_envs": 2, "final": 4}
    teaching = {"weight": "gated(1)"}
    result, _, rows = run(tmp_path / "run", always(RIGHT), teaching, evaluation=evaluation)
    weights = [row["teacher_weight"] for row in rows if "teacher_weight" in row]
    assert result.score == 10 and weights[0] > 0.5 and weights[-1] < 0.05


def test_the_workers_learn_from_their_teacher_after_the_warm_up(tmp_path):
    teaching = {"weight": "1", "rl_weight": "0", "warm_up": 1000}
    _, student, _ = run(tmp_path / "run", always([1, 0]), teaching)
    p = student.label(np.arange(10, dtype=np.float32)[:, None])[0].params.softmax(-1)[:, 0].numpy()
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-1)), atol=0.05)


def test_counts_of_workers_that_are_no_more_go_to_the_first():
    """Also from a checkpoint that counts no updates that left a parameter still; scales go to who is there."""
    policy = always(RIGHT)
    more, less = (
        {n: np.zeros(*about) for n, about in shared_shapes(policy, workers, scaled=True).items()} for workers in (3, 2)
    )
    weights = SharedWeights(policy, more, "adam")
    more["updates"][:, 0], more["still"][:, 1] = (5, 6, 7), (1, 2, 3)
    more["reward_scale"][:, 2] = 10, 20, 30
    arrays = weights.state()[0]
    resumed = SharedWeights(policy, less, "adam")
    resumed.restore(arrays, {})
    assert less["updates"][:, 0].tolist() == [18, 0] and less["still"].sum(axis=0).tolist() == [0, 6]
    assert less["reward_scale"][:, 2].tolist() == [10, 20]
    SharedWeights(policy, more, "adam").restore(resumed.state()[0], {})
    assert more["reward_scale"][:, 2].tolist() == [10, 20, 10]
    resumed.restore({name: arrays[name] for name in arrays.keys() - {"still", "reward_scale"}}, {})
    assert less["updates"][:, 0].tolist() == [18, 0] and not less["still"].any() and not less["reward_scale"].any()


def test_what_the_workers_are_told_keeps_its_teachers():
    """Our own policies travel whole, in ensembles too; a file of another library as where it lies."""
    together = Ensemble([always(RIGHT), always([0, 1])])
    settings = KickstartSettings()
    lessons = pickle.loads(pickle.dumps(Lessons(KickstartJob(settings, (always(RIGHT), together), Path("run"), False))))
    obs = np.zeros((3, 1), np.float32)
    for ours, theirs in zip(lessons.job.teachers, (always(RIGHT), together), strict=True):
        np.testing.assert_allclose(ours.label(obs)[0].params, theirs.label(obs)[0].params)
    assert lessons.job.settings == settings


def test_a_file_of_another_library_is_loaded_in_the_workers(tmp_path):
    understudy.export(always(RIGHT), "torchscript", tmp_path / "teacher.pt")
    result, _, rows = run(tmp_path / "run", tmp_path / "teacher.pt", {"weight": "1", "rl_weight": "0"})
    assert result.score == 10


@pytest.mark.parametrize(
    ("teaching", "words"),
    [
        ({"weight": "target_kl(1, 0.1)"}, "A3C each learn by themselves"),
        ({"behaviour": {"beta": "linear(1, 0, 50%)"}}, "act alone"),
        ({"rehearsal": {"data": "somewhere"}}, "act alone"),
    ],
)
def test_what_the_workers_cannot_do_is_refused(tmp_path, teaching, words):
    with pytest.raises(UserError, match=words):
        run(tmp_path / "run", always(RIGHT), teaching)


def test_a_python_object_that_cannot_be_copied_cannot_go_to_the_workers(tmp_path):
    lock = threading.Lock()
    observations, actions = spaces_of(EnvSpec(CONSTANT))
    teacher = understudy.load(
        lambda obs: np.zeros((len(obs), 2), np.float32) * lock.locked(), env=CONSTANT, output="logits",
        observation_space=observations, action_space=actions,
    )  # fmt: skip
    with pytest.raises(UserError, match="cannot be copied to A3C's workers"):
        run(tmp_path / "run", teacher, {"weight": "linear(1, 0, 50%)"})


def test_a_closure_cannot_go_to_the_workers(tmp_path):
    with pytest.raises(UserError, match="cannot be told what to teach"):
        understudy.train(CONSTANT, "a3c", SMALL, run=tmp_path / "run", teach=lambda policy: Teaching([]))
