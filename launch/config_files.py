"""Shipped configs by name, and one-line errors for keys that no constructor knows."""

from __future__ import annotations

import difflib
import importlib
import inspect
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from macedance.errors import ConfigError, MaceDanceError

_KINDS = ("experiments", "strategies", "clusters", "debug")


def configs_root() -> Path:
    """The folder of the shipped configs.

    ``configs`` is a namespace package: an editable install adds a placeholder to its path, which is no folder.
    """
    paths = [Path(p) for p in importlib.import_module("configs").__path__]
    return next((p for p in paths if (p / "experiments").is_dir()), Path("configs"))


def shipped_configs(kind: str = "experiments") -> dict[str, Path]:
    """Name to path of the YAML files that come with the package."""
    folder = configs_root() / kind
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder.is_dir() else {}


def resolve_config(name: str) -> Path:
    """The file of a config given by path, by shipped name (``mace_motion_demo``) or by ``kind/name``.

    Raises:
        ConfigError: There is none; the nearest shipped names are listed.
    """
    path = Path(name)
    if path.is_file():
        return path
    root = configs_root()
    stem = name.removesuffix(".yaml").removeprefix("configs/")
    for candidate in (root / f"{stem}.yaml", *(root / kind / f"{stem}.yaml" for kind in _KINDS)):
        if candidate.is_file():
            return candidate
    known = [n for kind in _KINDS for n in shipped_configs(kind)]
    near = difflib.get_close_matches(Path(stem).name, known, n=3, cutoff=0.4) or sorted(shipped_configs())
    raise ConfigError("there is no such config", where=name, expected=f"a YAML file or one of {', '.join(near)}")


def resolve_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments with every ``--config NAME`` replaced by the path of its file."""
    resolved: list[str] = []
    expects_name = False
    for argument in arguments:
        if expects_name:
            resolved.append(str(resolve_config(argument)))
            expects_name = False
        elif argument.startswith("--config="):
            resolved.append(f"--config={resolve_config(argument.removeprefix('--config='))}")
        else:
            expects_name = argument == "--config"
            resolved.append(argument)
    if expects_name:
        raise ConfigError("--config is given without a name", expected="a path or a shipped name")
    return resolved


def config_paths(arguments: Sequence[str]) -> list[Path]:
    """The config files among resolved arguments."""
    paths = [Path(a.removeprefix("--config=")) for a in arguments if a.startswith("--config=")]
    return paths + [Path(b) for a, b in itertools.pairwise(arguments) if a == "--config"]


def given_values(arguments: Sequence[str], key: str) -> dict[str, Any]:
    """Where a key of a class is given, by config file or on the command line, and as what.

    Args:
        arguments: Resolved arguments.
        key: Such as ``model.init_args.seed``; ``init_args`` may be left out where it is given.
    """
    short = key.replace(".init_args.", ".")
    found: dict[str, Any] = {}
    for path in config_paths(arguments):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            continue  # the parser says so
        values = [_value_at(content, parts.split(".")) for parts in (key, short)]
        found.update({str(path): value for value in values if value is not None})
    for before, word in itertools.pairwise(["", *arguments, ""]):
        for name in (key, short):
            if before == f"--{name}":
                found[before] = _plain(word)
            elif word.startswith(f"--{name}="):
                found[f"--{name}"] = _plain(word.partition("=")[2])
    return {where: value for where, value in found.items() if value is not None}


def _plain(word: str) -> Any:
    """A value of the command line, as the parser reads it."""
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def _value_at(node: Any, parts: Sequence[str]) -> Any:
    """The value under nested or dotted keys; None where there is none."""
    if not parts:
        return node
    if not isinstance(node, dict):
        return None
    for count in range(1, len(parts) + 1):
        value = _value_at(node.get(".".join(parts[:count])), parts[count:])
        if value is not None:
            return value
    return None


def _class_keys(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), name)
        parameters: dict[str, Any] = {}
        for klass in reversed(inspect.getmro(target)):
            constructor = vars(klass).get("__init__")
            if constructor is not None:
                parameters.update(inspect.signature(constructor).parameters)
        return [p for p in parameters if p not in ("self", "args", "kwargs")]
    except (ImportError, AttributeError, TypeError, ValueError):
        return []


def _known_keys(node: Any, prefix: str) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _known_keys(item, prefix)
    if not isinstance(node, dict):
        return
    if "class_path" in node:
        for key in _class_keys(str(node["class_path"])):
            yield f"{prefix}.{key}" if prefix else key
        node = node.get("init_args") or {}
    for key, value in node.items():
        dotted = f"{prefix}.{key}" if prefix else str(key)
        yield dotted
        yield from _known_keys(value, dotted)


def known_keys(arguments: Sequence[str], option_names: Sequence[str]) -> list[str]:
    """Every dotted key that the configs' classes and the parser's options know."""
    keys = {name for name in option_names}
    for path in config_paths(arguments):
        try:
            keys.update(_known_keys(yaml.safe_load(path.read_text(encoding="utf-8")), ""))
        except (OSError, yaml.YAMLError):
            continue
    return sorted(keys)


def explain(message: str, arguments: Sequence[str], option_names: Sequence[str]) -> ConfigError:
    """Turn a parser's complaint into one line that names the nearest valid key."""
    keys = known_keys(arguments, option_names)
    unknown = re.search(
        r"unrecognized arguments: --(\S+?)(?:=|\s|$)|Option '([^']+)' is not accepted|[Kk]ey '([^']+)' is not expected"
        r"|Unrecognized arguments?: --(\S+?)(?:=|\s|$)|No action for key \"([^\"]+)\"|[Uu]nknown key '([^']+)'",
        message,
    )
    where = re.search(r"Parser key \"([^\"]+)\"", message)
    if unknown:
        key = next(group for group in unknown.groups() if group)
        plain = key.replace(".init_args.", ".").replace("init_args.", "")
        near = difflib.get_close_matches(plain, keys, n=1, cutoff=0.5)
        if not near:
            ends: dict[str, str] = {}
            for known in keys:
                ends.setdefault(known.rpartition(".")[2], known)
            near = [ends[n] for n in difflib.get_close_matches(plain.rpartition(".")[2], ends, n=1, cutoff=0.5)]
        return ConfigError(
            f"unknown config key {key!r}",
            where=where.group(1) if where else None,
            expected=f"the nearest valid key is {near[0]!r}" if near else "a key of `macedance fit --help`",
        )
    return ConfigError(_core(message)[:400], where=where.group(1) if where else None)


def own_error(error: BaseException) -> MaceDanceError | None:
    """The error of this project that a parser's error wraps, if any."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, MaceDanceError):
            return current
        pending += [current.__cause__, current.__context__]
    return None


def _core(message: str) -> str:
    """The one line of a parser's tree of complaints that says what is wrong."""
    noise = re.compile(
        r"Does not validate|Expected a <class 'NoneType'>|Given value|Subtypes?:|^Errors:|does not correspond to a sub"
        r"|^Problem with given class_path|^Parser key \"(model|data|trainer)\":$"
    )
    lines = [line.strip().removeprefix("- ").strip() for line in message.splitlines()]
    telling = [line for line in lines if line and not noise.search(line)]
    # Of a union of types the one that was meant complains in words, the others that it is not they.
    telling = [line for line in telling if not re.fullmatch(r"Expected a <class '\w+'>", line)] or telling
    if not telling:
        return " ".join(line for line in lines if line)
    return " ".join(telling[:2]) if telling[0].endswith(":") else telling[0]
