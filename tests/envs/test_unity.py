"""Unity scenes as a vector environment, with a player that is a program of its own: every agent is one row."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from tests.envs.unity_helpers import PLAYER, free_port, order_fault, received, scene, still

from understudy.data import EnvSpec
from understudy.envs.make import env_backend, make, max_episode_steps, spaces_of
from understudy.envs.multitask import whole_tasks
from understudy.envs.unity import scene as scene_module
from understudy.envs.unity.messages import messages
from understudy.envs.unity.player import PlayerError
from understudy.envs.unity.probe import settled
from understudy.envs.unity.scene import Rows
from understudy.errors import OutsideError, UserError
from understudy.rollouts.random_play import random_observations


def run(env, seeds, calls, policy=None):
    """Play; the history of every row's own steps: (obs, reward, terminated, truncated, final, next obs or None)."""
    obs, asks = env.reset(seeds).copy(), env.asks.copy()
    histories, acted = [[] for _ in range(env.num_envs)], [None] * env.num_envs
    for call in range(calls):
        action = still(env) if policy is None else policy(call, obs)
        for row in np.flatnonzero(asks):
            acted[row] = obs[row].copy()
        step = env.step(action)
        for row in np.flatnonzero(env.stepped):
            ended = step.terminated[row] or step.truncated[row]
            final = step.final_obs[row].copy() if ended else None
            histories[row].append(
                (acted[row], float(step.reward[row]), bool(step.terminated[row]), bool(step.truncated[row]), final)
            )
        obs, asks = step.obs.copy(), env.asks.copy()
    return histories


def _steps(env):
    """Say whether a step moves all rows."""
    env.step(still(env))
    return env.stepped.all()


def ends(history):
    """Step numbers and kinds of a row's ends."""
    return [(t, "late" if late else "fell") for t, (_, _, fell, late, _) in enumerate(history, 1) if fell or late]


@pytest.fixture
def build():
    made = []

    def _build(spec, rows):
        made.append(make(spec, rows))
        return made[-1]

    yield _build
    for env in made:
        env.close()


def test_twelve_agents_have_their_own_episodes(build, tmp_path):
    spec = scene("--limit", 60, "--report", tmp_path / "told")
    env = build(spec, 12)
    histories = run(env, range(12), 150)
    assert all(len(history) == 150 for history in histories), "nobody waits for anybody"
    found = [ends(history) for history in histories]
    assert len({tuple(f) for f in found}) > 6, "they end at different times"
    for history in histories:
        length = 0
        for _, reward, fell, late, final in history:
            length += 1
            assert reward == pytest.approx(-1.0 if fell else 0.1)
            assert late == (length == 60 and not fell)
            if fell:
                assert max(abs(final[2]), abs(final[4])) > 2.5, "the last observation is that of the fall"
            length = 0 if fell or late else length
    env.close()
    told = received(tmp_path / "told")
    assert told["resets"] == 1, "no global reset but the first"
    assert (told["seed"], told["communication"], told["package"]) == (0, "1.5.0", "1.1.0")


def test_first_observation_of_the_next_episode_comes_in_the_same_step(build):
    env = build(scene(), 12)
    env.reset(range(12))
    ended = 0
    for _ in range(60):
        step = env.step(still(env))
        assert env.asks.all() and env.stepped.all() and not env.cut.any()
        for row in np.flatnonzero(step.terminated):
            ended += 1
            assert np.abs(step.obs[row, [2, 4]]).max() <= 1.5 and np.all(step.obs[row, 5:] == 0)
            assert np.abs(step.final_obs[row, [2, 4]]).max() > 2.5
    assert ended > 12


def test_description_spaces_and_rows(build):
    spec = scene()
    observation, action = spaces_of(spec)
    assert observation == gym.spaces.Box(-np.inf, np.inf, (8,), np.float32)
    assert action == gym.spaces.Box(-1, 1, (2,), np.float32)
    assert env_backend(spec) == "unity" and max_episode_steps(spec) is None
    assert whole_tasks(spec, 1) == whole_tasks(spec, 12) == 12 and whole_tasks(spec, 13) == 24
    with pytest.raises(UserError, match="12 agents in each player: take 24 rows, not 20"):
        make(spec, 20)
    env = build(spec, 12)
    assert EnvSpec.from_json(env.spec.to_json()) == env.spec and env.spec.kwargs["agents"] == 12
    assert env.render() is None


def test_two_players_have_seeds_of_their_own_and_equal_two_environments(build):
    spec = scene("--agents", 3, "--limit", 40)
    both = run(build(spec, 6), [5, 6, 7, 20, 21, 22], 50)
    alone = run(build(spec, 3), [5, 6, 7], 50), run(build(spec, 3), [20, 21, 22], 50)
    for row in range(6):
        for (obs, reward, *_), (other, same, *_) in zip(both[row], alone[row // 3][row % 3], strict=True):
            assert np.array_equal(obs, other) and reward == same
    assert not np.array_equal(both[0][0][0], both[3][0][0])


def test_reseed_repeats_episodes_and_a_plain_reset_does_not_restart(build, tmp_path):
    env = build(scene("--agents", 2, reseed=True), 2)
    first, again = run(env, [1, 2], 30), run(env, [1, 2], 30)
    assert np.array_equal(first[0][-1][0], again[0][-1][0])
    env = build(scene("--agents", 2, "--report", tmp_path / "told"), 2)
    env.reset([1, 2])
    pids = env.pids
    env.step(still(env))
    env.reset([3, 4])
    assert env.pids == pids and env.asks.all()
    env.step(still(env))
    assert received(tmp_path / "told")["resets"] == 2 and received(tmp_path / "told")["seed"] == 1


def test_exchanges_in_which_nobody_asks(build):
    env = build(scene("--agents", 3, "--pause", 4, "--limit", 20), 3)
    histories = run(env, range(3), 120)
    for history in histories:
        assert len(ends(history)) >= 2
        lengths = np.diff([0, *(t for t, _ in ends(history))])
        assert (lengths <= 20).all()
    alone = build(scene("--agents", 1, "--pause", 4, "--limit", 5), 1)
    (history,) = run(alone, [0], 20)
    assert [t for t, _ in ends(history)] == [5, 10, 15, 20], "pauses are no steps"


def test_agents_that_ask_at_different_times(build):
    env = build(scene("--agents", 4, "--uneven", 2, "--limit", 30), 4)
    histories = run(env, range(4), 90)
    counts = [len(history) for history in histories]
    assert counts[0] == counts[2] == 90 and counts[1] == counts[3] and 25 <= counts[1] <= 50
    for history in histories:
        starts = [0, *(t for t, _ in ends(history))]
        assert all(b - a <= 30 for a, b in zip(starts, starts[1:], strict=False))
        for t in range(1, len(history)):
            if t not in starts:
                moved = history[t][0] - history[t - 1][0]
                assert np.abs(moved[:2]).max() == 0, "who rests does not tilt the plate: the action was its own"


def test_staggered_agents_and_new_ids_keep_to_twelve_slots(build):
    env = build(scene("--stagger", 1, "--new-ids", "--limit", 25, agents=12), 12)
    histories = run(env, range(12), 120)
    assert all(len(ends(history)) >= 3 for history in histories)
    assert env.lost_episodes == 0 and not env._scenes[0].surplus


def test_agents_that_never_come_back_leave_empty_rows(build):
    env = build(scene("--agents", 4, "--mortal", 2, "--limit", 15), 4)
    histories = run(env, range(4), 60)
    assert [len(ends(h)) for h in histories[:2]] == [1, 1] and all(len(ends(h)) >= 4 for h in histories[2:])


def test_agents_without_a_slot_rest(build, capfd):
    env = build(scene("--agents", 5, agents=3), 3)
    histories = run(env, range(3), 30)
    assert all(len(history) == 30 for history in histories)
    assert "2 agents have no slot" in capfd.readouterr().err


def test_an_agent_without_a_slot_takes_none_in_the_middle_of_its_episode(build, capfd):
    words = ["--scene", "two", "--agents", 8, "--stagger", 2, "--limit", 12, "--pause", 3]
    histories = run(build(scene(*words, behavior="Goalie", agents=2), 2), range(2), 120)
    assert all([t for t, _ in ends(h)] == list(range(12, 12 * len(ends(h)) + 1, 12)) and ends(h) for h in histories)
    assert "2 agents have no slot and rest; give the scene --env-agents 4" in capfd.readouterr().err


@pytest.mark.parametrize("agents", [2, 3])
def test_an_agent_that_vanished_frees_its_slot(agents, build, monkeypatch):
    monkeypatch.setattr(scene_module, "SILENT", 10)
    env = build(scene("--scene", "two", "--agents", 2 * agents, "--limit", 20, behavior="Goalie", agents=2), 2)
    env.reset([0, 1])
    # The first falls silent for us, as if the scene had destroyed it without a word; whoever else is there has no slot.
    only = env._scenes[0]
    key = next(key for key, row in only._row_of.items() if row == 0)
    only._row_of[("gone", 99)], only._held[0] = only._row_of.pop(key), ("gone", 99)
    env._rows.open[0], env._rows.asks[0] = True, False
    cut = []
    for _ in range(15):
        env.step(still(env))
        cut.append(env.cut.copy())
    assert env.lost_episodes == 1 and sum(c[0] for c in cut) == 1 and not any(c[1] for c in cut)
    assert not env.stepped[0], "the rest of an episode is none"
    for _ in range(10):
        env.step(still(env))
    assert _steps(env)


def test_group_rewards_are_added(build):
    (history, *_) = run(build(scene("--agents", 2, "--groups"), 2), [0, 1], 5)
    assert all(reward == pytest.approx(0.35) for _, reward, *_ in history)


def test_pictures_vectors_masks_and_branches(build):
    env = build(scene("--scene", "chooser", "--agents", 2, "--limit", 7), 2)
    spaces = env.observation_space.spaces
    assert spaces["Camera_Front"].shape == (3, 12, 16) and spaces["Camera_Front"].dtype == np.uint8
    assert spaces["VectorSensor_size3"].shape == (3,) and spaces["action_mask"].shape == (7,)
    assert env.action_space == gym.spaces.MultiDiscrete([4, 3])
    obs = env.reset([0, 1])
    for t in range(1, 22):
        right = obs["Camera_Front"][:, 0].max(axis=1).argmax(axis=1) // 4
        red = obs["Camera_Front"][:, 0]
        right = red[:, 0].argmax(axis=1) // 4
        other = obs["VectorSensor_size3"].argmax(axis=1)
        assert (obs["action_mask"].sum(axis=1) == 6).all() and (obs["action_mask"][[0, 1], right] == 1).all()
        if t % 2:
            step = env.step(np.stack([right, other], axis=1))
            assert np.array_equal(step.reward, [2, 2])
        else:  # a forbidden choice is not sent: the nearest allowed one is
            forbidden = obs["action_mask"][:, :4].argmin(axis=1)
            step = env.step(np.stack([forbidden, other], axis=1))
            assert (step.reward >= 1).all()
        assert step.truncated.all() == (t % 7 == 0) and not step.terminated.any()
        obs = step.obs


def test_hybrid_actions_need_bins(build):
    with pytest.raises(UserError, match="Hybrid.*1 continuous actions and the discrete branches.*--env-bins"):
        spaces_of(scene("--scene", "hybrid", "--agents", 1))
    env = build(scene("--scene", "hybrid", "--agents", 1, bins=5), 1)
    assert env.action_space == gym.spaces.MultiDiscrete([5, 2])
    env.reset([0])
    assert env.step(np.array([[3, 1]])).reward[0] == 1.0 and env.step(np.array([[4, 0]])).reward[0] == -0.5


def test_one_behaviour_of_several_is_chosen(build):
    with pytest.raises(
        UserError, match=r"has the behaviours 3DBall\?team=0, Goalie\?team=1: choose one.*behavior=3DBall"
    ):
        spaces_of(scene("--scene", "two", "--agents", 4))
    with pytest.raises(
        UserError, match=r"no behaviour 'Gaolie'.*did you mean Goalie.*there are 3DBall\?team=0, Goalie"
    ):
        spaces_of(scene("--scene", "two", "--agents", 4, behavior="Gaolie"))
    for name in ("Goalie", "Goalie?team=1"):
        env = build(scene("--scene", "two", "--agents", 4, "--late", 12, behavior=name), 2)
        assert env.action_space.shape == (1,)
        obs = env.reset([0, 1])
        for _ in range(20):
            step = env.step(obs.copy())
            assert env.stepped.all() and np.allclose(step.reward, 0, atol=1e-6)
            obs = step.obs


def test_engine_parameters_and_flags_reach_the_player(build, tmp_path):
    spec = scene(
        "--agents", 1, "--stats", "--report", tmp_path / "told", time_scale=7.0, no_graphics=True,
        parameters={"mass": 3.0}, log_folder=str(tmp_path),
    )  # fmt: skip
    env = build(spec, 1)
    env.reset([0])
    env.step(still(env))
    told = received(tmp_path / "told")
    assert "-nographics" in told["arguments"] and "-batchmode" in told["arguments"]
    assert told["arguments"][told["arguments"].index("-logFile") + 1].startswith(str(tmp_path))
    contents = [content for _, content in told["channels"]]
    assert np.array([2], "<i4").tobytes().hex() + np.array([7], "<f4").tobytes().hex() in contents
    assert any(channel.startswith("534c891e") for channel, _ in told["channels"])
    assert len(contents) == len(set(contents)), "told once"
    assert env.take_stats() == {"tilt": 1.5} and env.take_stats() == {}


def test_a_base_port_is_taken_as_it_is_told(build, tmp_path):
    port = free_port()
    env = build(scene("--agents", 1, "--report", tmp_path / "told", base_port=port), 2)
    env.reset([0, 1])
    ports = [player._link.port for player in env._players]
    assert ports[0] == port and port < ports[1] < port + 5
    with pytest.raises(UserError, match=f"port {port} is in use.*--base-port"):
        spaces_of(scene("--agents", 2, base_port=port))


def test_an_executable_is_started_by_its_path(build, tmp_path):
    player = tmp_path / "Ball.x86_64"
    player.write_text(f'#!/bin/sh\nexec {sys.executable} {PLAYER} "$@"\n')
    with pytest.raises(UserError, match=r"not executable: run +chmod \+x"):
        spaces_of(scene(path=player))
    player.chmod(0o755)
    env = build(scene("--agents", 1, path=tmp_path / "Ball"), 1)
    env.reset([0])
    assert _steps(env)


@pytest.mark.parametrize(
    ("make_spec", "text"),
    [
        (lambda tmp: scene(path=tmp / "none"), "no Unity player at"),
        (lambda tmp: scene("--version", "2.0.0"), "speaks version 2.0.0 of the ML-Agents protocol.*Understudy 1.5.0"),
        (lambda tmp: scene("--die-at-start"), r"died \(exit code 1\) before it called: there is no display"),
        (lambda tmp: scene(path=_script(tmp, "sleep 100"), timeout_wait=1), "did not call within 1 s"),
        (lambda tmp: scene(path=_script(tmp, "exit 3")), r"died \(exit code 3\) before it called"),
        (lambda tmp: scene(path=tmp), "is a folder"),
        (lambda tmp: scene(time_scal=3), "'time_scal' is not known; did you mean time_scale"),
        (lambda tmp: scene(time_scale="fast"), "'time_scale' cannot be 'fast'"),
        (lambda tmp: scene(time_scale=float("nan")), "argument time_scale cannot be nan"),
        (lambda tmp: scene(width=10**11), "argument width cannot be 100000000000"),
        (lambda tmp: scene(num_areas=2**31), "argument num_areas cannot be 2147483648"),
        (lambda tmp: scene(agents=float("inf")), "'agents' cannot be inf"),
        (lambda tmp: scene(parameters={1: 2}), "environment parameter 1 needs a name that is text"),
        (lambda tmp: scene(log_folder=__file__), "cannot be the folder of logs: File exists"),
        (lambda tmp: EnvSpec("unity:"), "path of the player is missing"),
        (lambda tmp: EnvSpec("unity:x", wrappers=({"type": "time_limit"},)), "wrappers do not go around Unity"),
        (lambda tmp: EnvSpec("unity:x", backend="gymnasium"), "has no Unity scenes"),
    ],
)
def test_mistakes_are_one_line(make_spec, text, tmp_path):
    with pytest.raises(UserError, match=text) as error:
        spaces_of(make_spec(tmp_path))
    assert "\n" not in str(error.value)


def _script(folder, line):
    path = folder / "script"
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("kind", ["die", "hang", "nan", "garbage", "hangup"])
def test_a_player_that_fails_costs_its_own_episodes_only(kind, build, tmp_path, capfd):
    fault = tmp_path / "fault"
    env = build(scene("--agents", 3, "--limit", 1000, "--fault", fault), 6)
    obs = env.reset(range(6))
    for _ in range(3):
        obs = env.step(still(env)).obs
    for player in env._players:  # those that take their place may need longer to start
        player._options = replace(player._options, timeout_wait=4.0)
    order_fault(fault, kind)
    before, pids = obs.copy(), env.pids
    step = env.step(still(env))
    (failed,) = [i for i in (0, 1) if env.pids[i] != pids[i]]
    lost, kept = slice(3 * failed, 3 * failed + 3), slice(3 - 3 * failed, 6 - 3 * failed)
    assert env.cut[lost].all() and not env.stepped[lost].any() and not env.cut[kept].any()
    assert env.stepped[kept].all() and not (step.terminated | step.truncated).any()
    assert env.asks.all() and not np.array_equal(step.obs[lost], before[lost])
    assert (env.restarts, env.lost_episodes) == (1, 3)
    step = env.step(still(env))
    assert env.stepped.all() and not env.cut.any()
    text = capfd.readouterr().err
    assert f"player {failed} " in text and "3 unfinished episodes lost, restart 1 of 10" in text
    assert not _alive(pids[failed])


def test_an_end_that_cannot_be_read_is_none():
    """A final observation that is NaN would leave an older one in its place, and a truncation bootstraps from it."""
    player, rows = messages().Message().unity_output, []
    told = player.rl_initialization_output.brain_parameters.add(brain_name="Ball").action_spec
    told.num_continuous_actions = 1

    def see(number, seen, **ends):
        info = player.rl_output.agentInfos["Ball"].value.add(id=number, **ends)
        info.observations.add(shape=[1]).float_data.data.append(seen)

    def give(behavior):
        rows.append(Rows(behavior, 2))
        return rows[0]

    found = scene_module.Scene(give, "Ball", False, range(2), 0)
    see(0, 0.5)
    see(1, 0.5)
    assert found.take_in(player)
    found.order(np.zeros((2, 1), np.float32))
    rows[0].flags[...] = False
    player.rl_output.Clear()
    see(0, 0.25, done=True)
    see(1, np.nan, done=True, max_step_reached=True)
    with pytest.raises(PlayerError, match="shows nan"):
        found.take_in(player)
    assert rows[0].terminated.tolist() == [True, False] and not rows[0].truncated.any()
    assert rows[0].stepped.tolist() == [True, False] and rows[0].open.tolist() == [False, True]
    assert found.living == [1], "it is lost with its player"


def test_a_scene_whose_agents_come_later_than_those_of_another_goes_on():
    """Where players are shared, a step begins when anybody waits: agents of one player may be the first."""
    found = scene_module.Scene(lambda behavior: Rows(behavior, 2), "Ball", False, range(1), 0)
    assert not found.take_in(messages().Message().unity_output)
    assert found.order(np.zeros((2, 1), np.float32)) == found.roster.orders({})


def test_restarts_have_a_limit(build, tmp_path):
    fault = tmp_path / "fault"
    env = build(scene("--agents", 1, "--fault", fault, restarts=1), 1)
    env.reset([0])
    for text in (
        None,
        r"player 0 died \(exit code 139\): Caught fatal signal - signo:11 \(all 1 restarts are used up\)",
    ):
        order_fault(fault, "die")
        if text is None:
            env.step(still(env))
            continue
        with pytest.raises(UserError, match=text):
            env.step(still(env))


@pytest.mark.parametrize("failing", [" 1 ", " 1 2 3 "])
def test_players_that_fail_at_the_start_are_replaced_but_not_for_ever(failing, build, tmp_path):
    """The first look, player 0, has worked: what fails after it may be a matter of luck."""
    count, line = f"'{tmp_path}/count'", f'exec {sys.executable} {PLAYER} "$@"'
    start = f"n=$(cat {count} || echo 0); echo $((n + 1)) > {count}; case '{failing}' in *\" $n \"*) exit 7;; esac"
    env = build(scene("--agents", 1, path=_script(tmp_path, f"{start}; {line}"), restarts=-1), 1)
    if len(failing) > 3:
        with pytest.raises(OutsideError, match=r"died \(exit code 7\) before it called \(3 players in a row"):
            env.reset([0])
    else:
        env.reset([0])
        assert env.restarts == 1 and _steps(env)


def test_players_leave_at_close_and_with_whoever_started_them(build):
    env = build(scene("--agents", 1), 1)
    env.reset([0])
    (pid,) = env.pids
    env.close()
    env.close()
    assert not _alive(pid)
    code = (
        "import sys, time; from understudy.envs.make import make; from tests.envs.unity_helpers import scene\n"
        "env = make(scene('--agents', 1), 1); env.reset([0]); print(env.pids[0], flush=True); exec(sys.argv[1])"
    )
    for last, signal_number in (("raise RuntimeError", None), ("pass", None), ("time.sleep(100)", signal.SIGKILL)):
        process = subprocess.Popen(
            [sys.executable, "-c", code, last], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        pid = int(process.stdout.readline())
        if signal_number:
            process.send_signal(signal_number)
        process.wait(60)
        deadline = time.perf_counter() + 60
        while _alive(pid) and time.perf_counter() < deadline:
            time.sleep(0.05)
        assert not _alive(pid), last


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_editor_connects_by_itself(tmp_path):
    port = free_port()
    editor = subprocess.Popen([sys.executable, str(PLAYER), "--mlagents-port", str(port), "--agents", "2"])
    try:
        spec = EnvSpec("unity:editor", {"base_port": port, "timeout_wait": 90.0})
        assert spaces_of(spec)[0].shape == (8,)
        env = make(spec, 2)
        env.reset([0, 1])
        assert _steps(env)
        with pytest.raises(UserError, match="the editor runs one scene"):
            make(spec, 4)
        env.close()
        assert editor.wait(60) == 0
    finally:
        editor.kill()
        editor.wait()


def test_random_play_looks_around_in_the_one_scene_of_the_editor():
    port = free_port()
    editor = subprocess.Popen([sys.executable, str(PLAYER), "--mlagents-port", str(port), "--agents", "2"])
    try:
        spec = EnvSpec("unity:editor", {"base_port": port, "timeout_wait": 90.0})
        assert random_observations(settled(spec), 0).shape == (128, 8)
        assert editor.wait(60) == 0
    finally:
        editor.kill()
        editor.wait()


def test_workers_need_no_torch():
    code = (
        "import sys; from understudy.envs.make import make; from tests.envs.unity_helpers import scene\n"
        "env = make(scene('--agents', 1), 1); env.reset([0]); env.close(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ}).returncode == 0


def test_what_scenes_are_not_for():
    with pytest.raises(UserError, match="cannot be one of several tasks"):
        make(EnvSpec("multitask", {"tasks": ["unity:x", "CartPole-v1"]}), 2)
    with pytest.raises(UserError, match="the player shows itself"):
        make("unity:x", 2, render=True)


@pytest.mark.parametrize(("module", "package"), [("grpc", "grpcio"), ("google.protobuf", "protobuf")])
def test_a_missing_package_is_one_line_that_names_the_extra(module, package, monkeypatch):
    from understudy.envs.unity.messages import messages

    messages.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{package}.*pip install 'understudy\[unity\]'"):
        spaces_of(scene("--no-such-look", "1"))
    messages.cache_clear()
