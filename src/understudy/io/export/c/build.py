"""How large a source is once compiled, how much stack it takes, and whether its self-test passes."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from understudy.errors import UserError
from understudy.io.export.c.source import Sources
from understudy.teachers.exported_c import FLAGS, compile_c


@dataclass(frozen=True)
class Sizes:
    """What a compiled source takes, in bytes; None where the tools cannot say.

    Attributes:
        flash: Code and constants (``text`` and ``data`` of ``size``), without the self-test.
        bss: Globals that start at zero.
        state: ``sizeof`` the state that the caller keeps.
        stack: The longest chain of calls from ``NAME_act``, without what the caller has.
        selftest: What the self-test printed.
    """

    flash: int | None
    bss: int | None
    state: int
    stack: int | None
    selftest: str


def build(sources: Sources, name: str) -> Sizes:
    """Compile a source with warnings as errors, run its self-test and measure it.

    Raises:
        UserError: There is no compiler, a warning, or a self-test that fails.
    """
    what = f"the C source {sources.stem}.c"
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        source, program = folder / f"{sources.stem}.c", folder / "selftest"
        source.write_text(sources.source, encoding="utf-8")
        (folder / f"{sources.stem}.h").write_text(sources.header, encoding="utf-8")
        compile_c([*FLAGS, f"-D{name.upper()}_SELF_TEST", "-o", str(program), str(source)], what)
        done = subprocess.run([str(program)], capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise UserError(f"{what} is not written: its self-test says {done.stdout.strip()!r}")
        state = folder / "state.c"
        state.write_text(
            f'#include "{sources.stem}.h"\n#include <stdio.h>\nint main(void) {{ printf("%lu", (unsigned long)sizeof('
            f"{name}_state)); return 0; }}\n",
            encoding="utf-8",
        )
        compile_c([*FLAGS[:-1], "-o", str(folder / "state"), str(state)], what)
        size = int(subprocess.run([str(folder / "state")], capture_output=True, text=True, check=True).stdout)
        return Sizes(*_sections(folder, source, what), size, _stack(folder, source, name), done.stdout.strip())


def _sections(folder: Path, source: Path, what: str) -> tuple[int | None, int | None]:
    """Return text + data, and bss, as built for size (what a controller's flash is filled with)."""
    compiled = folder / "flash.o"
    flags = [*FLAGS[:-1], "-Os", "-fno-asynchronous-unwind-tables", "-c", "-o", str(compiled), str(source)]
    try:
        compile_c(["-fstack-usage", *flags], what)
    except UserError:  # not gcc
        compile_c(flags, what)
    if shutil.which("size") is None:
        return None, None
    done = subprocess.run(["size", str(compiled)], capture_output=True, text=True, check=False)
    numbers = done.stdout.splitlines()[1].split() if done.returncode == 0 else []
    return (int(numbers[0]) + int(numbers[1]), int(numbers[2])) if numbers else (None, None)


def _stack(folder: Path, source: Path, name: str) -> int | None:
    """Return the worst-case stack, from gcc's figures for each function along the calls between them."""
    report = folder / "flash.su"
    if not report.exists():
        return None
    own = {}
    for line in report.read_text().splitlines():
        place, size, kind = line.split("\t")
        if kind == "dynamic":  # without a bound
            return None
        own[place.rsplit(":", 1)[-1].split(".")[0]] = int(size)
    return _deepest(f"{name}_act", own, source.read_text(encoding="utf-8"))


def _deepest(function: str, own: dict[str, int], text: str) -> int:
    """Bytes of a function and of the deepest chain below it; what was inlined has none of its own."""
    body = re.search(rf"\b{function}\([^;{{]*\)\n{{\n(.*?)\n}}\n", text, re.DOTALL)
    called = {name for name in re.findall(r"\b(\w+)\(", body[1]) if f" {name}(" in text} if body else set()
    return own.get(function, 0) + max((_deepest(name, own, text) for name in called - {function}), default=0)
