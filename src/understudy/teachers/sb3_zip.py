"""Opening a Stable-Baselines3 zip: its JSON, its tensors and what kind of policy it holds. Nothing is unpickled.

``data`` is JSON; values that JSON cannot hold stand there as a base64 pickle, which is never decoded, beside their
fields in clear text. ``policy.pth`` goes through ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.errors import UserError

_LIMIT = 8 << 30
"""Bytes of one member: more than any policy here needs, less than a zip bomb unpacks to."""

KINDS = {
    "stable_baselines3.common.policies": "actor_critic",
    "sb3_contrib.common.maskable.policies": "actor_critic",
    "sb3_contrib.common.recurrent.policies": "actor_critic",
    "stable_baselines3.dqn.policies": "q",
    "sb3_contrib.qrdqn.policies": "quantile",
    "stable_baselines3.td3.policies": "td3",
    "stable_baselines3.sac.policies": "sac",
    "sb3_contrib.tqc.policies": "sac",
    "sb3_contrib.ars.policies": "ars",
}
"""The layout of the tensors by the module that defines the policy class."""

EXTRACTORS = {
    **dict.fromkeys(("ActorCriticPolicy", "MaskableActorCriticPolicy"), "FlattenExtractor"),
    **dict.fromkeys(("RecurrentActorCriticPolicy", "ARSPolicy", "ARSLinearPolicy"), "FlattenExtractor"),
    **dict.fromkeys(("DQNPolicy", "QRDQNPolicy", "TD3Policy", "SACPolicy", "TQCPolicy"), "FlattenExtractor"),
    **dict.fromkeys(("ActorCriticCnnPolicy", "MaskableActorCriticCnnPolicy"), "NatureCNN"),
    **dict.fromkeys(("RecurrentActorCriticCnnPolicy", "CnnPolicy"), "NatureCNN"),
    **dict.fromkeys(("MultiInputActorCriticPolicy", "MaskableMultiInputActorCriticPolicy"), "CombinedExtractor"),
    **dict.fromkeys(("RecurrentMultiInputActorCriticPolicy", "MultiInputPolicy"), "CombinedExtractor"),
}
"""The features extractor of each known policy class, where ``policy_kwargs`` does not name another."""

_EXPORT = "export the policy to TorchScript or ONNX and load that, or pass a Python callable"


@dataclass
class SavedPolicy:
    """What a zip holds, before it is translated."""

    path: Path
    data: dict[str, Any]
    tensors: dict[str, Tensor]
    kind: str
    """Layout: actor_critic, q, quantile, td3, sac or ars."""
    policy_class: str
    module: str
    version: str

    @property
    def kwargs(self) -> dict[str, Any]:
        """``policy_kwargs`` in clear text, without the pickle."""
        kwargs = self.data.get("policy_kwargs") or {}
        return {key: value for key, value in kwargs.items() if key not in (":type:", ":serialized:")}

    @property
    def algorithm(self) -> str:
        """The algorithm's name. The zip does not say it, but each has hyperparameters of its own."""
        module, data = self.module, self.data
        for part, name in (("maskable", "MaskablePPO"), ("recurrent", "RecurrentPPO"), ("tqc", "TQC"), ("ars", "ARS")):
            if f".{part}." in module:
                return name
        for part, name in (("qrdqn", "QR-DQN"), ("dqn", "DQN"), ("sac", "SAC")):
            if f".{part}." in module:
                return name
        if ".td3." in module:
            return "DDPG" if data.get("policy_delay") == 1 and self.kwargs.get("n_critics") == 1 else "TD3"
        if "cg_max_steps" in data:
            return "TRPO"
        return "PPO" if "n_epochs" in data else "A2C"


def read_zip(path: Path) -> SavedPolicy:
    """Open a zip that ``model.save`` of Stable-Baselines3 or its contrib package wrote.

    Raises:
        UserError: Not a zip, truncated, not of Stable-Baselines3, or a policy class that is not known.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "data" not in names or "policy.pth" not in names:
                raise UserError(
                    f"{path} is a zip without 'data' or 'policy.pth': not of Stable-Baselines3, or truncated"
                )
            data = _read_json(_member(archive, "data"), path)
            tensors = _read_tensors(_member(archive, "policy.pth"), path)
            stamp = "_stable_baselines3_version"
            version = _member(archive, stamp).decode("utf-8", "replace").strip() if stamp in names else ""
    except FileNotFoundError:
        raise UserError(f"no teacher at {path}: the file does not exist") from None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, OSError) as error:
        raise UserError(f"{path} is not a readable zip file ({error}): truncated or damaged?") from error
    kind, name, module = _policy_kind(data.get("policy_class"), path)
    return SavedPolicy(path, data, tensors, kind, name, module, version)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > _LIMIT:
        raise UserError(f"{archive.filename}: {name!r} claims {info.file_size} bytes, which no policy needs")
    try:
        return archive.read(info)
    except OSError:
        raise
    except Exception as error:  # zlib's, lzma's, RuntimeError where it is encrypted: zipfile passes on what it meets
        raise zipfile.BadZipFile(f"{name!r}: {error}") from error


def _read_json(data: bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: 'data' is not JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise UserError(f"{path}: 'data' is not a JSON object")
    return parsed


def _read_tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        first = str(error).strip().split("\n")[0][:160]
        raise UserError(f"{path}: 'policy.pth' is not a plain file of tensors, refused ({first})") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"{path}: 'policy.pth' does not hold a dict of tensors")
    return {name: _plain(tensor, f"{path}: the tensor {name!r} of 'policy.pth'") for name, tensor in tensors.items()}


def _plain(tensor: Tensor, what: str) -> Tensor:
    """Return a tensor as NumPy can hold it, with the same numbers.

    Raises:
        UserError: It is complex, sparse, quantised or without numbers.
    """
    if tensor.is_complex() or tensor.is_quantized or tensor.is_meta or tensor.layout != torch.strided:
        raise UserError(f"{what} is not an array of real numbers ({tensor.dtype}, {tensor.layout}); {_EXPORT}")
    known = tensor.dtype in (torch.float16, torch.float32, torch.float64)
    return tensor.detach() if known or not tensor.is_floating_point() else tensor.detach().float()


def _policy_kind(field: Any, path: Path) -> tuple[str, str, str]:
    """Return the layout, the class name and the module of a policy class, from its clear text."""
    if not isinstance(field, dict):
        raise UserError(f"{path}: 'data' does not describe the policy class; {_EXPORT}")
    module = str(field.get("__module__", ""))
    match = re.match(r"<function (\w+)\.__init__ ", str(field.get("__init__", "")))
    name = match[1] if match else ""
    if "crossq" in module:
        raise UserError(f"{path}: CrossQ policies (batch renormalisation) are not supported; {_EXPORT}")
    if module not in KINDS or name not in EXTRACTORS:
        what = f"{module}.{name or '?'}"
        raise UserError(f"{path}: the policy class {what} is custom or unknown, its network cannot be told; {_EXPORT}")
    return KINDS[module], name, module
