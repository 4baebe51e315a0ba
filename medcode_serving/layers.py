"""Settings in layers: a pydantic class's defaults, a YAML file, the environment, flags, each over the one before."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
)

from medcode_serving.errors import MedcodeError

Settings = TypeVar("Settings", bound=BaseSettings)


class Section(BaseModel):
    """One section of a settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def layered(settings_class: type[Settings], path: Path | None, flags: dict[str, Any]) -> Settings:
    """Read settings: defaults < file < environment < flags.

    Args:
        settings_class: Its `env_prefix` begins the variables, as in `<PREFIX><SECTION>__<FIELD>`.
        path: The YAML file; None for no file.
        flags: Values by dotted key, `{"api.port": 9000}`; None is a flag that was not given.

    Raises:
        MedcodeError: the file is missing or no mapping, or a key or value is wrong; the message names source, line and
            key, and quotes no value.
    """
    contents = _read_mapping(path) if path else {}
    nested = by_section(flags)
    _refuse_unknown_variables(settings_class)

    class FromAllSources(settings_class):  # type: ignore[valid-type, misc]
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            file = InitSettingsSource(settings_cls, init_kwargs=contents)
            return sources["init_settings"], sources["env_settings"], file

    try:
        values = FromAllSources(**nested)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        key = [str(part) for part in problem["loc"]]
        reason = "no such setting" if problem["type"] == "extra_forbidden" else problem["msg"]
        raise MedcodeError(f"{_source_of(settings_class, key, nested, path)}: {'.'.join(key)}: {reason}") from None
    except SettingsError as error:
        raise MedcodeError(f"environment: {error}; lists and sections are written as JSON") from None
    plain = settings_class.model_construct(**{name: getattr(values, name) for name in settings_class.model_fields})
    return cast(Settings, plain)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        contents = yaml.safe_load(path.read_text())
    except OSError as error:
        raise MedcodeError(f"{path}: {error.strerror}; name a settings file, or leave --config out") from None
    except UnicodeDecodeError:
        raise MedcodeError(f"{path}: not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        raise MedcodeError(f"{path}: not YAML{place}") from None
    if contents is None:
        return {}
    if not isinstance(contents, dict) or not all(isinstance(key, str) for key in contents):
        raise MedcodeError(f"{path}: not a mapping of sections; the files in config/ show how it looks")
    return contents


def by_section(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted name as sections hold them; None is a flag that was not given."""
    nested: dict[str, Any] = {}
    for key, value in flags.items():
        if value is None:
            continue
        *sections, field = key.split(".")
        within = nested
        for section in sections:
            within = within.setdefault(section, {})
        within[field] = value
    return nested


def _refuse_unknown_variables(settings_class: type[BaseSettings]) -> None:
    """Refuse a misspelt section, which pydantic-settings would ignore; it refuses a misspelt field itself."""
    prefix = settings_class.model_config.get("env_prefix", "")
    for name in sorted(os.environ):
        section = name.upper().removeprefix(prefix).lower().split("__")[0]
        if name.upper().startswith(prefix) and section not in settings_class.model_fields:
            known = ", ".join(settings_class.model_fields)
            raise MedcodeError(f"environment: {name}: no section {section!r}; there are {known}")


def _source_of(settings_class: type[BaseSettings], key: list[str], flags: dict[str, Any], path: Path | None) -> str:
    within: Any = flags
    for part in key:
        within = within.get(part) if isinstance(within, dict) else None
    if within is not None:
        return "flags"
    variable = settings_class.model_config.get("env_prefix", "") + "__".join(key).upper()
    if any(name.upper() == variable for name in os.environ):
        return f"environment variable {variable}"
    if path is None:
        return "settings"
    line = _line_of(path, key)
    return str(path) if line is None else f"{path}, line {line}"


def _line_of(path: Path, key: list[str]) -> int | None:
    """Return the line of a file's deepest key on the way to `key`; None if the file does not have the first part."""
    node, line = yaml.compose(path.read_text()), None
    for part in key:
        if not isinstance(node, yaml.MappingNode):
            break
        found = [(name.start_mark.line + 1, value) for name, value in node.value if name.value == part]
        if not found:
            break
        line, node = found[-1]
    return line
