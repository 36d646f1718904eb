"""Population based training: what a member is, what is handed over, what is refused; Ray starts once."""

import dataclasses
import importlib.util
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from tests.test_kickstart import CONSTANT, RIGHT, WRONG, always

import understudy
from understudy.cli import main
from understudy.errors import UserError
from understudy.execution.ray_cluster import Cluster
from understudy.execution.restarts import WorkerError
from understudy.io.checkpoint import read_arrays
from understudy.kickstart_job import prepare
from understudy.policies.files import load_policy
from understudy.policies.stored import read_policy
from understudy.population import tune
from understudy.population.member import Member, saved_member
from understudy.population.needs import Needs, estimate, free_in_group, free_memory, resident
from understudy.population.picture import draw
from understudy.population.train import _finish, _train, check, train_population, with_interval
from understudy.population.values import (
    Result,
    append,
    best,
    first_values,
    interval,
    lineage,
    member_seed,
    member_settings,
    read,
)
from understudy.preset_files import read_yaml

needs_tune = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("ray", "pandas", "pyarrow"))), reason="ray[tune] is not installed"
)
QUICK = {
    "policy": {"hidden": [16], "normalize": True},
    "rollout": {"num_envs": 4, "steps": 16},
    "update": {"minibatch": 32, "epochs": 2},
    "evaluation": {"episodes": 4, "final": 5, "num_envs": 2},
    "stop": {"env_steps": 512},
    "pbt": {"population": 3, "interval": 128, "weight": [0.5, 2]},
}


def job(tmp_path, **more):
    settings = {name: {**QUICK.get(name, {}), **more.get(name, {})} for name in {**QUICK, **more}}
    return prepare([always(RIGHT)], CONSTANT, settings, run=tmp_path / "run", resume=more.pop("resume", False))


def state(member):
    return member.session.learner.state()[0]


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


# --- numbers


def test_first_numbers_and_seeds_come_from_the_run_s_seed(tmp_path):
    drawn = {}
    for seed in (0, 1):
        settings = dataclasses.replace(job(tmp_path).settings, seed=seed)
        drawn[seed] = first_values(settings)
        assert drawn[seed] == first_values(settings)
        for name, (low, high) in settings.pbt.ranges.items():
            assert all(low <= values[name] <= high for values in drawn[seed])
    assert drawn[0] != drawn[1] and drawn[0][0] != drawn[0][1]
    seeds = {member_seed(dataclasses.replace(settings, seed=s), m) for s in range(4) for m in range(3)}
    assert len(seeds) == 12


def test_a_member_is_an_ordinary_run_with_constants(tmp_path):
    settings = job(tmp_path, execution={"type": "sync"}).settings
    own = member_settings(settings, 1, {"weight": 0.25, "lr": 1e-5, "entropy_weight": 0.0125})
    assert (own.teaching.weight, own.update.lr, own.objective.entropy_weight) == ("0.25", "1e-05", "0.0125")
    assert (own.execution.type, own.seed) == ("single", 1)
    own.check()


@pytest.mark.parametrize(("wanted", "expected"), [(128, 128), (100, 128), (129, 192), (0, 64)])
def test_an_interval_is_whole_rollouts(tmp_path, wanted, expected):
    assert interval(job(tmp_path, pbt={"interval": wanted}).settings) == expected


def row(interval, member, score, parent=None, **values):
    numbers = {"weight": 1.0, "lr": 1e-3, "entropy_weight": 0.01, **values}
    return Result(interval, member, 100 * interval, score, numbers, member if parent is None else parent, 0.0)


ROWS = [row(1, 0, 5), row(1, 1, 3), row(2, 0, 6), row(2, 1, 7, parent=0, weight=0.5), row(3, 0, 6), row(3, 1, 9)]


def test_the_past_of_the_best_goes_through_those_it_copied(tmp_path):
    assert best(ROWS).member == 1 and best(ROWS[:-1]).member == 0
    assert [(r.interval, r.member, r.score) for r in lineage(ROWS, 1)] == [(1, 0, 5), (2, 1, 7), (3, 1, 9)]
    for result in ROWS:
        append(tmp_path / "log", result)
    with (tmp_path / "log").open("a") as file:
        file.write('{"event": "cont')  # killed
    assert read(tmp_path / "log") == ROWS
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()[:-1]]
    assert events == ["continue"] * 3 + ["exploit"] + ["continue"] * 2
    with pytest.raises(UserError, match="line 7: not a line"):
        append(tmp_path / "log", row(4, 0, 1))
        append(tmp_path / "log", row(4, 0, 1))
        read(tmp_path / "log")


def test_the_picture_is_drawn_for_few_and_many(tmp_path):
    for members in (2, 9):
        rows = ROWS + [row(k, m, m) for m in range(2, members) for k in (1, 2, 3)]
        assert draw(rows, tmp_path / "p.png").stat().st_size > 10_000


# --- members


def test_a_member_goes_on_from_its_checkpoint_bit_for_bit(tmp_path):
    """Two intervals in one process equal two in different ones: weights, optimiser, normaliser, random numbers."""
    values = {"weight": 1.0, "lr": 3e-3, "entropy_weight": 0.01}
    one = Member(job(tmp_path / "a"), 0, values)
    whole = [one.advance(), one.advance()]
    first = Member(job(tmp_path / "b"), 0, values)
    parts = [first.advance()]
    first.hand_over(tmp_path / "handed")
    first.close()
    second = Member(job(tmp_path / "b"), 0, values, tmp_path / "handed")
    parts.append(second.advance())
    assert_same(state(one), state(second))
    assert [(r.env_steps, r.score, r.parent) for r in whole] == [(r.env_steps, r.score, r.parent) for r in parts]
    assert [r.env_steps for r in whole] == [128, 256] and not second.over


def test_an_exploit_copies_everything_but_the_numbers(tmp_path):
    """The loser has the winner's weights, optimiser and normaliser, its own experience, and the new lambda counts."""
    this = job(tmp_path)
    winner = Member(this, 0, {"weight": 1.0, "lr": 3e-3, "entropy_weight": 0.01})
    winner.advance()
    winner.hand_over(tmp_path / "handed")
    copied = state(winner)
    loser = Member(this, 1, {"weight": 7.0, "lr": 1e-9, "entropy_weight": 0.02}, tmp_path / "handed")
    assert_same(copied, state(loser))
    assert any(name.startswith("optimizer:") for name in copied) and any("moments:" in name for name in copied)
    rows = []
    run = loser.session.run(rows.append)
    loser.session.run = lambda report: run  # advance would tell nobody
    told = loser.advance()
    assert (told.parent, told.member, told.values["weight"], told.env_steps) == (0, 1, 7.0, 256)
    assert [r["teacher_weight"] for r in rows] == [7.0, 7.0] and rows[0]["lr"] == 1e-9
    for name, array in state(loser).items():
        if name.endswith("weight") and not name.startswith(("optimizer", "moments")):
            np.testing.assert_allclose(array, copied[name], atol=1e-6)  # that learning rate stands still
    # Its own folder holds its own checkpoint now; the winner's is as it was.
    assert saved_member(this.folder, 1) == (2, loser.values) and saved_member(this.folder, 0)[0] == 1
    assert_same(copied, {n: a for n, a in read_arrays(tmp_path / "handed" / "state.safetensors")[0].items()})


def test_a_member_s_best_outlives_the_copy_of_another_one(tmp_path, monkeypatch):
    """The best evaluation of all is the run's, also where its member was replaced after a run of bad luck."""
    scores = iter([1.0, 9.0, 2.0, 3.0])
    monkeypatch.setattr(Member, "_evaluate", lambda self: next(scores))
    this, values = job(tmp_path, evaluation={"final": 0}), {"weight": 1.0, "lr": 3e-3, "entropy_weight": 0.01}
    other, lucky = Member(this, 0, values), Member(this, 1, values)
    results = [other.advance(), lucky.advance()]
    other.hand_over(tmp_path / "handed")
    copied = Member(this, 1, values, tmp_path / "handed")
    results += [other.advance(), copied.advance()]
    assert results[-1].parent == 0
    _finish(this, results, 0.0)
    assert read_policy(this.folder / "best.safetensors")[2]["extra"] == {"score": 9.0, "env_steps": 128}
    copied.hand_over(tmp_path / "later")
    assert Member(this, 1, values, tmp_path / "later").best == 9.0


@pytest.mark.parametrize("whole", [640, 5120])
def test_another_budget_leaves_the_interval(tmp_path, monkeypatch, whole):
    """A resumed population goes on with the interval that it began with, also in a folder that does not say it."""
    began = []

    def run(job, begin, concurrent, tell):
        began.append(job)
        for i, (_, values) in enumerate([] if job.resume else begin):
            tell(Member(job, i, values).advance())

    monkeypatch.setattr(tune, "import_tune", lambda: None)
    monkeypatch.setattr(tune, "run", run)
    train_population(job(tmp_path, pbt={"interval": 0}, stop={"env_steps": 2560}))
    config = read_yaml(tmp_path / "run" / "config.yaml")
    assert config["settings"]["pbt"]["interval"] == 128
    for known in (0, 128):
        more = QUICK | {"stop": {"env_steps": whole}, "pbt": {"population": 3, "interval": known}}
        again = prepare([always(RIGHT)], CONSTANT, more, run=tmp_path / "run", resume=True)
        train_population(again)
        assert interval(began[-1].settings) == 128
    member = Member(began[-1], 0, first_values(again.settings)[0], tmp_path / "run" / "members" / "0")
    member._every = 64  # another --pbt.interval counts from where the member is
    assert [member.advance().env_steps for _ in range(2)] == [192, 256]


def test_lambda_of_a_member_moves_its_student(tmp_path):
    """Rewards pull one way, a wrong teacher the other: lambda says who wins."""
    right = {}
    for weight in (1e-6, 10.0):
        own = {"stop": {"env_steps": 2048}, "pbt": {"population": 2, "interval": 2048}}
        this = prepare([always(WRONG)], CONSTANT, QUICK | own, run=tmp_path / str(weight))
        member = Member(this, 0, {"weight": weight, "lr": 1e-2, "entropy_weight": 1e-3})
        member.advance()
        assert member.over
        obs = np.arange(10, dtype=np.float32)[:, None]
        right[weight] = member.session.policy.label(obs)[0].params.softmax(-1)[:, 1].mean().item()
    assert right[1e-6] > 0.7 and right[10.0] < 0.3


# --- refusals


def test_more_members_than_memory_are_refused_with_the_estimate(tmp_path, monkeypatch):
    few, many = (Needs(n, n, 500 << 20, n << 20) for n in (2, 40))
    few.check(4 << 30, 1 << 30)
    few.check(None, None)
    with pytest.raises(UserError, match=r"of 40 needs about 21.4 GB of memory \(40 members at once, 0.524 GB"):
        many.check(4 << 30, None)
    with pytest.raises(UserError, match="checkpoints of a population of 40 need about 41.9 MB of disk, but 1.05 MB"):
        many.check(None, 1 << 20)
    assert 50 << 20 < resident() < 16 << 30 and (free_memory() or 1 << 40) > 1 << 20
    small, large = (estimate(job(tmp_path), n, 2, process=100) for n in (10, 1000))
    assert large.member > small.member and large.disk == 100 * small.disk
    monkeypatch.setattr("understudy.population.train.free_memory", lambda: 1 << 20)
    monkeypatch.setattr(tune, "import_tune", lambda: None)
    with pytest.raises(UserError, match="lower --population or --pbt.concurrent"):
        train_population(job(tmp_path))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pbt": {"population": 1}}, "at least 2 members"),
        ({"pbt": {"quantile": 0.7}}, "pbt.quantile is 0.7"),
        ({"pbt": {"factor": 1}}, "pbt.factor is 1.0"),
        ({"pbt": {"resample": 2}}, "pbt.resample"),
        ({"pbt": {"lr": [1e-3]}}, "pbt.lr is 0.001; it must be two rising"),
        ({"pbt": {"weight": [0, 1]}}, "pbt.weight is 0 1"),
        ({"execution": {"type": "async"}}, "does not go with --pbt"),
        ({"stop": {"score": 3}}, "leave checkpoint_every, stop.score"),
        ({"evaluation": {"episodes": 0}}, "evaluation.episodes is 0; it must be at least 1"),
    ],
)
def test_contradictions_are_refused(tmp_path, settings, message, monkeypatch):
    monkeypatch.setattr(tune, "import_tune", lambda: None)
    with pytest.raises(UserError, match=message):
        check(job(tmp_path, **settings))


def test_without_ray_one_line_names_the_extra(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(tune.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"--pbt\) needs the package 'ray\[tune\]': run .*understudy\[pbt\]"):
        tune.import_tune()


def test_a_population_is_not_a_single_run(tmp_path, capsys):
    with pytest.raises(UserError, match="kickstart_population"):
        understudy.kickstart(CONSTANT, always(RIGHT), run=tmp_path, pbt__population=2)
    with pytest.raises(SystemExit):
        main(["kickstart", "--against-scratch", "--pbt", "--teacher", "x"])
    assert "leave --pbt and --population out" in capsys.readouterr().err
    quiet = job(tmp_path, teaching={"weight": "1"})
    assert quiet.notes == ()  # no warning that it ends at the teacher: the population moves it


def test_a_population_whose_ray_ended_says_how_to_go_on(tmp_path, monkeypatch):
    class Gone:
        def check(self):
            raise WorkerError("Ray has ended")

        def close(self):
            pass

    def fails(module, job, begin, folder, cluster, tell):
        tell(Result(1, 0, 128, 1.0, begin[0][1], 0, 0.0))
        notes = tune._notes(SimpleNamespace(Callback=object), tell, [], cluster)
        try:
            notes.on_step_begin(iteration=1, trials=[])
        except Exception:
            raise AssertionError("Tune would tidy up, with the Ray that ended") from None

    monkeypatch.setattr(tune, "import_tune", lambda: None)
    monkeypatch.setattr(tune, "Cluster", lambda *_: Gone())
    monkeypatch.setattr(tune, "_fit", fails)
    with pytest.raises(
        WorkerError, match="Ray has ended; members came to 128 .*go on with: .*kickstart --resume .*run"
    ):
        _train(with_interval(job(tmp_path)), None)


def test_cached_files_take_no_memory_from_a_population(tmp_path):
    """A container that has read much holds it until somebody needs the place."""
    told = {"max": "1000\n", "current": "900\n", "stat": "anon 250\ninactive_file 400\nactive_file 200\nslab 50\n"}
    for name, text in told.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_in_group(tmp_path) == 700
    (tmp_path / "memory.max").write_text("max\n")
    with pytest.raises(ValueError, match="max"):
        free_in_group(tmp_path)


def test_what_ended_a_member_is_told_in_one_line():
    class RayActorError(Exception):
        pass

    ray = SimpleNamespace(exceptions=SimpleNamespace(RayActorError=RayActorError))
    assert tune._reason(RayActorError("Some common causes include: many lines"), ray).startswith(
        "the process of a member"
    )
    assert tune._reason(ValueError("Traceback:\n ...\nValueError: no"), ray) == "a member failed: ValueError: no"


# --- Ray


@pytest.fixture(scope="module")
def ray():
    """Populations find Ray started, use it and leave it."""
    cluster = Cluster("", min(2, os.cpu_count() or 1), 0)
    yield cluster.ray
    cluster.close()


@needs_tune
def test_a_population_learns_copies_and_goes_on(tmp_path, ray):
    told = []
    result = train_population(job(tmp_path), told.append)
    folder = tmp_path / "run"
    assert len(told) == 3 * 4 and read(folder / "population.jsonl") == told
    copies = [r for r in told if r.exploit]
    assert copies and all(r.before and r.values != r.before for r in copies)
    for copy in copies:
        theirs = next(r for r in told if (r.member, r.interval) == (copy.parent, copy.interval - 1))
        for name, value in copy.values.items():
            ratio = value / theirs.values[name]
            low, high = job(tmp_path / "x").settings.pbt.ranges[name]
            drawn_anew = low <= value <= high
            assert drawn_anew or min(abs(ratio - 1.5), abs(ratio - 1 / 1.5)) < 1e-6
    kept = [(r, p) for r in told for p in told if (p.member, p.interval) == (r.member, r.interval - 1) if not r.exploit]
    assert kept and all(r.values == p.values == r.before for r, p in kept)
    # The best member is the run's student.
    winner = best(told)
    theirs = load_policy(folder / "members" / str(winner.member) / "last.safetensors").state_dict()
    assert all(bool((theirs[name] == tensor).all()) for name, tensor in result.policy.state_dict().items())
    assert understudy.evaluate(str(folder), episodes=3).episodes == 3
    assert (folder / "population.png").exists() and not (folder / "tune").exists()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["population_env_steps"] == 3 * 512 and result.curve[-1] == (512, winner.score)
    # And it goes on.
    more = prepare([always(RIGHT)], CONSTANT, QUICK | {"stop": {"env_steps": 640}}, run=folder, resume=True)
    later = []
    train_population(more, later.append)
    assert [(r.interval, r.env_steps) for r in later] == [(5, 640)] * 3
    assert all(r.before == next(t for t in told if (t.member, t.interval) == (r.member, 4)).values for r in later)
    with pytest.raises(UserError, match="holds a run already: --resume .*run goes on"):
        train_population(job(tmp_path))


@needs_tune
@pytest.mark.slow
def test_the_same_seed_gives_the_same_population(tmp_path, ray):
    found = []
    for name in "ab":
        told = []
        train_population(job(tmp_path / name), told.append)
        found.append(sorted((r.interval, r.member, r.score, r.parent, *r.values.values()) for r in told))
    assert found[0] == found[1] and len(found[0]) == 12


@needs_tune
def test_a_member_s_mistake_ends_the_run_in_one_line(tmp_path, ray):
    with pytest.raises(UserError, match="not finite"):
        train_population(job(tmp_path, pbt={"lr": [1e28, 1e30]}, update={"max_grad_norm": 0}))
    assert not (tmp_path / "run" / "tune").exists()
