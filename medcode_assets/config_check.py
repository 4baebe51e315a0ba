"""`medcode config check`: of which kind a settings file is, whether it is valid, and what it sets."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml
from pydantic import BaseModel
from pydantic_settings import BaseSettings

from medcode_assets.config import Settings
from medcode_serving.errors import MedcodeError
from medcode_serving.layers import layered
from medcode_serving.settings import InferenceSettings

_REASONING = "reasoning"


@dataclass(frozen=True)
class Kind:
    """A kind of settings file."""

    name: str
    settings: type[BaseSettings]


@dataclass(frozen=True)
class Setting:
    """One setting that is not at its default."""

    key: str
    """As in lora.r."""
    value: Any
    default: Any
    from_environment: bool


TRAINING = Kind("training", Settings)
INFERENCE = Kind("inference", InferenceSettings)


def check_files(files: Sequence[Path]) -> bool:
    """Print for each file what it is and what it sets, and return whether all are valid.

    Problems go to standard error, a line each. The environment overrides a file here as it does in a run.
    """
    all_valid = True
    for file in files:
        try:
            kind = kind_of(file)
            found = not_at_default(layered(kind.settings, file, {}))
        except MedcodeError as error:
            typer.echo(f"medcode: {error}", err=True)
            all_valid = False
            continue
        count = f"{len(found)} not at their default" if found else "all at their defaults"
        typer.echo(f"{file}: valid {kind.name} settings, {count}")
        for setting in found:
            origin = ", from the environment" if setting.from_environment else ""
            typer.echo(f"  {setting.key}: {setting.value} (default {setting.default}{origin})")
    return all_valid


def kind_of(file: Path) -> Kind:
    """Tell the kind of a settings file by its sections and their fields, whatever its name is.

    Raises:
        MedcodeError: it has no section of any kind, or as much of one kind as of another. A file that cannot be read
            counts as training settings: reading it as such says what is wrong.
    """
    try:
        contents = yaml.safe_load(file.read_bytes())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return TRAINING
    if contents is None:
        raise MedcodeError(f"{file}: empty; the files in config/ show how settings look")
    if not isinstance(contents, dict):
        return TRAINING
    if _REASONING in contents:
        from medcode_assets.recipes.reasoning.settings import StageSettings

        return Kind("reasoning stage", StageSettings)
    training, inference = (_known(contents, kind.settings) for kind in (TRAINING, INFERENCE))
    if training == inference:
        which = "no section of any" if training == (0, 0) else "nothing that tells which"
        raise MedcodeError(
            f"{file}: has {which} kind of settings; training has {', '.join(Settings.model_fields)}; "
            f"inference has {', '.join(InferenceSettings.model_fields)}"
        )
    return TRAINING if training > inference else INFERENCE


def not_at_default(settings: BaseSettings) -> list[Setting]:
    """Return the settings whose value is not the default, in the order of their sections."""
    defaults = type(settings).model_construct()
    prefix = str(type(settings).model_config.get("env_prefix", ""))
    variables = {name.upper() for name in os.environ}

    found = []
    for (key, value), (_, default) in zip(_leaves(settings), _leaves(defaults), strict=True):
        if value != default:
            variable = prefix + key.replace(".", "__").upper()
            found.append(Setting(key, value, default, variable in variables))
    return found


def _known(contents: dict[Any, Any], settings: type[BaseSettings]) -> tuple[int, int]:
    """Return how many of a file's sections, and how many of their fields, such settings have."""
    sections = fields = 0
    for name, field in settings.model_fields.items():
        if name in contents:
            sections += 1
            section = field.annotation
            if isinstance(contents[name], dict) and isinstance(section, type) and issubclass(section, BaseModel):
                fields += len(section.model_fields.keys() & contents[name].keys())
    return sections, fields


def _leaves(settings: BaseModel) -> Iterator[tuple[str, Any]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from ((f"{name}.{field}", getattr(value, field)) for field in type(value).model_fields)
        else:
            yield name, value
