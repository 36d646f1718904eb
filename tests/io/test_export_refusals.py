"""What cannot be exported is refused in one line, before anything is written."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from export_helpers import BOUNDS, D3, TEXT, VECTOR, make, student
from gymnasium import spaces

from understudy.cli import main
from understudy.data import EnvSpec
from understudy.envs.make import spaces_of
from understudy.errors import UserError
from understudy.io.export.export import export
from understudy.io.export.formats import FORMATS, obstacles
from understudy.io.export.states import read_states
from understudy.policies.files import save_policy
from understudy.policies.policy import About, Policy
from understudy.policies.spec import Encoder, PolicySpec, space_to_json
from understudy.teachers import exported_c
from understudy.teachers.load import load

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def states(tmp_path):
    path = tmp_path / "states.npz"
    np.savez(path, obs=np.random.default_rng(0).normal(size=(20, 5)))
    return path


@pytest.mark.parametrize(
    ("case", "form", "words"),
    [
        ("text lstm", "c", "the encoder text_lstm cannot be expressed there; onnx, torchscript can"),
        ("resnet", "sb3", "the encoder impala_resnet .* onnx, torchscript, unity can"),
        ("lstm", "sb3", "the LSTM cannot .* onnx, torchscript, c, unity can"),
        ("gsde", "c", "gSDE cannot"),
        ("two heads", "sb3", r"the second head \(log_std_head\)"),
        ("half open", "sb3", "actions without bounds"),
        ("dots", "sb3", "the dot in the key 'a.b' cannot .* onnx, torchscript, c, unity can"),
    ],
)
def test_a_part_that_a_format_lacks_is_named_with_the_formats_that_have_it(case, form, words, tmp_path, states):
    with pytest.raises(UserError, match=words):
        export(make(case), form, tmp_path / {"c": "o.c", "sb3": "o.zip"}[form], data=states)
    assert not list(tmp_path.glob("o*"))


def test_stable_baselines3_has_neither_masks_nor_distributions_of_returns():
    spec = student(VECTOR, D3, "categorical").spec
    for form in FORMATS:
        assert obstacles(spec, form) == []
        for field, words in ({"support": (-1.0, 1.0)}, "C51"), ({"mask": "action_mask"}, "the action mask"):
            found = obstacles(replace(spec, **field), form)
            assert bool(found) == (form == "sb3") and all(words in text for text in found)


@pytest.mark.parametrize(
    ("keys", "fields", "refused"),
    [
        (("action", "x"), {}, ["action"]),
        (("x", "logits"), {}, ["logits"]),
        (("c", "h"), {"lstm": 4}, ["c", "h"]),
        (("c", "h_out"), {"lstm": 4, "cell": "gru"}, ["h_out"]),
        (("c", "h", "mean"), {}, []),
    ],
)
def test_keys_called_as_an_output_of_onnx(keys, fields, refused):
    space = spaces.Dict({key: VECTOR for key in keys})
    found = obstacles(student(space, D3, "categorical", **fields).spec, "onnx")
    assert found == [f"the key {key!r} beside an input or output of that name" for key in refused]


@pytest.mark.parametrize("late", [spaces.Discrete(3, start=1), spaces.MultiDiscrete([3, 2], start=[0, 1])])
def test_stable_baselines3_counts_from_0(late):
    family = "categorical" if isinstance(late, spaces.Discrete) else "multi_categorical"
    assert obstacles(student(VECTOR, late, family).spec, "sb3") == ["actions that do not start at 0"]
    assert obstacles(student(late, D3, "categorical").spec, "sb3") == ["observations that do not start at 0"]


@pytest.mark.parametrize("space", [spaces.MultiBinary(3), spaces.Dict({"x": VECTOR, "b": spaces.MultiBinary(3)})])
def test_vecnormalize_takes_no_bits(space):
    key = "b" if isinstance(space, spaces.Dict) else ""
    spec = student(space, D3, "categorical", scales=False, normalized=(key,)).spec
    assert "a normaliser of MultiBinary observations" in obstacles(spec, "sb3")[0]
    assert not obstacles(replace(spec, normalized=()), "sb3")


def test_a_calibration_set_that_does_not_match(tmp_path, states):
    policy = student(VECTOR, D3, "categorical")
    np.savez(tmp_path / "short.npz", obs=np.zeros((9, 4)))
    with pytest.raises(UserError, match=r"short.npz does not match the student: 'obs' .* shape \(4,\), .* sees \(5,\)"):
        export(policy, "onnx", tmp_path / "o.onnx", data=tmp_path / "short.npz", int8=True)
    np.savez(tmp_path / "named.npz", speed=np.zeros((9, 5)))
    with pytest.raises(UserError, match=r"it has no array 'obs' \(it has speed\)"):
        export(policy, "onnx", tmp_path / "o.onnx", data=tmp_path / "named.npz", int8=True)
    np.savez(tmp_path / "nan.npz", obs=np.full((9, 5), np.nan))
    with pytest.raises(UserError, match="holds NaN"):
        export(policy, "onnx", tmp_path / "o.onnx", data=tmp_path / "nan.npz", int8=True)
    (tmp_path / "torn.npz").write_bytes(states.read_bytes()[:100])
    with pytest.raises(UserError, match="torn.npz cannot be read"):
        export(policy, "onnx", tmp_path / "o.onnx", data=tmp_path / "torn.npz", int8=True)
    np.savez_compressed(tmp_path / "bent.npz", obs=np.random.default_rng(0).normal(size=(99, 5)))
    bent = bytearray((tmp_path / "bent.npz").read_bytes())
    bent[100:300] = bytes(200)
    (tmp_path / "bent.npz").write_bytes(bent)
    with pytest.raises(UserError, match="bent.npz cannot be read"):
        export(policy, "onnx", tmp_path / "o.onnx", data=tmp_path / "bent.npz", int8=True)
    np.savez(tmp_path / "objects.npz", obs=np.array([{}, {}], dtype=object))  # a pickle inside
    with pytest.raises(UserError, match="cannot be read"):
        export(policy, "onnx", tmp_path / "o.onnx", data=tmp_path / "objects.npz", int8=True)
    with pytest.raises(UserError, match="holds no dataset"):
        export(policy, "onnx", tmp_path / "o.onnx", data=tmp_path)
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (np.ones(10, bool), r"bool of shape \(10,\), but there are 20 states"),
        (np.ones((20, 2), bool), r"shape \(20, 2\), but there are 20"),
        (np.array(True), r"shape \(\), but"),
        (np.array(["no"] * 20), "<U2 of shape"),
    ],
)
def test_episode_starts_that_are_not_those_of_the_states(start, words, tmp_path, states):
    np.savez(states, obs=np.load(states)["obs"], episode_start=start)
    for count in (5, 1000):
        with pytest.raises(UserError, match=words):
            read_states(states, student(VECTOR, D3, "categorical"), count)


def test_every_state_has_an_episode_start(tmp_path, states):
    start = np.arange(20) == 3
    for given in (start, start[:, None]):
        np.savez(states, obs=np.load(states)["obs"], episode_start=given)
        found = read_states(states, student(VECTOR, D3, "categorical"), 5)
        assert found.start.tolist() == [True, False, False, True, False] and len(found.obs[""]) == 5


def test_nothing_is_overwritten_without_force(tmp_path, states):
    policy = student(VECTOR, BOUNDS, "deterministic")
    out = tmp_path / "o.pt"
    export(policy, "torchscript", out, data=states)
    before = out.read_bytes()
    with pytest.raises(UserError, match="o.pt is there already: --force overwrites it"):
        export(student(VECTOR, BOUNDS, "deterministic", seed=1), "torchscript", out, data=states)
    assert out.read_bytes() == before
    export(student(VECTOR, BOUNDS, "deterministic", seed=1), "torchscript", out, data=states, force=True)
    assert out.read_bytes() != before
    (tmp_path / "c.h").write_text("mine")
    with pytest.raises(UserError, match="c.h is there already"):
        export(policy, "c", tmp_path / "c.c", data=states)


@pytest.mark.parametrize(
    ("out", "options", "words"),
    [
        ("o.txt", {}, "ends in .onnx, not 'o.txt'"),
        ("states.npz/o.onnx", {}, "is not a folder that may be written to"),
        ("o.onnx", {"states": 0}, "at least 1 state"),
        ("o.onnx", {"seed": -1}, "seeds are not negative"),
        ("o.onnx", {"algorithm": "PPO"}, "for the format sb3 only"),
    ],
)
def test_what_was_asked_for_is_checked_first(out, options, words, tmp_path, states):
    with pytest.raises(UserError, match=words):
        export(student(VECTOR, D3, "categorical"), "onnx", tmp_path / out, data=states, **options)


def test_int8_is_for_two_formats(tmp_path, states):
    with pytest.raises(UserError, match="int8 is for onnx and c, not for torchscript"):
        export(student(VECTOR, D3, "categorical"), "torchscript", tmp_path / "o.pt", data=states, int8=True)


def test_int8_of_a_linear_student_in_c_would_change_nothing(tmp_path, states):
    with pytest.raises(UserError, match="leaves the last layer float32, and this student has no other"):
        export(make("linear"), "c", tmp_path / "o.c", data=states, int8=True)


def test_an_algorithm_of_another_family(tmp_path, states):
    pytest.importorskip("stable_baselines3")
    with pytest.raises(UserError, match="a categorical student cannot be a model of SAC: PPO or A2C can"):
        export(student(VECTOR, D3, "categorical"), "sb3", tmp_path / "o.zip", data=states, algorithm="SAC")


def test_a_missing_package_is_named_with_its_extra(tmp_path, states, monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(UserError, match=r"'stable-baselines3': run pip install 'understudy\[sb3\]'"):
        export(student(VECTOR, D3, "categorical"), "sb3", tmp_path / "o.zip", data=states)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'understudy\[onnx\]'"):
        export(student(VECTOR, D3, "categorical"), "onnx", tmp_path / "o.onnx", data=states)


def test_black_boxes_have_no_network_to_export(tmp_path, states):
    made = export(student(VECTOR, D3, "categorical"), "onnx", tmp_path / "o.onnx", data=states)
    with pytest.raises(UserError, match="is a black box"):
        export(made.path, "c", tmp_path / "o.c", data=states)


def test_without_a_compiler_c_is_written_and_checked_by_simulation(tmp_path, states, monkeypatch):
    monkeypatch.setattr(exported_c, "compiler", lambda: None)
    found = export(student(VECTOR, BOUNDS, "gaussian"), "c", tmp_path / "o.c", data=states)
    assert found.difference.relative < 1e-5 and "no C compiler" in found.notes[0]
    with pytest.raises(UserError, match="needs a C compiler"):
        load(found.path)


def test_names_of_c_files(tmp_path, states):
    policy = student(VECTOR, D3, "categorical")
    policy.about.env = EnvSpec("Größe-v0")
    out = tmp_path / "größe.c"
    export(policy, "c", out, data=states)
    assert '#include "größe.h"' in out.read_text(encoding="utf-8")
    assert "Größe-v0" in out.with_suffix(".h").read_text(encoding="utf-8")
    for name in ('say "a".c', "two\nlines.c", "back\\slash.c"):
        with pytest.raises(UserError, match=r"^C cannot include '.*: choose a file without quotes") as found:
            export(policy, "c", tmp_path / name, data=states)
        assert "\n" not in str(found.value)
    quoted = out.parent / '"'
    quoted.mkdir()
    found = export(policy, "c", quoted / "a.c", data=states)
    with pytest.raises(UserError, match="rename what has a quote"):
        load(found.path)


def test_a_c_file_of_somebody_else(tmp_path):
    (tmp_path / "x.c").write_text("int main(void) { return 0; }\n")
    with pytest.raises(UserError, match="is no C source of understudy export"):
        load(tmp_path / "x.c")
    (tmp_path / "y.c").write_text('/* understudy-export {"format": "understudy-export-1"} */\n')
    with pytest.raises(UserError, match="its description cannot be read"):
        load(tmp_path / "y.c")


def test_c_from_the_hub_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "x.c").write_text("")
    monkeypatch.setattr("understudy.teachers.hub.download", lambda source: tmp_path / "x.c")
    with pytest.raises(UserError, match="org/name/x.c is C and would run as it is"):
        load("hf://org/name/x.c")


def test_an_environment_that_imports_a_module_does_not_stop_its_own_export(tmp_path, states):
    policy = student(VECTOR, D3, "categorical")
    policy.about.env = EnvSpec("this:Foo-v0")
    found = export(policy, "torchscript", tmp_path / "o.pt", data=states)
    with pytest.raises(UserError, match="imports a module"):
        load(found.path)


def test_the_command_line_says_it_in_one_line(tmp_path, capsys):
    policy = student(TEXT, D3, "categorical", encoders=(Encoder("", "text_lstm", 8),))
    path = save_policy(policy, tmp_path / "s.safetensors")
    with pytest.raises(SystemExit) as stop:
        main(["export", str(path), "--format", "c"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "text_lstm" in error
    with pytest.raises(SystemExit):
        main(["export", str(path), "--format", "onnx"])
    assert "give --env ID, or recorded states with --data" in capsys.readouterr().err


def test_one_episode_is_no_test_and_paths_are_quoted(tmp_path, capsys):
    spec = EnvSpec("CartPole-v1")
    policy = Policy(PolicySpec(*map(space_to_json, spaces_of(spec)), "categorical"), About("by hand", "", spec))
    path = save_policy(policy, tmp_path / "s.safetensors")
    main(["export", str(path), "--format", "onnx", "--check-episodes", "1", "--states", "5"])
    assert "no test was possible" in capsys.readouterr().out
    main(["export", str(path), "--format", "onnx", "--out", str(tmp_path / "a b.onnx"), "--states", "5"])
    assert f"understudy evaluate '{tmp_path / 'a b.onnx'}'" in capsys.readouterr().out
