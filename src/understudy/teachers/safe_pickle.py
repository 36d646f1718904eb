"""Reading a pickle without running it: numbers come out, everything else becomes an inert record.

A pickle is a program that imports names and calls them. Here, every name is resolved by this file alone: a handful of
NumPy constructors to stand-ins below that check what they are given, every other name to a fresh ``Inert`` class that
only remembers its arguments and state. No module is imported and no foreign object is called, so a hostile pickle can
at worst raise an error.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from understudy.errors import UserError

_NUMERIC = re.compile(r"^[<>|=]?(b1|[iu][1248]|f[248])$")
_LIMIT = 1 << 27
"""Elements of one array; normaliser statistics have at most thousands."""


class Inert:
    """What a foreign object is replaced by: it remembers and does nothing."""

    origin = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """Make a record whatever the arguments; unpickling may skip ``__init__``."""
        record = super().__new__(cls)
        record.args, record.state, record.items = args, None, []
        return record

    args: tuple[Any, ...]
    state: Any
    items: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Accept anything."""

    def __setstate__(self, state: Any) -> None:
        """Remember the state."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, item: Any) -> None:
        """Remember an item."""
        self.items.append(item)

    def extend(self, items: Any) -> None:
        """Remember items."""
        self.items.extend(items)

    def add(self, item: Any) -> None:
        """Remember an item."""
        self.items.append(item)

    def get(self, name: str) -> Any:
        """Return an attribute of the recorded state, None where there is none."""
        return self.state.get(name) if isinstance(self.state, dict) else None


class _Dtype:
    """Stands in for a NumPy dtype; only plain numbers are turned into a real one."""

    def __init__(self, text: Any = "", *_: Any) -> None:
        self.text, self.order = str(text), ""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = str(state[1])

    def real(self) -> np.dtype[Any]:
        text = self.text.lstrip("<>|=")
        if not _NUMERIC.match(text):
            raise ValueError(f"an array of type {self.text!r}")
        return np.dtype((self.order if self.order in "<>" else "") + text)


class _Array:
    """Stands in for a NumPy array until its bytes arrive."""

    def __init__(self, *_: Any) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, data = state[1:5] if len(state) == 5 else state
        if isinstance(dtype, _Dtype) and isinstance(data, (bytes, bytearray)):
            self.value = _from_bytes(data, dtype, shape, "F" if fortran else "C")


def _from_bytes(data: bytes | bytearray, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    real = dtype.real() if isinstance(dtype, _Dtype) else np.dtype(None)
    sizes = tuple(int(n) for n in shape)
    if np.prod(sizes, dtype=float) > _LIMIT:
        raise ValueError(f"an array of shape {sizes}")
    return np.frombuffer(bytearray(data), real).reshape(sizes, order="F" if order == "F" else "C")


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.value = _from_bytes(data, dtype, shape, order)
    return array


def _scalar(dtype: Any, data: Any = b"") -> Any:
    if not (isinstance(dtype, _Dtype) and isinstance(data, (bytes, bytearray))):
        raise ValueError("a NumPy scalar that is not a number")
    return np.frombuffer(bytes(data), dtype.real())[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes as pickles of protocol 2 and below write them."""
    return str(text).encode("latin1")


def _allowed() -> dict[tuple[str, str], Callable[..., Any]]:
    """Return the stand-ins by module and name: everything that is more than a record."""
    names: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): _Array,
        ("collections", "OrderedDict"): dict,
        ("_codecs", "encode"): _encode,
    }
    for package in ("numpy.core", "numpy._core"):
        names[package + ".multiarray", "_reconstruct"] = _Array
        names[package + ".multiarray", "scalar"] = _scalar
        names[package + ".numeric", "_frombuffer"] = _frombuffer
    return names


_ALLOWED = _allowed()


class _Reader(pickle._Unpickler):
    """The unpickler in Python, not the one in C: a damaged index or length makes that one reserve gigabytes."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[Any], None]

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._size = len(data)

    def load_build(self) -> None:
        """Set the state of stand-ins only; that of a class or function could reach beyond this pickle."""
        if not isinstance(self.stack[-2], (Inert, _Array, _Dtype)):
            raise pickle.UnpicklingError("a state for something that has none")
        super().load_build()  # type: ignore[misc]

    def load_bytearray8(self) -> None:
        """Read bytes that are there; the original reserves what the length says first."""
        size = int.from_bytes(self.read(8), "little")
        if size > self._size:
            raise pickle.UnpicklingError("more bytes than the file has")
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def find_class(self, module: str, name: str) -> Any:
        known = _ALLOWED.get((module, name))
        return known if known is not None else type("Inert", (Inert,), {"origin": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a reference to another file")


def read_pickle(data: bytes, where: str) -> Any:
    """Return the pickled object with every foreign part as an ``Inert`` record; nothing is imported or called.

    Raises:
        UserError: The pickle is damaged, or does something that a file of numbers does not.
    """
    try:
        return _Reader(data).load()
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise UserError(f"{where} cannot be read: {type(error).__name__}: {str(error)[:120]}") from error


def as_array(value: Any, where: str) -> np.ndarray:
    """Return the recorded array or number as a float64 array.

    Raises:
        UserError: It is neither, or not finite.
    """
    found = value.value if isinstance(value, _Array) else value
    if not isinstance(found, (np.ndarray, np.generic, float, int)):
        raise UserError(f"{where} is not an array of numbers")
    array = np.asarray(found, np.float64)
    if not np.isfinite(array).all():
        raise UserError(f"{where} holds NaN or infinity")
    return array
