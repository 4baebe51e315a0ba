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

from medcode_assets.config import Settings, load_settings
from medcode_serving.errors import MedcodeError
from medcode_serving.layers import layered
from medcode_serving.settings import InferenceSettings


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


def _reasoning() -> Kind:
    from medcode_assets.recipes.reasoning.settings import StageSettings

    return Kind("reasoning stage", StageSettings)


def _consult() -> Kind:
    from medcode_assets.recipes.consult.settings import ConsultSettings

    return Kind("consult", ConsultSettings)


def _medqa() -> Kind:
    from medcode_assets.recipes.medqa.settings import MedqaSettings

    return Kind("medqa", MedqaSettings)


def _specialty() -> Kind:
    from medcode_assets.recipes.specialty.settings import SpecialtySettings

    return Kind("specialty", SpecialtySettings)


_BY_SECTION = {"reasoning": _reasoning, "consult": _consult, "medqa": _medqa, "specialty": _specialty}
"""Sections that only one kind of file has."""
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
        written = file.read_bytes()
        contents = yaml.safe_load(written)
        _refuse_unclear(file, yaml.compose(written, yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError):
        return TRAINING
    except RecursionError:
        raise MedcodeError(f"{file}: brackets too deep; the files in config/ show how settings look") from None
    if contents is None:
        raise MedcodeError(f"{file}: empty; the files in config/ show how settings look")
    if not isinstance(contents, dict):
        return TRAINING
    for section, kind in _BY_SECTION.items():
        if section in contents:
            return kind()
    training, inference = (_known(contents, kind.settings) for kind in (TRAINING, INFERENCE))
    if training == inference:
        which = "no section of any" if training == (0, 0) else "nothing that tells which"
        raise MedcodeError(
            f"{file}: has {which} kind of settings; training has {', '.join(Settings.model_fields)}; "
            f"inference has {', '.join(InferenceSettings.model_fields)}"
        )
    return TRAINING if training > inference else INFERENCE


def load_training_settings(file: Path | None, flags: dict[str, Any]) -> Settings:
    """Return the settings of a training of any recipe, by the kind of its file; none: those of the main job.

    Raises:
        MedcodeError: the file is missing, wrong, or of a service; or a setting is unknown or out of bounds.
    """
    kind = TRAINING if file is None else kind_of(file)
    if kind is TRAINING:
        return load_settings(file, flags)
    settings = layered(kind.settings, file, flags)
    if not isinstance(settings, Settings):
        raise MedcodeError(f"{file}: {kind.name} settings, which train nothing; name those of a recipe, as in config/")
    return settings


def _refuse_unclear(file: Path, document: yaml.Node | None) -> None:
    """Refuse a key that stands twice, of which YAML would take the last, and what is no finite number."""
    waiting, seen = [document], set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:  # an alias stands for a node that was seen
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            names: set[str] = set()
            for key, _ in node.value:
                name = str(key.value)
                if name in names:
                    raise MedcodeError(f"{file}, line {key.start_mark.line + 1}: {name} stands there twice")
                names.add(name)
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif node.tag == "tag:yaml.org,2002:float" and node.value.lower().lstrip("+-") in (".nan", ".inf"):
            raise MedcodeError(f"{file}, line {node.start_mark.line + 1}: {node.value} is no number to set anything to")


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
