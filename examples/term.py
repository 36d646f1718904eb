"""An algorithm of one's own, PPO with one more term in its objective: ``python examples/term.py``.

The term asks that the policy be smooth: what it does in a state and in the same state with some noise should differ
little. The objective is a weighted sum, so an algorithm is often a term, a weight and a preset.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

import understudy
from understudy.learning.teaching import Teaching
from understudy.objectives.batch import Batch
from understudy.objectives.objective import Term, mean_valid
from understudy.objectives.schedules import Constant, Weight
from understudy.policies.policy import Output, Policy
from understudy.settings.train import ObjectiveSettings


@dataclass(frozen=True)
class Smoothness:
    """Mean over valid states of |f(s) - f(s + noise)|^2, f the parameters of the policy's distribution."""

    std: float = 0.05
    weight: Weight = Constant(0.1)
    name: str = "smoothness"
    rng: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def loss(self, policy: Policy, batch: Batch, output: Output) -> Tensor:
        """Return a scalar; ``output`` is what the policy said about the batch, computed once for all terms."""
        near = batch.obs + self.std * torch.randn(batch.obs.shape, generator=self.rng)
        said = policy(near).params
        return mean_valid((output.params - said).square().sum(dim=-1), batch.valid)


class WithSmoothness(Teaching):
    """What is added to the terms of reinforcement learning: no teachers, one term."""

    def __init__(self, weight: float) -> None:
        super().__init__(guides=[])
        self.weight = weight

    def terms(self, objective: ObjectiveSettings) -> list[Term]:
        """Return all terms of the objective."""
        return [*super().terms(objective), Smoothness(weight=Constant(self.weight))]


def main() -> None:
    """Train CartPole with the term and (all but) without it."""
    small = {"rollout": {"num_envs": 8, "steps": 64}, "update": {"epochs": 4, "minibatch": 128}}
    small |= {"stop": {"env_steps": 8192}, "evaluation": {"final": 10}}
    for weight in (1e-9, 0.3):
        rows: list[dict[str, float]] = []
        result = understudy.train(
            "CartPole-v1", "ppo", small, run=f"runs/example-term-{weight}", report=rows.append,
            teach=lambda policy, weight=weight: WithSmoothness(weight),
        )  # fmt: skip
        print(f"weight {weight:g}: return {result.score:.0f}, smoothness {rows[-1]['smoothness']:.4f}")


if __name__ == "__main__":
    main()
