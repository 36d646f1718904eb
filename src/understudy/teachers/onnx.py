"""Teachers in ONNX files, run by onnxruntime (the extra ``onnx``).

A file may describe itself: the metadata entry ``understudy`` is JSON with any of ``observation_space`` and
``action_space`` (as ``space_to_json`` writes them), ``output`` (see ``opaque.OUTPUTS``), ``algorithm`` and ``env``.
What the caller says comes first.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.data import Array, EnvSpec, Observation
from understudy.errors import UserError, missing_extra
from understudy.policies.spaces import space_from_json
from understudy.teachers.exported import ExportedPolicy, Facts
from understudy.teachers.exported_onnx import OnnxEngine
from understudy.teachers.exported_unity import UnityEngine, published
from understudy.teachers.opaque import OUTPUTS, Asked, OpaqueTeacher

METADATA = "understudy"
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class OnnxTeacher(OpaqueTeacher):
    """An ONNX graph with one input (or one per observation key), asked on the CPU.

    Of several outputs, those with the name of their meaning count (``action``, ``logits``, ``q_values``; ``mean`` and
    ``log_std`` of a Gaussian, whose mean is the action if nobody says that it is one), else the first (two for a
    Gaussian).

    Raises:
        UserError: onnxruntime is not installed, the file is damaged, or its inputs do not fit the observations.
    """

    def __init__(self, path: Path, asked: Asked, session: Any) -> None:
        self._session = session
        facts = _metadata(self._session, path)
        asked = replace(
            asked,
            env=asked.env or facts.get("env"),
            observation_space=asked.observation_space or facts.get("observation_space"),
            action_space=asked.action_space or facts.get("action_space"),
            output=asked.output or facts.get("output"),
        )
        self._path = path
        self._inputs = {node.name: node for node in self._session.get_inputs()}
        super().__init__(str(path), str(facts.get("algorithm", "ONNX")), asked)
        self._outputs = self._select([node.name for node in self._session.get_outputs()])

    @property
    def parameters_count(self) -> int:
        """How many weights the graph holds; 0 without the package ``onnx``."""
        try:
            import onnx
        except ImportError:
            return 0
        graph = onnx.load(str(self._path)).graph
        return sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)

    def _select(self, names: list[str]) -> list[str]:
        if self._output == "gaussian" and {"mean", "log_std"} <= set(names):
            return ["mean", "log_std"]
        known = [name for name in names if name in (*OUTPUTS, "actions")]
        known = known or [name for name in names if name == "mean"]
        return [next((name for name in known if name == self._output), known[0])] if known else names[:2]

    def _ask(self, obs: Observation) -> list[Array]:
        feeds = self._feeds(obs)
        count = len(next(iter(feeds.values())))
        step = self._fixed_batch() or count
        if count % step:
            raise UserError(f"{self._path} takes batches of {step} only: export it with a dynamic batch axis")
        chunks = [
            self._run({name: array[begin : begin + step] for name, array in feeds.items()})
            for begin in range(0, count, step)
        ]
        return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]

    def _run(self, feeds: dict[str, Array]) -> list[Array]:
        try:
            return [np.asarray(answer) for answer in self._session.run(self._outputs, feeds)]
        except Exception as error:  # onnxruntime's exceptions share no class of their own
            raise UserError(f"the teacher {self._path} cannot be asked: {str(error)[:200]}") from error

    def _fixed_batch(self) -> int:
        """Return the batch size that the graph insists on, 0 if it takes any."""
        sizes = [node.shape[0] for node in self._inputs.values() if node.shape]
        return max((size for size in sizes if isinstance(size, int)), default=0)

    def _feeds(self, obs: Observation) -> dict[str, Array]:
        if not isinstance(obs, dict):
            if len(self._inputs) != 1:
                raise UserError(f"{self._path} has {len(self._inputs)} inputs; one observation array fits one input")
            obs = {next(iter(self._inputs)): obs}
        missing = set(self._inputs) - set(obs)
        if missing:
            raise UserError(f"{self._path} wants inputs {', '.join(sorted(missing))}, which observations have not")
        return {name: self._fed(obs[name], node) for name, node in self._inputs.items()}

    def _fed(self, array: Array, node: Any) -> Array:
        """Return the array in the type of the input."""
        wanted = np.dtype(self._type(node))
        if array.dtype.kind == "f" and wanted.kind != "f":
            raise UserError(
                f"{self._path}: input {node.name!r} takes {wanted}, which would cut off the digits of observations "
                f"({array.dtype}): export it with an input of float32"
            )
        return array.astype(wanted, copy=False)

    def _type(self, node: Any) -> type[Any]:
        if node.type not in _TYPES:
            raise UserError(f"{self._path}: input {node.name!r} is of type {node.type}, which is not supported")
        return _TYPES[node.type]


def load_onnx(path: Path, asked: Asked) -> OpaqueTeacher:
    """Load an ONNX file, foreign or written by ``understudy export``.

    Raises:
        UserError: As ``OnnxTeacher`` and ``ExportedPolicy``.
    """
    session = _open(path)
    text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    exported = Facts.parse(text, str(path)) if text else None
    if exported is not None and exported.file == "unity":
        exported = published(exported)
        return ExportedPolicy(exported, UnityEngine(session, exported, text, str(path)), str(path), asked)
    if exported is not None:
        return ExportedPolicy(exported, OnnxEngine(session, exported, str(path)), str(path), asked)
    return OnnxTeacher(path, asked, session)


def _open(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise missing_extra("onnxruntime", "onnx", f"reading {path}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    onnxruntime.set_seed(0)  # what a session draws is the same in every process
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no class of their own
        raise UserError(f"{path} is not a readable ONNX file ({str(error)[:160]})") from error


def _metadata(session: Any, path: Path) -> dict[str, Any]:
    """Return what the file says about itself, with spaces and environment built."""
    text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if text is None:
        return {}
    try:
        facts = dict(json.loads(text))
        for key in ("observation_space", "action_space"):
            if facts.get(key) is not None:
                facts[key] = space_from_json(facts[key])
        facts["env"] = EnvSpec.from_json(facts["env"]) if facts.get("env") else None
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError) as error:
        raise UserError(f"{path}: its metadata entry {METADATA!r} cannot be read ({error})") from error
    return facts
