"""Settings from YAML, or one line about what is wrong with them, and to YAML."""

import re
from pathlib import Path
from typing import Any

import yaml

from vit.checks import UsageError, one_line


def read_yaml(path: Path) -> Any:
    """The content of a file.

    Raises:
        UsageError: it cannot be read, is not YAML, or gives a key twice.
    """
    try:
        return yaml.load(path.read_text(), UniqueKeys)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}: line {line}: {error.problem}") from None
    # Bytes that are no text, a date that never was, a thousand brackets one in the other.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid YAML ({one_line(error)})") from None


def to_yaml(content: dict[str, Any]) -> str:
    """What `read_yaml` and the command line read as the same values."""
    return yaml.dump(content, Dumper=Dumper, sort_keys=False)


class Dumper(yaml.SafeDumper):
    """Quotes a text that would be read as a number."""


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error, not the last one silently, and 1e-3 a number."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "expected a word as key", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1, as PyYAML reads and writes it, takes 1e-3 for a text.
for each in (UniqueKeys, Dumper):
    each.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )
