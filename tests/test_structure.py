"""The house stands as DESIGN.md draws it: imports go one way, and workers stay free of PyTorch."""

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "understudy"
# The order in which data flows; a module imports only from those before it (and from its own folder).
ORDER = [
    "__init__", "errors", "imports", "data", "env_names", "config", "preset_files", "settings", "policies",
    "objectives", "teachers", "envs", "loading", "rollouts", "student", "execution", "evaluation", "io",
    "loop", "learning", "checks", "scenes", "distill_job", "distill_session", "distillation", "training_parts",
    "training_session", "training", "teacher_scores", "replay_kickstarting", "kickstart_checks", "kickstart_job",
    "kickstarting", "against_scratch", "side_by_side", "population", "sweeping", "report", "scene_flags",
    "terminal_progress", "terminal", "terminal_side_by_side", "terminal_training", "terminal_kickstart",
    "terminal_report", "terminal_watch", "terminal_sweep", "terminal_population", "terminal_export", "cli_parser",
    "cli", "__main__",
]  # fmt: skip
FILES = sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" if node.module == "understudy" else node.module for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        rooms |= {n.split(".")[1] for n in names if n.startswith("understudy.")}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_follow_the_order(path):
    mine = ORDER.index(room(path))
    late = {name for name in imported_rooms(path) if ORDER.index(name) > mine}
    assert not late, f"{path.name} stands before {late}"


def test_every_room_has_its_place():
    assert {room(p) for p in FILES} <= set(ORDER)


def test_workers_do_not_import_torch():
    code = (
        "import sys, understudy.execution.worker, understudy.execution.station, understudy.rollouts.buffers, "
        "understudy.policies.arrays, understudy.policies.protocol; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_is_quick_to_import():
    code = "import sys, understudy.cli_parser as p; p.command_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_are_known_before_they_are_loaded():
    code = "import sys, understudy; assert {'load', 'distill', *understudy.__all__} <= set(dir(understudy))"
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=True)


PROGRAMS = sorted(path for folder in ("benchmarks", "scripts", "examples") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_programs_import_from_us_is_there(path):
    """Benchmarks and scripts are seldom run; those with other programs' packages cannot be imported here."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "understudy":
            module = importlib.import_module(node.module)
            for alias in node.names:
                found = hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
                assert found, f"{node.module} has no {alias.name}"
