"""ONNX in float32 (the extra ``onnx``); ``onnx_int8`` quantises what is made here."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from understudy.errors import missing_extra
from understudy.io.export.formats import describe
from understudy.io.export.graph import Graph
from understudy.policies.policy import Policy
from understudy.teachers.onnx import METADATA

OPSET = 17
"""Old enough for every runtime of the last years, new enough for all that our networks consist of."""


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
    memory = (*graph.memory, *(f"{name}_out" for name in graph.memory))  # an observation may be called c
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
