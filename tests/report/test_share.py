"""Push and pull against a local stand-in of the hub's client: a folder that is laid out as its cache."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import understudy
from understudy.cli import main
from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.policies.files import load_policy, save_policy
from understudy.policies.weights import named_arrays

huggingface_hub = pytest.importorskip("huggingface_hub")


class Hub:
    """Takes uploads as ``HfApi`` does, and puts them where the client's cache is looked for."""

    def __init__(self, cache):
        self.cache, self.made = cache, []

    def create_repo(self, repo_id, *, private=None, repo_type=None, exist_ok=False):
        self.made.append((repo_id, private, repo_type, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, commit_message=None):
        commit = "0123456789abcdef0123456789abcdef01234567"
        repo = self.cache / f"models--{repo_id.replace('/', '--')}"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text(commit)
        shutil.copytree(folder_path, repo / "snapshots" / commit)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub.cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return hub


def test_a_pushed_student_is_a_teacher_again(here, hub, tmp_path, capsys):
    main(["push", "run", "org/balance", "--private", "--episodes", "4"])
    assert hub.made == [("org/balance", True, "model", True)]
    assert "best.safetensors" in capsys.readouterr().out
    teacher, student = understudy.load("org/balance"), understudy.load("run")
    assert all(
        (a == b).all() for a, b in zip(named_arrays(teacher).values(), named_arrays(student).values(), strict=True)
    )
    assert teacher.about.env.id == "CartPole-v1"
    main(["distill", "hf://org/balance", "--student.hidden", "8", "--execution", "single", "--data.num_envs", "2",
          "--data.steps", "250", "--stop.env_steps", "500", "--evaluation.final", "0", "--run",
          str(tmp_path / "again")])  # fmt: skip
    assert understudy.load(tmp_path / "again").spec.hidden == (8,)


def test_a_pulled_run_can_be_reported(here, hub, tmp_path):
    main(["push", "taught", "org/taught", "--no-play"])
    folder = tmp_path / "pulled"
    main(["pull", "org/taught", "--out", str(folder)])
    names = {path.name for path in folder.iterdir()}
    assert names >= {"last.safetensors", "README.md", "config.yaml", "log.jsonl", "comparison.json", "summary.json"}
    assert not any(path.is_symlink() for path in folder.iterdir()) and "state.safetensors" not in names
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: understudy")
    assert "understudy.load('hf://org/taught')" in card and "understudy evaluate hf://org/taught" in card
    main(["report", str(folder), "--no-play"])
    assert "Env steps to the teacher" in (folder / "report.html").read_text()
    with pytest.raises(SystemExit):
        main(["pull", "org/taught", "--out", str(folder)])  # never overwrites


def test_what_a_pulled_configuration_names_is_not_imported(here, hub, tmp_path, capsys):
    main(["push", "run", "org/foreign", "--no-play"])
    main(["pull", "org/foreign", "--out", str(tmp_path / "pulled")])
    path = tmp_path / "pulled" / "config.yaml"
    path.write_text(path.read_text().replace("mine:balance", "this:main"))
    sys.modules.pop("this", None)
    main(["report", str(path.parent), "--format", "markdown"])
    assert "names 'this:main', which imports a module" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        main(["distill", "--resume", str(path.parent)])
    assert "take its line 'pulled' out to allow it" in capsys.readouterr().err
    assert "this" not in sys.modules


def test_paths_of_this_machine_stay_at_home(here, hub, tmp_path):
    folder = tmp_path / "private"
    shutil.copytree("run", folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    private = "/home/somebody/secret-project/agents/teacher.zip"
    config["teachers"] = [private]
    config["environment"]["kwargs"] = {"file": "/home/somebody/robots/of/ours/ant.xml"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "comparison.json").unlink(missing_ok=True)
    (folder / "summary.json").write_text(
        json.dumps({**json.loads((folder / "summary.json").read_text()), "of": private})
    )
    (folder / "old.onnx").write_bytes(f"student {private}".encode())
    (folder / "new.onnx").write_bytes(b"student teacher.zip")
    policy = understudy.load(folder)
    policy.about.notes.append(f"distilled from {private}")
    policy.about.env = EnvSpec("unity:/home/somebody/secret-project/scenes/my scene/Ball.x86_64")
    save_policy(policy, folder / "best.safetensors")
    main(["push", str(folder), "org/private", "--no-play"])
    pushed = next((hub.cache / "models--org--private" / "snapshots").iterdir())
    assert yaml.safe_load((pushed / "config.yaml").read_text())["teachers"] == ["secret-project/agents/teacher.zip"]
    assert (pushed / "new.onnx").exists() and not (pushed / "old.onnx").exists()
    for path in pushed.iterdir():
        assert b"somebody" not in path.read_bytes(), path.name
    again = load_policy(pushed / "best.safetensors")
    assert again.about.notes[-1] == "distilled from secret-project/agents/teacher.zip"
    assert again.about.env.id == "unity:scenes/my scene/Ball.x86_64"
    assert all(np.array_equal(a, named_arrays(policy)[name]) for name, a in named_arrays(again).items())


def test_refusals(here, hub, tmp_path, capsys, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy("run/config.yaml", empty)

    def refuse(*_, **__):
        raise huggingface_hub.errors.LocalTokenNotFoundError("Token is required")

    for words, message in (
        (["push", "run", "no-slash"], "is not the id of a repository"),
        (["push", str(empty), "org/name", "--no-play"], "holds no policy yet"),
        (["push", "nowhere", "org/name"], "no run at nowhere"),
        (["pull", "org/unknown"], "neither on the hub nor in the local cache"),
        (["pull", "org/unknown", "--out", "run"], "is there already"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    hub.create_repo = refuse
    with pytest.raises(SystemExit):
        main(["push", "run", "org/name", "--no-play"])
    assert "hf auth login" in capsys.readouterr().err

    def cut_off(*_, **__):
        raise huggingface_hub.errors.HfHubHTTPError.__bases__[0]("no such host")

    hub.create_repo = cut_off
    with pytest.raises(SystemExit):
        main(["push", "run", "org/name", "--no-play"])
    assert "no such host" in (error := capsys.readouterr().err) and error.count("\n") == 1
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    from understudy.report.share import push
    from understudy.terminal_report import content_of

    with pytest.raises(UserError, match=r"understudy\[hub\]"):
        push(content_of(["run"], False, 0, False)[0], Path("run"), "org/name")
