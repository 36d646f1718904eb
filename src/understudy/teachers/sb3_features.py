"""What a saved policy's keyword arguments say: features extractor, activation, layers. Unknown ones are refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from understudy.errors import UserError
from understudy.policies.spaces import is_image, members
from understudy.policies.spec import Encoder
from understudy.teachers.sb3_ledger import Ledger
from understudy.teachers.sb3_zip import EXTRACTORS, SavedPolicy

_ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.ELU": "elu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.LeakyReLU": "leaky_relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.linear.Identity": "identity",
}
_DEFAULT_ACTIVATION = {"actor_critic": "tanh"}  # every other layout has ReLU
_EXTRACTOR_MODULE = "stable_baselines3.common.torch_layers."
# fmt: off
_KNOWN = frozenset((
    "net_arch", "activation_fn", "ortho_init", "use_sde", "log_std_init", "full_std", "use_expln", "squash_output",
    "features_extractor_class", "features_extractor_kwargs", "share_features_extractor", "normalize_images",
    "optimizer_class", "optimizer_kwargs", "n_critics", "clip_mean", "n_quantiles", "with_bias", "lstm_hidden_size",
    "n_lstm_layers", "shared_lstm", "enable_critic_lstm", "lstm_kwargs", "sde_net_arch", "device",
))
# fmt: on
_INSTEAD = "export the policy to TorchScript or ONNX and load that, or pass a Python callable"


def _class_name(text: Any) -> str:
    """``<class 'a.b.C'>`` -> ``a.b.C``."""
    return str(text).removeprefix("<class '").removesuffix("'>")


def check_kwargs(saved: SavedPolicy) -> None:
    """Refuse keyword arguments whose effect on the network is not known.

    Raises:
        UserError: There is one.
    """
    kwargs, where = saved.kwargs, str(saved.path)
    unknown = sorted(set(kwargs) - _KNOWN)
    if unknown:
        raise UserError(f"{where}: policy_kwargs {', '.join(unknown)} are not known; {_INSTEAD}")
    if kwargs.get("sde_net_arch") is not None:
        raise UserError(f"{where}: a separate gSDE network (sde_net_arch) is not supported; {_INSTEAD}")
    lstm = kwargs.get("lstm_kwargs") or {}
    if not isinstance(lstm, dict) or set(lstm) - {"dropout"}:  # dropout does nothing to a frozen policy
        raise UserError(f"{where}: lstm_kwargs {lstm!r} are not supported; {_INSTEAD}")


def activation(saved: SavedPolicy) -> str:
    """Return our name of the activation between the layers.

    Raises:
        UserError: It is a class that is not known.
    """
    text = saved.kwargs.get("activation_fn")
    if text is None:
        return _DEFAULT_ACTIVATION.get(saved.kind, "relu")
    name = _ACTIVATIONS.get(_class_name(text))
    if name is None:
        known = ", ".join(key.rsplit(".", 1)[-1] for key in _ACTIVATIONS)
        raise UserError(f"{saved.path}: the activation {_class_name(text)} is not one of {known}; {_INSTEAD}")
    return name


def extractor(saved: SavedPolicy) -> str:
    """Return the class name of the features extractor.

    Raises:
        UserError: It is a custom class.
    """
    text = saved.kwargs.get("features_extractor_class")
    name = EXTRACTORS[saved.policy_class] if text is None else _class_name(text)
    short = name.removeprefix(_EXTRACTOR_MODULE)
    if short not in ("FlattenExtractor", "NatureCNN", "CombinedExtractor"):
        raise UserError(f"{saved.path}: the features extractor {name} is a custom class; {_INSTEAD}")
    options = saved.kwargs.get("features_extractor_kwargs") or {}
    if not isinstance(options, dict) or set(options) - {"features_dim", "cnn_output_dim", "normalized_image"}:
        raise UserError(f"{saved.path}: features_extractor_kwargs {options!r} are not known; {_INSTEAD}")
    return short


def read_encoders(
    saved: SavedPolicy, space: gym.Space[Any], tensors: dict[str, Tensor]
) -> tuple[tuple[Encoder, ...], dict[str, Tensor]]:
    """Translate the features extractor.

    Args:
        saved: The file.
        space: Its observation space.
        tensors: The extractor's tensors under its own names, ``cnn.0.weight`` or ``extractors.image.cnn.0.weight``.

    Returns:
        The encoders, and the tensors under our names.

    Raises:
        UserError: A tensor is missing or left over.
    """
    name, ledger = extractor(saved), Ledger(tensors, f"{saved.path}: features extractor")
    options = saved.kwargs.get("features_extractor_kwargs") or {}
    if isinstance(space, gym.spaces.Dict) != (name == "CombinedExtractor"):
        raise UserError(f"{saved.path}: the features extractor {name} does not fit the observation space {space}")
    encoders: list[Encoder] = []
    arrays: dict[str, Tensor] = {}
    for key, sub in members(space).items():
        box3 = isinstance(sub, gym.spaces.Box) and len(sub.shape) == 3
        image = is_image(sub) or (box3 and bool(options.get("normalized_image")))
        # Images are divided by 255 even where they are only flattened.
        scale = 1 / 255 if is_image(sub) and saved.kwargs.get("normalize_images", True) else 1.0
        if name == "NatureCNN" or (name == "CombinedExtractor" and image):
            prefix = f"extractors.{key}." if key else ""
            width = int(ledger.take(f"{prefix}linear.0.weight").shape[0])
            ledger.left[f"{prefix}linear.0.weight"] = tensors[f"{prefix}linear.0.weight"]
            arrays |= {f"cnns.{key or '_'}.{rest}": t for rest, t in ledger.take_prefix(prefix).items()}
            encoders.append(Encoder(key, "nature_cnn", width, scale))
        elif isinstance(sub, (gym.spaces.Discrete, gym.spaces.MultiDiscrete)):
            encoders.append(Encoder(key, "one_hot"))
        else:
            encoders.append(Encoder(key, "flatten", 0, scale))
    ledger.finish()
    return tuple(encoders), arrays


def same_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Say whether two sets of tensors are equal, name by name."""
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def net_arch(saved: SavedPolicy, other: str) -> tuple[list[int] | None, list[int] | None]:
    """Return the hidden widths of the actor and of ``other`` (``vf`` or ``qf``), None where defaults apply.

    Old files hold ``[64, {"pi": [32], "vf": [16]}]``: shared layers first.

    Raises:
        UserError: The text is of neither form.
    """
    asked = saved.kwargs.get("net_arch")
    if asked is None:
        return None, None
    shared: list[int] = []
    parts: dict[str, list[int]] = {}
    for item in asked if isinstance(asked, list) else [asked]:
        if isinstance(item, int):
            shared.append(item)
        elif isinstance(item, dict) and set(item) <= {"pi", other}:
            parts = item
        else:
            raise UserError(f"{saved.path}: net_arch {asked!r} cannot be read")
    return shared + list(parts.get("pi", [])), shared + list(parts.get(other, []))
