"""The body of an A3C worker: ``python -m understudy.learning.gradient_worker``, see ``execution.worker``.

Copies the shared weights, acts with them, computes the gradient on its own rollout and applies it to the shared
weights, again and again (Mnih 2016, algorithm S3); see ``learning.shared_optimizer``.
"""

from __future__ import annotations

import contextlib
import mmap
import time
from multiprocessing.connection import Connection
from typing import Any

import torch

from understudy.execution.place import Place
from understudy.execution.station import Station
from understudy.execution.worker import run
from understudy.learning.actor_critic import ActorCritic
from understudy.learning.behaviours import STUDENT
from understudy.learning.shared_optimizer import SharedOptimizer
from understudy.policies.arrays import keeps
from understudy.policies.policy import Policy
from understudy.policies.tape import Tape
from understudy.policies.weights import named_arrays
from understudy.rollouts.buffers import rollout_views, views
from understudy.rollouts.collect import Collected, merge_collected
from understudy.settings import TrainSettings


def _serve(control: Connection, place: Place, block: mmap.mmap, closing: contextlib.ExitStack) -> None:
    torch.set_num_threads(1)
    settings: TrainSettings = place.extra.settings
    shared = views(place.shared, block)
    policy = Policy(place.setup.student)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    update = settings.update
    optimizer = SharedOptimizer(parameters, shared, place.number, update.optimizer, update.eps, update.decay)
    teaching = None if place.extra.lessons is None else place.extra.lessons(policy)
    learner = ActorCritic(policy, settings, len(place.columns), optimizer, teaching)
    scaler = learner.scaler
    beat = views(place.beats, block)["beats"][place.number]
    station = Station(place.setup, place.columns, place.eval_envs, beat=beat)
    # No update comes between acting and learning here, and all steps are learnt from at once, in their order.
    plain = update.epochs == 1 and update.minibatch == 0 and update.precision == "float32"
    station.tape = tape = Tape() if plain and keeps(policy.spec) else None
    rollout = rollout_views(place.rollouts[0], block)
    env_steps = shared["env_steps"]
    closing.callback(station.close)
    station.prepare()
    while True:
        _, steps, rollouts, restart = control.recv()
        found: list[Collected] = []
        if scaler is not None and (kept := shared["reward_scale"][place.number])[2]:  # before a resume or a failure
            scaler.moments = kept[:3]
        for _ in range(rollouts):
            optimizer.load()
            info = station.collect(STUDENT, named_arrays(policy), steps, rollout, restart)
            begin = time.perf_counter()
            if teaching is not None:
                teaching.note_score(float(shared["score"][0]))
            known = tape if tape is not None and tape.whole else None
            metrics: dict[str, Any] = learner.update(rollout, int(env_steps[:, 0].sum()), tape=known)
            if scaler is not None:
                shared["reward_scale"][place.number, :3] = scaler.moments
            info.learn_seconds = time.perf_counter() - begin
            env_steps[place.number, 0] += info.env_steps
            info.metrics = metrics
            restart = None
            found.append(info)
            if shared["ended"][0] or env_steps[:, 0].sum() >= settings.stop.env_steps:
                break
        answer = merge_collected(found)
        for name in ("env_seconds", "act_seconds", "learn_seconds"):
            setattr(answer, name, sum(getattr(info, name) for info in found))
        told = [info.metrics for info in found]
        # A teacher whose weight has ended tells no distance.
        seen = {name: [metrics[name] for metrics in told if name in metrics] for metrics in told for name in metrics}
        answer.metrics = {name: sum(numbers) / len(numbers) for name, numbers in seen.items()}
        answer.metrics["updates"] = sum(seen["updates"])
        control.send(("done", answer))


if __name__ == "__main__":
    run(_serve)
