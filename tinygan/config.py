"""Fills a config dataclass from its defaults < a YAML file < ``--set key=value`` overrides, and explains one.

The dataclasses themselves are in the modules that they configure. This module fills one and, for ``--show-config``,
prints one with the meaning of each key, taken from the docstring.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence, Set
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from tinygan.errors import ConfigError

Config = TypeVar("Config")
Tree = dict[str, Any]

_COMMENT_WIDTH = 100
_ROLE = re.compile(r":\w+:`(?:~[\w.]*\.)?([^`]+)`")


def load_config(
    schema: type[Config],
    source: str | Path | None = None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
) -> Config:
    """Fill a config dataclass.

    Args:
        schema: a dataclass whose fields have defaults; fields may be dataclasses themselves.
        source: a YAML file, or the name of a packaged preset that fits the schema, such as ``lite``.
        overrides: ``section.key=value`` strings; the value is read as YAML.
        base: settings that replace the defaults, such as those of a checkpoint.

    Returns:
        An instance of ``schema``; every value is converted to its annotated type (``1e-4`` is a float).

    Raises:
        ConfigError: if a key is unknown (the nearest match is named), a value has the wrong type, the file is absent or
            not YAML, or the preset is of another schema.
    """
    tree: Tree = {}
    if base is not None:
        merge(tree, base, origin="checkpoint")
    if source is not None:
        path = find_config(source, schema)
        merge(tree, _read_yaml(path), origin=str(path))
    for override in overrides:
        merge(tree, _parse_override(override), origin=f"--set {override}")
    return build_config(schema, tree)


def find_config(source: str | Path, schema: type[Any]) -> Path:
    """The path of a YAML file given by path or by the name of a packaged preset.

    Raises:
        ConfigError: if there is no such file or preset, or the preset is of another schema.
    """
    path = Path(source)
    if path.is_file():
        return path
    fitting = presets_for(schema)
    if str(source) in fitting:
        return fitting[str(source)]
    reason = "this preset is of another command" if str(source) in _presets() else "no such file or preset"
    have = f"presets that fit are {', '.join(fitting)}" if fitting else "there are no presets of these settings"
    raise ConfigError(f"--config {source}: {reason}; {have}; --show-config prints a YAML file to start from")


def presets_for(schema: type[Any]) -> dict[str, Path]:
    """The packaged presets for ``schema``, by name: those whose keys are all its own.

    If it has a key ``proposer``, they are those that name a first stage, whose own settings may have further keys.
    """
    known = {field.name for field in dataclasses.fields(schema)}

    def fits(keys: Set[str]) -> bool:
        return "proposer" in keys if "proposer" in known else keys <= known

    return {name: path for name, path in _presets().items() if fits(_read_yaml(path).keys())}


def peek(source: str | Path | None, key: str) -> Any:
    """A key of a YAML file or packaged preset, before it is known which settings it is for; None if it has none.

    Raises:
        ConfigError: if the file is not YAML.
    """
    path = _presets().get(str(source)) if source is None or not Path(source).is_file() else Path(source)
    return None if path is None else _read_yaml(path).get(key)


def build_config(schema: type[Config], tree: Mapping[str, Any], origin: str = "config") -> Config:
    """Build ``schema`` from a nested mapping, e.g. one read back from a checkpoint."""
    built: Config = _build(schema, tree, prefix="", origin=str(tree.get(_ORIGIN, origin)))
    return built


def to_tree(config: Any) -> Tree:
    """A config as nested plain types, which YAML and JSON can store."""
    plain: Tree = _plain(dataclasses.asdict(config))
    return plain


def to_yaml(config: Any) -> str:
    """A config as YAML text that :func:`load_config` reads back to an equal object."""
    return yaml.safe_dump(to_tree(config), sort_keys=False)


def explain(config: Any) -> str:
    """A config as :func:`to_yaml` writes it, with a comment above each key that says what the key means."""
    return "\n".join(_explained(config, indent="")) + "\n"


def attribute_docs(schema: type[Any]) -> dict[str, str]:
    """The text on each attribute in the sections ``Attributes:`` of a class and its bases, in plain text on one line.

    ``None`` becomes ``null``, as in YAML.
    """
    docs: dict[str, str] = {}
    name, inside = "", False
    texts = [inspect.cleandoc(one.__doc__ or "") for one in reversed(schema.__mro__) if dataclasses.is_dataclass(one)]
    for line in "\n".join(texts).splitlines():
        if line and not line.startswith(" "):
            inside = line == "Attributes:"
        elif inside and (start := re.match(r" {4}(\w+): (.+)", line)):
            name, docs[start[1]] = start[1], start[2]
        elif inside and line and name:
            docs[name] += f" {line.strip()}"
    return {name: _ROLE.sub(r"\1", text.replace("``None``", "null")).replace("``", "") for name, text in docs.items()}


_ORIGIN = "\0origin"  # key of a section under which merge() notes where its settings came from, for error messages


def merge(tree: Tree, update: Mapping[str, Any], origin: str) -> None:
    """Override settings in ``tree`` by those in ``update``, in place, and note where each section came from."""
    for key, value in update.items():
        if isinstance(value, Mapping):
            below = tree[key] = {} if tree.get(key) is None else tree[key]  # null may be replaced by a section
            if not isinstance(below, dict):
                raise ConfigError(f"{origin}: {key} is a single value, not a section")
            merge(below, value, origin)
        else:
            tree[key] = value
    tree[_ORIGIN] = origin


def _presets() -> dict[str, Path]:
    folder = Path(str(resources.files("tinygan.configs")))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def _explained(config: Any, indent: str) -> Iterator[str]:
    docs = attribute_docs(type(config))
    for field in dataclasses.fields(config):
        start = f"{indent}# "
        yield from textwrap.wrap(
            docs.get(field.name, ""), _COMMENT_WIDTH, initial_indent=start, subsequent_indent=start
        )
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield f"{indent}{field.name}:"
            yield from _explained(value, f"{indent}  ")
        else:  # in flow style, without its braces: it keeps a list on one line, and quotes a key such as `on`
            text = yaml.safe_dump({field.name: _plain(value)}, default_flow_style=True, width=math.inf)
            yield f"{indent}{text.strip()[1:-1]}"


def _read_yaml(path: Path) -> Tree:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: expected YAML: {reason}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections and keys, got {type(tree).__name__}")
    return {str(key): value for key, value in tree.items()}


def _parse_override(override: str) -> Tree:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected section.key=value")
    try:
        value = yaml.safe_load(text) if text.strip() else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--set {override}: the value is not YAML") from error
    for key in reversed(keys):
        value = {key: value}
    return typing.cast(Tree, value)


def _build(schema: Any, tree: Mapping[str, Any], prefix: str, origin: str) -> Any:
    hints = typing.get_type_hints(schema)
    known = {f.name for f in dataclasses.fields(schema)}
    origin = str(tree.get(_ORIGIN, origin))
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key == _ORIGIN:
            continue
        if key not in known:
            raise ConfigError(f"{origin}: unknown key '{prefix}{key}'{_nearest(str(key), known, prefix)}")
        values[key] = _coerce(value, hints[key], f"{prefix}{key}", origin)
    try:
        return schema(**values)
    except (ValueError, TypeError) as error:  # a value out of range, or a key that has no default
        where = f" [{prefix.rstrip('.')}]" if prefix else ""
        raise ConfigError(f"{origin}{where}: {error}") from error


def _nearest(key: str, known: set[str], prefix: str) -> str:
    close = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{prefix}{close[0]}'?"
    return f"; known keys are {', '.join(sorted(known))}"


def _coerce(value: Any, hint: Any, name: str, origin: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{origin}: '{name}' is a section with keys, got {value!r}")
        return _build(hint, value, f"{name}.", origin)
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if kind in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        choices = [a for a in arguments if a is not type(None)]
        is_list = isinstance(value, list | tuple)
        inner = next((a for a in choices if (typing.get_origin(a) is tuple) == is_list), choices[0])
        return _coerce(value, inner, name, origin)
    if kind is Literal:
        if value is False and "none" in arguments:  # YAML reads `off` and `no` as False
            return "none"
        if value in arguments:
            return value
        raise ConfigError(f"{origin}: '{name}' is one of {', '.join(map(str, arguments))}; got {value!r}")
    if kind is tuple:
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = [value]
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{origin}: '{name}' is a list, got {value!r}")
        return tuple(_coerce(item, arguments[0], name, origin) for item in value)
    return _coerce_scalar(value, hint, name, origin)


def _coerce_scalar(value: Any, hint: Any, name: str, origin: str) -> Any:
    try:
        if hint is bool and isinstance(value, bool):
            return value
        if hint is int and not isinstance(value, bool) and float(value).is_integer():
            return value if isinstance(value, int) else int(float(value))
        if hint is float and not isinstance(value, bool):
            return float(value)
        if hint is str and isinstance(value, str | int | float):
            return str(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ConfigError(f"{origin}: '{name}' is of type {hint.__name__}, got {value!r}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
