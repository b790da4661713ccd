"""The command line of the doors: settings from YAML and dotted overrides, results as JSON, errors as one line."""

import difflib
import errno
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from vit.checks import UsageError, check, describe, printable, shown
from vit.config import flatten
from vit.files import FULL
from vit.terminal import Interrupted
from vit.yaml_file import read_yaml

# What the user can put right where a file cannot be read or written.
NO_ACCESS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP,
)  # fmt: skip

Settings = TypeVar("Settings")


def door(main: Callable[[Settings], dict[str, Any] | None], settings: type[Settings]) -> None:
    """Run `main` on the settings of this command line, print what it returns, if anything, as one JSON line, and exit.

    Exit codes: 0 done, 1 the disk is full or some pictures were refused, 2 the user can put it right, 3 the training
    diverged, 128 + signal interrupted and saved (or, 141, the reader of stdout left).
    """
    try:
        if result := main(parse(settings, sys.argv[1:])):
            print(as_json(result))
        sys.stdout.flush()  # here, where what goes wrong is told in a line
    except UsageError as error:
        fail(str(error), error.code)
    except Interrupted as stop:
        fail(str(stop), stop.code)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:  # whoever read stdout, such as head, has enough
        drop_output()
        raise SystemExit(128 + signal.SIGPIPE) from None
    except OSError as error:
        if error.errno in NO_ACCESS:
            fail(f"no access to {error.filename or 'a file'} ({error.strerror})", 2)
        if error.errno not in FULL:
            raise
        if error.filename is None:  # it is stdout's
            drop_output()
        fail(f"the disk is full{f', writing {error.filename}' if error.filename else ''}; nothing saved was damaged", 1)


def drop_output() -> None:
    """Where stdout cannot be written to: or Python would fail again as it ends, and flush what is left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def as_json(value: object) -> str:
    """One line of JSON, which has no NaN and no infinity.

    Raises:
        UsageError: there is such a number, as of weights so large that the logits overflow.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        raise UsageError(f"a result is NaN or infinite ({shown(value)})") from None


def fail(message: str, code: int) -> NoReturn:
    program = Path(sys.argv[0])
    name = f"vit.{program.parent.name}" if program.stem == "__main__" else program.name  # python -m vit.report
    print(f"{name}: {printable(' '.join(message.split()))}", file=sys.stderr)
    raise SystemExit(code)


def parse(settings: type[Settings], arguments: list[str]) -> Settings:
    """Build `settings` from its defaults, `--config FILE` over them, and `--dotted.key=value` over both, in any order.

    Fields without a default are positional arguments, in their order; one that is a list takes one or more of them.
    `--key` alone means `--key=true` for a boolean, `--some-key` the same as `--some_key`.

    Raises:
        UsageError: an unknown key, a wrong type or an impossible value; the text names it.
    """
    import docstring_parser
    from jsonargparse import ArgumentError, ArgumentParser

    types = dotted_types(settings)
    parser = ArgumentParser(
        exit_on_error=False, allow_abbrev=False, description=(settings.__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--config", action="config", help="YAML file of settings")
    positional = [
        field.name
        for field in fields(settings)  # type: ignore[arg-type]
        if field.default is MISSING and field.default_factory is MISSING
    ]
    said = {each.arg_name: each.description for each in docstring_parser.parse_from_object(settings).params}
    for name in positional:
        if get_origin(types[name]) is list:
            parser.add_argument(name, type=get_args(types[name])[0], nargs="+", help=said.get(name))
        else:
            parser.add_argument(name, type=types[name], help=said.get(name))
    parser.add_class_arguments(settings, skip=set(positional))
    options = list(itertools.takewhile(lambda argument: argument != "--", arguments))
    names = arguments[len(options) :]  # of files, which may look like options
    options = [re.sub(r"^--[^=]+", underscored, option) for option in options]
    bare = {f"--{key}" for key, kind in types.items() if kind is bool}
    options = [
        f"{option}=true" if option in bare and after.lower() not in ("true", "false") else option
        for option, after in itertools.pairwise([*options, ""])
    ]
    files, others = files_first(options)
    check_files(files, types)
    if {"name", "runs_dir"} <= types.keys():
        files += where_it_lies(files)
    try:
        namespace = parser.parse_args(files + others + names)
        values = parser.instantiate(namespace).as_dict()
    except ArgumentError as error:
        raise UsageError(explain(str(error), types)) from None
    except (TypeError, ValueError, OverflowError) as error:  # such as of a file that is no text
        raise UsageError(f"--config: the settings cannot be read ({error})") from None
    return settings(**{field.name: values[field.name] for field in fields(settings)})  # type: ignore[arg-type]


def files_first(arguments: list[str]) -> tuple[list[str], list[str]]:
    """`--config=FILE` of the arguments, and all others: the parser lets whatever comes later win."""
    files: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--config" and (file := next(rest, None)) is not None:
            argument = f"--config={file}"
        (files if argument.startswith("--config=") else others).append(argument)
    return files, others


def where_it_lies(files: list[str]) -> list[str]:
    """Of a run's own config.yaml, settings that mean the run in whose folder it lies, wherever that was moved since."""
    folders = [Path(file.removeprefix("--config=")).absolute().parent for file in files]
    runs = [folder for folder in folders if (folder / "state.pt").exists()]
    return [each for run in runs for each in (f"--name={run.name}", f"--runs_dir={os.path.relpath(run.parent)}")]


def check_files(files: list[str], types: dict[str, Any]) -> None:
    """Refuse a file of settings where the parser would not say clearly what is wrong with it."""
    groups = {key.split(".")[0] for key in types if "." in key}
    for path in (file.removeprefix("--config=") for file in files):
        check(path != "", "--config", "a file of settings", path)
        content = read_yaml(Path(path))
        check(isinstance(content, dict), path, "settings, keys and values", content)
        check(not {"base", "arms"} <= content.keys(), "--config", "settings, not a study (compare.py)", path)
        check("config" not in content, f"{path}: config", "no such line: a file does not name another", path)
        for group in groups & content.keys():
            check(
                isinstance(content[group], dict),
                f"{path}: {group}",
                "settings below it, or no such line",
                content[group],
            )
        if strange := [str(key) for key in flatten(content) if key not in types]:
            raise UsageError(f"{path}: {unknown(strange[0], types)}")


def overrides(settings: dict[str, Any]) -> list[str]:
    """Flat settings as a command line of `parse`."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]


def underscored(option: re.Match[str]) -> str:
    """`--batch-size` as `--batch_size`: people write both."""
    return "--" + option[0][2:].replace("-", "_")


def dotted_types(settings: type) -> dict[str, Any]:
    """Every setting by its dotted key, with its type."""
    types: dict[str, Any] = {}
    for key, kind in get_type_hints(settings).items():
        if is_dataclass(kind):
            types |= {f"{key}.{inner}": inner_kind for inner, inner_kind in dotted_types(kind).items()}  # type: ignore[arg-type]
        else:
            types[key] = kind
    return types


def explain(message: str, types: dict[str, Any]) -> str:
    """jsonargparse's message as one line that names the key and what was expected."""
    if found := re.search(r"unrecognized arguments: (\S+\.ya?ml)", message):
        return f"{found[1]}: a file of settings is given as --config {found[1]}"
    if found := re.search(r"unrecognized arguments: (?:--)?([^\s=]+)", message):
        return unknown(found[1], types)
    if found := re.search(r"Group '(.+)' does not accept option '(.+)'", message):
        return unknown(f"{found[1]}.{found[2]}", types)
    if found := re.search(r"[Oo]ption '(.+)' is not accepted", message):
        return unknown(found[1], types)
    if (found := re.search(r'Parser key "(.+?)"', message)) and found[1] in types:
        value = re.search(r"(?:Given value|Got value): (.*)", message.splitlines()[-1])
        return f"{found[1]}: expected {describe(types[found[1]])}, got {value[1] if value else 'something else'}"
    return message


def unknown(key: str, types: dict[str, Any]) -> str:
    close = difflib.get_close_matches(key, types, n=1)
    return f"{key}: no such setting{f'; did you mean {close[0]}?' if close else ' (--help lists them)'}"
