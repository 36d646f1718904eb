"""Teachers in the local cache of the Hugging Face hub, without a network."""

from __future__ import annotations

import pytest

from understudy.errors import UserError
from understudy.policies.files import save_policy
from understudy.teachers.load import load

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Lay out a cache as the hub's client does, and forbid it to ask the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--org--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    folder = repo / "snapshots" / commit
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return folder


def test_agents_of_the_hub(cache, ppo_model, ppo_zip):
    ppo_model.save(cache / "ppo-Hopper-v3.zip")
    (cache / "config.yml").write_text("normalize: false\n")
    (cache / "args.yml").write_text("env: Hopper-v3\n")
    policy = load("hf://org/name")
    assert policy.about.algorithm == "PPO" and policy.about.env.id == "Hopper-v4"
    assert load("org/name").spec == policy.spec
    assert load("hf://org/name/ppo-Hopper-v3.zip").spec == policy.spec
    save_policy(load(ppo_zip), cache / "student.safetensors")
    assert load("hf://org/name").about.source.endswith("student.safetensors")
    (cache / "config.yml").write_text("normalize: true\n")
    with pytest.raises(UserError, match="missing"):
        load("hf://org/name/ppo-Hopper-v3.zip")


def test_what_is_not_there(cache):
    for source, word in (
        ("hf://org/other", "neither on the hub nor in the local cache"),
        ("org/other", "no such file or folder, and hf://org/other"),
        ("hf://org/name/nothing.zip", "no file 'nothing.zip'"),
        ("hf://name", "not a hub id"),
    ):
        with pytest.raises(UserError) as caught:
            load(source)
        assert word in str(caught.value) and "\n" not in str(caught.value)
