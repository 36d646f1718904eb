"""TorchScript: one archive that PyTorch runs in Python and C++, the description inside."""

from __future__ import annotations

import io
import warnings

import torch

from understudy.io.export.formats import describe
from understudy.io.export.graph import Graph
from understudy.policies.policy import Policy
from understudy.teachers.exported_torchscript import DESCRIPTION


def archive(policy: Policy) -> bytes:
    """Return the policy as a traced module; its inputs are positional, in the order of the description's ``inputs``."""
    graph = Graph(policy).eval()
    text = describe(policy, "torchscript", "float32", graph.keys, inputs=graph.input_names, outputs=graph.output_names)
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, and that TorchScript is deprecated (PyTorch 2.14)
        traced = torch.jit.trace(graph, graph.example(), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, file, _extra_files={DESCRIPTION: text})
    return file.getvalue()
