"""Time one distillation step of a tanh MLP under saturating mse: the kernel against autograd with fused Adam.

OMP_NUM_THREADS=1 python benchmarks/mlp_kernel.py
"""

import time
from collections.abc import Callable

import gymnasium as gym
import torch

from understudy.objectives.distances import Distance
from understudy.objectives.mlp_kernel import MLPKernel
from understudy.policies.policy import Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec

FEATURES, ACTIONS, LR = 17, 6, 1e-3


def microseconds(functions: dict[str, Callable[[], None]], calls: int, rounds: int = 15) -> dict[str, float]:
    """Best mean CPU time over ``calls``, the candidates taking turns so that a busy machine slows all alike."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.thread_time()
            for _ in range(calls):
                function()
            best[name] = min(best[name], (time.thread_time() - start) / calls * 1e6)
    return best


def candidates(width: int, batch: int) -> dict[str, Callable[[], None]]:
    """One training step of each path, on the same kind of student and data."""
    obs, actions = gym.spaces.Box(-1, 1, (FEATURES,)), gym.spaces.Box(-1, 1, (ACTIONS,))
    spec = PolicySpec(space_to_json(obs), space_to_json(actions), "deterministic", hidden=(width, width))
    distance, x, params = Distance("mse"), torch.randn(batch, FEATURES), torch.randn(batch, ACTIONS)
    fast, slow = Policy(spec), Policy(spec)
    family = slow.family
    kernel = MLPKernel.from_policy(fast, family, distance, batch)
    target = kernel.prepare(params)
    optimizer = torch.optim.Adam(slow.parameters(), lr=LR, fused=True)

    def autograd() -> None:
        loss = distance(family, params, family, slow(x).params).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {"kernel": lambda: kernel.step(x, target, LR), "autograd": autograd}


def main() -> None:
    """Print microseconds per step."""
    torch.set_num_threads(1)
    print("hidden    batch   kernel autograd  ratio   (microseconds per step, 1 thread)")
    for width in (64, 128):
        for batch in (256, 512, 1024, 4096):
            best = microseconds(candidates(width, batch), calls=20 if batch < 4096 else 5)
            kernel, autograd = best["kernel"], best["autograd"]
            print(f"{width}x{width:<5} {batch:6d} {kernel:8.0f} {autograd:8.0f} {autograd / kernel:6.2f}")


if __name__ == "__main__":
    main()
