"""Students that learn with teachers: probe environments that each fail for one cause only."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from tests.teachers_for_tests import MemoryTeacher, PrivilegedTeacher

import understudy
from understudy.against_scratch import against_scratch
from understudy.cli import main
from understudy.data import Rollout, Trace
from understudy.errors import UserError
from understudy.kickstart_job import prepare, resolve
from understudy.kickstarting import copy_teacher
from understudy.learning.from_dataset import TeacherLabels
from understudy.learning.teaching import log_prob_reward, value_reward
from understudy.policies.files import load_policy
from understudy.policies.policy import Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec
from understudy.preset_files import preset, presets
from understudy.replay_kickstarting import prepare_replay
from understudy.rollouts.buffers import new_rollout
from understudy.teachers.load import load
from understudy.training import train

CONSTANT = "understudy/ConstantAction-v0"


def always(logits, env=CONSTANT, name="by hand"):
    """A teacher whose logits do not depend on what it sees."""

    def answer(obs):
        return np.tile(np.float32(logits), (len(obs), 1))

    answer.__name__ = name
    return load(answer, env=env, output="logits", **spaces(env))


def spaces(env):
    from understudy.envs.make import spaces_of

    return dict(zip(("observation_space", "action_space"), spaces_of(understudy.EnvSpec(env)), strict=True))


RIGHT, WRONG = [-4, 4], [4, -4]


def quick(tmp_path, teacher, preset="kickstarting", env=CONSTANT, **settings):
    """Kickstart in a folder, and return the result, the weights at the end and the metrics of each round."""
    options = {
        "evaluation__every": 0, "evaluation__final": 10, "evaluation__num_envs": 2, "policy__hidden": [16],
        "policy__normalize": False, "objective__normalize_reward": False, "rollout__num_envs": 8, "rollout__steps": 16,
        "update__minibatch": 32, "update__epochs": 2, "update__lr": "1e-2", "stop__env_steps": 4000,
    }  # fmt: skip
    rows = []
    result = understudy.kickstart(env, teacher, preset, run=tmp_path, report=rows.append, **{**options, **settings})
    policy = load_policy(tmp_path / "last.safetensors")
    return result, policy, rows


def weights(policy):
    return {name: tensor.numpy() for name, tensor in policy.state_dict().items()}


def chosen(policy):
    """p(action 0) over the steps of an episode."""
    steps = np.arange(10, dtype=np.float32)[:, None]
    return policy.label(steps)[0].params.softmax(-1)[:, 0].numpy()


def test_without_rewards_the_student_becomes_its_teacher(tmp_path):
    """c = 0: the teacher plays for nothing, and so does the student, with the teacher's own probabilities."""
    result, student, rows = quick(tmp_path, always([1, 0]), "distill-student")
    assert result.score == 0
    np.testing.assert_allclose(chosen(student), 1 / (1 + np.exp(-1)), atol=0.02)
    assert rows[-1]["kl/teacher"] < 1e-3 < rows[0]["kl/teacher"]


def test_a_harmful_teacher_is_outgrown(tmp_path):
    """Lambda falls to 0 and the student reaches the optimum; held on to, the same teacher ruins it."""
    result, _, rows = quick(tmp_path / "linear", always(WRONG))
    assert result.score == 10
    assert rows[0]["teacher_weight"] == 1 and rows[-1]["teacher_weight"] == 0 and "kl/teacher" not in rows[-1]
    with pytest.warns(UserWarning, match="ends at its teacher"):
        held, _, _ = quick(tmp_path / "constant", always(WRONG), teaching__weight="3")
    assert held.score < 5


def test_a_teacher_that_knows_what_rewards_hardly_tell(tmp_path):
    """Twelve steps between cue and reward: alone, the student stays at chance in the time that teaching takes."""
    env = understudy.EnvSpec("understudy/Memory-v0", {"delay": 12})
    settings = {
        "policy__lstm": 16, "rollout__num_envs": 16, "rollout__steps": 18, "update__minibatch": 72,
        "stop__env_steps": 2880, "evaluation__final": 40, "update__epochs": 4,
    }  # fmt: skip
    taught, _, _ = quick(
        tmp_path / "taught", MemoryTeacher(), env=env, teaching__weight="linear(1, 0, 90%)", **settings
    )
    alone, _, _ = quick(tmp_path / "alone", MemoryTeacher(), env=env, teaching__weight="0", **settings)
    assert taught.score > 0.95 and alone.score < 0.8


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Reverse KL to each: softmax of the mean of the log-probabilities; to the mixture: the mean probability.
        ({"teaching__distance__name": "reverse_kl"}, 0.36**0.5 / (0.36**0.5 + 0.06**0.5)),
        ({"teaching__distance__name": "reverse_kl", "teaching__assignment": "mixture"}, 0.65),
        # Forward KL with factors 3 and 1: the weighted mean of the probabilities.
        ({"teaching__rho": [3, 1]}, (3 * 0.9 + 0.4) / 4),
    ],
)
def test_two_teachers_that_disagree(tmp_path, settings, expected):
    teachers = [always(np.log([p, 1 - p])) for p in (0.9, 0.4)]
    _, student, _ = quick(tmp_path, teachers, "distill-student", stop__env_steps=6000, **settings)
    np.testing.assert_allclose(chosen(student), expected, atol=0.03)


def test_a_teacher_with_observations_of_its_own(tmp_path):
    """The teacher reads the key that shows the action, the student sees both; the teacher plays perfectly."""
    result, _, _ = quick(
        tmp_path, PrivilegedTeacher(), "distill-student", env=PrivilegedTeacher.env, policy__keys=["privileged"]
    )
    assert result.score == 10


def test_one_teacher_per_task(tmp_path):
    """Constant 1 in one task, constant 0 in the other: the student tells them apart by the task's id."""
    other = "understudy/Memory-v0"
    teachers = [always(RIGHT), always(WRONG, other)]
    result, student, _ = quick(
        tmp_path, teachers, "distill-student", env=None, teaching__assignment="task", rollout__num_envs=8,
        evaluation__final=4,
    )  # fmt: skip
    seen = {"observation": np.zeros((2, 2), np.float32), "task": np.eye(2, dtype=np.float32)}
    probabilities = student.label(seen)[0].params.softmax(-1)[:, 1].numpy()
    assert probabilities[0] > 0.95 and probabilities[1] < 0.05


def test_a_recurrent_teacher_remembers_between_rollouts():
    """Labels of two halves equal those of the whole, whose episodes cross the border."""
    rng, steps, envs = np.random.default_rng(0), 12, 3
    obs = rng.normal(size=(steps, envs, 2)).astype(np.float32)
    start = np.zeros((steps, envs), bool)
    start[0], start[4, 0], start[5, 1], start[9, 2] = True, True, True, True

    def rollout(part):
        zeros = np.zeros((steps, envs), np.float32)[part]
        return Rollout(obs[part], zeros, zeros, zeros > 0, zeros > 0, start[part], zeros > 0)

    halves, whole = TeacherLabels(MemoryTeacher()), TeacherLabels(MemoryTeacher())
    parts = [halves.label(rollout(part))["params"] for part in (slice(0, 7), slice(7, 12))]
    np.testing.assert_array_equal(np.concatenate(parts), whole.label(rollout(slice(0, 12)))["params"])


@pytest.mark.parametrize("execution", ["sync", "async"])
@pytest.mark.parametrize("student", ["mlp", "lstm"])
def test_executions_agree(tmp_path, execution, student):
    """A recurrent teacher, its labels part of every update: sync, and async without lag, equal single."""
    settings = {"policy__lstm": 8 * (student == "lstm"), "update__minibatch": 48, "rollout__steps": 6}
    settings |= {"stop__env_steps": 480, "evaluation__final": 0, "teaching__weight": "linear(1, 0, 400)"}
    other = {"execution__type": execution, "execution__max_lag": 0, "execution__num_workers": 2}
    _, one, _ = quick(tmp_path / "1", MemoryTeacher(), env=MemoryTeacher.env, **settings)
    _, two, _ = quick(tmp_path / "2", MemoryTeacher(), env=MemoryTeacher.env, **other, **settings)
    one, two = weights(one), weights(two)
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("execution", "weight"),
    [("single", "linear(1, 0, 1200)"), ("sync", "target_kl(0.05, 1, 500)"), ("single", "gated(1)")],
)
def test_resume_equals_the_uninterrupted_run_bit_for_bit(tmp_path, execution, weight):
    """The state of the weights that follow what is measured is part of a checkpoint."""
    settings = {
        "execution__type": execution, "checkpoint_every": 512, "teaching__weight": weight,
        "evaluation__every": 256 if weight == "gated(1)" else 0,
        "evaluation__episodes": 4, "evaluation__final": 0, "policy__normalize": True, "update__lr": "1e-3",
        "objective__normalize_reward": True,
    }  # fmt: skip
    _, whole, rows = quick(tmp_path / "whole", always(RIGHT), stop__env_steps=2048, **settings)
    quick(tmp_path / "parts", always(RIGHT), stop__env_steps=1024, **settings)
    _, parts, _ = quick(tmp_path / "parts", always(RIGHT), stop__env_steps=2048, resume=True, **settings)
    whole, parts = weights(whole), weights(parts)
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    assert len({row.get("teacher_weight") for row in rows}) > 3  # it did move


def test_a_gate_closes_as_the_student_comes_up_to_its_teacher(tmp_path):
    _, _, rows = quick(tmp_path, always(RIGHT), teaching__weight="gated(2)", evaluation__every=512)
    found = {row["eval_env_steps"]: row["eval_return"] for row in rows if "eval_return" in row}
    scores = json.loads((tmp_path / "scores.json").read_text())
    random, teacher = scores["random"], scores["teachers"][0]
    assert rows[0]["teacher_weight"] == 2 and 4 < random < 6 and teacher == 10
    for before, after in zip(rows[:-1], rows[1:], strict=True):
        score = found.get(before["env_steps"])
        if score is not None:
            assert after["teacher_weight"] == pytest.approx(2 * min(max(0, 1 - (score - random) / 5), 1), abs=0.5)
    assert rows[-1]["teacher_weight"] == 0


def test_a_controller_holds_the_distance(tmp_path):
    """Rewards pull away from a wrong teacher, the controller holds the student at 0.2 nats from it."""
    settings = {"teaching__weight": "target_kl(0.2, 1, 500)", "teaching__distance__name": "forward_kl"}
    _, _, rows = quick(tmp_path, always([1, -1]), stop__env_steps=12_000, **settings)
    assert np.mean([row["kl/teacher"] for row in rows[-20:]]) == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("warm_up", [0, 1024])
def test_fine_tuning_begins_as_its_teacher_and_warms_up_the_critic_alone(tmp_path, warm_up):
    teacher = load_policy(
        quick(tmp_path / "teacher", always(RIGHT), policy__normalize=True)[0].folder / "last.safetensors"
    )
    _, student, _ = quick(
        tmp_path / "student", str(tmp_path / "teacher"), "finetune", policy__normalize=True, stop__env_steps=1024,
        teaching__warm_up=warm_up,
    )  # fmt: skip
    before, after = weights(teacher), weights(student)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert any(name.startswith("value_") for name in moved)
    assert not any(name.startswith("normalizer") for name in moved)
    assert any(not name.startswith("value_") for name in moved) == (warm_up == 0)


class Valued:
    """Says a value, and is there for its arithmetic only."""

    def label(self, obs, state=None, episode_start=None):
        return understudy.data.Target(torch.zeros(len(obs), 2), torch.full((len(obs),), 7.0)), None


def test_rewards_made_by_teachers():
    rollout = new_rollout(*spaces(CONSTANT).values(), 3, 2, load_spec())
    rollout.terminated[:], rollout.truncated[:] = False, False
    rollout.terminated[0, 0] = rollout.truncated[1, 1] = True
    value = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    found = value_reward(Valued(), {"value": value}, rollout, 0.5)
    # After termination 0, after truncation the value of the last state, after the rollout that of what was seen last.
    np.testing.assert_allclose(found, [[0 - 1, 0.5 * 4 - 2], [0.5 * 5 - 3, 0.5 * 4 - 4], [0.5 * 7 - 5, 0.5 * 7 - 6]])
    assert isinstance(rollout.trace, Trace)
    rollout.trace.choice[:] = [[0, 1], [1, 1], [0, 0]]
    logits = np.tile(np.log(np.float32([0.2, 0.8])), (3, 2, 1))
    found = log_prob_reward(always(RIGHT), {"params": logits}, rollout)
    np.testing.assert_allclose(found, np.log([[0.2, 0.8], [0.8, 0.8], [0.2, 0.2]]), rtol=1e-5)


def load_spec():
    from understudy.training_parts import policy_spec

    return policy_spec(resolve({}, ()).policy, *spaces(CONSTANT).values(), True)


def test_rewards_made_by_a_teacher_are_learnt_from(tmp_path):
    """The distance is off: what the teacher's log-probabilities say outweighs the environment's reward."""
    with_teacher = {"teaching__weight": "0", "teaching__reward": "log_prob", "teaching__reward_weight": "3"}
    result, _, _ = quick(tmp_path, always(WRONG), **with_teacher)
    assert result.score == 0


@pytest.mark.parametrize("name", [n for n in presets() if "teaching" in preset(n) and "method" not in preset(n)])
def test_every_preset_is_valid(name):
    settings = resolve({"env": {"id": CONSTANT}}, [name])
    settings.check()
    assert resolve({"env": {"id": CONSTANT}}, [name, "impala"]).objective.estimator == "vtrace"


@pytest.mark.parametrize("method", ["a2c", "impala", "ppd"])
def test_methods_learn_with_a_teacher(tmp_path, method):
    settings = {"execution__type": "single", "update__minibatch": 0} if method != "ppd" else {}
    quiet = {"teaching__weight": "linear(1, 0, 50%)", **settings}
    result, _, rows = quick(tmp_path, always(RIGHT), ["kickstarting", method], **quiet)
    assert result.score == 10 and rows[0]["kl/teacher"] > rows[10]["kl/teacher"]


@pytest.mark.parametrize(
    ("teachers", "settings", "message"),
    [
        ([], {}, "no teacher: pass --teacher"),
        ([RIGHT], {"teaching": {"weight": "linear(1)"}}, "teaching.weight"),
        ([RIGHT], {"teaching": {"weight": "gated(1)"}, "evaluation": {"every": 0}}, "evaluation.every is 0"),
        ([RIGHT], {"stop": {"score": 9}, "evaluation": {"every": 0}}, "stop.score .* but evaluation.every is 0"),
        ([RIGHT], {"teaching": {"rho": [1, 2]}}, "2 factors for 1 teachers"),
        ([RIGHT], {"teaching": {"proximal": True}, "objective": {"clip": 0}}, "needs objective.clip"),
        ([RIGHT], {"teaching": {"gate": "value"}}, "normalize_reward false"),
        ([RIGHT], {"teaching": {"gate": "value"}, "objective": {"normalize_reward": False}}, "has none"),
        ([RIGHT], {"teaching": {"init": "teacher"}}, "own format"),
        ([RIGHT], {"teaching": {"assignment": "task"}}, "leave --env out"),
        ([RIGHT], {"teaching": {"rl_weight": "0"}, "objective": {"value_weight": 0}}, "nothing would be left"),
        (["no/such/file.zip"], {}, "no teacher at"),
    ],
)
def test_contradictions_are_refused_before_anything_starts(tmp_path, teachers, settings, message):
    loaded = [t if isinstance(t, str) else always(t) for t in teachers]
    with pytest.raises(UserError, match=message):
        prepare(loaded, CONSTANT, settings, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_teachers_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="acts in"):
        prepare([always(RIGHT)], "understudy/IdentityDiscrete-v0")
    lagging = {"execution": {"type": "async"}}
    with pytest.raises(UserError, match="has a memory, but async"):
        prepare([MemoryTeacher()], None, lagging)


@pytest.mark.parametrize("names", [["kickstarting"], ["sac-from-teacher"]])
def test_what_is_said_of_the_environment_goes_onto_the_teachers_own(tmp_path, names):
    """Arguments one by one, wrappers all together; without them all is the teacher's."""
    wrappers = ({"type": "time_limit", "max_steps": 40},)
    own = understudy.EnvSpec("Pendulum-v1", {"g": 5.0, "max_episode_steps": 50}, wrappers, "gymnasium")
    teacher = load(lambda obs: obs[:, :1], env=own, **spaces("Pendulum-v1"))

    def ready(**said):
        over = {"env": said, "evaluation": {"every": 100}}
        if names == ["kickstarting"]:
            return prepare([teacher], None, over, preset=names).settings.env.spec()
        job = prepare_replay([teacher], None, over, names)
        assert job.teacher.about.env == job.settings.env.spec()
        return job.settings.env.spec()

    shorter = ({"type": "time_limit", "max_steps": 30},)
    assert ready() == own
    assert ready(kwargs={"g": 1.0}) == replace(own, kwargs={"g": 1.0, "max_episode_steps": 50})
    assert ready(wrappers=list(shorter)) == replace(own, wrappers=shorter)
    assert ready(kwargs="{g: 1.0}", wrappers=shorter) == replace(own, kwargs={**own.kwargs, "g": 1.0}, wrappers=shorter)


def test_schedules_that_hold_the_student_back_are_noted():
    floor = {"teaching": {"weight": "exponential(1, 0.5, 10%, 0.2)"}}
    assert "still 0.2 at the end" in prepare([always(RIGHT)], CONSTANT, floor).notes[0]
    for weight in ("linear(1, 0, 15%)", "gated(1)", "0"):
        assert not prepare([always(RIGHT)], CONSTANT, {"teaching": {"weight": weight}}).notes


@pytest.mark.parametrize(("stop", "noted"), [(5000, True), (10_240, True), (10_241, False)])
def test_a_warm_up_that_lasts_the_whole_run_is_noted(stop, noted):
    """Rollouts of 8 x 256 steps: the sixth is the first that begins after 10,000."""
    notes = prepare([always(RIGHT)], CONSTANT, {"teaching": {"init": "none"}, "stop": {"env_steps": stop}},
                    preset="finetune").notes  # fmt: skip
    assert any("teaching.warm_up 10,000 lasts all" in note for note in notes) == noted


def test_the_command_prints_what_the_teacher_saved(tmp_path, monkeypatch, capsys):
    """The whole path: kickstart, resume, the comparison with its files, and a mistake in one line."""
    (tmp_path / "one_for_all.py").write_text(
        "import numpy as np\n\n\ndef one(obs):\n    return np.ones(len(obs), np.int64)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    small = f"--env {CONSTANT} --teacher one_for_all:one --policy.hidden 8 --rollout.steps 16 --update.minibatch 32"
    small += " --update.epochs 2 --evaluation.final 4 --evaluation.episodes 4 --evaluate-every 256"
    words = small.split()
    main(["kickstart", *words, "--env-steps", "512", "--run", "run"])
    assert "teacher one_for_all:one" in capsys.readouterr().out
    main(["kickstart", "--resume", "run", "--env-steps", "1024"])
    assert "1,024 env steps" in capsys.readouterr().out
    both = ["--against-scratch", "--teacher-steps", "500", "--run", "both", "--seeds", "2"]
    main(["kickstart", *words, "--env-steps", "1024", *both])
    assert "speed-up" in capsys.readouterr().out
    found = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert [row["share"] for row in found["savings"]] == [0.5, 0.8, 0.95, 1.0]
    assert len(found["student"]) == len(found["scratch"]) == 2 and found["teacher"] == 10
    assert [step for step, _ in found["student"][0]] == [256, 512, 768, 1024]
    assert found["weights"]["teacher"][0] == [128, 1.0]
    assert (tmp_path / "both" / "comparison.png").stat().st_size > 5000
    with pytest.raises(SystemExit):
        main(["kickstart", "--env", CONSTANT])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no teacher: pass --teacher" in said


def test_a_comparison_that_was_broken_off_goes_on(tmp_path, monkeypatch):
    """The same call again keeps what is finished, resumes what is not, and ends as one that was never broken off."""
    began = []

    def noted(**options):
        began.append((options["run"].name, options["resume"]))
        return train(**options)

    monkeypatch.setattr("understudy.against_scratch.train", noted)
    small = {
        "policy": {"hidden": [8]}, "rollout": {"num_envs": 4, "steps": 16}, "update": {"minibatch": 32, "epochs": 1},
        "evaluation": {"every": 128, "episodes": 4, "final": 4, "num_envs": 2}, "checkpoint_every": 128,
        "stop": {"env_steps": 384},
    }  # fmt: skip

    def compare(name, report=None, **more):
        job = prepare([always(RIGHT)], CONSTANT, {**small, **more}, run=tmp_path / name)
        return against_scratch(job, report=report)

    def interrupt(metrics):
        if began[-1][0] == "scratch-0" and metrics["env_steps"] == 256:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"the same command with --run \S*broken goes on from here"):
        compare("broken", interrupt)
    with pytest.raises(UserError, match=r"another update.lr \(.* instead of 1e-2\): .*--run"):
        compare("broken", update={**small["update"], "lr": "1e-2"})
    scores = (tmp_path / "broken" / "scores.json").stat().st_mtime_ns
    began.clear()
    found = compare("broken")
    assert began == [("scratch-0", True)]
    assert (tmp_path / "broken" / "scores.json").stat().st_mtime_ns == scores, "measured once"
    whole = compare("whole")
    assert found.to_json() == whole.to_json() and [k for k, _ in found.scratch[0]] == [128, 256, 384]
    assert [k for k, _ in found.weights["teacher"]] == [64, 128, 192, 256, 320, 384]
    with pytest.raises(UserError, match="holds a comparison already.*ask for more --seeds"):
        compare("broken")


def test_a_comparison_goes_on_after_a_kill_before_the_first_checkpoint(tmp_path):
    few = {"evaluation": {"every": 64, "episodes": 2, "final": 2}, "stop": {"env_steps": 128},
           "rollout": {"num_envs": 4, "steps": 16}, "policy": {"hidden": [8]}}  # fmt: skip
    job = prepare([always(RIGHT)], CONSTANT, few, run=tmp_path / "a")
    against_scratch(job)
    for name in ("comparison.json", "scratch-0/summary.json", "scratch-0/state.safetensors"):
        (tmp_path / "a" / name).unlink()
    assert (tmp_path / "a" / "scratch-0" / "best.safetensors").exists()
    assert len(against_scratch(job).scratch[0]) == 2
    (tmp_path / "a" / "comparison.json").unlink()
    (tmp_path / "a" / "scratch-0" / "summary.json").write_text("{}")
    with pytest.raises(UserError, match="summary.json is damaged: remove .*scratch-0"):
        against_scratch(job)


def test_a_flattened_picture_is_not_copied_into_another_layout():
    def sees(*shape):
        space = Box(0, 1, shape, np.float32)
        return Policy(PolicySpec(space_to_json(space), space_to_json(Discrete(2)), "categorical", hidden=(4,)))

    copy_teacher(sees(3, 5, 4), sees(3, 5, 4))
    with pytest.raises(UserError, match="they differ in observation_space"):
        copy_teacher(sees(3, 5, 4), sees(5, 4, 3))
