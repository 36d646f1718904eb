"""``load``: any trained policy on disk, on the hub or in memory becomes a teacher."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch import nn

from understudy.data import EnvSpec
from understudy.env_names import EnvLike, named
from understudy.errors import UserError
from understudy.imports import name_of
from understudy.policies.devices import check_device
from understudy.policies.files import load_policy
from understudy.policies.policy import Policy, PolicyLike
from understudy.policies.stored import behaviours_of, own_policy, run_policy
from understudy.teachers.foreign import refuse_code
from understudy.teachers.opaque import Asked, OpaqueTeacher
from understudy.teachers.sb3_model import is_model, is_recurrent, load_model
from understudy.teachers.successors import find_successors
from understudy.teachers.zoo import find_agent, load_agent

_TORCHSCRIPT = (".pt", ".ts", ".pth", ".torchscript")
_FUNCTION = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")
_HUB = re.compile(r"^[\w][\w.-]*/[\w][\w.-]*$")
_FORMATS = (
    "a policy of ours (.safetensors), a run folder, a Stable-Baselines3 zip or zoo folder, TorchScript (.pt, .ts), "
    "ONNX (.onnx), C of understudy export (.c), module:function, or a hub id (hf://org/name)"
)


def load(
    source: Any,
    *,
    env: EnvLike | None = None,
    device: str = "cpu",
    observation_space: gym.Space[Any] | None = None,
    action_space: gym.Space[Any] | None = None,
    output: str | None = None,
) -> PolicyLike:
    """Load a trained policy as a teacher; nothing foreign is unpickled.

    Args:
        source: A path (our policies and run folders, Stable-Baselines3 zips and zoo folders, TorchScript, ONNX),
            ``module:function``, a hub id ``hf://org/name[/file]``, a Python callable, a module of PyTorch, a model of
            Stable-Baselines3, or a policy, which passes through.
        env: The environment it is for, where the source does not say it or another one is wanted. An id keeps the
            wrappers that the source names; an ``EnvSpec`` replaces everything. Also a class or function that makes it.
        device: Where native policies and TorchScript run.
        observation_space: For TorchScript, ONNX and callables, which do not know their spaces; by default
            ``understudy.load`` takes those of ``env``.
        action_space: Likewise.
        output: What TorchScript, ONNX and callables answer: ``action``, ``logits``, ``q_values`` or ``gaussian`` (means
            and log standard deviations, in environment units). By default logits for discrete actions where the sizes
            match, else actions.

    Raises:
        UserError: There is nothing at ``source``, or what is there cannot be read with certainty.
    """
    env = named(env)
    spec = env_spec(env)
    check_device(device)
    asked = Asked(spec, device, observation_space, action_space, output)
    if isinstance(source, (str, os.PathLike)):
        policy = _load_text(os.fspath(source), asked)
    elif isinstance(source, PolicyLike):
        return source
    elif callable(source) or hasattr(source, "predict"):
        policy = _load_object(source, asked, "")
    else:
        raise UserError(f"a teacher cannot be a {type(source).__name__}; give {_FORMATS}")
    if not isinstance(env, EnvSpec) and policy.about.env is not None and isinstance(source, (str, os.PathLike)):
        refuse_code(policy.about.env, os.fspath(source), None if spec is None else spec.id)
    if isinstance(policy, Policy):
        _check_finite(policy)
        policy.to(device)
        policy.about.env = chosen_env(policy.about.env, env)
    elif isinstance(policy, OpaqueTeacher) and isinstance(source, (str, os.PathLike)):
        # What another process needs to load the same teacher again.
        given = {"env": env, "observation_space": observation_space, "action_space": action_space, "output": output}
        policy.recipe = {"source": os.path.abspath(source) if os.path.exists(source) else source, "kwargs": given}
    return policy


def called(source: Any) -> str:
    """Return what messages and a run's folder call a teacher: where it is found again, else what it says of itself."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    about = getattr(source, "about", None)
    if about:
        return str(about.source or about.algorithm)
    return name_of(source) or str(getattr(source, "__name__", type(source).__name__))


def _check_finite(policy: Policy) -> None:
    broken = [name for name, tensor in policy.state_dict().items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise UserError(f"the teacher {policy.about.source} is broken: its {broken[0]} holds NaN or infinity")


def env_spec(env: EnvLike | None) -> EnvSpec | None:
    """Return the description of an environment, of an id of old that of its successor.

    Raises:
        UserError: It cannot be described.
    """
    env = named(env)
    if not isinstance(env, str):
        return env
    successor = find_successors(env)[0]
    return EnvSpec(successor.id, successor.kwargs, successor.wrappers)


def chosen_env(own: EnvSpec | None, asked: EnvLike | None) -> EnvSpec | None:
    """Return the teacher's own environment or the one asked for; an id alone keeps the teacher's own wrappers."""
    asked = named(asked)
    spec = env_spec(asked)
    if spec is None or own is None or isinstance(asked, EnvSpec):
        return spec or own
    if spec.id == own.id:
        return own
    return replace(spec, wrappers=(*spec.wrappers, *(w for w in own.wrappers if w not in spec.wrappers)))


def _load_text(source: str, asked: Asked) -> PolicyLike:
    if not source:  # as of an unset shell variable; it is no name of this folder
        raise UserError(f"no teacher is named; give {_FORMATS}")
    path = Path(source).expanduser()
    if source.startswith("hf://"):
        return _load_hub(source.removeprefix("hf://"), asked)
    if not path.exists() and path.with_name(path.name + ".zip").is_file():
        path = path.with_name(path.name + ".zip")  # Stable-Baselines3 itself leaves the suffix out
    if path.is_dir():
        return _load_folder(path, asked)
    if path.is_file():
        return _load_file(path, asked)
    if _FUNCTION.match(source):
        from understudy.teachers.function import import_function

        return _load_object(import_function(source), asked, source)
    if _HUB.match(source) and not path.suffix and not path.parent.is_dir():
        try:
            return _load_hub(source, asked)
        except UserError as error:
            raise UserError(f"no teacher at {source}: there is no such file or folder, and {error}") from error
    raise UserError(f"no teacher at {source}: there is no such file or folder; give {_FORMATS}")


def _load_hub(source: str, asked: Asked) -> PolicyLike:
    from understudy.teachers.hub import download

    path = download(source)
    if path.suffix == ".c":
        raise UserError(f"{source} is C and would run as it is: download it, read it, and load the file yourself")
    return _load_folder(path, asked) if path.is_dir() else _load_file(path, asked)


def _load_folder(path: Path, asked: Asked) -> PolicyLike:
    """Load our best policy in a run folder, else the agent of Stable-Baselines3 in it, else its only model or run."""
    if several := behaviours_of(path):
        names = ", ".join(str(part) for part in several.values())
        raise UserError(f"{path} holds a policy for each behaviour of a Unity scene: name one of {names}")
    file = own_policy(path)
    if file is not None:
        return load_policy(file)
    agent = find_agent(path)
    if agent is not None:
        return load_agent(agent, strict=asked.env is None)
    files = [file for file in sorted(path.iterdir()) if file.suffix in (*_TORCHSCRIPT, ".onnx", ".safetensors")]
    if len(files) == 1:
        return _load_file(files[0], asked)
    if files:
        raise UserError(f"the folder {path} holds several models ({', '.join(f.name for f in files)}): name one")
    inside = run_policy(path)
    if inside is not None:
        return load_policy(inside)
    raise UserError(f"the folder {path} holds none of: {_FORMATS}")


def _load_file(path: Path, asked: Asked) -> PolicyLike:
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return load_policy(path)
    if suffix == ".onnx":
        from understudy.teachers.onnx import load_onnx

        return load_onnx(path, asked)
    if suffix in _TORCHSCRIPT:
        from understudy.teachers.torchscript import load_torchscript

        return load_torchscript(path, asked)
    if suffix == ".c":
        from understudy.teachers.exported_c import load_c

        return load_c(path, asked)
    agent = find_agent(path)
    if suffix in (".zip", "") and agent is not None:
        return load_agent(agent, strict=asked.env is None)
    raise UserError(f"{path} is of an unknown kind; give {_FORMATS}")


def _load_object(source: Any, asked: Asked, name: str) -> PolicyLike:
    name = name or getattr(source, "__name__", type(source).__name__)
    notes = []
    if is_model(source):
        try:
            return load_model(source)
        except UserError as error:
            if source.get_vec_normalize_env() is not None or is_recurrent(source):
                raise  # alone, it would act on observations that it does not know, or forget every one of them
            notes = [f"only its actions are known: {error}"]
    if isinstance(source, nn.Module):
        from understudy.teachers.torchscript import ModuleTeacher

        return ModuleTeacher(source, name, asked)
    from understudy.teachers.function import FunctionTeacher

    teacher = FunctionTeacher(source, name, asked)
    teacher.about.notes += notes
    return teacher
