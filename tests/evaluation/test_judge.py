"""The judge: evaluation is spent where it decides, and its promise about wrong verdicts holds."""

import numpy as np
import pytest

from understudy.errors import UserError
from understudy.evaluation.judge import Judge
from understudy.learning.from_dataset import DistillProgress, ParityExaminer
from understudy.rollouts.episodes import Episodes
from understudy.settings import DistillSettings, EvaluationSettings, StopSettings


class World:
    """Returns drawn from normal distributions; the student's arrays carry its mean."""

    def __init__(self, teacher=100.0, random=0.0, scatter=5.0, seed=0, steady_teacher=False):
        self.means = {"teacher": teacher, "random": random}
        self.steady = {"teacher"} if steady_teacher else set()
        self.scatter, self.rng, self.played = scatter, np.random.default_rng(seed), {}

    def evaluate(self, jobs):
        found = []
        for job in jobs:
            mean = self.means.get(job.who, job.arrays["mean"] if job.arrays else 0.0)
            returns = self.rng.normal(mean, 0.0 if job.who in self.steady else self.scatter, len(job.seeds))
            self.played[job.who] = self.played.get(job.who, 0) + len(job.seeds)
            lengths = np.ones(len(job.seeds), np.int64)
            found.append(Episodes(returns, lengths, np.array(job.seeds), 0.0))
        return found


def judge(world, **options):
    settings = EvaluationSettings(screen=4, **{"episodes": 10, "max_episodes": 160, "confirm": 0, **options})
    return Judge(world.evaluate, settings, StopSettings(ratio=0.95))


def test_a_clear_success_takes_one_test():
    world = World()
    parity, returns = judge(world).look({"mean": 100.0})
    assert parity.passed and returns.shape == (1, 10)
    assert world.played == {"random": 5, "teacher": 10, "student": 10}


def test_a_clear_failure_costs_the_screen_and_no_alpha():
    world = World()
    tested = judge(world)
    parity, returns = tested.look({"mean": 50.0})
    assert parity is None and returns.shape == (1, 4)
    assert tested.sequential.looks == 0 and tested.ratio(returns) == pytest.approx(0.5, abs=0.1)


def test_an_undecided_student_gets_more_episodes_and_its_successors_too():
    world = World(scatter=25.0, seed=1)
    tested = judge(world)
    for _ in range(8):
        parity, returns = tested.look({"mean": 110.0})
        if parity is not None and parity.passed:
            break
    assert parity is not None and parity.passed
    assert returns.shape[1] > 10 and tested.episodes > 10
    assert world.played["teacher"] == tested.teacher.shape[1] >= returns.shape[1]


def test_wrong_verdicts_are_as_rare_as_promised():
    """A student exactly at the boundary is looked at five times in 80 runs; alpha is 5 %."""
    wrong = 0
    for seed in range(80):
        tested = judge(World(scatter=20.0, seed=seed), max_episodes=40)
        wrong += any(p is not None and p.passed for p, _ in (tested.look({"mean": 95.0}) for _ in range(5)))
    assert wrong / 80 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 80)


def test_looks_that_end_before_a_test_make_no_wrong_verdict_likelier():
    """With alpha 0.2, 200 runs of 10 looks at the boundary; a third would pass if only good beginnings spent alpha."""
    wrong, settings = 0, EvaluationSettings(screen=4, episodes=10, max_episodes=10)
    for seed in range(200):
        world = World(scatter=20.0, seed=seed, steady_teacher=True)
        tested = Judge(world.evaluate, settings, StopSettings(ratio=0.95, alpha=0.2))
        wrong += any(p is not None and p.passed for p, _ in (tested.look({"mean": 95.0}) for _ in range(10)))
    assert wrong / 200 <= 0.2 + 2 * np.sqrt(0.2 * 0.8 / 200), wrong


def test_a_look_past_its_screen_spends_whether_it_is_tested_or_not():
    tested = judge(World(scatter=0.0, seed=3))
    tested.prepare()
    tested.teacher[:, 4:] += 20.0  # as good as its teacher in the screen, short afterwards
    parity, returns = tested.look({"mean": 100.0})
    assert parity is None and returns.shape == (1, 10) and tested.sequential.looks == 1


def test_a_scattering_teacher_gets_a_second_chance_before_it_is_refused():
    unlucky = World(teacher=3.0, scatter=20.0, seed=4)
    tested = judge(unlucky)
    tested.prepare()
    assert tested.teacher.mean() > tested.random.mean()
    with pytest.raises(UserError, match="is not above the random policy's"):
        judge(World(teacher=-50.0)).prepare()


def test_state_goes_on():
    first = judge(World())
    first.look({"mean": 97.0})
    again = judge(World())
    again.restore(first.state())
    np.testing.assert_array_equal(again.teacher, first.teacher)
    assert again.state() == first.state()


def fixed(teacher, student, random, **options):
    """Return a judge of given returns, by seed."""
    known = {"teacher": teacher, "student": student, "random": random}

    def evaluate(jobs):
        found = [np.asarray(known[job.who], float)[list(job.seeds)] for job in jobs]
        return [Episodes(x, np.ones(len(x), np.int64), np.arange(len(x)), 0.0) for x in found]

    return Judge(evaluate, EvaluationSettings(**{"screen": 4, "episodes": 10, **options}), StopSettings())


FALLING = [100.0, 101.0] * 20 + [0.0] * 10
"""Returns of a student that does not fall in its first episodes."""


def test_who_passes_on_few_episodes_must_pass_on_more():
    steady = [100.0, 101.0] * 25
    random = [0.0] * 50
    good = fixed(steady, steady, random)
    parity, returns = good.look({})
    assert parity.passed and parity.episodes == 50 and returns.shape == (1, 50)
    falls = fixed(steady, FALLING, random)
    parity, returns = falls.look({})
    assert parity is None and returns.shape == (1, 50)
    assert falls.sequential.looks == 1 and falls.episodes == 20, "the next test is not made on as few"
    early = fixed(steady, [100.0] * 10 + [0.0] * 40, random)
    assert early.look({})[1].shape == (1, 20), "who is short is not played to the end"
    assert fixed(steady, FALLING, random, confirm=0).look({})[0].passed
    assert fixed(steady, FALLING, random, max_episodes=30).look({})[1].shape == (1, 30), "no more than max_episodes"


def test_a_student_that_is_not_confirmed_goes_back_to_learning():
    steady, random = [100.0] * 320, [0.0] * 320
    undecided = [100.0, 101.0] * 5 + [100.0, 100.0, 100.0, 82.0] * 10 + [100.0] * 270
    tested = fixed(steady, undecided, random)
    parity, returns = tested.look({})
    assert returns.shape == (1, 50) and parity.p_value > parity.alpha == 0.05 and not parity.passed
    assert tested.sequential.looks == 1 and tested.episodes == 20
    assert tested.random.shape == (1, 5), "what the random policy does counts for a twentieth of the test"


def test_a_test_is_of_the_episodes_that_are_told_with_it():
    teacher = np.random.default_rng(17).normal(100, 1, 320)
    returns = teacher - 20
    returns[:10] += 20 + np.tile([-9.0, 9.0], 5)
    tested = fixed(teacher, returns, np.zeros(320))
    parity, played = tested.look({})
    assert played.shape == (1, 20) and tested.ratio(played) < 0.95 and parity is None, "not the p of the first ten"
    assert tested.sequential.looks == 1


def test_students_that_fall_are_rarely_believed():
    """A student at 0.94 that falls in 6 % of its episodes: half of the runs believed it after ten episodes."""
    wrong = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        teacher = rng.normal(100, 1, 320)
        student = np.where(rng.random(320) < 0.06, 0.0, teacher)
        parity, _ = fixed(teacher, student, np.zeros(320)).look({})
        wrong += parity is not None and parity.passed
    assert wrong / 200 <= 0.12


def test_a_ratio_is_of_the_same_episodes_and_unknown_where_the_teacher_is_not_above_random():
    luck = np.r_[np.full(4, -40.0), np.full(316, 10.0)]  # of the seeds, shared by all
    tested = fixed(luck, luck - 3, luck - 5)
    tested.prepare()
    assert tested.ratio(tested.teacher[:, :4] - 3) == pytest.approx(0.4)
    tested.random[:, :4] += 6
    assert np.isnan(tested.ratio(tested.teacher[:, :4] - 9)) and tested.means(4)[1] == -40


def test_a_look_begins_with_as_many_episodes_as_the_teacher_needs():
    waver = np.tile([0.1, -0.1], 160)
    teacher = np.r_[np.full(10, -1.0), np.full(310, 5.0)] + waver
    tested = fixed(teacher, teacher + 3, 5 * waver)
    parity, returns = tested.look({})
    assert parity.passed and returns.shape == (1, 50)


def test_a_resumed_judge_listens_to_its_settings():
    first = judge(World())
    first.look({"mean": 97.0})
    seeded = Judge(World(seed=2).evaluate, EvaluationSettings(screen=4, episodes=10), StopSettings(), seed=7)
    seeded.restore(first.state())
    assert not seeded.teacher.size and seeded.sequential.looks == first.sequential.looks
    assert seeded.look({"mean": 110.0})[0].passed
    longer = judge(World(seed=3), episodes=40)
    longer.restore(first.state())
    assert longer.look({"mean": 110.0})[1].shape == (1, 40)


@pytest.mark.parametrize("seed", [0, 1, 1_001_000, 2_000])
def test_data_is_never_gathered_in_episodes_of_evaluations(seed):
    settings = DistillSettings(seed=seed)
    evaluation = range(settings.judge_seed, settings.judge_seed + 1_000_000)
    for rounds in range(60):
        assert not any(s in evaluation for s in settings.collection_seeds(rounds))
    assert len({settings.collection_seeds(rounds) for rounds in range(60)}) == 60


def test_the_best_student_is_not_one_of_a_screen():
    progress = DistillProgress()
    examiner = ParityExaminer(None, None, None, progress)
    assert examiner._better(1.3, False) and not examiner._better(float("nan"), True)
    progress.best, progress.best_full = 1.3, False
    assert examiner._better(0.4, True) and not examiner._better(1.2, False)
    progress.best, progress.best_full = 0.4, True
    assert examiner._better(0.5, True) and not examiner._better(1.3, False)
