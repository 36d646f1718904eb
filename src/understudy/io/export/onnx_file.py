"""ONNX: float32, and int8 by onnxruntime's static quantisation (the extra ``onnx``)."""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.data import Array
from understudy.errors import UserError, missing_extra
from understudy.io.export.formats import describe
from understudy.io.export.graph import Graph
from understudy.io.export.states import States
from understudy.policies.policy import Policy
from understudy.teachers.onnx import METADATA

OPSET = 17
"""Old enough for every runtime of the last years, new enough for all that our networks consist of."""
_BATCH = 64
"""States per calibration step."""


def packages() -> tuple[Any, Any]:
    """Return the modules onnx and onnxruntime.

    Raises:
        UserError: One is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise missing_extra(error.name or "onnx", "onnx", "export to ONNX") from None
    return onnx, onnxruntime


def float_model(policy: Policy) -> bytes:
    """Return the policy as ONNX, float32, with its description inside.

    Raises:
        UserError: A package is missing.
    """
    graph = Graph(policy).eval()
    data = trace(graph, graph.example(), graph.input_names, graph.output_names, axes(graph), OPSET)
    return stamped(data, describe(policy, "onnx", "float32", graph.keys, inputs=graph.input_names))


def axes(graph: Graph) -> dict[str, dict[int, str]]:
    """Return the axis of the batch of every input and output."""
    memory = ("h", "c", "h_out", "c_out")
    return {n: {1 if n in memory else 0: "batch"} for n in (*graph.input_names, *graph.output_names)}


def trace(
    module: torch.nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: dict[str, dict[int, str]],
    opset: int,
) -> bytes:
    """Trace a module by PyTorch's older exporter: it keeps names, writes one file and needs no other package.

    The newer one splits weights off into a second file, takes seconds and cannot write the opset that Unity reads.
    """
    packages()
    file: Any = io.BytesIO()  # the annotation knows paths only
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, example, file, input_names=list(inputs), output_names=list(outputs),
            dynamic_axes=dynamic, opset_version=opset, dynamo=False,
        )  # fmt: skip
    data: bytes = file.getvalue()
    return data


def stamped(data: bytes, description: str) -> bytes:
    """Put a description into a model's metadata, and check the model."""
    onnx, _ = packages()
    model = onnx.load_from_string(data)
    del model.metadata_props[:]
    model.producer_name = "understudy"
    model.metadata_props.add(key=METADATA, value=description)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def int8_model(policy: Policy, data: bytes, states: States) -> bytes:
    """Quantise a float32 model: weights and activations of linear layers and convolutions to int8.

    Static quantisation in QDQ form (onnxruntime's documentation, "Quantize ONNX models"), a scale for each output
    channel of a weight; scales of activations from the student's own states. Normalisation, activations functions and
    the scaling of actions stay float32.

    Raises:
        UserError: onnxruntime cannot quantise the model.
    """
    packages()
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    graph = Graph(policy).eval()
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(data)
        try:
            quantize_static(
                str(source), str(target), _Reader(_feeds(graph, states)), quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Gemm", "MatMul", "Conv"], per_channel=True, weight_type=QuantType.QInt8,
                activation_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
            )  # fmt: skip
        except Exception as error:  # its exceptions share no class of their own
            raise UserError(f"onnxruntime cannot quantise this student: {str(error)[:200]}") from error
        quantised = target.read_bytes()
    return stamped(quantised, describe(policy, "onnx", "int8", graph.keys, inputs=graph.input_names))


def _feeds(graph: Graph, states: States) -> Iterator[dict[str, Array]]:
    """Batches of inputs; with memory one state after another, since h and c are inputs."""
    names = [key or graph.input_names[0] for key in graph.keys]
    if not graph.spec.lstm:
        for begin in range(0, len(states), _BATCH):
            rows = slice(begin, begin + _BATCH)
            yield {n: graph.cast(states.obs[k][rows], k) for n, k in zip(names, graph.keys, strict=True)}
        return
    shape = graph.spec.lstm_layers, 1, graph.spec.lstm
    h, c = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for i in range(len(states)):
        if states.start[i]:
            h, c = np.zeros_like(h), np.zeros_like(c)
        inputs = {n: graph.cast(states.obs[k][i : i + 1], k) for n, k in zip(names, graph.keys, strict=True)}
        yield {**inputs, "h": h, "c": c}
        with torch.no_grad():
            out = graph(*(torch.as_tensor(a) for a in inputs.values()), torch.as_tensor(h), torch.as_tensor(c))
        h, c = out[-2].numpy(), out[-1].numpy()


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
