"""From a Stable-Baselines3 policy to ours: one function per layout of tensors, ``translate`` picks it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from understudy.errors import UserError
from understudy.policies.spec import Encoder, PolicySpec, encoded_size, space_to_json
from understudy.teachers import sb3_features as features
from understudy.teachers.sb3_ledger import Ledger, check_widths, widths
from understudy.teachers.sb3_spaces import space_from_data
from understudy.teachers.sb3_zip import SavedPolicy

Layers = list[dict[str, Tensor]]
_FIRST = ("lstm.weight_ih_l0", "body.0.weight", "head.weight")
"""The layer that sees the features: the first of these that there is."""


@dataclass
class Translation:
    """A policy in our terms: fields of a ``PolicySpec``, arrays by our names, and remarks for people."""

    saved: SavedPolicy
    ledger: Ledger
    observations: gym.Space[Any]
    actions: gym.Space[Any]
    encoders: tuple[Encoder, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The file, for errors."""
        return str(self.saved.path)

    def add_encoders(self, tensors: dict[str, Tensor]) -> None:
        """Translate the features extractor from its tensors."""
        self.encoders, arrays = features.read_encoders(self.saved, self.observations, tensors)
        self.arrays |= arrays

    def add_hidden(self, layers: Layers, name: str = "body") -> None:
        """Add hidden layers; a missing bias is found when the policy is built."""
        for index, layer in enumerate(layers):
            self.add_head(layer, f"{name}.{2 * index}")

    def add_head(self, layer: dict[str, Tensor], name: str = "head") -> None:
        """Add an output layer."""
        self.arrays |= {f"{name}.{part}": tensor for part, tensor in layer.items()}

    def spec(self) -> PolicySpec:
        """Build the description, checked against the sizes of the first and the last layer.

        Raises:
            UserError: The spaces do not fit the tensors.
        """
        spec = PolicySpec(
            observation_space=space_to_json(self.observations),
            action_space=space_to_json(self.actions),
            encoders=self.encoders,
            activation=features.activation(self.saved),
            **self.fields,
        )
        inputs = next(self.arrays[n].shape[1] for n in _FIRST if n in self.arrays)
        outputs = self.arrays["head.weight"].shape[0]
        if inputs != encoded_size(spec) or outputs != sum(spec.distribution.sizes) * spec.quantiles:
            raise UserError(
                f"{self.where}: the network has {inputs} inputs and {outputs} outputs (size mismatch), which does not "
                f"fit {self.observations} and {self.actions}"
            )
        return spec


def translate(saved: SavedPolicy) -> Translation:
    """Translate a saved policy, accounting for each of its tensors.

    Raises:
        UserError: Something in it is unknown, missing or left over.
    """
    features.check_kwargs(saved)
    out = Translation(
        saved,
        Ledger(saved.tensors, str(saved.path)),
        space_from_data(saved.data.get("observation_space"), f"the observation space of {saved.path}"),
        space_from_data(saved.data.get("action_space"), f"the action space of {saved.path}"),
    )
    layouts = {"actor_critic": _actor_critic, "q": _q, "quantile": _quantile, "td3": _td3, "sac": _sac, "ars": _ars}
    layouts[saved.kind](out)
    return out


def _actor_critic(out: Translation) -> None:
    """A2C, PPO, TRPO, MaskablePPO, RecurrentPPO."""
    ledger, saved = out.ledger, out.saved
    shared = ledger.take_prefix("features_extractor.")
    own = ledger.take_prefix("pi_features_extractor.") or shared
    critic = ledger.take_prefix("vf_features_extractor.") or own
    out.add_encoders(own)
    lstm = ledger.take_prefix("lstm_actor.")
    out.arrays |= {f"lstm.{name}": tensor for name, tensor in lstm.items()}
    if ".recurrent." in saved.module:
        out.fields |= _lstm_fields(out, lstm)

    first = ledger.take_mlp("mlp_extractor.shared_net")
    hidden = first + ledger.take_mlp("mlp_extractor.policy_net")
    value = first + ledger.take_mlp("mlp_extractor.value_net")
    defaults = [()] if features.extractor(saved) == "NatureCNN" else [(64, 64)]
    for layers, asked in zip((hidden, value), features.net_arch(saved, "vf"), strict=True):
        check_widths(widths(layers), asked, defaults, out.where)
    out.add_hidden(hidden)
    out.fields["hidden"] = widths(hidden)
    _actor_critic_head(out, ledger.take_linear("action_net"))
    _value(out, value, ledger.take_linear("value_net"), features.same_tensors(own, critic))
    ledger.finish()
    if ".maskable." in saved.module:
        out.notes.append("MaskablePPO: acts without an action mask here, as every action were allowed")


def _lstm_fields(out: Translation, lstm: dict[str, Tensor]) -> dict[str, Any]:
    layers = sum(name.startswith("weight_ih_l") for name in lstm)
    names = {f"{part}_l{i}" for i in range(layers) for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    if set(lstm) != names or layers != out.saved.kwargs.get("n_lstm_layers", 1):
        raise UserError(f"{out.where}: the tensors of the actor's LSTM are not those of {layers} plain layers")
    return {"lstm": int(lstm["weight_hh_l0"].shape[1]), "lstm_layers": layers}


def _value(out: Translation, layers: Layers, head: dict[str, Tensor], same_features: bool) -> None:
    """Keep the value function where it sees the same features as the actor."""
    own_lstm = bool(out.ledger.take_prefix("lstm_critic."))
    own_layer = bool(out.ledger.take_prefix("critic."))
    if not same_features or own_lstm or own_layer:
        part = "features extractor" if not same_features else "LSTM" if own_lstm else "input layer"
        out.notes.append(f"the value function is left out: it has a {part} of its own")
        return
    out.fields["value_hidden"] = widths(layers)
    out.add_hidden(layers, "value_body")
    out.add_head(head, "value_head")


def _actor_critic_head(out: Translation, head: dict[str, Tensor]) -> None:
    if isinstance(out.actions, gym.spaces.Box):
        log_std, kwargs = out.ledger.take("log_std"), out.saved.kwargs
        squash = bool(kwargs.get("squash_output")) and log_std.ndim == 2
        out.fields |= {"family": "squashed_gaussian" if squash else "gaussian", "unit_actions": squash}
        out.fields["std"] = "gsde" if log_std.ndim == 2 else "constant"
        out.arrays["log_std"] = _gsde(log_std, len(head["weight"]), kwargs) if log_std.ndim == 2 else log_std
    elif isinstance(out.actions, gym.spaces.MultiBinary):
        out.fields["family"] = "multi_categorical"
        if ".maskable." not in out.saved.module:  # MaskablePPO has two logits for each bit already
            head = {name: _paired(tensor) for name, tensor in head.items()}
    else:
        out.fields["family"] = "categorical" if isinstance(out.actions, gym.spaces.Discrete) else "multi_categorical"
    out.add_head(head)


def _paired(rows: Tensor) -> Tensor:
    """Rows that give Bernoulli logits l -> rows that give pairs (0, l): the same probabilities, l > 0 is still "on"."""
    return torch.stack((torch.zeros_like(rows), rows), dim=1).flatten(0, 1)


def _gsde(log_std: Tensor, actions: int, kwargs: dict[str, Any]) -> Tensor:
    """[latent, A] (or [latent, 1] without ``full_std``) -> [latent, A] log standard deviations of the noise matrix."""
    if kwargs.get("use_expln"):
        # exp below zero, log1p + 1 above (Raffin 2021); the logarithm of that is what an exp gives back.
        above = torch.log1p(log_std.clamp_min(0) + 1e-6) + 1.0
        log_std = torch.where(log_std > 0, above.log(), log_std)
    return log_std.expand(-1, actions).contiguous()


def _q(out: Translation) -> None:
    """DQN."""
    _q_values(out, "q_net.q_net", "q_net.", "q_net_target.", 1)


def _quantile(out: Translation) -> None:
    """QR-DQN."""
    quantiles = int(out.saved.kwargs.get("n_quantiles", 200))
    _q_values(out, "quantile_net.quantile_net", "quantile_net.", "quantile_net_target.", quantiles)


def _q_values(out: Translation, name: str, prefix: str, target: str, quantiles: int) -> None:
    out.add_encoders(out.ledger.take_prefix(f"{prefix}features_extractor."))
    layers = out.ledger.take_mlp(name)
    if not layers:
        raise UserError(f"{out.where}: the tensors {name}.* are missing; is the file complete?")
    default: tuple[int, ...] = () if features.extractor(out.saved) == "NatureCNN" else (64, 64)
    check_widths(widths(layers[:-1]), out.saved.kwargs.get("net_arch"), [default], out.where)
    out.fields |= {"family": "q_values", "hidden": widths(layers[:-1]), "quantiles": quantiles}
    out.add_hidden(layers[:-1])
    out.add_head(layers[-1])
    out.ledger.finish(target)


def _td3(out: Translation) -> None:
    """TD3 and DDPG."""
    out.add_encoders(out.ledger.take_prefix("actor.features_extractor."))
    layers = out.ledger.take_mlp("actor.mu")
    if not layers:
        raise UserError(f"{out.where}: the tensors actor.mu.* are missing; is the file complete?")
    # Old versions had no hidden layers after a CNN.
    defaults = [(256, 256), ()] if features.extractor(out.saved) == "NatureCNN" else [(400, 300)]
    check_widths(widths(layers[:-1]), features.net_arch(out.saved, "qf")[0], defaults, out.where)
    out.fields |= {"family": "deterministic", "hidden": widths(layers[:-1]), "head_activation": "tanh"}
    out.add_hidden(layers[:-1])
    out.add_head(layers[-1])
    out.ledger.finish("actor_target.", "critic.", "critic_target.")


def _sac(out: Translation) -> None:
    """SAC and TQC, with and without gSDE."""
    ledger, kwargs = out.ledger, out.saved.kwargs
    out.add_encoders(ledger.take_prefix("actor.features_extractor."))
    hidden = ledger.take_mlp("actor.latent_pi")
    defaults = [(256, 256), ()] if features.extractor(out.saved) == "NatureCNN" else [(256, 256)]
    check_widths(widths(hidden), features.net_arch(out.saved, "qf")[0], defaults, out.where)
    clipped = "actor.mu.0.weight" in ledger
    head = ledger.take_linear("actor.mu.0" if clipped else "actor.mu")
    out.fields |= {"family": "squashed_gaussian", "hidden": widths(hidden)}
    out.add_hidden(hidden)
    out.add_head(head)
    if "actor.log_std" in ledger:
        clip = float(kwargs.get("clip_mean", 2.0)) if clipped else 0.0
        out.fields |= {"std": "gsde", "mean_clip": clip}
        out.arrays["log_std"] = _gsde(ledger.take("actor.log_std"), len(head["weight"]), kwargs)
    else:
        out.fields["std"] = "state"
        out.add_head(ledger.take_linear("actor.log_std"), "log_std_head")
    ledger.finish("critic.", "critic_target.")


def _ars(out: Translation) -> None:
    """ARS: a linear or MLP policy without a distribution; layers may have no bias."""
    ledger, kwargs = out.ledger, out.saved.kwargs
    out.add_encoders({})
    linear = out.saved.policy_class == "ARSLinearPolicy"
    layers = [ledger.take_linear("action_net")] if "action_net.weight" in ledger else ledger.take_mlp("action_net")
    if not layers:
        raise UserError(f"{out.where}: the tensors action_net.* are missing; is the file complete?")
    check_widths(widths(layers[:-1]), kwargs.get("net_arch"), [() if linear else (64, 64)], out.where)
    bias = bool(kwargs.get("with_bias", not linear))
    if not bias:  # our hidden layers have one: zeros are the same
        layers[:-1] = [{"bias": torch.zeros(len(layer["weight"])), **layer} for layer in layers[:-1]]
    out.fields |= {"hidden": widths(layers[:-1]), "head_bias": bias}
    if isinstance(out.actions, gym.spaces.Box):
        squash = bool(kwargs.get("squash_output", not linear))
        out.fields |= {"family": "deterministic", "unit_actions": squash}
        out.fields["head_activation"] = "tanh" if squash else "identity"
    else:
        out.fields["family"] = "q_values"
        out.notes.append("ARS: the scores of actions are neither logits nor values; only their order has a meaning")
    out.add_hidden(layers[:-1])
    out.add_head(layers[-1])
    ledger.finish()
