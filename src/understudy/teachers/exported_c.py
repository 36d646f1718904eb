"""C sources that ``understudy export`` wrote, compiled into a temporary folder and called through ctypes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array
from understudy.errors import UserError
from understudy.policies.family import action_sizes
from understudy.teachers.exported import Engine, ExportedPolicy, Facts
from understudy.teachers.opaque import Asked

MARK = "/* understudy-export "
"""How a source of ours begins; the description follows, then the comment ends."""
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O3")
"""What exported sources compile with, without a warning."""
_SECONDS = 300
_TYPES: dict[str, type[Any]] = {"float": np.float32, "uint8_t": np.uint8, "int32_t": np.int32}


def compiler() -> str | None:
    """Return the C compiler: what the variable CC says, else cc, gcc or clang; None without one."""
    return next(
        (found for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name and (found := shutil.which(name))), None
    )


def compile_c(arguments: list[str], what: str) -> None:
    """Call the compiler.

    Raises:
        UserError: There is none, or it refuses.
    """
    program = compiler()
    if program is None:
        raise UserError(f"{what} needs a C compiler (cc, gcc or clang; CC names another): there is none here")
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{what}: the compiler {program} could not be run ({error})") from None
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:160])
        raise UserError(f"{what}: the compiler refuses: {first[:240]}")


def load_c(path: Path, asked: Asked) -> ExportedPolicy:
    """Compile and load a source; its code then runs in this process.

    Raises:
        UserError: It was not written by ``understudy export``, or cannot be compiled.
    """
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    head, _, _ = text.removeprefix(MARK).partition(" */")
    facts = Facts.parse(head, str(path)) if text.startswith(MARK) else None
    if facts is None:
        raise UserError(f"{path} is no C source of  understudy export STUDENT --format c")
    return ExportedPolicy(facts, CEngine(path, facts), str(path), asked)


class CEngine(Engine):
    """Calls the compiled source once for each observation.

    Raises:
        UserError: As ``compile_c``.
    """

    def __init__(self, path: Path, facts: Facts) -> None:
        name = facts.name
        if not name.isidentifier():
            raise UserError(f"{path}: its description names no function: export the student again")
        if '"' in str(path.resolve()):
            raise UserError(f"C cannot include {path.resolve()}: rename what has a quote in its name")
        with tempfile.TemporaryDirectory() as folder:
            wrapper = Path(folder) / "wrapper.c"
            wrapper.write_text(
                f'#include "{path.resolve()}"\nextern const unsigned long understudy_state_size;\n'
                f"const unsigned long understudy_state_size = sizeof({name}_state);\n",
                encoding="utf-8",
            )
            library = Path(folder) / "policy.so"
            compile_c([*FLAGS, "-shared", "-fPIC", "-o", str(library), str(wrapper)], str(path))
            self._library = ctypes.CDLL(str(library))
        self._size = ctypes.c_ulong.in_dll(self._library, "understudy_state_size").value
        self._act: Any = getattr(self._library, f"{name}_act")
        self._facts = facts
        self._types = [_TYPES.get(kind, np.float32) for kind in facts.types]
        sizes = action_sizes(facts.action_space)
        self._continuous = isinstance(facts.action_space, gym.spaces.Box)
        self._actions = sizes[0] if self._continuous else len(sizes)
        two = facts.family in ("gaussian", "squashed_gaussian")
        self._params = sum(sizes) * (2 if two else 1)
        memory = facts.memory[0] * facts.memory[1]
        self._places = [i * memory for i in range(len(facts.remembered))]
        self._size_of_part = memory
        self._offset = len(facts.remembered) * memory
        # As 8-byte numbers, so that the state is aligned for whatever stands in it.
        self._state = np.zeros(-(-self._size // 8), np.float64)
        self._floats = self._state.view(np.float32)

    def run(self, obs: dict[str, Array], memory: tuple[Array, Array] | None) -> dict[str, Array]:
        """See ``Engine.run``."""
        inputs = [
            np.ascontiguousarray(obs[key], kind).reshape(len(obs[key]), -1)
            for key, kind in zip(self._facts.keys, self._types, strict=True)
        ]
        count, size = len(inputs[0]), self._size_of_part
        action = np.zeros((count, self._actions), np.float32 if self._continuous else np.int32)
        params = np.zeros((count, self._params), np.float32)
        after = [np.array(part) for part in memory[: len(self._places)]] if memory is not None else []
        state = ctypes.c_void_p(self._state.ctypes.data)
        for row in range(count):
            for part, begin in zip(after, self._places, strict=False):
                self._floats[begin : begin + size] = part[:, row].ravel()
            places = [ctypes.c_void_p(array[row].ctypes.data) for array in inputs]
            self._act(state, *places, ctypes.c_void_p(action[row].ctypes.data))
            params[row] = self._floats[self._offset : self._offset + self._params]
            for part, begin in zip(after, self._places, strict=False):
                part[:, row] = self._floats[begin : begin + size].reshape(self._facts.memory)
        return self._named(params, action, after)

    def _named(self, params: Array, action: Array, after: list[Array]) -> dict[str, Array]:
        answers = dict(zip([f"{name}_out" for name in self._facts.remembered], after, strict=False))
        if not self._continuous and len(action[0]) == 1 and isinstance(self._facts.action_space, gym.spaces.Discrete):
            action = action[:, 0]
        answers["action"] = action if self._continuous else action.astype(np.int64)
        names = [name for name in self._facts.outputs if name not in ("action", "h_out", "c_out")]
        if names:
            answers |= dict(zip(names, np.split(params, len(names), axis=1), strict=True))
        return answers
