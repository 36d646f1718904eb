"""One run of one side in a process of its own: ``python benchmarks/sides.py JOB``, a JSON object; see ``fresh.py``.

Ours runs through ``understudy.train`` as a user calls it; Stable-Baselines3 is told the same settings, translated by
``sb3_models.py``. Everything that has to be imported is imported before a clock starts (``watch.warm``); workers of
either side import in their own time.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any

import torch

from fresh import RESULT
from side_ours import ours
from side_sb3 import sb3
from side_start import start


def a3c(job: dict[str, Any]) -> dict[str, Any]:
    """Run the A3C baseline."""
    from a3c_baseline import measure

    return dict(measure(job["processes"], job["env_steps"]))


SIDES = {"ours": ours, "sb3": sb3, "a3c": a3c, "start": start}


def main() -> None:
    """Run the job of the command line."""
    warnings.filterwarnings("ignore")
    job = json.loads(sys.argv[1])
    torch.set_num_threads(int(job.get("threads", 1)))
    load = os.getloadavg()[0]
    found = SIDES[job["side"]](job)
    print(RESULT + json.dumps(found | {"load": load}), flush=True)


if __name__ == "__main__":
    main()
