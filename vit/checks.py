"""Refusing what cannot work, in one line that names it."""

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class UsageError(Exception):
    """Something the user can put right; its text is the one line shown before the command ends with this exit code."""

    code = 2


class Diverged(UsageError):
    """A training whose loss or weights are not finite any more."""

    code = 3


def check(condition: bool, key: str, expected: str, got: object) -> None:
    """Raise `UsageError` naming the setting unless `condition` holds."""
    if not condition:
        raise UsageError(f"{key}: expected {expected}, got {got!r}")


def check_seeds(key: str, seeds: list[int]) -> None:
    fits = bool(seeds) and min(seeds) >= 0 and len(set(seeds)) == len(seeds)
    check(fits, key, "different numbers, 0 or more, at least one", seeds)


def check_folder_name(key: str, name: str) -> None:
    check(name not in ("", ".", "..") and not set(name) & set("/\\\0"), key, "a folder name", name)


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
    """An annotation as people write it, e.g. `int | list[int]`."""
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    return (
        kind.__name__
        if isinstance(kind, type) and not get_args(kind)
        else str(kind).replace("None", "null").replace("typing.", "")
    )
