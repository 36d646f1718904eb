"""A3C as its first public PyTorch programs do it: one game and one network call for every step of every process.

The peer of the preset ``a3c``, written anew from a description: four 3x3 convolutions of stride 2 with ELU (32
channels), an LSTM of 256, heads for the value and six logits, on one 42x42 picture that is centred by running
statistics; rollouts of 20 steps, generalised advantages with lambda 1, a summed loss with 0.5 of the value's half
square and 0.01 of the entropy, norms clipped at 50, Adam (1e-4) whose moments all processes share, no locks (Mnih 2016,
algorithm S3). A graph of 20 steps is built by 20 network calls on one picture each while acting, and gone through
backwards once.

The emulator is ours (``ale_py.vector_env`` with one game), so that only the programs are compared.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

STEPS, GAMMA, ENTROPY, MAX_NORM, LR = 20, 0.99, 0.01, 50.0, 1e-4
ENV = {"id": "ALE/Pong-v5", "wrappers": [{"type": "atari", "screen_size": 42, "stack": 1}]}


class Net(nn.Module):
    """Pictures [B, 1, 42, 42] and a memory -> value [B, 1], logits [B, actions], memory."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (1, 32, 32, 32):
            layers += [nn.Conv2d(inputs, 32, 3, stride=2, padding=1), nn.ELU()]
        self.convolutions = nn.Sequential(*layers)
        self.memory = nn.LSTMCell(32 * 3 * 3, 256)
        self.value, self.logits = nn.Linear(256, 1), nn.Linear(256, actions)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Look once."""
        h, c = self.memory(self.convolutions(x).flatten(1), state)
        return self.value(h), self.logits(h), (h, c)


class SharedAdam:
    """Adam over parameters in shared memory, with moments and a count that all processes share."""

    def __init__(self, shared: Net) -> None:
        self.parameters = list(shared.parameters())
        self.first, self.second = ([torch.zeros_like(p).share_memory_() for p in self.parameters] for _ in range(2))
        self.count = torch.zeros(()).share_memory_()

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        """Apply the gradients of some process."""
        self.count += 1
        count = float(self.count)
        scale = (1 - 0.999**count) ** 0.5
        for p, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
            m.lerp_(g, 0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            p.addcdiv_(m, v.sqrt().div_(scale).add_(1e-8), value=-LR / (1 - 0.9**count))


class _Centred:
    """Pictures minus the running mean, over the running deviation, of this process."""

    def __init__(self) -> None:
        self._mean = self._square = 0.0
        self._count = 0

    def __call__(self, obs: Any) -> Tensor:
        picture = torch.from_numpy(obs).float().div_(255)
        self._count += 1
        self._mean = 0.9999 * self._mean + 1e-4 * float(picture.mean())
        self._square = 0.9999 * self._square + 1e-4 * float(picture.std())
        correction = 1 - 0.9999**self._count
        return (picture - self._mean / correction) / (self._square / correction + 1e-8)


def _first_state() -> tuple[Tensor, Tensor]:
    return torch.zeros(1, 256), torch.zeros(1, 256)


def _work(rank: int, shared: Net, adam: SharedAdam, steps: Tensor, goal: int, barrier: Any) -> None:
    """Play and learn until all processes together made ``goal`` steps after the barrier."""
    import numpy as np

    from understudy.data import EnvSpec
    from understudy.envs.make import make

    torch.set_num_threads(1)
    torch.manual_seed(rank)
    env = make(EnvSpec(ENV["id"], {}, tuple(ENV["wrappers"])), 1)
    local, centred = Net(int(env.action_space.n)), _Centred()  # type: ignore[attr-defined]
    parameters = list(local.parameters())
    picture, state = centred(env.reset([rank])), _first_state()
    warm = False
    while True:
        local.load_state_dict(shared.state_dict())
        state = state[0].detach(), state[1].detach()
        values, log_probs, entropies, rewards = [], [], [], []
        done = False
        for _ in range(STEPS):
            value, logits, state = local(picture, state)
            log_p = logits.log_softmax(-1)
            action = log_p.detach().exp().multinomial(1)
            values.append(value)
            log_probs.append(log_p.gather(1, action))
            entropies.append(-(log_p.exp() * log_p).sum())
            found = env.step(np.array([int(action)]))
            rewards.append(max(min(float(found.reward[0]), 1.0), -1.0))
            picture, done = centred(found.obs), bool(found.terminated[0] or found.truncated[0])
            if done:
                state = _first_state()
                break
        with torch.no_grad():
            after = torch.zeros(1, 1) if done else local(picture, state)[0]
        target, following, advantage = after, after, torch.zeros(1, 1)
        policy_loss, value_loss = torch.zeros(1, 1), torch.zeros(1, 1)
        for value, log_prob, entropy, reward in zip(
            values[::-1], log_probs[::-1], entropies[::-1], rewards[::-1], strict=True
        ):
            target = reward + GAMMA * target
            value_loss = value_loss + 0.5 * (target - value) ** 2
            advantage = advantage * GAMMA + reward + GAMMA * following - value.detach()
            following = value.detach()
            policy_loss = policy_loss - log_prob * advantage - ENTROPY * entropy
        local.zero_grad()
        (policy_loss + 0.5 * value_loss).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        adam.step([p.grad for p in parameters if p.grad is not None])
        if not warm:
            warm = True
            barrier.wait()
            barrier.wait()
        else:
            steps[rank] += len(rewards)
        if int(steps.sum()) >= goal:
            return


def measure(processes: int, goal: int) -> dict[str, float]:
    """Return agent steps per second of ``processes`` together, learning included, each after its first update."""
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    shared = Net(6)
    shared.share_memory()
    adam, steps = SharedAdam(shared), torch.zeros(processes, dtype=torch.int64).share_memory_()
    barrier = context.Barrier(processes + 1)
    arguments = [(rank, shared, adam, steps, goal, barrier) for rank in range(processes)]
    workers = [context.Process(target=_work, args=each, daemon=True) for each in arguments]
    for worker in workers:
        worker.start()
    barrier.wait(300)
    begin = time.perf_counter()
    barrier.wait(300)
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - begin
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a process of the A3C baseline failed")
    return {"rate": int(steps.sum()) / seconds, "seconds": seconds, "env_steps": float(steps.sum())}
