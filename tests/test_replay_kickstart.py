"""Students that learn from a replay with a teacher: its data first, then a term whose weight falls."""

import threading

import numpy as np
import pytest

import understudy
from understudy.cli import main
from understudy.config import build
from understudy.envs.make import spaces_of
from understudy.errors import UserError
from understudy.io.checkpoint import read_arrays
from understudy.learning.from_replay import FromReplay, OffPolicy, replayed_spec
from understudy.learning.from_rollouts import TrainProgress
from understudy.learning.q_learner import QLearner
from understudy.learning.replay_teaching import Offline, ReplayTeacher
from understudy.objectives.feedback import Gated, parse_weight
from understudy.policies.files import load_policy
from understudy.policies.policy import About, Policy
from understudy.policies.spec import PolicySpec, space_to_json
from understudy.replay_kickstarting import prepare_replay
from understudy.settings.taught import TaughtQLearning
from understudy.teachers.load import load

SHOWN, BOX = "understudy/IdentityDiscrete-v0", "understudy/IdentityBox-v0"
SMALL = {
    "policy__hidden": [16, 16], "replay__warm_up": 64, "replay__capacity": 2000, "replay__batch_size": 32,
    "evaluation__episodes": 5, "evaluation__final": 20, "evaluation__num_envs": 2, "rollout__num_envs": 2,
    "rollout__steps": 8,
}  # fmt: skip


def teacher_of(function, env, output):
    spaces = dict(zip(("observation_space", "action_space"), spaces_of(understudy.EnvSpec(env)), strict=True))
    return load(function, env=env, output=output, **spaces)


def values(obs):
    """Action values of somebody who knows."""
    return np.float32(obs)


def copies(obs):
    """The right action."""
    return np.float32(obs)


@pytest.mark.parametrize("output", ["q_values", "logits"])
def test_the_offline_phase_alone_teaches_action_values(tmp_path, output):
    """No reward is of any use here: the student's own data never comes, and the teacher's term must do it."""
    result = understudy.kickstart(
        SHOWN, teacher_of(lambda obs: 8 * values(obs), SHOWN, output), "qdagger", run=tmp_path, evaluation__every=1000,
        teaching__offline_steps=320, teaching__offline_updates=300, stop__env_steps=320, update__lr="3e-3", **SMALL,
    )  # fmt: skip
    assert result.score == 1.0 and result.updates == 300


def test_after_the_offline_phase_the_replay_is_the_students_own(tmp_path):
    """Updates: those of the phase, then update_to_data for every step of the student's after its warm-up."""
    rows = []
    result = understudy.kickstart(
        SHOWN, teacher_of(values, SHOWN, "q_values"), "qdagger", run=tmp_path, report=rows.append,
        teaching__offline_steps=320, teaching__offline_updates=50, teaching__noise=0, stop__env_steps=640,
        evaluation__every=160, **SMALL,
    )  # fmt: skip
    assert result.updates == 50 + (640 - 320 - 64) // 2
    assert rows[18]["replay"] == 304 and rows[20]["replay"] == 16
    weights = [row["teacher_weight"] for row in rows if "teacher_weight" in row]
    assert 0.5 < weights[0] <= 1 and 0 <= weights[-1] <= 1
    assert all("kl/teacher" in row for row in rows[:1] if "teacher_weight" in row)


@pytest.mark.parametrize("preset", ["sac-from-teacher", "td3", "ddpg"])
def test_an_actors_distance_teaches_continuous_students(tmp_path, preset):
    """The critics see rewards that say nothing (a learning rate of 0 could not do it): the distance does."""
    result = understudy.kickstart(
        BOX, teacher_of(copies, BOX, "action"), preset, run=tmp_path, evaluation__every=1000, update__lr="3e-3",
        teaching__offline_steps=320, teaching__offline_updates=600, teaching__weight="10", stop__env_steps=320,
        **SMALL,
    )  # fmt: skip
    assert result.score > -0.1


def test_an_interrupted_offline_phase_is_not_begun_again(tmp_path, interrupted_after):
    """50 updates are due, and 20 are taken before Ctrl-C; then 32 env steps of the student's own owe 16."""
    settings = {**SMALL, "replay__warm_up": 0, "evaluation__final": 0, "evaluation__every": 0}
    settings |= {"teaching__offline_steps": 320, "teaching__offline_updates": 50, "teaching__weight": "1"}
    settings["stop__env_steps"] = 368
    teacher = saved_teacher(tmp_path)
    with interrupted_after(QLearner, 20):
        understudy.kickstart(SHOWN, teacher, "qdagger", run=tmp_path / "run", **settings)
    result = understudy.kickstart(SHOWN, teacher, "qdagger", run=tmp_path / "run", resume=True, **settings)
    _, data = read_arrays(tmp_path / "run" / "state.safetensors")
    assert result.updates == data["learner"]["core"]["updates"] == 50 + 16


def test_a_teachers_data_that_was_not_saved_is_gathered_anew(tmp_path):
    teacher, rows = saved_teacher(tmp_path), []
    settings = {**SMALL, "replay__save": False, "evaluation__final": 0, "evaluation__every": 0}
    settings |= {"teaching__offline_steps": 320, "teaching__offline_updates": 20, "teaching__weight": "1"}
    run = tmp_path / "run"
    understudy.kickstart(SHOWN, teacher, "qdagger", run=run, stop__env_steps=304, **settings)
    understudy.kickstart(
        SHOWN, teacher, "qdagger", run=run, resume=True, report=rows.append, **settings | {"stop__env_steps": 640}
    )
    assert next(row for row in rows if row["updates"])["env_steps"] == 304 + 320


@pytest.mark.parametrize(("steps", "random"), [(0, 128), (32, 0)])
def test_a_student_that_was_taught_acts_by_itself(steps, random):
    """Random actions are for students that know nothing; after 32 steps of the teacher 96 would be left."""
    settings = build(TaughtQLearning, {"env": {"id": SHOWN}, "replay": {"warm_up": 128}, "rollout": {"steps": 16}})
    observations, actions = spaces_of(understudy.EnvSpec(SHOWN))
    policy = Policy(replayed_spec(settings, observations, actions))
    teacher = ReplayTeacher(policy, policy.family, parse_weight("1", "", 1), Offline(steps, 1, 0.1))
    learner = OffPolicy(policy, settings, teacher)
    learner.offline, found = False, 0
    for now in range(steps, 256, 16):
        found += 16 * FromReplay(learner, settings, TrainProgress(env_steps=now)).order().mixture.uniform
    assert found == random


def test_resume_is_exact_before_and_after_the_phase(tmp_path):
    teacher = saved_teacher(tmp_path)
    settings = {
        **SMALL, "evaluation__every": 10_000, "teaching__weight": "linear(1, 0, 100%)", "checkpoint_every": 160,
        "teaching__offline_steps": 320, "teaching__offline_updates": 20, "evaluation__final": 0,
    }  # fmt: skip
    ends = {}
    for name, stops in {"whole": [480], "parts": [160, 320, 480]}.items():
        for i, stop in enumerate(stops):
            understudy.kickstart(SHOWN, teacher, "qdagger", run=tmp_path / name, resume=i > 0, stop__env_steps=stop,
                                 **{**settings, "teaching__weight": "linear(1, 0, 480)"})  # fmt: skip
        ends[name] = load_policy(tmp_path / name / "last.safetensors").state_dict()
    assert all(np.array_equal(ends["whole"][key], ends["parts"][key]) for key in ends["whole"])


def saved_teacher(folder):
    from understudy.policies.files import save_policy

    observations, actions = spaces_of(understudy.EnvSpec(SHOWN))
    spec = PolicySpec(space_to_json(observations), space_to_json(actions), "q_values", hidden=())
    policy = Policy(spec, About("by hand", "", understudy.EnvSpec(SHOWN)))
    policy.load_state_dict({"head.weight": 4 * np_eye(3), "head.bias": np_eye(3)[0] * 0})
    return save_policy(policy, folder / "teacher.safetensors")


def np_eye(n):
    import torch

    return torch.eye(n)


def test_the_command_line_in_sync(tmp_path, capsys):
    """Worker processes play the teacher."""
    words = [
        "kickstart",
        "--teacher",
        str(saved_teacher(tmp_path)),
        "--preset",
        "qdagger",
        "--run",
        str(tmp_path / "run"),
    ]
    words += ["--execution", "sync", "--env-steps", "640", "--num-envs", "2", "--teaching.offline_steps", "320"]
    words += ["--teaching.offline_updates", "200", "--replay.warm_up", "64", "--update.lr", "3e-3"]
    words += ["--evaluate-every", "320", "--evaluation.episodes", "5", "--evaluation.num_envs", "2"]
    main([*words, "--evaluation.final", "20"])
    assert "over 20 fresh episodes" in capsys.readouterr().out
    assert load(tmp_path / "run").family.name == "q_values"
    main(["report", str(tmp_path / "run"), "--no-play"])
    assert (tmp_path / "run" / "report.html").exists()


def test_the_weight_follows_the_scores():
    gated = parse_weight("gated(2)", "teaching.weight", 100)
    assert isinstance(gated, Gated)
    gated.teacher, gated.random = 110.0, 10.0
    observations, actions = spaces_of(understudy.EnvSpec(SHOWN))
    student = PolicySpec(space_to_json(observations), space_to_json(actions), "q_values").distribution
    teaching = ReplayTeacher(teacher_of(values, SHOWN, "q_values"), student, gated, Offline(0, 0, 0.0))
    found = []
    for score in (float("nan"), 10.0, 60.0, 110.0, 200.0):
        teaching.begin(0, score)
        found.append(teaching.metrics()["teacher_weight"])
    assert found == [2.0, 2.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        ("qdagger", {"execution__type": "async"}, "take single or sync"),
        ("qdagger", {"teaching__proximal": True}, "unknown key teaching.proximal.*the method is q_learning"),
        ("qdagger", {"teaching__offline_steps": 5}, "must be a batch at least"),
        ("qdagger", {"evaluation__every": 0}, "gated follows evaluations"),
        ("qdagger", {"teaching__weight": "target_kl(0.1, 1)"}, "goes with on-policy students"),
        ("qdagger", {"execution__type": "sync"}, "cannot be copied to workers"),
    ],
)
def test_nonsense_is_refused(tmp_path, preset, settings, message):
    lock = threading.Lock()  # cannot be copied
    teacher = teacher_of(lambda obs: values(obs) * (not lock.locked()), SHOWN, "q_values")
    fits = {**SMALL, "teaching__offline_steps": 64, **settings}
    with pytest.raises(UserError, match=message):
        understudy.kickstart(SHOWN, teacher, preset, run=tmp_path / "run", **fits)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("stop", "phase", "updates", "warm_up", "note"),
    [
        (200, 500, 2, 0, "stop.env_steps 200 end before teaching.offline_steps 500 do: nothing is learnt in this run"),
        (497, 500, 2, 9, None),  # 32 rollouts of 16 steps are 512 env steps
        (512, 500, 0, 9, "nothing is learnt from: the student's own 0 of 512 env steps end within replay.warm_up 9"),
        (520, 500, 2, 16, "only the teacher's data is learnt from: the student's own 16 of 528 env steps end within"),
        (520, 500, 2, 15, None),
        (520, 0, 0, 600, "nothing is learnt from: the student's own 528 of 528 env steps end within replay.warm_up"),
    ],
)
def test_runs_that_end_within_their_first_phases_are_noted(stop, phase, updates, warm_up, note):
    settings = {
        "stop": {"env_steps": stop}, "teaching": {"offline_steps": phase, "offline_updates": updates},
        "replay": {"warm_up": warm_up}, "rollout": {"num_envs": 2, "steps": 8},
    }  # fmt: skip
    notes = prepare_replay([teacher_of(values, SHOWN, "q_values")], SHOWN, settings, ["qdagger"]).notes
    assert not notes if note is None else notes[0].startswith(note)


def test_a_run_without_an_update_says_so(tmp_path, capsys):
    words = ["kickstart", "--teacher", str(saved_teacher(tmp_path)), "--preset", "qdagger"]
    words += ["--run", str(tmp_path / "run")]
    words += ["--env-steps", "64", "--teaching.weight", "1", "--evaluation.final", "0", "--evaluate-every", "0"]
    main(words)
    shown = capsys.readouterr().out
    assert "note: stop.env_steps 64 end before teaching.offline_steps" in shown
    assert "note: nothing was learnt: the run ended before its first update" in shown


def test_teachers_of_another_kind_are_refused(tmp_path):
    with pytest.raises(UserError, match="deterministic teacher.*cannot teach a q_values student|acts in"):
        understudy.kickstart(SHOWN, teacher_of(copies, BOX, "action"), "qdagger", run=tmp_path / "run", **SMALL)
