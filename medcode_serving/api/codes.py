"""Routes that tell of codes: /codes to search, /codes/{system}/{code} to look one up."""

from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field

from medcode_serving.api.keys import require
from medcode_serving.api.problems import ProblemError, problem_responses
from medcode_serving.api.service import Service, current_service
from medcode_serving.codes.dictionary import Dictionary, KnownCode
from medcode_serving.codes.hierarchy import category, chapter
from medcode_serving.codes.systems import SYSTEMS, dotted

router = APIRouter(prefix="/codes", tags=["codes"], dependencies=[Depends(require("predict"))])

SystemName = Literal["icd9cm", "icd9pcs", "icd10cm", "icd10pcs", "hcpcs", "cpt"]
Recipe = Annotated[str | None, Query(max_length=100, description="Whose codes; the first one served if not given.")]


class Chapter(BaseModel):
    """The widest division of a code system."""

    name: str = Field(examples=["E00-E89"])
    title: str = Field(examples=["Endocrine, nutritional and metabolic diseases"])


class FoundCode(BaseModel):
    """One code that a search found."""

    system: str = Field(examples=["icd10cm"])
    code: str = Field(description="With its system's dots.", examples=["E11.9"])
    description: str | None = Field(examples=["Type 2 diabetes mellitus without complications"])
    predicted: bool = Field(description="Whether the model was trained to predict it.")
    training_frequency: int = Field(description="Training notes with the code.", examples=[766])


class CodeCard(FoundCode):
    """What is known of one code."""

    valid: bool = Field(description="Whether it is written as its system writes codes.")
    known: bool = Field(description="Whether it is in the dictionary of the data's release.")
    category: str = Field(examples=["E11"])
    chapter: Chapter | None


class FoundCodes(BaseModel):
    """What a search found."""

    codes: list[FoundCode] = Field(description="The best first.")


class System(BaseModel):
    """One code system."""

    system: SystemName
    title: str = Field(examples=["ICD-10-CM diagnosis"])


@router.get("", responses=problem_responses(401, 403, 404, 422, 503))
async def search(
    service: Annotated[Service, Depends(current_service)],
    q: Annotated[
        str,
        Query(
            min_length=1,
            max_length=200,
            description="The beginning of a code, or words of its description; each may be a word's beginning.",
            examples=["type 2 diab"],
        ),
    ],
    system: Annotated[SystemName | None, Query(description="Only codes of this system.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Codes at most.")] = 20,
    recipe: Recipe = None,
) -> FoundCodes:
    """Search the codes that the model knows: the code itself first, then codes that begin so, then descriptions.

    Of equals the one more frequent in training comes first.
    """
    dictionary = await _dictionary(service, recipe)
    found = await anyio.to_thread.run_sync(lambda: dictionary.search(q, system=system, limit=limit))
    return FoundCodes(codes=[FoundCode(**_fields(known)) for known in found])


@router.get("/systems")
async def systems() -> list[System]:
    """List the code systems."""
    return [System.model_validate({"system": name, "title": system.title}) for name, system in SYSTEMS.items()]


@router.get("/{system}/{code}", responses=problem_responses(401, 403, 404, 422, 503))
async def code_card(
    service: Annotated[Service, Depends(current_service)],
    system: Annotated[str, Path(examples=["icd10cm"])],
    code: Annotated[str, Path(description="With or without its dot, in any case.", examples=["E11.9"])],
    recipe: Recipe = None,
) -> CodeCard:
    """Look a code up.

    A code that the model does not know is a problem with status 404, which names the nearest ones of its category; one
    that is not written as its system writes codes is a problem with status 422.
    """
    if system not in SYSTEMS:
        raise ProblemError(404, "unknown_system", f"no such code system; there are {', '.join(SYSTEMS)}")
    dictionary = await _dictionary(service, recipe)
    known = dictionary.find(system, code)
    if known is None:
        raise _unknown(dictionary, system, code)
    found = chapter(system, known.code)
    return CodeCard(
        **_fields(known),
        valid=_is_valid(system, known.code),
        known=True,
        category=category(system, known.code),
        chapter=Chapter(name=found.name, title=found.title) if found else None,
    )


async def _dictionary(service: Service, recipe: str | None) -> Dictionary:
    """Return the dictionary of a recipe; it is read when first asked for, off the event loop."""
    predictor = service.coder(recipe)
    return await anyio.to_thread.run_sync(lambda: predictor.dictionary)


def _fields(known: KnownCode) -> dict[str, str | int | None]:
    return {
        "system": known.system,
        "code": known.code,
        "description": known.description,
        "predicted": known.predicted,
        "training_frequency": known.frequency,
    }


def _is_valid(system: str, code: str) -> bool:
    return code.isascii() and SYSTEMS[system].pattern.fullmatch(dotted(system, code)) is not None


def _unknown(dictionary: Dictionary, system: str, code: str) -> ProblemError:
    """Return why a code is not found. A path may hold anything: only what is written like a code is repeated."""
    title = SYSTEMS[system].title
    if not _is_valid(system, code):
        return ProblemError(422, "malformed_code", f"that is not written as a code of {title} ({system})")
    near = ", ".join(known.code for known in dictionary.near(system, code))
    others = f"; of its category there are {near}" if near else "; no code of its category is known either"
    return ProblemError(404, "unknown_code", f"{title} {dotted(system, code)} is not known here{others}")
