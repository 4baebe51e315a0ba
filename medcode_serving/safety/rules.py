"""The rule files, read and checked once: shipped beside this module, extended by a pharmacist's own folder."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medcode_serving.errors import MedcodeError
from medcode_serving.safety.names import NameIndex
from medcode_serving.safety.phrases import PhraseIndex
from medcode_serving.safety.spelling import Speller
from medcode_serving.safety.tables import (
    AnyRow,
    ClassRow,
    DoseRow,
    DrugRow,
    InteractionRow,
    ProductRow,
    UnitRow,
    read_table,
)
from medcode_serving.safety.units import Units, read_units

_OWN_FILES = ("drugs.csv", "products.csv", "classes.csv", "interactions.csv", "doses.csv", "emergencies.yaml")
"""What a folder of one's own may hold."""
_FIXED_FILES = ("cues.yaml", "units.csv", "units.txt")


class EmergencyRule(BaseModel):
    """Red flags that call for urgent care."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^\w+$")]
    severity: Literal["emergency", "high"]
    when: Annotated[tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...], Field(min_length=1)]
    """Lists of terms; one list with all its terms found is enough."""
    unless: tuple[str, ...] = ()
    """Not told if one of these rules was."""
    under: float | None = None
    """Only for patients younger than this, in years."""
    message: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)]


class _Emergencies(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    terms: dict[str, tuple[str, ...]] = {}
    rules: tuple[EmergencyRule, ...] = ()


@dataclass(frozen=True)
class SafetyRules:
    """Everything that a check needs. Nothing in it changes, so any number of threads may use it."""

    version: str
    """Hash of the files."""
    classes: Mapping[str, frozenset[str]]
    """Classes of each drug."""
    interactions: Mapping[frozenset[str], InteractionRow]
    doses: Mapping[str, tuple[DoseRow, ...]]
    """By drug; the usual route first."""
    emergencies: tuple[EmergencyRule, ...]
    phrases: PhraseIndex
    """Terms of emergencies as `term:...`, cues by their names."""
    names: NameIndex
    speller: Speller
    units: Units
    goes_on: frozenset[str]
    """Words that may stand between a drug and the next of its doses."""


@lru_cache(maxsize=8)
def load_rules(folder: Path | None = None) -> SafetyRules:
    """Return the rules; read once for each folder.

    Args:
        folder: Files of one's own, named and made as the shipped ones. A row or rule that the shipped files have too
            takes its place, others are added. None: the shipped ones alone.

    Raises:
        MedcodeError: A file cannot be read; it says which, and the row.
    """
    files = [{name: _shipped(name) for name in (*_OWN_FILES, *_FIXED_FILES)}]
    if folder is not None:
        files.append(_own_files(folder))
    drugs = _merge(files, "drugs.csv", DrugRow)
    products = _merge(files, "products.csv", ProductRow)
    classes = _merge(files, "classes.csv", ClassRow)
    interactions = _merge(files, "interactions.csv", InteractionRow)
    doses = _merge(files, "doses.csv", DoseRow)
    units = read_units(
        files[0]["units.txt"].decode(), [row for _, row in read_table("units.csv", files[0]["units.csv"], UnitRow)]
    )
    _check_names(drugs, products, classes, interactions, doses, units)
    terms, emergencies = _emergencies(files)
    cues: dict[str, list[str]] = yaml.safe_load(files[0]["cues.yaml"])
    never = " ".join(cues.pop("not_typos")).split()
    goes_on = " ".join(cues.pop("goes_on")).split()
    names = NameIndex(_written(drugs, products, classes))
    phrases = PhraseIndex({**{f"term:{name}": listed for name, listed in terms.items()}, **cues})
    stems = {stem for name in terms for stem in phrases.stems[f"term:{name}"]}
    by_drug: defaultdict[str, list[DoseRow]] = defaultdict(list)
    for _, dose in doses.values():
        by_drug[dose.drug].append(dose)
    return SafetyRules(
        version=_version(files),
        classes={row.name: frozenset(row.classes) for _, row in drugs.values()},
        interactions={row.key: row for _, row in interactions.values()},
        doses={drug: tuple(rows) for drug, rows in by_drug.items()},
        emergencies=emergencies,
        phrases=phrases,
        names=names,
        speller=Speller(phrases.words, stems, names.single_words, {*never, *names.words}),
        units=units,
        goes_on=frozenset(goes_on),
    )


def _shipped(name: str) -> bytes:
    return resources.files("medcode_serving.safety").joinpath(name).read_bytes()


def _own_files(folder: Path) -> dict[str, bytes]:
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix in {".csv", ".yaml", ".yml"})
        unknown = [name for name in names if name not in _OWN_FILES]
        if unknown or not names:
            told = f"unknown file {unknown[0]}" if unknown else "no rule file in it"
            raise MedcodeError(f"safety rules {folder}: {told}; there may be {', '.join(_OWN_FILES)}")
        return {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        raise MedcodeError(f"safety rules {folder}: cannot be read ({error.strerror}); name a folder") from error


def _merge(files: list[dict[str, bytes]], name: str, kind: type[AnyRow]) -> dict[object, tuple[str, AnyRow]]:
    """Return the rows of a file by their keys, each with its place; a later folder's rows take the place of earlier."""
    merged: dict[object, tuple[str, AnyRow]] = {}
    for folder in files:
        if name in folder:
            merged |= {row.key: (f"{name}, row {line}", row) for line, row in read_table(name, folder[name], kind)}
    return merged


def _check_names(
    drugs: Mapping[object, tuple[str, DrugRow]],
    products: Mapping[object, tuple[str, ProductRow]],
    classes: Mapping[object, tuple[str, ClassRow]],
    interactions: Mapping[object, tuple[str, InteractionRow]],
    doses: Mapping[object, tuple[str, DoseRow]],
    units: Units,
) -> None:
    """Refuse rows that name what is not listed."""
    for place, drug in drugs.values():
        _known(place, "class", drug.classes, classes, "classes.csv")
    for place, product in products.values():
        _known(place, "drug", product.drugs, drugs, "drugs.csv")
    for place, row in interactions.values():
        for name in (row.drug_a, row.drug_b):
            listed, where = (classes, "classes.csv") if name.startswith("class:") else (drugs, "drugs.csv")
            _known(place, "drug", (name,), listed, where)
        if row.drug_a == row.drug_b and not row.drug_a.startswith("class:"):
            raise MedcodeError(f"{place}: {row.drug_a} with itself; name two drugs, or a class")
    for place, dose in doses.values():
        _known(place, "drug", (dose.drug,), drugs, "drugs.csv")
        if dose.unit not in units.factors:
            raise MedcodeError(f"{place}: unknown unit {dose.unit!r}; there are {', '.join(units.factors)}")
        if (dose.min_age or dose.max_age) and not dose.age_severity:
            raise MedcodeError(f"{place}: an age limit needs an age_severity: low, moderate or high")


def _known(place: str, what: str, names: Iterable[str], listed: Mapping[object, object], where: str) -> None:
    for name in names:
        if name not in listed:
            raise MedcodeError(f"{place}: unknown {what} {name!r}; add it to {where}, or mend the spelling")


def _written(
    drugs: Mapping[object, tuple[str, DrugRow]],
    products: Mapping[object, tuple[str, ProductRow]],
    classes: Mapping[object, tuple[str, ClassRow]],
) -> dict[str, tuple[str, ...]]:
    """Return what each written name stands for.

    Raises:
        MedcodeError: Two drugs share a name.
    """
    written: dict[str, tuple[str, ...]] = {}
    for place, drug in drugs.values():
        for name in {drug.name, *drug.brands, *drug.also}:
            if written.setdefault(name.lower(), (drug.name,)) != (drug.name,):
                raise MedcodeError(f"{place}: {name!r} is also {written[name.lower()][0]}; a name is for one drug")
    for _, kind in classes.values():
        written |= {name.lower(): (kind.class_,) for name in kind.names}
    return written | {product.name.lower(): product.drugs for _, product in products.values()}


def _emergencies(files: list[dict[str, bytes]]) -> tuple[dict[str, tuple[str, ...]], tuple[EmergencyRule, ...]]:
    """Return the terms and the rules, in an order in which each follows those of its `unless`."""
    terms: dict[str, tuple[str, ...]] = {}
    rules: dict[str, EmergencyRule] = {}
    for folder in files:
        if "emergencies.yaml" in folder:
            read = _read_emergencies(folder["emergencies.yaml"])
            terms |= read.terms
            rules |= {rule.id: rule for rule in read.rules}
    for rule in rules.values():
        for term in (term for combination in rule.when for term in combination):
            if term not in terms:
                raise MedcodeError(f"emergencies.yaml, rule {rule.id}: unknown term {term!r}; add it to terms")
        for other in rule.unless:
            if other not in rules or other == rule.id:
                raise MedcodeError(f"emergencies.yaml, rule {rule.id}: unless {other!r} names no other rule")
    return terms, tuple(rules.values())


def _read_emergencies(data: bytes) -> _Emergencies:
    try:
        return _Emergencies.model_validate(yaml.safe_load(data.decode()) or {})
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        row = f", row {mark.line + 1}" if mark else ""
        raise MedcodeError(f"emergencies.yaml{row}: no YAML; check indentation and quotes") from error
    except UnicodeDecodeError as error:
        raise MedcodeError("emergencies.yaml: not UTF-8; save the file as UTF-8") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise MedcodeError(f"emergencies.yaml, {place}: {first['msg']}") from error


def _version(files: list[dict[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for folder in files:
        for name, data in sorted(folder.items()):
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:16]
