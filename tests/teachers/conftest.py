"""One small saved model, and a way to change what stands in its zip."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
import stable_baselines3
import torch
from teacher_helpers import BOUNDS, VECTOR, SpacesOnly, random_weights


@pytest.fixture(scope="session")
def ppo_model():
    env = SpacesOnly(VECTOR, BOUNDS)
    return random_weights(stable_baselines3.PPO("MlpPolicy", env, policy_kwargs={"net_arch": [8, 8]}, device="cpu"))


@pytest.fixture(scope="session")
def ppo_zip(tmp_path_factory, ppo_model):
    path = tmp_path_factory.mktemp("sb3") / "ppo.zip"
    ppo_model.save(path)
    return path


@pytest.fixture
def changed_zip(ppo_zip, tmp_path):
    """Return a function that rewrites the zip: ``data`` and ``tensors`` are changed in place by callbacks."""

    def rewrite(data=None, tensors=None, members=None, source=ppo_zip):
        with zipfile.ZipFile(source) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        if data is not None:
            content = json.loads(files["data"])
            data(content)
            files["data"] = json.dumps(content).encode()
        if tensors is not None:
            state = torch.load(io.BytesIO(files["policy.pth"]), weights_only=True)
            tensors(state)
            buffer = io.BytesIO()
            torch.save(state, buffer)
            files["policy.pth"] = buffer.getvalue()
        files |= members or {}
        path = tmp_path / "changed.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                if content is not None:
                    archive.writestr(name, content)
        return path

    return rewrite
