"""The command line: ``understudy distill | sweep | train | kickstart | evaluate | compare | play | report | …``.

Nothing heavy is imported before a command is chosen, and mistakes of the user end in one line.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from understudy.cli_parser import SETTINGS, command_parser, given_by, refuse
from understudy.config import flags, merge, nest
from understudy.errors import UserError, tell
from understudy.scene_flags import describe_scene

_HOMES = {
    "report": "terminal_report",
    "push": "terminal_report",
    "pull": "terminal_report",
    "watch": "terminal_watch",
    "export": "terminal_export",
}
"""Modules of the commands that are not in ``terminal``."""
_REFUSED = {
    errno.EACCES, errno.EAGAIN, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENAMETOOLONG, errno.ENFILE,
    errno.ENOMEM, errno.ENOSPC, errno.EROFS,
}  # fmt: skip
"""Errors of the system that are limits of this machine, and no fault of the program."""


def _distill(arguments: argparse.Namespace, dotted: Mapping[str, Any]) -> None:
    from understudy.data import EnvSpec
    from understudy.io.saved_run import over_saved, saved_envs
    from understudy.scenes import rows_in
    from understudy.side_by_side.distill import by_behaviour
    from understudy.terminal import run_distill
    from understudy.terminal_side_by_side import distill_behaviours

    teachers, env, run, name = arguments.teacher, arguments.env, arguments.run, arguments.preset
    settings: dict[str, Any] = nest(dotted)
    ensemble = arguments.ensemble
    if arguments.resume:
        saved = _saved(arguments)
        if "by_behaviour" in saved:
            each = saved["by_behaviour"]
            merged, env = merge(each["settings"], settings), [EnvSpec.from_json(each["env"])]
            players = each["players"] if arguments.num_envs is None else arguments.num_envs
            return distill_behaviours(each["teachers"], env, merged, each["preset"], arguments.resume, True, players)
        teachers, ensemble, env = saved["teachers"], saved["ensemble"], saved_envs(saved)
        settings, run = over_saved(arguments.resume, saved, settings), arguments.resume
    if each := by_behaviour(teachers):
        return distill_behaviours(each, env, settings, name, run, False, arguments.num_envs)
    if not teachers:
        raise UserError("understudy distill needs a teacher: a zip, a zoo folder, a .safetensors, ... (--help)")
    if arguments.num_envs is not None:
        settings = merge(settings, {"data": {"num_envs": rows_in(env[0] if env else None, arguments.num_envs)}})
    run_distill(teachers, env, settings, name, run, bool(arguments.resume), ensemble)


def _sweep(arguments: argparse.Namespace, dotted: Mapping[str, Any]) -> None:
    from understudy.terminal_sweep import run_sweep

    teachers, preset, run = arguments.teacher, arguments.preset, arguments.run
    if "student.hidden" in dotted:
        raise UserError("--student.hidden is one size; a sweep has several: --sizes 8x8 16x16")
    run_sweep(teachers, arguments.env, arguments.sizes, nest(dotted), preset, run, arguments.ensemble)


def _train(arguments: argparse.Namespace, dotted: Mapping[str, Any]) -> None:
    from understudy.io.saved_run import over_saved
    from understudy.terminal_side_by_side import resume_behaviours, train_behaviours
    from understudy.terminal_training import run_train

    settings, run = nest(dotted), arguments.run
    if arguments.resume:
        saved = _saved(arguments)
        if "behaviours" in saved:
            return resume_behaviours(arguments.resume, saved["behaviours"], settings)
        settings, run = over_saved(arguments.resume, saved, settings), arguments.resume
    elif train_behaviours(settings, arguments.preset, getattr(arguments, "behaviors", {}), run):
        return None
    return run_train(settings, arguments.preset, run, bool(arguments.resume), arguments.profile)


def _kickstart(arguments: argparse.Namespace, dotted: Mapping[str, Any]) -> None:
    from understudy.io.saved_run import over_saved
    from understudy.terminal_kickstart import run_against_scratch, run_kickstart

    settings, teachers = nest(dotted), arguments.teacher
    if arguments.against_scratch:
        if arguments.resume:
            raise UserError("--against-scratch goes on with what is in --run FOLDER by itself: leave --resume out")
        if arguments.pbt or "pbt" in settings:
            raise UserError("--against-scratch compares single runs: leave --pbt and --population out")
        run_against_scratch(
            teachers, settings, arguments.preset, arguments.run, arguments.seeds, arguments.teacher_steps
        )
        return
    if arguments.seeds != 1 or arguments.teacher_steps is not None:
        raise UserError("--seeds and --teacher-steps go with --against-scratch; one run has --seed")
    run = arguments.run
    if arguments.resume:
        saved, run = _saved(arguments), arguments.resume
        settings = over_saved(run, saved, settings)
    if arguments.pbt or str(settings.get("pbt", {}).get("population", 0)) != "0":
        from understudy.terminal_population import run_population

        run_population(teachers, settings, arguments.preset, run, bool(arguments.resume))
        return
    run_kickstart(teachers, settings, arguments.preset, run, bool(arguments.resume))


def _saved(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the folder of the run to resume says of it.

    Raises:
        UserError: There is no run, or it is of another command; or something is given that the folder alone can say.
    """
    from understudy.io.saved_run import read_run

    run, command = arguments.resume, arguments.command
    fixed = ["preset", "run"] + (["teacher", "env", "ensemble"] if command == "distill" else [])
    for name in fixed:
        if getattr(arguments, name) and not (name == "run" and Path(arguments.run) == Path(run)):
            flag = "TEACHER" if name == "teacher" else f"--{name}"
            raise UserError(f"--resume {run} goes on with the run as it is there, settings excepted: leave {flag} out")
    return read_run(run, command, several=True)


def _run(words: Sequence[str]) -> None:
    asked = words and words[0] in SETTINGS and not {"-h", "--help"}.isdisjoint(words)
    parser = command_parser(given_by(words[0], words[1:]) if asked else None)
    arguments, unknown = parser.parse_known_args(words or ["--help"])
    if unknown:
        refuse(parser, arguments.command, unknown)
    settings = {name for cls in SETTINGS.get(arguments.command, ()) for name, _, _ in flags(cls)}
    dotted = {name: value for name, value in vars(arguments).items() if name in settings}
    describe_scene(arguments, dotted)
    if arguments.command in SETTINGS:
        from understudy.terminal_progress import console

        console.needs_reader = False
        runs = {"distill": _distill, "sweep": _sweep, "train": _train, "kickstart": _kickstart}
        return runs[arguments.command](arguments, dotted)
    if arguments.command == "evaluate":
        from understudy.policies.stored import behaviours_of
        from understudy.terminal_side_by_side import evaluate_behaviours

        if several := behaviours_of(arguments.policy):
            return evaluate_behaviours(several, arguments)
    home = import_module(f"understudy.{_HOMES.get(arguments.command, 'terminal')}")
    getattr(home, f"run_{arguments.command}")(arguments)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 2 on a mistake of the user, 1 on what is our fault.

    Ctrl-C ends it with 130, SIGTERM with 143 and SIGHUP with 129, saved alike.
    """
    # Before NumPy is loaded: networks this small are several times slower with more threads.
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or file that cannot show an α is no reason to stop
            stream.reconfigure(errors="replace")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module="gymnasium")
    words = sys.argv[1:] if argv is None else argv
    try:
        with _ended_by() as signals:
            _run(words)
    except UserError as error:
        details = getattr(error, "details", "")
        tell(f"{details}understudy: error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt as stop:
        tell(f"understudy: {str(stop) or 'interrupted'}\n")
        sys.exit(128 + (signals or [signal.SIGINT])[0])
    except OSError as error:
        if signals:
            sys.exit(128 + signals[0])  # what was to be shown at the end went to a closed terminal
        if error.errno in _REFUSED:
            tell(f"understudy: error: {_refusal(error)}\n")
            sys.exit(2)
        if not isinstance(error, BrokenPipeError) or words[:1] and words[0] in SETTINGS:
            raise
        sys.exit(0)  # whoever read what was shown has seen enough
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        wanted = " ".join(str(error).split())
        tell(f"understudy: error: not enough memory; choose smaller networks, batches or replays: {wanted}\n")
        sys.exit(2)


@contextlib.contextmanager
def _ended_by() -> Iterator[list[int]]:
    """Let SIGTERM (``docker stop``, batch systems) and SIGHUP (a closed terminal) end a run as Ctrl-C does.

    Yields the numbers of those that came. Who ignores them (``nohup``) goes on doing so.
    """
    came: list[int] = []

    def end(number: int, frame: object) -> None:
        came.append(number)
        for other in taken:  # a closed terminal is told of twice, by the system and by the shell: once is enough
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    ours = threading.current_thread() is threading.main_thread()
    taken = [number for number in known if ours and signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield came
    finally:
        for number in () if came else taken:
            signal.signal(number, signal.SIG_DFL)


def _refusal(error: OSError) -> str:
    """Say what the system refused, of which file if it tells, and what became of the run."""
    what = [f"the system says: {error.strerror}"] + ([] if error.filename is None else [str(error.filename)])
    return "; ".join([": ".join(what), *getattr(error, "__notes__", ())])


def _out_of_memory(error: Exception) -> bool:
    """Say whether NumPy or PyTorch, on the CPU or a GPU, did not get the memory that it asked for."""
    text = str(error)
    return isinstance(error, MemoryError) or "not allocate memory" in text or "out of memory" in text


if __name__ == "__main__":
    main()
