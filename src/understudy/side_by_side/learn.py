"""Trains several behaviours of a scene side by side, and judges them together."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import yaml

from understudy.config import plain
from understudy.envs.unity.companions import load_companion
from understudy.envs.unity.hub import Hub
from understudy.envs.unity.options import UnityOptions
from understudy.errors import Interrupted, UserError, tell
from understudy.evaluation.evaluate import Evaluation
from understudy.execution.processes import kill
from understudy.io.log import as_json
from understudy.io.run_folder import in_use
from understudy.policies.files import write_atomic
from understudy.side_by_side.child import ENDINGS, Task
from understudy.side_by_side.judge import judge
from understudy.side_by_side.parts import Part, Plan, write_index

Tell = Callable[[str, dict[str, Any]], None]
"""Told the behaviour and the metrics of each of its rounds."""
_LEAVE_SECONDS = 60.0
"""What runs have to save what there is when another one fails, or Ctrl-C is pressed."""


@dataclass
class Learnt:
    """How one behaviour's run ended."""

    policy: Path
    stopped: str
    env_steps: int
    updates: int
    seconds: dict[str, float]
    restarts: int
    lost_episodes: int
    judged: Evaluation | None = None
    """By its final policy, among the final policies of the others."""


def train_side_by_side(plan: Plan, tell: Tell | None = None) -> dict[str, Learnt]:
    """Train every behaviour in a process of its own, all in the same players.

    Raises:
        UserError: One of them failed in a way that the user can mend; the others saved what they had.
        Interrupted: Ctrl-C; all saved what they had.
    """
    with in_use(plan.folder):
        return _train(plan, tell or (lambda name, metrics: None))


def _train(plan: Plan, tell: Tell) -> dict[str, Learnt]:
    begin, folder = time.perf_counter(), plan.folder
    write_index(folder, {part.name: part.folder for part in plan.parts})
    described = {"behaviours": {p.name: {"settings": plain(p.settings), "seeds": list(p.seeds)} for p in plan.parts}}
    write_atomic(folder / "config.yaml", yaml.safe_dump(described, sort_keys=False).encode())
    found = _Runs(plan, tell).finish()
    policies = {name: str(one.policy) for name, one in found.items()}
    for part in plan.parts:
        if part.seeds:
            found[part.name].judged = judge(part.spec, part.name, policies, len(part.seeds), part.seeds[0])
    write_atomic(folder / "summary.json", json.dumps(as_json(_summary(found, begin)), indent=2).encode())
    return found


def _summary(found: Mapping[str, Learnt], begin: float) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name, one in found.items():
        told = {"stopped": one.stopped, "env_steps": one.env_steps, "updates": one.updates, "seconds": one.seconds}
        told |= {"restarts": one.restarts, "lost_episodes": one.lost_episodes}
        if one.judged is not None:
            told |= {"score": one.judged.mean, "interval": list(one.judged.mean_interval)}
            told |= {"mean_length": one.judged.mean_length, "returns": one.judged.returns.tolist()}
        summary[name] = told
    return {"behaviours": summary, "seconds": time.perf_counter() - begin}


class _Runs:
    """The processes, from their start to their end."""

    def __init__(self, plan: Plan, tell: Tell) -> None:
        self._plan, self._tell = plan, tell
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._controls: dict[str, Connection] = {}
        self._found: dict[str, Learnt] = {}
        self._key = secrets.token_bytes(32)
        options = UnityOptions.read(plan.parts[0].spec)
        companions = {name: load_companion(str(path)) for name, path in options.companions.items()}
        self._hub = Hub(options, [part.name for part in plan.parts], plan.players, companions, self._key)

    def finish(self) -> dict[str, Learnt]:
        """Run all of them to their ends."""
        try:
            for part in self._plan.parts:
                self._start(part)
            while len(self._found) < len(self._plan.parts):
                self._listen()
        except KeyboardInterrupt:
            self._break_off()
            raise Interrupted(f"interrupted; go on with: {self._way_on}") from None
        finally:
            self._close()
        return {part.name: self._found[part.name] for part in self._plan.parts}

    @property
    def _way_on(self) -> str:
        return f"understudy train --resume {shlex.quote(str(self._plan.folder))}"

    def _start(self, part: Part) -> None:
        ours, theirs = Pipe()
        # Ctrl-C goes to everybody in a terminal: whoever has only begun to start must not die of it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
        try:
            self._processes[part.name] = subprocess.Popen(
                [sys.executable, "-m", "understudy.side_by_side.child", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._controls[part.name] = ours
        resume = self._plan.resume and (part.folder / "state.safetensors").exists()
        ours.send(Task(self._hub.address, self._key, part.settings, part.folder, part.look, resume))

    def _listen(self) -> None:
        """Take in what the processes say."""
        names = {control: name for name, control in self._controls.items() if name not in self._found}
        for control in wait(list(names)):
            assert isinstance(control, Connection)
            name = names[control]
            try:
                kind, told = control.recv()
            except (EOFError, OSError):
                code = self._processes[name].wait()
                kind, told = "mistake", f"its process ended (exit code {code})"
            if kind == "round":
                self._tell(name, told)
            elif kind == "done":
                self._settle(name, told)
            elif kind == "interrupted":
                raise KeyboardInterrupt
            else:
                self._break_off()
                if kind == "crash":
                    tell(told)
                    told = "its run failed by a mistake of ours, see above"
                raise UserError(f"{name}: {told}; the others saved what they had: {self._way_on}")

    def _settle(self, name: str, told: Mapping[str, Any]) -> None:
        """Let the policy of a run that is over act on for its agents."""
        part = next(part for part in self._plan.parts if part.name == name)
        policy = part.folder / "last.safetensors"
        self._found[name] = Learnt(policy, **told)
        self._hub.retire(name, load_companion(str(policy)))

    def _break_off(self) -> None:
        """Let runs that go on save what there is."""
        deadline = time.perf_counter() + _LEAVE_SECONDS
        running = {n: p for n, p in self._processes.items() if p.poll() is None and n not in self._found}
        for process in running.values():
            process.send_signal(signal.SIGINT)
        while running and time.perf_counter() < deadline:
            for name in list(running):
                control = self._controls[name]
                try:
                    if control.poll(0.1) and control.recv()[0] != "round":
                        running.pop(name)
                except (EOFError, OSError):
                    running.pop(name)

    def _close(self) -> None:
        self._hub.close()
        for name, process in self._processes.items():
            self._controls[name].close()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                kill(process)
