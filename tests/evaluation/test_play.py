import imageio.v3 as iio
import numpy as np
import pytest
from evaluation_helpers import new_policy

from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.evaluation import rendering
from understudy.evaluation.evaluate import evaluate
from understudy.evaluation.play import beside, compare_video, play, resized, with_label

pytest.importorskip("pygame")


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_video_is_readable(tmp_path, suffix):
    path = tmp_path / "films" / f"play.{suffix}"
    found = play(new_policy(), video=path, episodes=2, max_steps=30)
    frames = iio.imread(path)
    # Pillow joins equal frames of a GIF, such as the last of one episode and the first of the next.
    assert found.env_steps - 3 * (suffix == "gif") <= frames.shape[0] <= found.env_steps
    assert frames.shape[1:] == (400, 600, 3)
    assert frames[0].std() > 5 and (frames[0] != frames[-1]).any()
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    if suffix == "mp4":
        assert iio.immeta(path)["fps"] == 50


def test_atari_games_are_filmed_at_the_speed_they_are_played(tmp_path):
    """60 frames a second, four of which are one step; learning needs no OpenCV, drawing does."""
    pytest.importorskip("ale_py")
    pong = EnvSpec("ALE/Pong-v5", wrappers=({"type": "atari"},))
    play("random", pong, video=tmp_path / "pong.mp4", max_steps=10)
    assert iio.immeta(tmp_path / "pong.mp4")["fps"] == 15
    assert iio.imread(tmp_path / "pong.mp4").shape == (10, 210, 160, 3)


def test_playing_is_evaluating():
    policy = new_policy()
    assert play(policy, episodes=3, seed=4).returns.tolist() == evaluate(policy, episodes=3, seed=4).returns.tolist()


def test_compare_video(tmp_path):
    path = compare_video([new_policy(), new_policy(seed=1), "random"], tmp_path / "c.mp4", max_steps=20, height=200)
    frames = iio.imread(path)
    assert frames.shape[1:] == (244, 3 * 300 + 2 * 8, 3)
    assert frames.shape[0] > 50 + 5, "the last picture stays for a second"
    assert (np.abs(frames[-1].astype(int) - frames[-40]) < 12).all()


def test_nothing_is_left_behind_when_it_fails(tmp_path):
    policy = new_policy()
    with pytest.raises(UserError, match="acts in"):
        play(policy, "Pendulum-v1", video=tmp_path / "x.mp4")
    policy.predict = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        play(policy, video=tmp_path / "x.mp4")
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="take .mp4 or .gif"):
        play(new_policy(), video=tmp_path / "x.avi")
    with pytest.raises(UserError, match="at least 1 episode"):
        play(new_policy(), episodes=0, video=tmp_path / "x.gif")
    with pytest.raises(UserError, match="seeds are not negative"):
        play(new_policy(), seed=-1)
    with pytest.raises(UserError, match="seeds are not negative"):
        compare_video([new_policy()], tmp_path / "x.gif", seed=-1)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UserError, match="no display for a window"):
        play(new_policy(), window=True)


def test_no_opengl_is_a_clear_error(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(rendering, "_PROBE", "raise SystemExit(1)")
    with pytest.raises(UserError, match="neither EGL nor OSMesa works"):
        rendering.choose_mujoco_gl()
    monkeypatch.setattr(rendering, "_PROBE", "import os; assert os.environ['MUJOCO_GL'] == 'osmesa'")
    monkeypatch.setenv("MUJOCO_GL", "")
    assert rendering.choose_mujoco_gl() == "osmesa"


def test_mujoco_is_drawn_without_a_display(tmp_path, monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    try:
        play("random", "Hopper-v5", video=tmp_path / "h.mp4", max_steps=5)
    except UserError as error:
        pytest.skip(str(error))
    assert iio.imread(tmp_path / "h.mp4")[0].std() > 5 and iio.immeta(tmp_path / "h.mp4")["fps"] == 125


def test_window_shows_frames(monkeypatch):
    import pygame

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(rendering, "has_display", lambda: True)
    with rendering.Window("test", 1000) as window:
        window.add(np.full((20, 30, 3), 200, np.uint8))
        assert pygame.display.get_surface().get_size() == (30, 20)
        assert pygame.display.get_surface().get_at((5, 5))[:3] == (200, 200, 200)
        pygame.event.post(pygame.event.Event(pygame.QUIT))
        with pytest.raises(KeyboardInterrupt):
            window.add(np.zeros((20, 30, 3), np.uint8))


def test_pictures():
    image = np.random.default_rng(0).integers(0, 255, (100, 51, 3), dtype=np.uint8)
    assert resized(image, 50).shape == (50, 26, 3) and resized(image, 100) is image
    labelled = with_label(image, "a very long name of a policy that does not fit", "return 1.0")
    assert labelled.shape == (144, 51, 3) and (labelled[44:] == image).all() and labelled[:44].min() < 100
    assert beside([labelled, labelled]).shape == (144, 51 * 2 + 8, 3)


def test_uses_mujoco():
    assert rendering.uses_mujoco(EnvSpec("Hopper-v5")) and not rendering.uses_mujoco(EnvSpec("CartPole-v1"))
