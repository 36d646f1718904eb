"""States that a student visits: what exports are checked on and quantised by."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.data import Array, EnvSpec, map_obs
from understudy.envs.make import make
from understudy.envs.multitask import whole_tasks
from understudy.errors import UserError
from understudy.io.checkpoint import read_arrays
from understudy.policies import distributions
from understudy.policies.batching import batch_observation, in_layout
from understudy.policies.family import ActionMap
from understudy.policies.policy import Policy
from understudy.policies.spaces import members
from understudy.rollouts.episodes import Visit, run_episodes

STATES = 1000
"""States that are enough to see what a network of this kind does."""
_LIMIT = 64 << 20
"""Bytes of observations that are kept."""
_ENVS = 4
_STRIDE = 4
"""Of the states of a policy without memory every fourth is kept, or fewer until the end of an episode is among them."""
_LONGEST = 4000
"""Steps of an episode after which its end is not waited for."""


@dataclass(frozen=True)
class States:
    """Steps of several episodes, one episode after another.

    Attributes:
        obs: [N, ...] by key, ``""`` where observations are not a dict; only the keys that the policy reads.
        start: [N] bool, the first state of an episode (or of what is kept of it).
        source: Where they come from, for people.
        beginnings: Whether they were played and no episode came to its end.
    """

    obs: dict[str, Array]
    start: Array
    source: str
    beginnings: bool = False

    def __len__(self) -> int:
        return len(self.start)

    def whole(self) -> Any:
        """Return the observations as a policy takes them."""
        return self.obs[""] if list(self.obs) == [""] else self.obs

    def first(self, count: int) -> States:
        """Return the first ``count`` states."""
        return replace(self, obs={k: a[:count] for k, a in self.obs.items()}, start=self.start[:count])


class _Enough(Exception):  # noqa: N818 (nothing is wrong)
    """Ends the play when enough states are recorded."""


def record(policy: Policy, env: EnvSpec, count: int = STATES, seed: int = 0) -> States:
    """Play a policy, deterministically, and keep some of the states that it meets.

    Of a policy without memory they lie further apart the longer its episodes are, until one has ended.

    Args:
        policy: The student.
        env: Where it plays.
        count: States at most; fewer where they are large.
        seed: Of the first episode.

    Raises:
        UserError: The environment cannot be made, or does not fit the policy.
    """
    shapes = {key: tuple(space.shape or ()) for key, space in members(policy.observation_space).items()}
    size = sum(
        int(np.prod(s.shape or (1,))) * np.dtype(s.dtype).itemsize for s in members(policy.observation_space).values()
    )
    count = max(min(count, _LIMIT // max(size, 1)), 8)
    vector = make(env, whole_tasks(env, _ENVS))
    stride = 1 if policy.spec.lstm else _STRIDE
    steps: list[tuple[dict[str, Array], Array, Array]] = []
    found, ended = 0, False

    def keep(visit: Visit) -> None:
        nonlocal found, ended, stride
        again = visit.step == 0 if visit.starts is None else visit.step > 0 and bool(visit.starts.any())
        ended |= not visit.active.all() or (again and bool(steps))
        if visit.step % stride:
            return
        begins = np.full(len(visit.active), visit.step == 0) if visit.starts is None else np.array(visit.starts)
        obs = visit.obs if isinstance(visit.obs, dict) else {"": visit.obs}
        seen = {k: np.array(in_layout(obs[k], shapes[k])) for k in policy.spec.needed_keys}
        steps.append((seen, np.array(visit.active), begins))
        found += int(visit.active.sum())
        if found < count:
            return
        if ended or policy.spec.lstm or visit.step >= _LONGEST:
            raise _Enough
        stride *= 2
        del steps[1::2]
        found = sum(int(active.sum()) for _, active, _ in steps)

    try:
        run_episodes(policy, vector, range(seed, seed + max(count, _ENVS)), True, keep)
    except _Enough:
        pass
    finally:
        vector.close()
    seen = _in_order(steps, vector.num_envs, f"{env.id} with seeds from {seed}", not ended)
    return seen.first(count)


def _in_order(steps: list[tuple[dict[str, Array], Array, Array]], rows: int, source: str, beginnings: bool) -> States:
    """Bring steps of environments side by side into sequences one after another."""
    picked = [(i, row) for row in range(rows) for i, (_, active, _) in enumerate(steps) if active[row]]
    obs = {key: np.stack([steps[i][0][key][row] for i, row in picked]) for key in steps[0][0]}
    start = np.array([steps[i][2][row] for i, row in picked])
    return States(obs, start, source, beginnings)


def read_states(path: Path, policy: Policy, count: int = STATES) -> States:
    """Take states from a run's dataset (``RUN/data``), or from an ``.npz`` with one array per observation key.

    Without keys the array is called ``obs``. ``episode_start`` [N] or [N, 1] is read where it is there.

    Raises:
        UserError: Nothing there, or arrays that are not of the policy's observations: with both shapes.
    """
    columns = _columns(path)
    spaces, obs = members(policy.observation_space), {}
    for key in sorted(policy.spec.needed_keys):
        name = key or "obs"
        array = columns.get(f"obs:{key}", columns.get(name))
        wanted = tuple(spaces[key].shape or ())
        if array is None:
            raise UserError(
                f"{path} does not match the student: it has no array {name!r} (it has {', '.join(columns)})"
            )
        array = in_layout(array, wanted)
        if array.shape[1:] != wanted or array.dtype.kind not in "fiub":
            raise UserError(
                f"{path} does not match the student: {name!r} holds observations of shape {array.shape[1:]}, the "
                f"student sees {wanted}"
            )
        if not np.isfinite(array).all():
            raise UserError(f"{path}: {name!r} holds NaN or infinity")
        obs[key] = array
    lengths = {len(array) for array in obs.values()}
    if lengths == {0} or len(lengths) > 1:
        raise UserError(f"{path}: the arrays hold {' and '.join(map(str, sorted(lengths)))} states")
    size = lengths.pop()
    start = columns.get("episode_start", np.arange(size) == 0)
    if start.shape not in ((size,), (size, 1)) or start.dtype.kind not in "fiub":
        raise UserError(
            f"{path}: 'episode_start' holds {start.dtype} of shape {start.shape}, but there are {size} states: give "
            "one bool for each"
        )
    start = start.reshape(size).astype(bool)
    start[0] = True
    return States(obs, start, str(path)).first(count)


def _columns(path: Path) -> dict[str, Array]:
    if path.is_dir():
        files = sorted((path / "data").glob("*.safetensors")) or sorted(path.glob("*.safetensors"))
        if not files:
            raise UserError(f"{path} holds no dataset: give a run of  understudy distill  or an .npz")
        return read_arrays(files[-1])[0]
    if path.suffix != ".npz":
        raise UserError(f"{path} is no dataset: give the folder of a run, or an .npz with an array per observation key")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {str(error)[:120]}") from None


@dataclass(frozen=True)
class Answers:
    """What a policy says in N states.

    Attributes:
        params: [N, P] distribution parameters, in unit actions where continuous.
        action: [N, ...] deterministic actions in environment units.
    """

    params: Array
    action: Array


@torch.no_grad()
def ask(policy: Any, states: States) -> Answers:
    """Ask a native or an exported policy about states in their order, with its memory."""
    obs = states.whole()
    if policy.initial_state(1) is None:
        obs, _ = batch_observation(obs, policy.observation_space, states.obs)  # a picture may have channels elsewhere
        target, _ = policy.label(obs)
        params = target.params
    else:
        sequence = map_obs(lambda a: a[:, None], obs)
        target, _ = policy.label(sequence, policy.initial_state(1), states.start[:, None])
        params = target.params[:, 0]
    if isinstance(policy, Policy):
        mode = distributions.mode(policy.family, params).numpy()
        return Answers(params.numpy(), ActionMap(policy.action_space).to_env(mode))
    return Answers(params.numpy(), _actions(policy, states))


def _actions(policy: Any, states: States) -> Array:
    """[N, ...] deterministic actions that ``predict`` itself gives."""
    if policy.initial_state(1) is None:
        return np.asarray(policy.predict(states.whole(), deterministic=True)[0])
    actions, state = [], None
    for i in range(len(states)):
        one = map_obs(lambda a, i=i: a[i : i + 1], states.whole())
        action, state = policy.predict(one, state, states.start[i : i + 1], True)
        actions.append(action[0])
    return np.stack(actions)


__all__ = ["STATES", "Answers", "States", "ask", "read_states", "record"]
