"""The settings of population based training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from understudy.config import doc
from understudy.errors import UserError


@dataclass(frozen=True)
class PopulationSettings:
    """Population based training of three numbers: teaching.weight, update.lr and objective.entropy_weight."""

    population: int = doc("members; 0: none, an ordinary run", 0, least=0)
    interval: int = doc("env steps of every member between two exploits, 0: a twentieth of stop.env_steps", 0, least=0)
    quantile: float = doc(
        "share of the population that is replaced, and share that it may be replaced by", 0.25, above=0, most=0.5
    )
    factor: float = doc("a perturbed number is multiplied or divided by it", 1.5, above=1, below=math.inf)
    resample: float = doc("probability that a number is drawn anew instead of perturbed", 0.1, least=0, most=1)
    weight: tuple[float, ...] = doc("bounds of lambda where it is drawn", (0.1, 2.0))
    lr: tuple[float, ...] = doc("likewise, of the learning rate", (1e-4, 2e-3))
    entropy_weight: tuple[float, ...] = doc("likewise, of the entropy bonus", (1e-3, 3e-2))
    concurrent: int = doc("members that learn at once, a process each; 0: as many as there are cores", 0, least=0)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Bounds of each number; drawn from uniformly in its logarithm."""
        return {name: (getattr(self, name)[0], getattr(self, name)[1]) for name in ("weight", "lr", "entropy_weight")}

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            UserError: Naming the fields.
        """
        if not self.population:
            return
        if self.population < 2:
            raise UserError(f"pbt.population is {self.population}; a population has at least 2 members")
        for name in ("weight", "lr", "entropy_weight"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not 0 < bounds[0] < bounds[1] < math.inf:
                told = " ".join(f"{bound:g}" for bound in bounds)
                raise UserError(f"pbt.{name} is {told}; it must be two rising numbers above 0")
