"""Which environments, columns of a rollout, each worker has."""

from __future__ import annotations

from understudy.envs.multitask import whole_tasks
from understudy.errors import UserError
from understudy.execution.base import Setup


def shares(total: int, workers: int) -> list[range]:
    """Split ``total`` columns over workers, sizes differing by one at most."""
    cuts = [total * i // workers for i in range(workers + 1)]
    return [range(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def columns_of(setup: Setup, num_workers: int) -> list[range]:
    """Return the environments of each worker; every worker has environments of all tasks.

    Raises:
        UserError: More workers than environments.
    """
    unit = whole_tasks(setup.env, 1)
    if not 1 <= num_workers <= len(setup.seeds) // unit:
        raise UserError(f"{num_workers} workers cannot share {len(setup.seeds)} environments: lower --num-workers")
    return [range(part.start * unit, part.stop * unit) for part in shares(len(setup.seeds) // unit, num_workers)]
