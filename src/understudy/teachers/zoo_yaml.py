"""The YAML files of rl-baselines3-zoo, read without running anything that stands in them.

They hold ``!!python/object/apply:collections.OrderedDict`` (a plain list of pairs here) and texts such as
``dict(norm_obs=True, norm_reward=False)``, which the zoo evaluates and which are parsed here.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import yaml

from understudy.errors import UserError


class _Loader(yaml.SafeLoader):
    """SafeLoader with the two harmless tags that the zoo writes."""


def _ordered_dict(loader: yaml.SafeLoader, node: yaml.Node) -> dict[str, Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "an OrderedDict that is no list", node.start_mark)
    arguments = loader.construct_sequence(node, deep=True)
    return {str(key): value for key, value in (arguments[0] if arguments else [])}


def _tuple(loader: yaml.SafeLoader, node: yaml.Node) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "a tuple that is no list", node.start_mark)
    return tuple(loader.construct_sequence(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered_dict)
_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file of the zoo; an absent file is an empty one.

    Raises:
        UserError: It is damaged, or holds tags that would run code.
    """
    if not path.is_file():
        return {}
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read: {str(error)[:200]}") from error
    if data is None:
        return {}
    if isinstance(data, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in data):
        data = {str(key): value for key, value in data}  # the zoo's pairs without its tag
    if not isinstance(data, dict):
        raise UserError(f"{path} does not hold a mapping")
    return data


def parse_value(value: Any, where: str) -> Any:
    """Parse a text such as ``dict(a=1, b=[2, 3])`` into plain values; other values pass through.

    Raises:
        UserError: The text is more than literals and ``dict(...)``.
    """
    if not isinstance(value, str):
        return value
    try:
        return _literal(ast.parse(value.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise UserError(f"{where}: {value[:80]!r} is not plain data (literals and dict(...) only)") from None


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        if not (isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args):
            raise ValueError("a call")
        if any(keyword.arg is None for keyword in node.keywords):
            raise ValueError("unpacking")
        return {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        return {ast.literal_eval(k): _literal(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    return ast.literal_eval(node)
