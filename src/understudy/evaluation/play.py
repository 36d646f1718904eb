"""Watch policies play: in a window, as a video, and several side by side."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from understudy.data import Array
from understudy.env_names import EnvLike
from understudy.envs.base import VectorEnv
from understudy.errors import UserError
from understudy.evaluation.contestants import Contestant, check_episodes, check_spaces, resolve, resolve_all
from understudy.evaluation.evaluate import Evaluation, describe
from understudy.evaluation.rendering import Video, Window, drawable, frames_per_second, picture_of
from understudy.rollouts.checked import checked
from understudy.rollouts.episodes import MAX_STEPS, Acts, Episodes, policy_name, seeded

BAR, GAP = 44, 8
"""Pixels: height of the label above a picture, space between pictures."""
_PAPER, _INK, _FAINT = (255, 255, 255), (31, 41, 51), (123, 135, 148)


@dataclass
class Scene:
    """Where an episode stands after ``steps`` steps."""

    steps: int = 0
    total: float = 0.0
    """Return so far."""
    over: bool = False


def scenes(
    policy: Acts, env: VectorEnv, seed: int, deterministic: bool = True, max_steps: int = MAX_STEPS
) -> Iterator[Scene]:
    """Play one episode in an environment of size 1: yields the start, and after every step but the last.

    The last step is yielded too, but by then the environment has begun its next episode, so its picture is not that of
    the end; ``Scene.over`` says so.
    """
    policy = checked(policy, env)
    obs, start, state = env.reset([seed]), np.ones(1, bool), None
    scene = Scene()
    yield scene
    while not scene.over:
        with seeded(seed + 1_000_003 * scene.steps):  # step by step: several films may be in the making in turns
            action, state = policy.predict(obs, state, start, deterministic)
        if not np.isfinite(action).all():
            raise UserError(f"the policy {policy_name(policy)} answers NaN or infinity at step {scene.steps}")
        obs, reward, terminated, truncated, _ = env.step(action)
        start = np.zeros(1, bool)
        over = bool(terminated[0] or truncated[0]) or scene.steps + 1 >= max_steps
        scene = Scene(scene.steps + 1, scene.total + float(reward[0]), over)
        yield scene


def play(
    policy: Any,
    env: EnvLike | None = None,
    episodes: int = 1,
    seed: int = 0,
    video: str | os.PathLike[str] | None = None,
    window: bool = False,
    deterministic: bool = True,
    max_steps: int = MAX_STEPS,
) -> Evaluation:
    """Play episodes to watch; without video and window they are only played.

    Args:
        policy: A path, a policy, or ``"random"``.
        env: Where it plays; the environment it was made for by default.
        episodes: How many, with seeds ``seed``, ``seed + 1``, ...
        seed: Of the first. Where ``evaluate`` runs in a library that cannot draw, the same seed is another episode.
        video: A file to write, .mp4 or .gif.
        window: Show it while it plays.
        deterministic: The mode of the policy instead of samples.
        max_steps: Episodes are cut after so many steps.

    Raises:
        UserError: The policy or the environment cannot be found, do not fit, or cannot be drawn here.
    """
    check_episodes(episodes, seed)
    contestant = resolve(policy, env, seed=seed)
    begin = time.perf_counter()
    ends: list[Scene] = []
    with ExitStack() as stack:
        vector = stack.enter_context(drawable(contestant.env))
        check_spaces(contestant, vector.observation_space, vector.action_space)
        fps = frames_per_second(vector)
        screens: list[Video | Window] = []
        if video is not None:
            screens.append(stack.enter_context(Video(video, fps)))
        if window:
            screens.append(stack.enter_context(Window(f"{contestant.name} in {contestant.env.id}", fps)))
        for number in range(seed, seed + episodes):
            for scene in scenes(contestant.policy, vector, number, deterministic, max_steps):
                if screens and not scene.over:
                    image = picture_of(vector)
                    for screen in screens:
                        screen.add(image)
            ends.append(scene)
    played = Episodes(
        np.array([end.total for end in ends]),
        np.array([end.steps for end in ends]),
        np.arange(seed, seed + episodes),
        time.perf_counter() - begin,
    )
    return describe(played, contestant, deterministic, drawn=True)


def compare_video(
    policies: Sequence[Any],
    path: str | os.PathLike[str],
    env: EnvLike | None = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
    deterministic: bool = True,
    max_steps: int = 1000,
    height: int = 400,
) -> Path:
    """Film policies side by side in the same episode, each with its name, return so far and step.

    A policy whose episode is over keeps its last picture; the film ends a second after the last of them.

    Args:
        policies: Paths or policies; the first decides the environment where others do not say it.
        path: A file to write, .mp4 or .gif.
        env: Where they play.
        seed: Of the episode, the same for all.
        names: What to call them.
        deterministic: The mode of every policy instead of samples.
        max_steps: The film is cut after so many steps.
        height: Of a picture, in pixels.

    Raises:
        UserError: As ``play``.
    """
    check_episodes(1, seed)
    contestants = resolve_all(policies, env, names, seed)
    with ExitStack() as stack:
        vectors = [stack.enter_context(drawable(contestant.env)) for contestant in contestants]
        fps = frames_per_second(vectors[0])
        film = stack.enter_context(Video(path, fps))
        runs = []
        for contestant, vector in zip(contestants, vectors, strict=True):
            check_spaces(contestant, vector.observation_space, vector.action_space)
            runs.append(_Lane(contestant, vector, seed, deterministic, max_steps, height))
        while any([lane.advance() for lane in runs]):
            last = beside([lane.labelled() for lane in runs])
            film.add(last)
        last = beside([lane.labelled() for lane in runs])
        for _ in range(int(fps)):
            film.add(last)
    return Path(path)


class _Lane:
    """One policy of a film."""

    def __init__(
        self, contestant: Contestant, env: VectorEnv, seed: int, deterministic: bool, max_steps: int, height: int
    ) -> None:
        self._name, self._env, self._height = contestant.name, env, height
        self._scenes = scenes(contestant.policy, env, seed, deterministic, max_steps)
        self._scene, self._picture = Scene(), np.zeros((height, height, 3), np.uint8)

    def advance(self) -> bool:
        """Go one step on; false once the episode is over."""
        if self._scene.over:
            return False
        self._scene = next(self._scenes)
        if not self._scene.over:
            self._picture = resized(picture_of(self._env), self._height)
        return not self._scene.over

    def labelled(self) -> Array:
        """Return the picture under its label."""
        scene = self._scene
        state = "end" if scene.over else "step"
        return with_label(self._picture, self._name, f"return {scene.total:.1f}   {state} {scene.steps}")


def resized(image: Array, height: int) -> Array:
    """[H, W, 3] -> [height, ..., 3], the sides in proportion."""
    if image.shape[0] == height:
        return image
    width = max(round(image.shape[1] * height / image.shape[0]), 1)
    small = image.shape[0] < 200  # pixel art stays sharp
    how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize((width, height), how))


@lru_cache
def _font(size: int, bold: bool) -> Any:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"  # Matplotlib brings them along
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def with_label(image: Array, name: str, text: str) -> Array:
    """[H, W, 3] -> [H + BAR, W, 3]: a name and a line of text above a picture; long names are shortened."""
    height, width, _ = image.shape
    canvas = Image.new("RGB", (width, height + BAR), _PAPER)
    canvas.paste(Image.fromarray(image), (0, BAR))
    pen = ImageDraw.Draw(canvas)
    while len(name) > 4 and pen.textlength(name, font=_font(14, True)) > width - 12:
        name = "…" + name[2:]
    pen.text((6, 4), name, fill=_INK, font=_font(14, True))
    pen.text((6, 24), text, fill=_FAINT, font=_font(12, False))
    return np.asarray(canvas)


def beside(images: Sequence[Array]) -> Array:
    """Join pictures of one height side by side, with a gap."""
    if not images:
        raise UserError("there is nothing to show")
    gap = np.full((images[0].shape[0], GAP, 3), 255, np.uint8)
    joined: list[Array] = []
    for image in images:
        joined += [gap, image] if joined else [image]
    return np.concatenate(joined, axis=1)
