"""A study from its file, or one line that says what is wrong with it."""

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from vit.checks import UsageError, check
from vit.study import Claim, Study, Tuning
from vit.yaml_file import read_yaml


def load_study(path: str) -> Study:
    """Read and check a study file.

    Raises:
        UsageError: it cannot be read, or names something that is not there or cannot work.
    """
    content = read_yaml(Path(path))
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
