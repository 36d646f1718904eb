"""The live view: what it says of runs that end, go on, are silent, or have just begun."""

import io
import json
import shutil
import time

import pytest
import yaml
from rich.console import Console

from understudy import terminal_watch
from understudy.cli import main
from understudy.report.braille import curve
from understudy.report.folder import read_run
from understudy.report.live import Follower, duration, frame, throughput

CONFIG = {
    "settings": {
        "env": {"id": "Somewhere-v0"},
        "stop": {"env_steps": 10_000, "seconds": 0.0},
        "evaluation": {"episodes": 5},
        "execution": {"type": "async", "num_workers": 4},
        "teaching": {"teachers": ["a.zip"]},
        "seed": 0,
    }
}


def row(steps, wall, **values):
    return {"env_steps": steps, "wall": wall, "updates": steps // 10, "restarts": 1, "lost_episodes": 7, "workers": 3,
            "lag": 1.5, "teacher_weight": 1 - steps / 10_000, "kl/teacher": 0.25, "loss": 0.5, **values}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def text_of(follower, now):
    return "\n".join(line for _, line in frame(follower.read(), 100, 40, now))


def test_a_p_value_is_that_of_the_evaluation_beside_it(folder):
    settings = {"stop": {"env_steps": 10_000, "seconds": 0.0, "ratio": 0.95}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"teachers": ["a.zip"], "settings": settings}))
    rows = [
        {"env_steps": 500, "student_return": 96.0, "ratio": 0.96, "eval_episodes": 10, "parity_p": 0.03},
        {"env_steps": 1000, "student_return": 62.0, "ratio": 0.62, "eval_episodes": 4},
        {"env_steps": 1500},
    ]
    for number in (1, 3):
        lines = [json.dumps({"wall": 1000.0, "updates": 1, **row}) + "\n" for row in rows[:number]]
        (folder / "log.jsonl").write_text("".join(lines))
        text = text_of(Follower(folder), 1000.0)
        told = (
            "= 96.0 % of the teacher's (goal 95 %)  p 0.03" if number == 1 else "= 62.0 % of the teacher's (goal 95 %)"
        )
        (line,) = [line.rstrip() for line in text.splitlines() if line.startswith("evaluation")]
        assert line.endswith(told)


def test_a_run_that_goes_on(folder):
    follower = Follower(folder)
    assert "nothing was logged yet" in text_of(follower, 1000.0)
    log = (folder / "log.jsonl").open("w", buffering=1)
    for k in range(1, 5):
        log.write(
            json.dumps(row(500 * k, 1000.0 + k, eval_return=10.0 * k, eval_env_steps=500 * k, eval_std=2.0)) + "\n"
        )
    whole = json.dumps(row(2500, 1005.0))
    log.write(whole[:20])  # the last line is half written
    log.flush()
    text = text_of(follower, 1004.5)
    assert "2,000 of 10,000 env steps, 16 s left" in text  # 500 env steps a second
    assert "500 env steps/s" in text and "λ 0.8" in text and "to the teacher 0.25" in text
    assert "3 of 4 alive, 1 replaced, 7 episodes lost, lag 1.5 updates" in text
    assert "evaluation  40.00 [37.22, 42.78] at 2,000 env steps" in text  # 2.776 * 2 / sqrt(4)
    log.write(whole[20:] + "\n")
    log.flush()
    assert "2,500 of 10,000" in text_of(follower, 1005.5)
    assert len(follower.rows) == 5, "every line was read once"
    assert "quiet for 1 min 35 s" in text_of(follower, 1100.0)


def test_several_teachers_are_drawn(folder):
    rows = [{"env_steps": k, "wall": 1000.0 + k, "teacher_1_weight": 0.5, "teacher_2_weight": 0.5, "kl/teacher_1": 0.25,
             "kl/teacher_2": 0.75, "behaviour_return": 1.0} for k in (1, 2, 3)]  # fmt: skip
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    text = text_of(Follower(folder), 1004.0)
    assert "λ of teacher_1" in text and "Distance to teacher_2" in text and "nats" not in text
    assert "λ_1 0.5  λ_2 0.5" in text and "to teacher_1 0.25  to teacher_2 0.75" in text


def test_a_population_is_followed_by_its_best_member(folder):
    pbt = {**CONFIG["settings"], "pbt": {"population": 2}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"settings": pbt}))
    assert "nothing was logged yet" in text_of(Follower(folder), 1000.0)
    lines = [member_line(1, 0, 30.0, 0.5), member_line(1, 1, 20.0, 0.7), member_line(2, 1, 90.0, 0.4)]
    lines.insert(2, member_line(2, 1, 10.0, 0.4))  # of a killed run, which the resumed one repeated
    (folder / "population.jsonl").write_text("\n".join([*map(json.dumps, lines), '{"event": "cont']))
    follower = Follower(folder)
    assert [(r["env_steps"], r["eval_return"], r["teacher_weight"]) for r in follower.read().rows] == [
        (1000, 30.0, 0.5), (2000, 90.0, 0.4)]  # fmt: skip
    assert read_run(folder).rows == follower.read().rows
    text = text_of(follower, 1003.0)
    assert "a population of 2" in text and "2,000 of 10,000 env steps" in text and "updates" not in text
    assert "interval 2: 1 of 2 members, best 1" in text and "evaluation  90.00 at 2,000" in text


def member_line(interval, member, score, weight):
    return {"event": "continue", "interval": interval, "member": member, "env_steps": 1000 * interval, "score": score,
            "values": {"weight": weight}, "parent": member, "time": 1000.0 + interval, "before": {}}  # fmt: skip


def test_one_lost_episode(folder):
    (folder / "log.jsonl").write_text(json.dumps({**row(500, 1000.0), "lost_episodes": 1}) + "\n")
    assert "1 replaced, 1 episode lost" in text_of(Follower(folder), 1001.0)


def test_a_resumed_run_counts_again_from_its_checkpoint(folder):
    rows = [row(k, 1000.0 + k) for k in (100, 200, 300, 150, 250)]
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    follower = Follower(folder)
    assert [r["env_steps"] for r in follower.read().rows] == [100, 150, 250]
    (folder / "log.jsonl").write_text(json.dumps(row(50, 2000.0)) + "\n")
    assert [r["env_steps"] for r in follower.read().rows] == [50]


def test_ended_runs(here, capsys):
    for run, words in (("run", "ended: parity"), ("trained", "ended: env_steps"), ("taught/kickstarted-0", "λ 0")):
        main(["watch", run, "--once"])
        out = capsys.readouterr().out
        assert words in out and "return in evaluation episodes" in out and "in CartPole-v1" in out


def test_in_a_terminal_it_ends_with_the_run(here, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(terminal_watch, "console", Console(force_terminal=True, file=screen, width=80, height=30))
    main(["watch", "run"])
    assert "ended: parity" in screen.getvalue()


def test_several_runs_in_a_folder(here, capsys):
    with pytest.raises(SystemExit):
        main(["watch", "taught", "--once"])
    assert "name one of them, such as taught/kickstarted-0" in capsys.readouterr().err


def test_an_older_summary_does_not_end_a_resumed_run(here, tmp_path):
    folder = tmp_path / "resumed"
    shutil.copytree("run", folder)
    later = time.time() + 100
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(row(10**6, later)) + "\n")
    assert "running" in text_of(Follower(folder), later + 1)


def test_no_run(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["watch", str(tmp_path), "--once"])
    assert "is not the folder of a run" in capsys.readouterr().err


def test_throughput_is_recent():
    rows = [{"env_steps": 0, "wall": 0.0}, {"env_steps": 1000, "wall": 1000.0}, {"env_steps": 2000, "wall": 1010.0}]
    assert throughput(rows) == 100.0
    assert throughput(rows[:1]) is None


@pytest.mark.parametrize(("seconds", "text"), [(9.4, "9 s"), (65, "1 min 05 s"), (3725, "1 h 02 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_line_from_corner_to_corner():
    drawn = curve([(0, 0.0), (10, 1.0)], width=9 + 2, height=2, x_range=(0, 10))
    assert [line[:8] for line in drawn] == ["      1 ", "      0 "]
    plot = [line[9:] for line in drawn]
    # 8 by 8 dots: the diagonal, read as bits of the braille block.
    assert all(len(line) == 4 for line in plot)
    lit = {(2 * c + r, 4 * row + d) for row, line in enumerate(plot) for c, sign in enumerate(line)
           for r, bits in enumerate(((1, 2, 4, 64), (8, 16, 32, 128))) for d in range(4)
           if (ord(sign) - 0x2800) & bits[d]}  # fmt: skip
    assert lit == {(k, 7 - k) for k in range(8)}
