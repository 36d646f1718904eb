"""Python that users bring, environments and teachers: how it is found by name, here and in worker processes.

A name is ``module:function``. The program that was started is a module too: what a script defines is called by the
script's file name. Workers that this process starts are given a copy of it with its code, so that they need not import
the script, and what was typed into a notebook goes to them as well. Other processes import: a script that begins a run
without asking whether it is the program would begin one in them; that is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from understudy.errors import UserError

INTERACTIVE = "__main__"
"""The module of what was typed into a notebook or a prompt: there is no file that another process could import."""
brought: dict[str, Any] = {}
"""What another process gave to this one, by its name there."""
_importing: list[str] = []


@contextmanager
def current_directory() -> Iterator[None]:
    """Let modules that the user names be imported from the current directory, whatever started Python."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def program() -> str:
    """Return the name by which the program that was started can be imported, ``INTERACTIVE`` if it cannot."""
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None:  # python -m NAME
        return str(main.__spec__.name)  # type: ignore[union-attr]
    file = getattr(main, "__file__", None)
    if file is None or Path(file).suffix != ".py":
        return INTERACTIVE
    name = Path(file).stem
    try:
        with current_directory():
            found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a.b.py is no module, nor is what has no description
        return INTERACTIVE
    same = found is not None and found.origin is not None and Path(found.origin).resolve() == Path(file).resolve()
    return name if same else INTERACTIVE


def import_module(name: str, purpose: str) -> ModuleType:
    """Import a module that the user named; the current directory can be imported from.

    Args:
        name: Of the module.
        purpose: What it is for, as errors begin.

    Raises:
        UserError: It cannot be imported, whatever it raises.
    """
    if name.endswith(".py"):
        raise UserError(f"{purpose}: name the module without its ending: {name.removesuffix('.py')}")
    if name == program():
        return sys.modules["__main__"]  # not a second time, under another name
    _importing.append(name)
    try:
        with current_directory():
            return importlib.import_module(name)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{purpose}: the module {name!r} cannot be imported ({error})") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{purpose}: importing {name!r} raised {type(error).__name__}: {error}") from error
    finally:
        _importing.pop()


def find(name: str, purpose: str) -> Any:
    """Return what ``module:function`` names.

    Raises:
        UserError: The module cannot be imported or has nothing of that name.
    """
    module, _, attribute = name.partition(":")
    found: Any = brought.get(f"{module}:{attribute.split('.')[0]}")
    if found is not None:
        attribute = attribute.partition(".")[2]
    else:
        found = import_module(module, purpose)
    for part in filter(None, attribute.split(".")):
        if not hasattr(found, part):
            raise UserError(f"{purpose}: {module!r} has no {attribute!r}")
        found = getattr(found, part)
    return found


def name_of(thing: Any) -> str | None:
    """Return ``module:name`` of a class or function, None if it has no name by which it could be found again."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module not in sys.modules:
        return None
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module_name(module)}:{name}" if found is thing else None


def module_name(module: str) -> str:
    """Return the name of a module for other processes, where the program that was started is no ``__main__``."""
    return program() if module == "__main__" else module


def packed(thing: Any) -> bytes | None:
    """Return an object for another process of ours, with the code of what the program defines; None if it cannot be."""
    try:
        return bytes(cloudpickle.dumps(thing))
    except Exception:  # anything may refuse, in its own way
        return None


def unpacked(code: bytes) -> Any:
    """Return what ``packed`` was given; only for what comes from a process of ours."""
    return cloudpickle.loads(code)


def refuse_while_importing() -> None:
    """Refuse to begin anything from a module that is only being imported.

    Raises:
        UserError: One is being imported.
    """
    if _importing:
        raise UserError(f"{_importing[-1]} begins a run when it is imported: put that under if __name__ == '__main__':")
