"""Distillation end to end through Python: parity on probes, memory, privileged teachers, resume, bad teachers."""

import numpy as np
import pytest
import yaml
from tests.teachers_for_tests import MemoryTeacher, PrivilegedTeacher, swing_up

import understudy
from understudy.config import nest
from understudy.distill_job import prepare
from understudy.distillation import distill
from understudy.errors import UserError
from understudy.io.checkpoint import read_arrays

FAST = {
    "execution.type": "single",
    "data.num_envs": 2,
    "data.steps": 200,
    "data.first_steps": 0,
    "learning.update_to_data": 0.75,
    "learning.batch_size": 128,
    "evaluation.episodes": 20,
    "evaluation.num_envs": 20,
    "stop.env_steps": 8000,
}


def settings(**more):
    return nest({**FAST, **more})


def test_a_python_function_is_distilled_to_parity(tmp_path):
    rounds = []
    result = distill(
        swing_up, "Pendulum-v1", settings(), run=tmp_path / "run", report=rounds.append, stop__ratio=0.9, seed=1
    )
    assert result.stopped == "parity" and result.ratio > 0.9
    assert rounds[-1]["parity_p"] < 0.05 and rounds[-1]["env_steps"] == result.env_steps
    student = understudy.load(tmp_path / "run")
    found = understudy.evaluate(student, episodes=10, seed=99)
    teacher = understudy.evaluate(result.teacher, episodes=10, seed=99)
    assert found.mean > teacher.mean - 0.2 * 1000  # a random policy is about 1,050 below the teacher
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["settings"]["stop"]["ratio"] == 0.9
    assert (tmp_path / "run" / "log.jsonl").read_text().count("\n") == len(rounds)


def test_same_seed_same_student_and_single_equals_sync(tmp_path):
    weights = []
    for name, more in (("a", {}), ("b", {}), ("c", {"execution.type": "sync", "execution.num_workers": 2})):
        teacher = understudy.load("tests.teachers_for_tests:swing_up", env="Pendulum-v1", **spaces("Pendulum-v1"))
        distill(teacher, None, settings(**more, **{"stop.env_steps": 800}), run=tmp_path / name)
        weights.append(read_arrays(tmp_path / name / "state.safetensors")[0])
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name], err_msg=name)
        np.testing.assert_allclose(array, weights[2][name], atol=1e-3, err_msg=name)


def spaces(env):
    from understudy.envs.make import spaces_of

    return dict(zip(("observation_space", "action_space"), spaces_of(env), strict=True))


def test_resume_goes_on_where_the_run_stopped(tmp_path):
    first = distill(swing_up, "Pendulum-v1", settings(**{"stop.env_steps": 800, "stop.ratio": 1.5}), run=tmp_path / "r")
    assert first.stopped == "env_steps" and first.env_steps == 800
    with pytest.raises(UserError, match="holds a run already"):
        distill(swing_up, "Pendulum-v1", settings(), run=tmp_path / "r")
    rounds = []
    more = settings(**{"stop.env_steps": 1600, "stop.ratio": 1.5})
    second = distill(swing_up, "Pendulum-v1", more, run=tmp_path / "r", resume=True, report=rounds.append)
    assert second.env_steps == 1600 and [r["round"] for r in rounds] == [3, 4]
    assert rounds[0]["samples"] == 1200
    assert second.updates == first.updates * 2


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_student_with_memory_learns_what_one_without_cannot(tmp_path, cell):
    """Memory-v0 shows the cue in the first step only; a recurrent teacher knows it in the last."""
    results = {}
    for lstm in (0, 16):
        more = {
            "student.lstm": lstm, "student.cell": cell if lstm else "lstm", "student.hidden": [16],
            "learning.sequence": 8, "learning.burn_in": 0,
            "data.steps": 80, "data.num_envs": 8, "behaviour.noise": "0", "learning.lr": "1e-2", "stop.env_steps": 2560,
            "student.normalize": "none", "learning.update_to_data": 0.1,
        }  # fmt: skip
        result = distill(MemoryTeacher(), None, settings(**more), run=tmp_path / str(lstm))
        results[lstm] = understudy.evaluate(result.student, "understudy/Memory-v0", episodes=40).mean
    best = understudy.evaluate(MemoryTeacher(), "understudy/Memory-v0", episodes=40).mean
    assert results[16] > 0.9 * best
    assert results[0] < 0.75 * best


def test_a_teacher_may_see_more_than_its_student(tmp_path):
    job = prepare(
        [PrivilegedTeacher()], None, settings(**{"student.keys": ["observation"], "stop.env_steps": 400}), run=tmp_path
    )
    result = distill(job)
    assert [e.key for e in result.student.spec.encoders] == ["observation"]
    action, _ = result.student.predict({"observation": job_observation(job)}, deterministic=True)
    assert result.student.action_space.contains(np.asarray(action))


def job_observation(job):
    return job.teacher.observation_space["observation"].sample()


def test_a_teacher_that_answers_nan_is_named(tmp_path):
    def broken(obs):
        return np.full((len(obs), 1), np.nan)

    with pytest.raises(UserError, match="(?i)nan"):
        distill(broken, "Pendulum-v1", settings(), run=tmp_path)
    assert not (tmp_path / "best.safetensors").exists()


def test_a_teacher_worse_than_random_is_refused(tmp_path):
    def worst(obs):
        return np.full((len(obs), 1), 2.0) * np.sign(obs[:, 2:3])

    with pytest.raises(UserError, match="is not above the random policy's"):
        distill(worst, "Pendulum-v1", settings(), run=tmp_path)


def test_an_environment_that_does_not_fit_is_refused(tmp_path):
    teacher = understudy.load("tests.teachers_for_tests:swing_up", env="Pendulum-v1", **spaces("Pendulum-v1"))
    with pytest.raises(UserError, match="acts in|sees observations.*MountainCarContinuous-v0"):
        distill(teacher, "MountainCarContinuous-v0", settings(), run=tmp_path)


def test_nan_from_the_environment_is_named(tmp_path):
    from understudy.data import EnvSpec

    teacher = understudy.load(lambda obs: np.zeros(len(obs), np.int64), **spaces("understudy/Bad-v0"))
    teacher.about.env = EnvSpec("understudy/Bad-v0", {"what": "obs", "after": 20})
    with pytest.raises(UserError, match="(?i)nan.*understudy/Bad-v0|understudy/Bad-v0.*nan"):
        distill(teacher, None, settings(), run=tmp_path)
