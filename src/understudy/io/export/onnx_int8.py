"""ONNX in int8: onnxruntime's static quantisation, its linear layers fitted to what the layers below now say."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.data import Array
from understudy.errors import UserError
from understudy.io.export.fitting import LEAST, LIMIT, energy_of, refit, round_in_turn
from understudy.io.export.formats import describe
from understudy.io.export.graph import Graph
from understudy.io.export.onnx_file import packages, stamped
from understudy.io.export.states import States
from understudy.policies.policy import Policy

MARGIN = 4.0
"""Activations have room for numbers this many times larger than those that were seen."""
_BATCH = 64
"""States per calibration step."""
_HEADS = ("/head/", "/log_std_head/")


def int8_model(policy: Policy, data: bytes, states: States) -> bytes:
    """Quantise a float32 model: weights of linear layers and convolutions to int8.

    The last layer stays float32, and so does the first one of several where it reads numbers that are not normalised.

    Static quantisation in QDQ form (onnxruntime's documentation, "Quantize ONNX models"), a scale for each output
    channel of a weight; scales of activations from the student's own states. Activations take 16 bits, as in the C
    export: with 8 a student of the zoo's DQN for LunarLander acts otherwise in 18 % of the states, with 16 in 2 %, and
    at batch 1 neither is faster; with 8 the policy of ``ppo-pong`` earns 17.1, with 16 20.6 as in float32.
    Normalisation, activation functions and the scaling of actions stay float32.

    Raises:
        UserError: onnxruntime cannot quantise the model.
    """
    onnx, _ = packages()
    graph = Graph(policy).eval()
    nodes = onnx.load_from_string(data).graph.node
    layers = [node.name for node in nodes if node.op_type in ("Gemm", "MatMul", "Conv")]
    heads = [layer for layer in layers if any(name in layer for name in _HEADS)]
    kept = heads if len(layers) > len(heads) else []
    if not policy.spec.normalized and len(layers) - len(heads) > 1:
        kept = [layers[0], *heads]  # its inputs have ranges of their own, and onnxruntime has one for all of them
    quantised = _quantise(data, _feeds(graph, states), kept)
    model = onnx.load_from_string(quantised)
    _widen(model)
    if len(states) >= LEAST:
        _fit_layers(data, model, list(_feeds(graph, states)))
    text = describe(policy, "onnx", "int8", graph.keys, inputs=graph.input_names)
    return stamped(model.SerializeToString(), text)


def _quantise(data: bytes, feeds: Iterator[dict[str, Array]], kept: list[str]) -> bytes:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(data)
        try:
            quantize_static(
                str(source), str(target), _Reader(feeds), quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Gemm", "MatMul", "Conv"], per_channel=True, weight_type=QuantType.QInt8,
                activation_type=QuantType.QInt16, nodes_to_exclude=kept,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": True, "QuantizeBias": False},
            )  # fmt: skip
        except Exception as error:  # its exceptions share no class of their own
            raise UserError(f"onnxruntime cannot quantise this student: {str(error)[:200]}") from error
        return target.read_bytes()


def _widen(model: Any) -> None:
    """Multiply the scales of activations, whose zero is 0, by ``MARGIN``: what was not seen is not clipped."""
    onnx, _ = packages()
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            _replace(tensor, onnx.numpy_helper.to_array(tensor) * np.float32(MARGIN))


def _fit_layers(data: bytes, model: Any, feeds: list[dict[str, Array]]) -> None:
    """Fit linear layers, in their order, to what the float32 ones say in the student's states; see ``c.compensate``."""
    onnx, _ = packages()
    original = onnx.load_from_string(data)
    initial = {tensor.name: tensor for tensor in model.graph.initializer}
    before = {node.name: node for node in original.graph.node}
    scaled = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for node in [node for node in model.graph.node if node.op_type == "Gemm" and len(node.input) == 3]:
        packed = scaled.get(node.input[1])
        names = [packed.input[0], packed.input[1]] if packed else [node.input[1]]
        if any(name not in initial for name in (*names, node.input[2])):
            continue
        exact = next(t for t in original.graph.initializer if t.name == before[node.name].input[1])
        weight = onnx.numpy_helper.to_array(exact).T.astype(np.float64)  # [in, out]
        if len(weight) > LIMIT:
            continue
        x, wanted = _tensor(model, node.input[0], feeds), _tensor(original, before[node.name].input[0], feeds)
        target = wanted @ weight
        weight = weight + refit(x, target - x @ weight)
        if packed:
            rounded, step = round_in_turn(weight, energy_of(x))
            _replace(initial[names[0]], rounded.T.astype(np.int8))
            _replace(initial[names[1]], step.astype(np.float32))
            weight = rounded * step
        else:
            _replace(initial[names[0]], weight.T.astype(np.float32))
        bias = onnx.numpy_helper.to_array(initial[node.input[2]])
        _replace(initial[node.input[2]], (bias + (target - x @ weight).mean(axis=0)).astype(np.float32))


def _tensor(model: Any, name: str, feeds: list[dict[str, Array]]) -> Array:
    """[N, F] float64, an inner tensor of a model for all inputs."""
    onnx, onnxruntime = packages()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: Array = np.concatenate([session.run([name], feed)[0] for feed in feeds]).astype(np.float64)
    return found


def _replace(tensor: Any, values: Array) -> None:
    onnx, _ = packages()
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def _feeds(graph: Graph, states: States) -> Iterator[dict[str, Array]]:
    """Batches of inputs; with memory one state after another, since h is an input."""
    names = [key or graph.input_names[0] for key in graph.keys]
    if not graph.spec.lstm:
        for begin in range(0, len(states), _BATCH):
            rows = slice(begin, begin + _BATCH)
            yield {n: graph.cast(states.obs[k][rows], k) for n, k in zip(names, graph.keys, strict=True)}
        return
    shape = graph.spec.lstm_layers, 1, graph.spec.lstm
    memory = [np.zeros(shape, np.float32) for _ in graph.memory]
    for i in range(len(states)):
        if states.start[i]:
            memory = [np.zeros_like(part) for part in memory]
        inputs = {n: graph.cast(states.obs[k][i : i + 1], k) for n, k in zip(names, graph.keys, strict=True)}
        yield {**inputs, **dict(zip(graph.memory, memory, strict=True))}
        with torch.no_grad():
            out = graph(*(torch.as_tensor(a) for a in (*inputs.values(), *memory)))
        memory = [part.numpy() for part in out[-len(memory) :]]


class _Reader:
    """What onnxruntime calls a calibration data reader."""

    def __init__(self, feeds: Iterator[dict[str, Array]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, Array] | None:
        """Return the next inputs, None at the end."""
        return next(self._feeds, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the advice that quantisation logs (to optimise the model first, which changes nothing here)."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
