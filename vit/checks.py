"""Refusing what cannot work, in one line that names it."""

import os
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

MAX_BATCH = 100_000  # images: more than CIFAR-10 has


class UsageError(Exception):
    """Something the user can put right; its text is the one line shown before the command ends with this exit code."""

    code = 2


class Diverged(UsageError):
    """A training whose loss or weights are not finite any more."""

    code = 3


def check(condition: bool, key: str, expected: str, got: object) -> None:
    """Raise `UsageError` naming the setting unless `condition` holds."""
    if not condition:
        raise UsageError(f"{key}: expected {expected}, got {shown(got)}")


def shown(value: object) -> str:
    """How a message quotes a value: long ones shortened."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def one_line(error: BaseException) -> str:
    """What an error says, for a message of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def printable(name: str) -> str:
    """A file's name for a terminal, which a name could give orders to: what is not printable is escaped."""
    name = os.fsencode(name).decode(errors="surrogateescape")  # in some locales Python takes names for ASCII
    return "".join(each if each.isprintable() else repr(each.encode(errors="surrogateescape"))[2:-1] for each in name)


def check_batch_size(key: str, size: int | None) -> None:
    check(size is None or 0 < size <= MAX_BATCH, key, f"a number from 1 to {MAX_BATCH} or null", size)


def check_seeds(key: str, seeds: list[int]) -> None:
    fits = bool(seeds) and min(seeds) >= 0 and len(set(seeds)) == len(seeds)
    check(fits, key, "different numbers, 0 or more, at least one", seeds)


def check_folder_name(key: str, name: str) -> None:
    check(name not in ("", ".", "..") and not set(name) & set("/\\\0"), key, "a folder name", name)


def check_project(key: str, name: str) -> None:
    check(bool(name) and not set(name) & set("/\\#?%:"), key, "a name without any of / \\ # ? % :", name)


def check_types(settings: Any, group: str = "") -> None:
    """Raise `UsageError` unless every field of a dataclass holds what its annotation says."""
    for name, kind in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        check(fits(value, kind), group + name, describe(kind), value)


def fits(value: object, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in arguments)
    if origin is list:
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if origin is dict:
        keys, values = arguments
        return isinstance(value, dict) and all(fits(k, keys) and fits(v, values) for k, v in value.items())
    if kind is Any:
        return True
    if kind in (int, float):  # true is not 1, but 1 is 1.0
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)


def describe(kind: Any) -> str:
    """An annotation in words, e.g. `int or list[int]`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(arguments)
    if origin in (Union, UnionType):
        return " or ".join(describe(each) for each in arguments)
    if origin is not None:
        return f"{origin.__name__}[{', '.join(describe(each) for each in arguments)}]"
    return "null" if kind is type(None) else getattr(kind, "__name__", str(kind))
