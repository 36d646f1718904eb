"""From a plan to a C99 source and its header."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from understudy import __version__
from understudy.data import Array
from understudy.io.export.c.kernels import write_kernels
from understudy.io.export.c.layers import Convolution, Input, Matrix
from understudy.io.export.c.plan import Plan
from understudy.io.export.c.selftest import write_selftest
from understudy.io.export.c.text import header, number, signature, wrapped
from understudy.io.export.states import Answers, States

MARK = "understudy-export "
"""What the comment with the description starts with."""
_LARGEST = 3.4028235e38


@dataclass(frozen=True)
class Sources:
    """The text of ``STEM.c`` and ``STEM.h``."""

    source: str
    header: str
    stem: str


class _Writer:
    """Collects constants, statements, the functions they call and the sizes of the buffers."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan, self.name = plan, name
        self.constants: list[str] = []
        self.lines: list[str] = []
        self.used: list[str] = []
        self.sizes = {"a": 1, "b": 1, "q": 0, "m": 0, "n": 0}

    def call(self, kernel: str, *arguments: object) -> None:
        self.used.append(kernel)
        self.lines.append(f"{kernel}({', '.join(map(str, arguments))});")

    def constant(self, label: str, values: Array, kind: str = "float") -> str:
        label = f"{self.name}_{label}"
        flat = np.asarray(values).ravel()
        shown = [number(v) for v in flat] if kind == "float" else [str(int(v)) for v in flat]
        self.constants.append(f"static const {kind} {label}[{len(flat)}] = {{\n{wrapped(shown)}\n}};\n")
        return label

    def room(self, buffer: str, size: int) -> None:
        self.sizes[buffer] = max(self.sizes[buffer], size)

    def matrix(self, label: str, layer: Matrix, source: str, target: str, quantised: bool = False) -> None:
        """Write target = activation(source @ weight + bias); ``quantised`` sources are int16 already."""
        inputs, outputs = layer.weight.shape
        bias = self.constant(f"{label}_bias", layer.bias)
        if layer.integers is None:
            self.call("dense", source, inputs, self.constant(f"{label}_weight", layer.weight), bias, outputs, target)
        else:
            integers = layer.integers
            if not quantised:
                self.quantise(label, source, inputs, integers.inverse, integers.limit)
                source = "s->q"
            weight = self.constant(f"{label}_weight", integers.weight.T, "int8_t")
            scale = self.constant(f"{label}_scale", integers.scale)
            self.call("dense_i8", source, inputs, weight, scale, bias, outputs, target)
        if layer.activation != "identity":
            self.call(f"{layer.activation}_all", target, outputs)

    def quantise(self, label: str, source: str, count: int, inverse: Array, limit: int) -> None:
        self.room("q", count)
        if len(set(inverse.tolist())) == 1:
            self.call("quantise", source, count, number(inverse[0]), number(limit), "s->q")
        else:
            self.call("quantise_each", source, count, self.constant(f"{label}_inverse", inverse), number(limit), "s->q")

    def input(self, index: int, one: Input) -> None:
        """Bring one observation key to its place among the features."""
        target = f"s->a + {one.offset}" if one.offset else "s->a"
        source = one.argument
        if one.one_hot:
            offset = one.offset
            for part, size in enumerate(one.one_hot):
                shift = f" - {one.start[part]}" if one.start[part] else ""
                self.call("one_hot", f"{source}[{part}]{shift}", size, f"s->a + {offset}")
                offset += size
            return
        if one.convolutions:
            self.picture(index, one, source, target)
            return
        if one.normalizer is not None:
            mean, rest, inverse, bound = one.normalizer
            more = [] if rest is None else [self.constant(f"rest{index}", rest)]
            names = [self.constant(f"mean{index}", mean), *more, self.constant(f"inverse_std{index}", inverse)]
            self.call("normalise_fine" if more else "normalise", source, one.size, *names, number(bound), target)
        else:
            self.call("copy", source, one.size, target)
        if one.scale != 1.0:
            self.call("scale_all", target, one.size, number(one.scale))

    def picture(self, index: int, one: Input, source: str, target: str) -> None:
        read = one.ctype
        if self.plan.int8 and read == "float":
            first = one.convolutions[0].integers
            assert first is not None
            self.quantise(f"picture{index}", source, one.size, first.inverse, first.limit)
            source, read = "s->q", "int16_t"
        strides = one.strides
        for depth, layer in enumerate(one.convolutions):
            goal = "s->n" if source == "s->m" else "s->m"
            last = depth == len(one.convolutions) - 1
            straight = last and one.linear is None and not self.plan.int8
            goal = target if straight else goal
            if not straight:
                self.room(goal[-1], layer.out_size)
            self.convolution(f"picture{index}_{depth}", layer, source, read, strides, goal)
            channels = layer.weight.shape[3]
            strides = layer.out_width * channels, channels, 1
            source, read = goal, "int16_t" if self.plan.int8 else "float"
        if one.linear is not None:
            self.matrix(f"picture{index}", one.linear, source, target, quantised=True)
        elif self.plan.int8:
            end = one.convolutions[-1]
            self.call("dequantise", source, end.out_size, number(end.next_range / end.next_limit), target)

    def convolution(
        self, label: str, layer: Convolution, source: str, read: str, strides: tuple[int, int, int], target: str
    ) -> None:
        kernel, _, channels, outputs = layer.weight.shape
        numbers = (
            layer.height, layer.width, channels, *strides, kernel, layer.stride, layer.pad, layer.out_height,
            layer.out_width, outputs,
        )  # fmt: skip
        shape = f"{self.name}_{label}_shape"
        self.constants.append(f"static const shape_of_convolution {shape} = {{{', '.join(map(str, numbers))}}};\n")
        bias = self.constant(f"{label}_bias", layer.bias)
        short = {"uint8_t": "u8", "float": "f32", "int16_t": "i16"}[read]
        if layer.integers is None:
            weight = self.constant(f"{label}_weight", layer.weight)
            self.call(f"convolve_{short}_{layer.activation}", source, f"&{shape}", weight, bias, target)
            return
        weight = self.constant(f"{label}_weight", layer.integers.weight.T, "int8_t")  # [O, K * K * C]
        scale = self.constant(f"{label}_scale", layer.integers.scale)
        inverse = number(layer.next_limit / layer.next_range)
        self.call(
            f"convolve_{short}_i8_{layer.activation}", source, f"&{shape}", weight, scale, bias, inverse,
            number(layer.next_limit), target,
        )  # fmt: skip

    def network(self) -> None:
        """Write everything from the features to ``s->params``."""
        plan = self.plan
        self.room("a", plan.features)
        for layer, matrix in enumerate(plan.lstm):
            if plan.past:
                self.gated(layer)
                continue
            inputs = matrix.weight.shape[0] - plan.width
            self.room("a", inputs + plan.width)
            self.room("b", 4 * plan.width)
            offset = layer * plan.width
            h, c = (f"s->{name} + {offset}" if offset else f"s->{name}" for name in "hc")
            self.call("copy", h, plan.width, f"s->a + {inputs}")
            self.matrix(f"lstm{layer}", matrix, "s->a", "s->b")
            self.call("lstm_cell", "s->b", plan.width, h, c)
            self.call("copy", h, plan.width, "s->a")
        source = "a"
        for depth, matrix in enumerate(plan.body):
            target = "b" if source == "a" else "a"
            self.room(target, matrix.weight.shape[1])
            self.matrix(f"hidden{depth}", matrix, f"s->{source}", f"s->{target}")
            source = target
        if plan.support:
            self.expected(f"s->{source}", "b" if source == "a" else "a")
        else:
            self.matrix("head", plan.head, f"s->{source}", "s->params")
        if plan.policy.spec.mask:
            mask = next(one.argument for one in plan.inputs if one.key == plan.policy.spec.mask)
            self.call("forbid", mask, plan.policy.family.param_size, "s->params")

    def gated(self, layer: int) -> None:
        """Write a layer of a GRU, from ``s->a`` to ``s->a``."""
        plan, width = self.plan, self.plan.width
        self.room("a", max(plan.lstm[layer].weight.shape[0], width))
        self.room("b", 6 * width)
        h = f"s->h + {layer * width}" if layer else "s->h"
        self.matrix(f"gru{layer}", plan.lstm[layer], "s->a", "s->b")
        self.matrix(f"gru{layer}_past", plan.past[layer], h, f"s->b + {3 * width}")
        self.call("gru_cell", "s->b", width, h)
        self.call("copy", h, width, "s->a")

    def expected(self, source: str, buffer: str) -> None:
        """Write the means of distributions of returns, logit after logit of every action (C51)."""
        spec, outputs = self.plan.policy.spec, self.plan.head.weight.shape[1]
        self.room(buffer, outputs)
        self.matrix("head", self.plan.head, source, f"s->{buffer}")
        low, high = self.plan.support
        step = (high - low) / (spec.quantiles - 1)
        numbers = spec.quantiles, outputs // spec.quantiles, number(low), number(step)
        self.call("expected_value", f"s->{buffer}", *numbers, "s->params")

    def tail(self) -> None:
        """Write how parameters become an action."""
        plan, family = self.plan, self.plan.policy.family
        if not family.continuous:
            starts, offset = np.ravel(plan.action.start), 0
            self.used.append("argmax")
            for part, size in enumerate(family.sizes):
                start = f" + {starts[part]}" if starts[part] else ""
                self.lines.append(f"action[{part}] = argmax(s->params + {offset}, {size}){start};")
                offset += size
            return
        spec, actions = plan.policy.spec, family.sizes[0]
        low, high = (np.clip(bound, -_LARGEST, _LARGEST) for bound in (plan.action.low, plan.action.high))
        names = {"low": self.constant("low", low), "high": self.constant("high", high)}
        if spec.unit_actions:
            names["center"] = self.constant("center", plan.action.center)
            names["half"] = self.constant("half", plan.action.half)
        body = ["float v = s->params[k];"]
        if spec.mean_clip:
            limit = number(spec.mean_clip)
            body.append(f"v = v > {limit} ? {limit} : v < -{limit} ? -{limit} : v;")
        if spec.head_activation == "tanh":
            self.used.append("tanh_of")
            body.append("v = tanh_of(v);")
        scaled = f"{names['center']}[k] + {names['half']}[k] * {{}}" if spec.unit_actions else "{}"
        if family.name == "squashed_gaussian":
            self.used.append("tanh_of")
            body += ["s->params[k] = v;", f"v = {scaled.format('tanh_of(v)')};"]
        else:
            body += (
                [f"v = {scaled.format('v')};", "s->params[k] = v;"]
                if family.name == "gaussian"
                else [f"v = {scaled.format('v')};"]
            )
        body.append(
            f"action[k] = v > {names['high']}[k] ? {names['high']}[k] : v < {names['low']}[k] ? {names['low']}[k] : v;"
        )
        if family.name == "deterministic":
            body.append("s->params[k] = action[k];")
        self.lines += [f"for (k = 0; k < {actions}; k++) {{", *(f"    {line}" for line in body), "}"]
        self.deviations(actions)

    def deviations(self, actions: int) -> None:
        """Write log standard deviations, in the units of the means."""
        plan, family = self.plan, self.plan.policy.family
        if family.name == "deterministic":
            return
        shift = np.log(plan.action.half) if plan.policy.spec.unit_actions and family.name == "gaussian" else 0.0
        if plan.log_std is not None:
            label = self.constant("log_std", plan.log_std + shift)
            self.lines.append(f"for (k = 0; k < {actions}; k++) s->params[{actions} + k] = {label}[k];")
        elif family.name == "squashed_gaussian":
            self.lines.append(
                f"for (k = {actions}; k < {2 * actions}; k++) "
                "s->params[k] = s->params[k] < -20.0f ? -20.0f : s->params[k] > 2.0f ? 2.0f : s->params[k];"
            )
        elif np.any(shift):
            label = self.constant("log_half", np.asarray(shift))
            self.lines.append(f"for (k = 0; k < {actions}; k++) s->params[{actions} + k] += {label}[k];")


def write_sources(plan: Plan, name: str, description: str, states: States, answers: Answers, stem: str = "") -> Sources:
    """Write the source with a self-test of recorded states, and the header.

    Args:
        plan: What is computed.
        name: Prefix of everything that is visible.
        description: JSON for the comment at the top.
        states: For the self-test.
        answers: What the source should say there (see ``simulate``).
        stem: Name of the files without suffix; by default the prefix.
    """
    stem = stem or name
    writer = _Writer(plan, name)
    for index, one in enumerate(plan.inputs):
        if one.encoded:
            writer.input(index, one)
    writer.network()
    writer.tail()
    loops = "    int k;\n" if plan.policy.family.continuous else ""
    memory = plan.width * len(plan.lstm)
    parts = "s->h[k]" if plan.past else "s->h[k] = s->c[k]"
    reset = f"    int k;\n    for (k = 0; k < {memory}; k++)\n        {parts} = 0.0f;\n"
    source = (
        f"/* {MARK}{description.replace('/', chr(92) + '/')} */\n"
        f"/* Written by Understudy {__version__}; C99, no library is needed. {stem}.h says how to call it. */\n"
        f'#include "{stem}.h"\n\n'
        "typedef char float_has_32_bits[sizeof(float) == 4 && sizeof(int) >= 4 ? 1 : -1];\n\n"
        + "".join(_types_first(writer))
        + f"\nvoid {name}_reset({name}_state *s)\n{{\n{reset if plan.lstm else '    (void)s;' + chr(10)}}}\n"
        + f"\nvoid {name}_act({signature(plan, name)})\n{{\n{loops}"
        + "".join(f"    {line}\n" for line in writer.lines)
        + "}\n"
        + write_selftest(plan, name, states, answers)
    )
    return Sources(source, header(plan, name, writer.sizes), stem)


def _types_first(writer: _Writer) -> list[str]:
    """Kernels (and the type that constants need), then constants."""
    return [write_kernels(writer.used), "\n", *writer.constants]
