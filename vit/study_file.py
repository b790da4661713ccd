"""A study from its file, or one line that says what is wrong with it."""

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from vit.checks import UsageError, check, one_line
from vit.study import Claim, Study, Tuning


def load_study(path: str) -> Study:
    """Read and check a study file.

    Raises:
        UsageError: it cannot be read, or names something that is not there or cannot work.
    """
    try:
        content = yaml.load(Path(path).read_text(), UniqueKeys)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}: line {line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # bytes that are no text, a date that never was
        raise UsageError(f"{path}: not valid YAML ({one_line(error)})") from None
    try:
        json.dumps(content)  # dates, loops and the like are no settings
        check(isinstance(content, dict), "the file", "keys and values", content)
        if not content.keys() & {"base", "seeds", "arms"}:
            raise UsageError("not a study, which has base, seeds and arms; train.py --config takes settings")
        if isinstance(content.get("tuning"), dict):
            content["tuning"] = build(Tuning, content["tuning"], "tuning.")
        if isinstance(content.get("claims"), list) and all(isinstance(each, dict) for each in content["claims"]):
            content["claims"] = [build_claim(index, each) for index, each in enumerate(content["claims"])]
        return build(Study, content)
    except (UsageError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from None


def build_claim(index: int, content: dict[str, Any]) -> Claim:
    try:
        claim: Claim = build(Claim, content)
    except UsageError as error:
        raise UsageError(f"claims[{index}].{error}") from None
    return claim


def build(kind: type, content: dict[str, Any], group: str = "") -> Any:
    """A dataclass from the mapping of a study file."""
    known = {each.name: each for each in fields(kind)}
    for key in content:
        check(key in known, f"{group}{key}", f"one of {', '.join(known)}", key)
    for key, each in known.items():
        given = key in content or each.default is not MISSING or each.default_factory is not MISSING
        check(given, group + key, "a value", None)
    return kind(**content)


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


# YAML 1.1, as PyYAML reads it, takes 1e-3 for a text.
UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
