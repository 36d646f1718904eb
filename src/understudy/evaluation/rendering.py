"""Pictures of environments: an OpenGL that works without a display, frame rates, video files and windows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
from PIL import Image

from understudy.data import Array, EnvSpec
from understudy.envs.base import VectorEnv
from understudy.envs.build import build, find
from understudy.envs.make import make
from understudy.errors import UserError

DEFAULT_FPS = 30.0
GIF_FPS = 50.0
"""Browsers show GIF frames of less than 20 ms slowly."""
_PROBE = "import mujoco; c = mujoco.GLContext(64, 64); c.make_current(); c.free()"


def has_display() -> bool:
    """Whether a window could be opened."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def choose_mujoco_gl() -> str | None:
    """Set MUJOCO_GL to the first of egl and osmesa that works, if there is no display and nothing is set.

    MuJoCo reads the variable when it is imported, and a wrong value breaks the import: each is tried in a process of
    its own, which takes a second.

    Returns:
        What it is set to now; None where it was left alone.

    Raises:
        UserError: Neither works.
    """
    if os.environ.get("MUJOCO_GL") or has_display():
        return os.environ.get("MUJOCO_GL")
    for backend in ("egl", "osmesa"):
        variables = {**os.environ, "MUJOCO_GL": backend}
        probe = subprocess.run([sys.executable, "-c", _PROBE], env=variables, capture_output=True, check=False)
        if probe.returncode == 0:
            os.environ["MUJOCO_GL"] = backend
            return backend
    raise UserError(
        "MuJoCo cannot draw here: there is no display, and neither EGL nor OSMesa works (on Debian or Ubuntu: "
        "apt install libegl1 libgl1 or libosmesa6)"
    )


def uses_mujoco(spec: EnvSpec) -> bool:
    """Whether an environment draws with MuJoCo's OpenGL.

    Raises:
        UserError: There is no such environment.
    """
    entry = find(spec.id).entry_point
    return "mujoco" in (entry if isinstance(entry, str) else getattr(entry, "__module__", "")).lower()


def frames_per_second(env: VectorEnv) -> float:
    """Return how many steps of an environment are a second of its world; 30 where it does not say."""
    found = getattr(env, "render_fps", None)
    if not found:
        try:
            one = build(env.spec)
        except (UserError, gym.error.Error, ImportError):
            return DEFAULT_FPS
        found = one.metadata.get("render_fps")
        one.close()
    return float(found or DEFAULT_FPS)


@contextmanager
def drawable(spec: EnvSpec) -> Iterator[VectorEnv]:
    """Make one environment that can be drawn, and close it afterwards.

    Raises:
        UserError: It cannot be drawn here.
    """
    if uses_mujoco(spec):
        choose_mujoco_gl()
    try:
        env = make(spec, 1, render=True)
    except UserError:
        raise
    except Exception as error:  # OpenGL drivers fail in their own ways, some of them on import
        raise _cannot_draw(spec, error) from error
    try:
        yield env
    finally:
        env.close()


def _cannot_draw(spec: EnvSpec, error: Exception) -> UserError:
    chosen = os.environ.get("MUJOCO_GL")
    hint = f" (MUJOCO_GL is {chosen!r}: unset it to let a working one be found)" if chosen and uses_mujoco(spec) else ""
    return UserError(f"{spec.id} cannot be drawn here: {type(error).__name__}: {error}{hint}")


def picture_of(env: VectorEnv) -> Array:
    """Draw an environment: [H, W, 3] uint8.

    Raises:
        UserError: It has no picture, or drawing fails.
    """
    try:
        image = env.render()
    except UserError:
        raise
    except Exception as error:  # drivers raise what they like
        raise _cannot_draw(env.spec, error) from error
    if image is None:
        raise UserError(f"{env.spec.id} has no picture (render mode rgb_array)")
    return np.asarray(image, np.uint8)[..., :3]


class _Gif:
    """Writes a GIF at its end. An octree chooses the colours: a quarter of the whole time with the usual median cut."""

    def __init__(self, path: Path, duration: float) -> None:
        """Make the file, which shows each picture for ``duration`` milliseconds."""
        path.touch()
        self._path, self._duration = path, duration
        self._pictures: list[Image.Image] = []

    def append_data(self, image: Array) -> None:
        self._pictures.append(Image.fromarray(image).quantize(method=Image.Quantize.FASTOCTREE))

    def close(self) -> None:
        if self._pictures:
            first, *others = self._pictures
            first.save(self._path, save_all=True, append_images=others, duration=self._duration, loop=0)


def check_video(path: str | os.PathLike[str]) -> Path:
    """Return the path of a video.

    Raises:
        UserError: Its suffix is another one.
    """
    path = Path(path)
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise UserError(f"cannot write a video to {path}: take .mp4 or .gif")
    return path


class Video:
    """A video file, .mp4 (H.264) or .gif, written frame by frame; use it in a ``with`` statement.

    Args:
        path: Where to; appears when it is complete, so that no half film is left behind.
        fps: Frames per second. A GIF shows at most 50, so it leaves frames out above that.

    Raises:
        UserError: Another suffix, or the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float) -> None:
        self.path = check_video(path)
        gif = self.path.suffix.lower() == ".gif"
        self._every = int(np.ceil(fps / GIF_FPS)) if gif else 1
        self._fps, self._count = fps / self._every, 0
        self._partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}{self.path.suffix.lower()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._open(gif)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error

    def _open(self, gif: bool) -> Any:
        if gif:
            return _Gif(self._partial, 1000 / self._fps)
        # yuv420p is what browsers and phones play; it needs even sides, see add.
        return imageio.get_writer(
            self._partial, fps=self._fps, codec="libx264", quality=8, macro_block_size=1, pixelformat="yuv420p"
        )

    def add(self, image: Array) -> None:
        """Append a picture [H, W, 3] uint8; an odd last row or column is cut off."""
        if self._count % self._every == 0:
            height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
            self._writer.append_data(np.ascontiguousarray(image[:height, :width]))
        self._count += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None and self._count:
            os.replace(self._partial, self.path)
        else:
            self._partial.unlink(missing_ok=True)


class Window:
    """A window that shows pictures at a frame rate, with pygame; use it in a ``with`` statement.

    Raises:
        UserError: There is no display, or pygame is not installed.
    """

    def __init__(self, title: str, fps: float) -> None:
        if not has_display():
            raise UserError("there is no display for a window: write a video instead (--video play.mp4)")
        try:
            import pygame
        except ImportError:
            raise UserError("a window needs the package 'pygame': pip install pygame-ce, or --video play.mp4") from None
        self._pygame, self._fps = pygame, fps
        self._screen: Any = None
        pygame.display.init()
        pygame.display.set_caption(title)
        self._clock = pygame.time.Clock()

    def add(self, image: Array) -> None:
        """Show a picture [H, W, 3] uint8, and wait for the time of the next.

        Raises:
            KeyboardInterrupt: The window was closed.
        """
        pygame = self._pygame
        if self._screen is None:
            self._screen = pygame.display.set_mode((image.shape[1], image.shape[0]))
        self._screen.blit(pygame.surfarray.make_surface(image.swapaxes(0, 1)), (0, 0))
        pygame.display.flip()
        if any(event.type == pygame.QUIT for event in pygame.event.get()):
            raise KeyboardInterrupt
        self._clock.tick(self._fps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pygame.display.quit()
