"""The end of environments: what goes wrong there costs no result."""

from __future__ import annotations

from typing import Any

from understudy.errors import tell


def close_all(envs: list[Any], name: str) -> None:
    """Close environments and empty the list; what that raises is told in one line, once all of them were closed."""
    failed: list[Exception] = []
    while envs:
        try:
            envs.pop().close()
        except Exception as error:  # noqa: BLE001 (whatever an environment raises)
            failed.append(error)
    if failed:
        times = f" in {len(failed)} environments" if len(failed) > 1 else ""
        what = " ".join(f"{type(failed[0]).__name__}: {failed[0]}".split())
        tell(f"understudy: {name}: close() raised {what}{times}\n")
