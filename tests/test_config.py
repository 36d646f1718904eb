"""Configuration: types from text, unknown keys, contradictions, presets, round trips."""

import pytest
import yaml

from understudy.config import build, flags, merge, nest, plain, with_overrides
from understudy.errors import UserError
from understudy.preset_files import merged_presets, preset, presets
from understudy.settings import METHODS, TAUGHT, DistillSettings, KickstartSettings, TrainSettings


def test_text_becomes_the_type_of_the_field():
    settings = build(DistillSettings, nest({"student.hidden": ["64", "32"], "stop.ratio": "9e-1", "seed": "3"}))
    assert settings.student.hidden == (64, 32)
    assert settings.stop.ratio == 0.9
    assert settings.seed == 3


def test_one_number_is_a_tuple_of_one():
    assert build(DistillSettings, nest({"student.hidden": "32"})).student.hidden == (32,)


def test_none_is_understood_where_it_is_allowed():
    assert build(DistillSettings, nest({"distance.temperature": "none"})).distance.temperature is None
    with pytest.raises(UserError, match="seed is 'none'"):
        build(DistillSettings, {"seed": "none"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("studnt.hidden", 64, r"unknown key studnt; did you mean student\?"),
        ("student.hiden", 64, r"unknown key student.hiden; did you mean student|hidden"),
        ("seed", "many", "seed is 'many'; it must be a whole number"),
        ("data.steps", "1.5", "data.steps is '1.5'"),
        ("execution.type", "snyc", r"execution.type is 'snyc'; it can be single, sync; did you mean sync"),
        ("student.value", "perhaps", "true or false"),
        ("stop.ratio", 7, "stop.ratio is 7"),
        ("data.num_envs", 0, "data.num_envs is 0; it must be at least 1"),
        ("data.capacity", 10, "data.capacity 10 cannot hold one round"),
        ("evaluation.episodes", 1, "evaluation.episodes is 1; it must be at least 2"),
        ("evaluation.seed", 2**63, "evaluation.seed is 9223372036854775808; it must be between 0 and 2147483647"),
    ],
)
def test_nonsense_is_refused_by_name(key, value, message):
    with pytest.raises(UserError, match=message):
        build(DistillSettings, nest({key: value})).check()


def test_sequences_of_one_step_are_refused_only_with_memory():
    one = {"learning": {"sequence": 1, "burn_in": 0}}
    build(DistillSettings, one).check()
    with pytest.raises(UserError, match="learning.sequence is 1; with student.lstm it must be at least 2"):
        build(DistillSettings, merge(one, {"student": {"lstm": 8}})).check()


@pytest.mark.parametrize(
    ("value", "hidden"),
    [("64,32", (64, 32)), ("[64, 32]", (64, 32)), ("64x32", (64, 32)), (["64", "32"], (64, 32)), ("[]", ()), (8, (8,))],
)
def test_widths_are_read_as_people_write_them(value, hidden):
    assert build(DistillSettings, nest({"student.hidden": value})).student.hidden == hidden


def test_lists_are_read_as_in_a_preset():
    wrapper = {"type": "atari", "stack": 2}
    for value in ("[{type: atari, stack: 2}]", "{type: atari, stack: 2}", ["{type: atari, stack: 2}"], [wrapper]):
        assert build(TrainSettings, nest({"env.wrappers": value})).env.wrappers == (wrapper,)
    assert build(DistillSettings, nest({"student.keys": "[a, b]"})).student.keys == ("a", "b")
    with pytest.raises(UserError, match="env.wrappers is 'atari'; it must be a mapping"):
        build(TrainSettings, nest({"env.wrappers": "[atari]"}))


def test_a_word_among_widths_is_named():
    with pytest.raises(UserError, match="student.hidden is 'max'; it must be a whole number"):
        build(DistillSettings, nest({"student.hidden": "64,max"}))


def test_sequences_must_divide_rollouts():
    with pytest.raises(UserError, match="data.steps 120 must be a multiple of learning.sequence 50"):
        build(DistillSettings, nest({"student.lstm": 8, "data.steps": 120})).check()


def test_resolved_configuration_reads_back():
    settings = build(DistillSettings, nest({"student.hidden": [8], "distance.temperature": 0.5, "stop.alpha": 0.1}))
    assert build(DistillSettings, yaml.safe_load(yaml.safe_dump(plain(settings)))) == settings


def test_merge_goes_key_by_key():
    assert merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}}) == {"a": {"b": 5, "c": 2}, "d": 3}


@pytest.mark.parametrize("section", [{"seconds": 100.0}, build(TrainSettings, {"stop": {"seconds": 100}}).stop])
def test_a_section_lies_under_its_keywords_whichever_is_first(section):
    before = plain(section)
    keys = {"stop__env_steps": 256, "stop": section}
    for overrides in (keys, dict(reversed(keys.items()))):
        for settings, over in ((None, overrides), ({"stop": section}, {"stop__env_steps": 256})):
            stop = with_overrides(TrainSettings, settings, over)["stop"]
            assert (stop["env_steps"], stop["seconds"]) == (256, 100) and plain(section) == before


def test_presets_are_names_or_paths_one_or_several(tmp_path):
    (tmp_path / "mine.yaml").write_text("update: {lr: 1e-1}")
    assert merged_presets(["ppo", tmp_path / "mine.yaml"]) == merge(preset("ppo"), {"update": {"lr": "1e-1"}})
    assert merged_presets("ppo") == preset("ppo") and merged_presets(None) == merged_presets(()) == {}
    with pytest.raises(UserError, match="preset is 5; it must be a name"):
        merged_presets(5)


KINDS = (DistillSettings, *METHODS.values(), KickstartSettings, *TAUGHT.values())


def test_every_field_has_a_sentence():
    missing = [name for kind in KINDS for name, _, field in flags(kind) if not field.metadata.get("help")]
    assert not missing


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_resolves(name):
    """The sections a preset has say which command it is for."""
    data = preset(name)
    method = data.get("method", "actor_critic")
    of_training = METHODS[method] if "update" in data else DistillSettings
    kind = {**TAUGHT, "actor_critic": KickstartSettings}[method] if "teaching" in data else of_training
    env = {} if "env" in data or kind is DistillSettings else {"env": {"id": "CartPole-v1"}}
    build(kind, {**data, **env}).check()


@pytest.mark.parametrize(("name", "method"), [("a3c-pong", "a3c"), ("impala-pong", "impala")])
def test_presets_of_pong_learn_as_those_of_their_method_say(name, method):
    own, general = preset(name), preset(method)
    assert {s: own[s] for s in general} == general | {"policy": own["policy"]}
    assert own["policy"] == {**general["policy"], "hidden": [], "init": "data"}


def test_unknown_preset_suggests(tmp_path):
    with pytest.raises(UserError, match="did you mean distill-discrete"):
        preset("distil-discrete")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(UserError, match="cannot be read as YAML"):
        preset(str(broken))


def test_a_key_that_comes_twice_is_named_with_its_line(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("update:\n  lr: 1\n  epochs: 2\n  lr: 2\n")
    with pytest.raises(UserError, match=r"twice.yaml .*the key 'lr' in line 4 stands in line 2 already$"):
        preset(str(path))
    path.write_text("seed: 1\nenv: {id: a, id: b}\n")
    with pytest.raises(UserError, match=r"the key 'id' in line 2 stands in line 2 already$"):
        preset(str(path))
    path.write_text("a: &a {x: 1, y: 1}\nouter:\n  b: &b {<<: *a, x: 2}\nc: {<<: *b, <<: *a, x: 3, 1: 0}\n")
    assert preset(str(path)) == {"a": {"x": 1, "y": 1}, "outer": {"b": {"x": 2, "y": 1}}, "c": {"x": 3, "y": 1, 1: 0}}


def test_files_that_presets_may_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets").mkdir()
    for name in ("M.YAML", "m.json", "presets/short.yml", "presets/both.yml", "presets/both.yaml"):
        (tmp_path / name).write_text(f"device: {name}")
    assert preset("M.YAML") == {"device": "M.YAML"} and preset("short") == {"device": "presets/short.yml"}
    assert preset("both") == {"device": "presets/both.yaml"}
    with pytest.raises(UserError, match=r"the preset m.json must be a YAML file whose name ends in .yaml or .yml"):
        preset("m.json")
    with pytest.raises(UserError, match=r"no preset 'n.json'"):
        preset("n.json")
