"""ONNX as Unity ML-Agents 2 and 3 read it: the names of its trainer's exports, actions in unit actions.

Pictures come in as ML-Agents gives them, [N, C, H, W] floats from 0 to 1. Checked in onnxruntime, not in Unity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from understudy.envs.unity.options import UnityOptions, is_unity
from understudy.envs.unity.probe import look
from understudy.envs.unity.roster import Behavior
from understudy.errors import UserError
from understudy.io.export.formats import describe
from understudy.io.export.graph import Graph
from understudy.io.export.onnx_file import stamped, trace
from understudy.policies.policy import Policy
from understudy.policies.spaces import has_channels_last, is_image, members

OPSET = 9
"""What ML-Agents itself exports."""
_VERSION = 3.0
"""ML-Agents' number of this layout (MLAgents2_0)."""
_FORBIDDEN = 1e8


class UnityGraph(nn.Module):
    """A ``Graph`` with the inputs and outputs that ML-Agents expects.

    Where a scene's continuous actions were cut into choices, the first branches of the policy, they come out as numbers
    again: the file has the actions of the scene.
    """

    def __init__(self, policy: Policy, sensors: Sequence[str], cut: tuple[int, int] = (0, 0)) -> None:
        """Wrap a policy.

        Args:
            policy: Whose actions come out.
            sensors: Observation keys in the order in which the scene shows them.
            cut: Continuous actions that are branches of the policy, and the choices of each.
        """
        super().__init__()
        self.cut, self.bins = cut
        self.graph = Graph(policy)
        self.spec, self.family = policy.spec, policy.family
        self.keys = [key for key in self.graph.keys if key in {e.key for e in policy.spec.encoders}]
        self.numbers = [sensors.index(key) for key in self.keys]
        self.pictures = {e.key for e in policy.spec.encoders if e.learned or is_image(self.graph.spaces[e.key])}
        self.parts = len(self.graph.memory)
        self.memory = self.parts * policy.spec.lstm_layers * policy.spec.lstm

    @property
    def input_names(self) -> list[str]:
        """``obs_0`` and so on, numbered as the scene's sensors."""
        names = [f"obs_{number}" for number in self.numbers]
        names += [] if self.family.continuous else ["action_masks"]
        return names + (["recurrent_in"] if self.memory else [])

    @property
    def output_names(self) -> list[str]:
        """In ML-Agents' words."""
        kinds = ["continuous"] if self.family.continuous else ["continuous", "discrete"] if self.cut else ["discrete"]
        names = ["version_number", "memory_size"]
        for kind in kinds:
            names += [f"{kind}_actions", f"{kind}_action_output_shape", f"deterministic_{kind}_actions"]
        return [*names, *(["recurrent_out"] if self.memory else [])]

    @property
    def batched(self) -> list[str]:
        """The inputs and outputs whose first axis is the batch."""
        constant = ("version_number", "memory_size")
        names = [n for n in self.output_names if n not in constant and not n.endswith("shape")]
        return self.input_names + names

    def example(self) -> tuple[Tensor, ...]:
        """Return two rows of inputs of zeros."""
        zeros = []
        for key in self.keys:
            shape = self.graph.spaces[key].shape or ()
            if key in self.pictures and has_channels_last(self.graph.spaces[key]):  # type: ignore[arg-type]
                shape = (shape[2], *shape[:2])
            zeros.append(torch.zeros(2, *shape))
        masks = [] if self.family.continuous else [torch.ones(2, sum(self.family.sizes[self.cut :]))]
        return (*zeros, *masks, *([torch.zeros(2, 1, self.memory)] if self.memory else []))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs by position -> outputs by position."""
        graph = self.graph
        obs = {key: self.from_unity(key, x) for key, x in zip(self.keys, inputs, strict=False)}
        features = graph.encode(obs)
        state: tuple[Tensor, ...] = ()
        if self.memory:
            every = inputs[-1].reshape(-1, self.parts * self.spec.lstm_layers, self.spec.lstm).transpose(0, 1)
            layers = self.spec.lstm_layers
            parts = tuple(every[i * layers : (i + 1) * layers] for i in range(self.parts))
            features, after = graph.remember(features, parts)
            state = (torch.cat(after).transpose(0, 1).reshape(-1, 1, self.memory),)
        latent = graph.policy.body(features)
        mean, log_std = graph.mean(latent, obs), graph.log_std(latent, obs)
        version, size = torch.tensor([_VERSION]), torch.tensor([float(self.memory)])
        if self.family.continuous:
            drawn, sure = self.continuous(mean, log_std)
            shape = torch.tensor([float(self.family.sizes[0])])
            return version, size, drawn, shape, sure, *state
        masks, free = inputs[len(self.keys)], self.cut * self.bins
        drawn, sure = self.discrete(mean, torch.cat([torch.ones_like(mean[:, :free]), masks], dim=1) if free else masks)
        shape = torch.tensor([[float(n) for n in self.family.sizes[self.cut :]]])
        chosen = (drawn[:, self.cut :], shape, sure[:, self.cut :]) if self.cut else (drawn, shape, sure)
        numbers = (self.number(drawn), torch.tensor([float(self.cut)]), self.number(sure)) if self.cut else ()
        return version, size, *numbers, *chosen, *state

    def number(self, chosen: Tensor) -> Tensor:
        """[N, branches] choices -> [N, cut] the numbers that those of cut actions stand for, from -1 to 1."""
        return chosen[:, : self.cut].float() * (2.0 / (self.bins - 1)) - 1.0

    def from_unity(self, key: str, x: Tensor) -> Tensor:
        """Pictures from 0 to 1 with channels first -> the numbers and the layout of the space."""
        if key not in self.pictures:
            return x
        space = self.graph.spaces[key]
        x = x * 255.0 if np.dtype(space.dtype) == np.uint8 else x
        return x.permute(0, 2, 3, 1) if has_channels_last(space) else x  # type: ignore[arg-type]

    def continuous(self, mean: Tensor, log_std: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return a random and the deterministic action, both in unit actions within -1 and 1."""
        params, action = self.graph.act(mean, log_std)
        center, half = self.graph.bound("center"), self.graph.bound("half")
        sure = (action.flatten(1) - center) / half
        if self.family.name == "deterministic" or log_std is None:
            return sure, sure
        raw, spread = params[0], params[1]
        drawn = raw + spread.exp() * torch.randn_like(raw)
        unit = torch.tanh(drawn) if self.family.name == "squashed_gaussian" else (drawn - center) / half
        return unit.clamp(-1.0, 1.0), sure

    def discrete(self, logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Return random and likeliest actions [N, branches] among those that the masks (1 for allowed) leave."""
        logits = logits * masks - (1.0 - masks) * _FORBIDDEN
        if not self.family.stochastic:
            sure = self.choose(logits)
            return sure, sure
        noise = -torch.log(-torch.log(torch.rand_like(logits) * 0.999999 + 5e-7))
        return self.choose(logits + noise), self.choose(logits)

    def choose(self, logits: Tensor) -> Tensor:
        """[N, P] -> [N, branches] int64."""
        parts = torch.split(logits, list(self.family.sizes), dim=1)
        return torch.cat([part.argmax(dim=1, keepdim=True) for part in parts], dim=1)


def behavior_of(policy: Policy) -> Behavior | None:
    """Return what its scene shows, if that has to be asked: of several sensors, or of actions that were cut.

    Raises:
        UserError: The scene, which alone knows it, cannot be started.
    """
    env, several = policy.about.env, len(_sensors(policy)) > 1
    if env is None or not is_unity(env.id) or not (several or UnityOptions.read(env).bins):
        return None
    return look(env).behavior


def _sensors(policy: Policy) -> list[str]:
    """Return the observation keys but the mask; those of a space are sorted, whatever the scene's order is."""
    seen = {encoder.key for encoder in policy.spec.encoders}
    return [key for key in members(policy.observation_space) if key != policy.spec.mask or key in seen]


def unity_model(policy: Policy) -> bytes:
    """Return the policy as ONNX in ML-Agents' layout.

    Raises:
        UserError: A package is missing, or a scene that must be asked cannot be started or shows something else.
    """
    behavior, sensors, cut = behavior_of(policy), _sensors(policy), (0, 0)
    if behavior is not None:
        if behavior.actions.hybrid:
            cut = behavior.actions.continuous, behavior.actions.bins
        if len(sensors) > 1:
            shown = [sensor.key for sensor in behavior.sensors]
            missing = [key for key in sensors if key not in shown]
            if missing:
                raise UserError(f"the student sees {missing[0]!r}, but its scene shows {', '.join(shown)}")
            sensors = shown
    graph = UnityGraph(policy, sensors, cut).eval()
    axes = {name: {0: "batch"} for name in graph.batched}
    data = trace(graph, graph.example(), graph.input_names, graph.output_names, axes, OPSET)
    more = {"inputs": graph.input_names, "pictures": sorted(graph.pictures), "cut": list(cut)}
    text = describe(policy, "unity", "float32", graph.keys, **more)
    return stamped(data, text)
