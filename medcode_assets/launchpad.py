"""Settings as Dagster config, so that the launchpad shows every field with its default and description."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import dagster as dg
from pydantic import BaseModel, Field, ValidationError, create_model

from medcode_assets.config import Settings
from medcode_serving.errors import MedcodeError

Section = TypeVar("Section", bound=BaseModel)
Function = TypeVar("Function", bound=Callable[..., Any])

SECTIONS: dict[str, tuple[str, ...]] = {
    "raw": (),
    "cohort": ("data",),
    "facts": (),
    "splits": ("data",),
    "examples": ("data",),
    "base_model": ("model",),
    "tokens": ("data",),
    "adapter": ("lora", "training", "search", "logging"),
    "search": ("lora", "training", "search", "logging"),
    "frequency_prior": ("evaluation",),
    "linear": ("evaluation",),
    "untuned_base": ("evaluation",),
    "evaluation": ("evaluation",),
    "errors": (),
    "report": (),
    "bundle": ("gates",),
    "gguf": ("export",),
}
"""Which sections of training-config.yaml each asset reads; `raw` stands for every raw table."""


class LaunchConfig(dg.Config):
    """What every asset's config has; `launch_config` adds the sections that an asset reads."""

    drop_existing: bool = Field(default=False, description="Make it anew even if nothing changed.")


def launched_with(asset: str, settings: Settings) -> Callable[[Function], Function]:
    """Give an asset's function the config class of the sections that it reads; the settings are its defaults."""
    return launched_with_sections(asset, sections_of(asset, settings))


def launched_with_sections(asset: str, sections: Mapping[str, BaseModel]) -> Callable[[Function], Function]:
    """Give an asset's function the config class that `launch_config` makes."""

    def annotate(function: Function) -> Function:
        function.__annotations__["config"] = launch_config(asset, sections)
        return function

    return annotate


def sections_of(asset: str, settings: Settings) -> dict[str, BaseModel]:
    """Return the sections that an asset reads, by name."""
    return {section: getattr(settings, section) for section in SECTIONS[asset]}


def launch_config(asset: str, sections: Mapping[str, BaseModel]) -> type[LaunchConfig]:
    """Return an asset's config class: sections by name, whose values are the defaults."""
    fields: dict[str, Any] = {}
    for section, values in sections.items():
        section_fields: dict[str, Any] = {
            field: (info.annotation, Field(default=getattr(values, field), description=info.description))
            for field, info in type(values).model_fields.items()
        }
        section_class = create_model(type(values).__name__, __base__=dg.Config, **section_fields)
        fields[section] = (section_class, section_class())
    return create_model(f"{asset.title().replace('_', '')}Config", __base__=LaunchConfig, **fields)


def read(config: dg.Config, section: str, model: type[Section]) -> Section:
    """Return one section of a launch config as its settings class, bounds checked.

    Raises:
        MedcodeError: a value is out of bounds.
    """
    try:
        return model(**getattr(config, section).model_dump())
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        setting = ".".join([section, *(str(part) for part in problem["loc"])])
        raise MedcodeError(f"setting {setting}: {problem['msg']}; change it in the launchpad") from None


def run_config(assets: Iterable[dg.AssetKey], settings: Settings, *, drop_existing: bool = False) -> dict[str, Any]:
    """Return the run config that gives these assets the settings."""
    sections = {key: sections_of("raw" if key.path[0] == "raw" else key.path[-1], settings) for key in assets}
    return sections_config(sections, drop_existing=drop_existing)


def sections_config(
    assets: Mapping[dg.AssetKey, Mapping[str, BaseModel]], *, drop_existing: bool = False
) -> dict[str, Any]:
    """Return the run config that gives each asset its sections."""
    ops = {}
    for key, sections in assets.items():
        values = {name: section.model_dump(mode="json") for name, section in sections.items()}
        ops["__".join(key.path)] = {"config": {**values, "drop_existing": drop_existing}}
    return {"ops": ops}
