"""The commands and flags of the command line; nothing heavy is imported for them."""

from __future__ import annotations

import argparse
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from understudy import __version__
from understudy.config import flags, merge
from understudy.errors import UserError, suggest
from understudy.preset_files import preset
from understudy.scene_flags import WITH_SCENES, add_scene_flags
from understudy.settings import METHODS, TAUGHT, DistillSettings, KickstartSettings

# Short forms of flags that are typed often.
_SHORT = {
    "env.id": "--env",
    "execution.type": "--execution",
    "execution.num_workers": "--num-workers",
    "execution.worker_timeout": "--worker-timeout",
    "execution.ray_address": "--ray-address",
    "evaluation.every": "--evaluate-every",
    "pbt.population": "--population",
    "rollout.num_envs": "--num-envs",
    "stop.env_steps": "--env-steps",
}
SETTINGS: dict[str, tuple[Any, ...]] = {
    "distill": (DistillSettings,), "sweep": (DistillSettings,), "train": tuple(METHODS.values()),
    "kickstart": (KickstartSettings, *TAUGHT.values()),
}  # fmt: skip
"""Of the commands that have them; a command with several takes the flags of all, and its preset says whose they are."""


_PRESET = "preset or YAML file of settings under the flags; see  understudy presets"
_BY_ACTIONS = "distill-continuous or distill-discrete, by the teacher's actions"
Given = Mapping[str, Any]
"""What presets say, nested."""


def given_by(command: str, words: Sequence[str]) -> Given:
    """Return what the presets say that are named among the words of a command with settings.

    Raises:
        UserError: There is no such preset.
    """
    found: dict[str, Any] = {}
    several = command == "kickstart"
    parser = _Parser(prog=f"understudy {command}", add_help=False, allow_abbrev=False)
    if several:
        parser.add_argument("--preset", nargs="+", action=_Several, default=["kickstarting"])
    else:
        parser.add_argument("--preset", nargs=1, default=[])
    for name in parser.parse_known_args(list(words))[0].preset:
        found = merge(found, preset(name))
    return found


def _add_settings(parser: argparse.ArgumentParser, command: str, given: Given | None) -> None:
    classes = SETTINGS[command]
    if given is not None:
        method = given.get("method", "actor_critic")
        classes = tuple(cls for cls in classes if getattr(cls, "method", method) == method) or classes
    for cls in classes:
        _add_flags(parser, cls, given or {})
    taught = [action for action in parser._actions if action.dest == "teacher"]
    who = "".join("--teacher FILE " if action.option_strings else "TEACHER ... " for action in taught)
    parser.usage = f"%(prog)s {who}[--preset NAME] [--KEY VALUE ...]"
    parser.epilog = "Values in brackets are the defaults, with --preset NAME those of the preset and its method."


def _add_flags(parser: argparse.ArgumentParser, cls: Any, given: Given) -> None:
    groups: dict[str, Any] = {}
    known = parser._option_string_actions
    for name, kind, field in flags(cls):
        if f"--{name}" in known:
            continue
        section = name.rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(section or "run", _section_doc(cls, section))
        default = field.default if field.default_factory is MISSING else field.default_factory()
        shown = _shown(_value(given, name, default))
        names = [f"--{name}"] + ([_SHORT[name]] if name in _SHORT else [])
        several = get_origin(_given(kind)) is tuple
        numbers = several and get_args(_given(kind))[0] in (int, float)
        groups[section].add_argument(
            *names,
            dest=name,
            nargs="*" if several else None,
            action=_Once if numbers else _Several if several else "store",
            metavar=_metavar(kind),
            default=argparse.SUPPRESS,
            help=(field.metadata.get("help", "") + (f" [{shown}]" if shown else "")).replace("%", "%%"),
        )


def _value(given: Given, name: str, default: Any) -> Any:
    """Return what is given under a dotted name, or the default."""
    here: Any = given
    for part in name.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return default
        here = here[part]
    return here


def _shown(value: Any) -> str:
    """Write a value as the flag takes it."""
    if isinstance(value, tuple | list):
        return " ".join(map(_shown, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return "" if value == {} else str(value)


def _section_doc(cls: Any, section: str) -> str:
    here = cls
    for part in filter(None, section.split(".")):
        here = get_type_hints(here)[part]
    return "" if not section else (here.__doc__ or "").split("\n")[0]


def _given(kind: Any) -> Any:
    """Return the type of a field where it is not none."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(a for a in get_args(kind) if a is not type(None))
    return kind


def _metavar(kind: Any) -> str:
    kind = _given(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin is tuple:
        return _metavar(arguments[0])
    return {int: "N", float: "X", bool: "true|false", dict: "YAML"}.get(origin or kind, "TEXT")


def refuse(parser: argparse.ArgumentParser, command: str, unknown: list[str]) -> None:
    """Say which word is not known, and the flag that was probably meant."""
    (commands,) = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    known = [option for action in commands[command]._actions for option in action.option_strings]
    word = next((w for w in unknown if w.startswith("-")), unknown[0])
    raise UserError(
        f"unknown argument {word}{suggest(word.split('=')[0], known)} (understudy {command} --help lists all)"
    )


class _Several(argparse.Action):
    """Keeps the values of every time that a flag is given; the first time replaces the default."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest, self.default)
        setattr(namespace, self.dest, [*([] if before is self.default else before), *values])


class _Once(argparse.Action):
    """Refuses a second time: numbers, such as widths, are one thing, of which nobody expects that they add up."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        if hasattr(namespace, self.dest):
            both = " ".join([*getattr(namespace, self.dest), *values])
            parser.error(f"{option} is given twice: give all its numbers at once, as {option} {both}")
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of printing the whole usage."""

    def error(self, message: str) -> Any:
        raise UserError(f"{message} ({self.prog} --help)")


def command_parser(given: Given | None = None) -> argparse.ArgumentParser:
    """Return the parser of every command.

    Args:
        given: What presets say: then help shows the settings of their method alone, and their values as the defaults.
            None: the settings of all methods are flags.
    """
    parser = _Parser(
        prog="understudy",
        description="Reinforcement learning with teachers: any trained policy goes in; a smaller one comes out.",
        epilog="understudy COMMAND --help lists the flags of a command.",
    )
    parser.add_argument("--version", action="version", version=f"understudy {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        # argparse formats help texts, where a percent sign is two, but no descriptions.
        return commands.add_parser(name, help=text, description=text.replace("%%", "%"), allow_abbrev=False)

    for name, add, text in (
        ("distill", _add_distill, "Distil one or several teachers into a small student, until it is as good."),
        ("train", _add_train, "Train a policy by reinforcement learning, with any number of workers."),
        ("kickstart", _add_kickstart, "Train a policy by its own rewards and by teachers, and surpass them."),
        ("sweep", _add_sweep, "Distil students of several sizes, and find the smallest that is on par."),
    ):
        sub = command(name, text)
        add(sub)
        _add_settings(sub, name, given)

    inspect = command("inspect", "Print what a teacher is: algorithm, spaces, network, normaliser, environments.")
    inspect.add_argument("teacher")
    inspect.add_argument("--env", help="environment id, or module:Name, for formats that do not say their spaces")

    _add_players(command)
    _add_readers(command)
    _add_export(command("export", "Write a student as ONNX, TorchScript, C, Stable-Baselines3 or for Unity."))
    shown = command("presets", "List the presets, or print one.")
    shown.add_argument("name", nargs="?", help="print the YAML file of this preset, to begin one's own from")
    demo = command("demo", "Distil the teacher that ships with Understudy into a 64x64 student.")
    demo.add_argument("--run", default="runs/demo", help="folder of the run [runs/demo]")
    for name in WITH_SCENES:
        add_scene_flags(commands.choices[name], several=name == "train")
    return parser


def _add_distill(distill: argparse.ArgumentParser) -> None:
    distill.add_argument(
        "teacher", nargs="*", help="zip, zoo folder, .safetensors, .pt, .onnx, module:function, hub id; "
        "BEHAVIOUR=FILE for each behaviour of a Unity scene"
    )  # fmt: skip
    distill.add_argument(
        "--env", nargs="*", action=_Several,
        help="environment id, or module:Name; by default the teacher's own; one per task teacher",
    )  # fmt: skip
    distill.add_argument(
        "--ensemble", choices=("distributions", "losses"), help="several teachers of one task: average"
    )
    distill.add_argument(
        "--num-envs", type=int, metavar="N", help="as --data.num_envs, but of Unity scenes players [data.num_envs]"
    )
    distill.add_argument("--preset", metavar="NAME", help=f"{_PRESET} [{_BY_ACTIONS}]")
    distill.add_argument("--run", help="folder of the run [runs/ENV-TIME]")
    distill.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("--preset", metavar="NAME", help=_PRESET)
    train.add_argument("--run", help="folder of the run [runs/ENV-TIME]")
    train.add_argument("--resume", metavar="RUN", help="go on with the run in this folder, from its last checkpoint")
    train.add_argument("--profile", action="store_true", help="print where the time went, and the limit it adds up to")


def _add_players(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the commands that play a policy."""
    evaluate = command("evaluate", "Run episodes with fixed seeds; mean, IQM and 95 %% intervals.")
    evaluate.add_argument("policy")
    compare = command("compare", "Compare any number of policies on the same episodes; the first is the reference.")
    compare.add_argument("policy", nargs="+")
    compare.add_argument("--video", help="also film all of them side by side (.mp4 or .gif)")
    compare.add_argument("--picture", help="also draw the returns (.png, .svg or .pdf)")
    for sub, episodes in ((evaluate, 20), (compare, 50)):
        sub.add_argument("--env", help="environment id, or module:Name; by default the policy's own")
        sub.add_argument("--episodes", type=int, default=episodes, metavar="N", help=f"[{episodes}]")
        sub.add_argument("--seed", type=int, default=0, metavar="N", help="of the first episode [0]")
        sub.add_argument("--num-envs", type=int, metavar="N", help="environments; of Unity scenes players [8]")
        sub.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the mode")
        sub.add_argument("--json", metavar="FILE", help="also write the result as JSON")

    play = command("play", "Watch a policy in a window, or film it (.mp4 or .gif).")
    play.add_argument("policy")
    play.add_argument("--env", help="environment id, or module:Name; by default the policy's own")
    play.add_argument("--episodes", type=int, default=1, metavar="N", help="[1]")
    play.add_argument("--seed", type=int, default=0, metavar="N", help="of the first episode [0]")
    play.add_argument("--video", metavar="FILE", help="write .mp4 or .gif instead of opening a window")


def _add_sweep(sweep: argparse.ArgumentParser) -> None:
    sweep.add_argument("teacher", nargs="+", help="as of distill")
    sweep.add_argument(
        "--env", nargs="*", action=_Several, help="environment id, or module:Name; by default the teacher's own"
    )
    sweep.add_argument("--ensemble", choices=("distributions", "losses"), help="as of distill")
    sweep.add_argument(
        "--sizes", nargs="+", action=_Several, default=["8x8", "16x16", "32x32", "64x64"], metavar="SIZE",
        help="widths of the hidden layers, 0 for none, or shares of the teacher's parameters such as 25%% "
        "[8x8 16x16 32x32 64x64]",
    )  # fmt: skip
    sweep.add_argument("--preset", metavar="NAME", help=f"{_PRESET} [{_BY_ACTIONS}]")
    sweep.add_argument("--run", default="runs/sweep", help="folder of all runs; finished ones are kept [runs/sweep]")


def _add_readers(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the commands that read finished runs."""
    report = command("report", "Write one file about runs that can be sent to a colleague: HTML, or a model card.")
    report.add_argument("run", nargs="+", help="run folders; equal settings with other seeds become one curve")
    report.add_argument("--out", metavar="FILE", help="the file to write [RUN/report.html or .md]")
    report.add_argument("--format", choices=("html", "markdown"), default="html", help="[html]")
    report.add_argument(
        "--episodes", type=int, default=20, metavar="N", help="episodes to play where the folder holds no table [20]"
    )
    report.add_argument("--film", action="store_true", help="also film teacher and student side by side")
    report.add_argument("--no-play", action="store_true", help="only what the folder holds: load and play nothing")
    watch = command("watch", "Watch a run in the terminal while it goes on, or look at one that has ended.")
    watch.add_argument("run", help="run folder")
    watch.add_argument("--once", action="store_true", help="print one frame and end")
    watch.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds between two frames [1]")
    push = command("push", "Publish a run on the Hugging Face hub: its policy, its numbers, and a model card.")
    push.add_argument("run", help="run folder")
    push.add_argument("repo_id", help="org/name on the hub; made if there is none")
    push.add_argument("--private", action="store_true", help="only you and your organisation see it")
    push.add_argument("--episodes", type=int, default=20, metavar="N", help="as of report, for the model card [20]")
    push.add_argument("--no-play", action="store_true", help="as of report")
    pull = command("pull", "Fetch a run that was pushed into a folder.")
    pull.add_argument("repo_id", help="org/name or org/name@revision")
    pull.add_argument("--out", metavar="FOLDER", help="the folder to make [runs/NAME]")


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("student", help="a run, a .safetensors, or another policy whose network is known")
    export.add_argument("--format", required=True, choices=("onnx", "torchscript", "c", "sb3", "unity"))
    export.add_argument("--out", metavar="FILE", help="by default beside the student")
    export.add_argument("--int8", action="store_true", help="quantise (onnx and c)")
    export.add_argument("--env", help="environment id, or module:Name; by default the student's own")
    export.add_argument("--data", metavar="PATH", help="states from a run or .npz instead of playing the student")
    export.add_argument("--states", type=int, default=1000, metavar="N", help="states to check and quantise by [1000]")
    export.add_argument("--seed", type=int, default=0, metavar="N", help="of the first recorded episode [0]")
    export.add_argument("--algorithm", choices=("PPO", "A2C", "DQN", "TD3", "DDPG", "SAC"), help="sb3: which class")
    export.add_argument("--check-episodes", type=int, default=0, metavar="N", help="play the file beside the student")
    export.add_argument("--force", action="store_true", help="overwrite files that are there")


def _add_kickstart(kickstart: argparse.ArgumentParser) -> None:
    kickstart.add_argument(
        "--teacher", action="append", default=[], metavar="FILE", help="what distill takes; may be given several times"
    )
    kickstart.add_argument(
        "--preset",
        nargs="+",
        action=_Several,
        default=[],
        metavar="NAME",
        help="presets or YAML files, merged from left to right [kickstarting]",
    )
    kickstart.add_argument("--run", help="folder of the run [runs/ENV-TIME]")
    kickstart.add_argument(
        "--resume", metavar="RUN", help="go on with the run in this folder, from its last checkpoint"
    )
    kickstart.add_argument(
        "--against-scratch", action="store_true", help="also train without teachers, and print what they saved"
    )
    kickstart.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="with --against-scratch: runs of each, from seed on [1]"
    )
    kickstart.add_argument(
        "--teacher-steps", type=float, metavar="N", help="with --against-scratch: env steps that the teachers cost"
    )
    kickstart.add_argument("--pbt", action="store_true", help="train a population, of 4 without --population")
