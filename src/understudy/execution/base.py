"""What an execution is asked to do: gather rollouts and run evaluation episodes. Who runs where is its own affair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from understudy.data import Array, EnvSpec, Rollout
from understudy.imports import unpacked
from understudy.policies.protocol import About
from understudy.policies.spec import PolicySpec
from understudy.rollouts.behaviour import Actor, Mixture
from understudy.rollouts.collect import Collected

if TYPE_CHECKING:
    from understudy.rollouts.episodes import Episodes

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Portable:
    """A policy as it travels to another process.

    Either native (``spec``, ``arrays`` and, where somebody asks for it there, ``about``), or where to load it from
    (``source``), or a Python object with its code (``code``), or several ``parts`` that act as one: an ensemble
    (``kind`` is ``distributions`` or ``losses``) or one for each task (``tasks``).
    """

    spec: PolicySpec | None = None
    arrays: Arrays | None = None
    about: About | None = None
    source: str | None = None
    load_kwargs: Mapping[str, Any] | None = None
    code: bytes | None = None
    kind: str = ""
    parts: tuple[Portable, ...] = ()

    def opened(self) -> Any:
        """Return the policy behind ``code`` or ``source``."""
        if self.code is not None:
            return unpacked(self.code)
        from understudy.teachers.load import load

        assert self.source is not None
        return load(self.source, **dict(self.load_kwargs or {}))


@dataclass(frozen=True)
class EvaluationJob:
    """Evaluation episodes of one policy: ``student``, ``teacher`` or ``random``.

    The student's weights are ``arrays``; in a worker, without them, those on the board.
    """

    who: str
    seeds: tuple[int, ...]
    arrays: Arrays | None = None
    deterministic: bool = True
    jump: int = 0
    """The teacher plays so many first steps of every episode of the student's."""


@dataclass(frozen=True)
class Faults:
    """What went wrong in the workers so far: replaced ones, and unfinished episodes that were lost with them."""

    restarts: int = 0
    lost_episodes: int = 0


@dataclass(frozen=True)
class Setup:
    """Everything a worker needs to build its environments and policies.

    Attributes:
        env: The environment.
        seeds: One seed per environment, over all workers.
        steps: T, the most steps of one rollout.
        student: The student's description; its arrays come with every command.
        teacher: The teacher, where it can travel; None where it cannot act in a worker.
        eval_envs: How many environments run evaluation episodes together, over all workers.
        traced: Whether rollouts have a trace, for learning from the student's own actions.
        replayed: Whether rollouts have a sequel, for learning from a replay.
        attempt: How many workers failed in this one's place before.
        judged: Seeds of evaluation episodes, which are never gathered from.
        half: Whether the student's convolutions are computed in bfloat16 where rollouts are gathered.
    """

    env: EnvSpec
    seeds: tuple[int, ...]
    steps: int
    student: PolicySpec
    teacher: Portable | None
    eval_envs: int = 8
    traced: bool = False
    replayed: bool = False
    attempt: int = 0
    judged: tuple[range, ...] = ()
    half: bool = False


class Execution(Protocol):
    """Begins and ends work; between the two calls the caller may learn."""

    def begin_collect(self, mixture: Mixture, student: Arrays | None, steps: int, restart: int | None = None) -> None:
        """Start to gather a rollout of ``steps`` steps; the arrays are taken before this returns.

        With ``restart``, every environment begins a new episode first, with the seeds of that number.
        """

    def end_collect(self) -> tuple[Rollout, Collected]:
        """Wait for the rollout [T, B]; it is valid until the next ``begin_collect``."""

    @property
    def faults(self) -> Faults:
        """What went wrong in workers so far."""

    def close(self) -> None:
        """End every process and free every environment; may be called twice."""


class EvaluatingExecution(Execution, Protocol):
    """An execution whose workers stop gathering between rollouts, and can run evaluation episodes then."""

    def evaluate(self, jobs: Sequence[EvaluationJob]) -> list[Episodes]:
        """Run evaluation episodes on environments of their own."""


def workers_alive(execution: Any) -> dict[str, int]:
    """Return how many worker processes live, as a metric; nothing where there are none that can be looked at."""
    processes = getattr(getattr(execution, "pool", None), "processes", None)
    return {} if processes is None else {"workers": sum(process.poll() is None for process in processes)}


def actor_of(policy: Portable, seed: int = 0, half: bool = False) -> Actor:
    """Build a policy that can act: in plain NumPy where its network allows, otherwise with PyTorch.

    With ``half``, a policy of ours convolves in bfloat16, where PyTorch does it.
    """
    from understudy.policies import arrays

    if policy.parts:
        from understudy.teachers.acting import EnsembleActor, TasksActor

        members = [actor_of(part, seed + i) for i, part in enumerate(policy.parts)]
        return TasksActor(members) if policy.kind == "tasks" else EnsembleActor(members, policy.kind, seed)
    if policy.spec is not None:
        assert policy.arrays is not None
        if arrays.supports(policy.spec):
            return arrays.ArrayPolicy(policy.spec, policy.arrays, seed)
        from understudy.policies.weights import build

        built = build(policy.spec, policy.arrays)
        if half:
            built.see_in_half()
        return built
    opened: Actor = policy.opened()
    return opened


def update_actor(actor: Actor, arrays: Arrays) -> None:
    """Give a student that acts its new weights."""
    from understudy.policies.arrays import ArrayPolicy

    if isinstance(actor, ArrayPolicy):
        actor.update(arrays)
        return
    import torch

    actor.load_state_dict({k: torch.as_tensor(v) for k, v in arrays.items()})  # type: ignore[attr-defined]
