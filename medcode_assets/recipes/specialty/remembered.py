"""What the commands of a progressive training were given: kept under its name, and used until something else is given.

`settings.yaml` in the folder of iteration 1, beside its samples: every setting that a --config file or a flag named.
Not kept are an iteration's own adjustments, an address with a password, and the hosts that data may be sent to.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medcode_assets.recipes.specialty.settings import CONFIG, SpecialtySettings, load_specialty_settings
from medcode_serving.errors import MedcodeError
from medcode_serving.layers import by_section

FILE = "settings.yaml"
NOT_KEPT = (("specialty", "adjustments"), ("compute", "allowed_hosts"))
"""What one iteration gets is no other's; and who may be sent patients' data is said each time."""
FOLDERS = (("specialty", "source"), ("model", "base"), ("specialty", "bertscore_model"))
"""Settings that may name a folder: kept by its full path, as the next command may run elsewhere."""

Values = dict[str, dict[str, Any]]
"""Settings by section and field."""


@dataclass(frozen=True)
class Remembered:
    """What was given under a name."""

    own_config: bool
    """A --config file was given: config/specialty.yaml no longer counts."""
    values: Values


def recall(file: Path) -> Remembered:
    """Return what was kept; nothing, if nothing was. Raises MedcodeError if the file is broken."""
    try:
        kept = yaml.safe_load(file.read_text(encoding="utf-8"))
        return Remembered(bool(kept["own_config"]), {name: dict(own) for name, own in kept["settings"].items()})
    except FileNotFoundError:
        return Remembered(own_config=False, values={})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        raise MedcodeError(f"{file}: broken; delete it and give --config, --source and --set once more") from None


def given_now(file: Path, config: Path | None, flags: Mapping[str, Any]) -> Remembered:
    """Return what was kept with what a command is given over it.

    Args:
        file: Where it is kept.
        config: Settings file that the command names.
        flags: Values by dotted name; None is a flag that was not given.

    Raises:
        MedcodeError: as `load_specialty_settings` does, or what was kept is broken.
    """
    load_specialty_settings(config, flags)  # names file and line of what is wrong
    kept = recall(file)
    values = {name: dict(own) for name, own in kept.values.items()}
    given = _laid_over(_contents(config), by_section(flags))
    if "base" in given.get("model", {}):
        values.get("model", {}).pop("revision", None)  # the other model's
    return Remembered(kept.own_config or config is not None, _laid_over(values, given))


def as_settings(remembered: Remembered, file: Path, flags: Mapping[str, Any]) -> SpecialtySettings:
    """Return the settings: defaults < what is remembered < environment < flags.

    Raises:
        MedcodeError: a setting is unknown or out of bounds.
    """
    below = {} if remembered.own_config or not CONFIG.exists() else _contents(CONFIG)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as merged:
        yaml.safe_dump(_laid_over(below, remembered.values), merged)
        merged.flush()
        try:
            return load_specialty_settings(Path(merged.name), flags)
        except MedcodeError as error:
            reason = str(error).partition(": ")[2] if str(error).startswith(merged.name) else str(error)
            raise MedcodeError(f"{file}: {reason}; give another value with --set, or delete the file") from None


def remember(file: Path, remembered: Remembered, source: str) -> None:
    """Keep what was given, for its owner's eyes; `source` is where the questions are from, as their samples say."""
    values = _laid_over(remembered.values, {"specialty": {"source": source}})
    for section, field in NOT_KEPT:
        values.get(section, {}).pop(field, None)
    if "@" in str(values.get("logging", {}).get("mlflow_uri")):
        del values["logging"]["mlflow_uri"]
    for section, field in FOLDERS:
        if field in values.get(section, {}):
            values[section][field] = _full_path(values[section][field])
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.touch(mode=0o600)
    aside.write_text(
        yaml.safe_dump({"own_config": remembered.own_config, "settings": values}, sort_keys=False), encoding="utf-8"
    )
    aside.replace(file)


def _contents(config: Path | None) -> Values:
    """Return a settings file that was read without fault before."""
    found = yaml.safe_load(config.read_text(encoding="utf-8")) if config else None
    return {name: dict(own or {}) for name, own in (found or {}).items()}


def _laid_over(below: Values, above: Values) -> Values:
    return {name: {**below.get(name, {}), **above.get(name, {})} for name in {**below, **above}}


def _full_path(value: Any) -> Any:
    folder = Path(value).expanduser() if isinstance(value, str) and value not in ("synthetic", "embedded") else None
    return str(folder.resolve()) if folder is not None and folder.is_dir() else value
