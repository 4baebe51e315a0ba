"""The rule files as rows that are checked: one clear error with file and row."""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from medcode_serving.errors import MedcodeError


def _split(text: object) -> object:
    return tuple(part.strip() for part in text.split(";") if part.strip()) if isinstance(text, str) else text


def _blank(text: object) -> object:
    return None if text == "" else text


Listed = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Parted by semicolons in the file."""
Amount = Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_blank)]
Name = Annotated[str, Field(min_length=1)]
RuleSeverity = Literal["low", "moderate", "high"]


class Row(BaseModel):
    """A row of a rule file; its fields are the file's columns."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class DrugRow(Row):
    """A drug and how it is written."""

    name: Name
    brands: Listed
    also: Listed
    classes: Listed

    @property
    def key(self) -> str:
        """What tells the row from others."""
        return self.name


class ProductRow(Row):
    """A name of several drugs together."""

    name: Name
    drugs: Listed

    @property
    def key(self) -> str:
        """What tells the row from others."""
        return self.name.lower()


class ClassRow(Row):
    """A class of drugs, and how it is written."""

    class_: Annotated[str, Field(alias="class", pattern=r"^class:\w+$")]
    names: Listed

    @property
    def key(self) -> str:
        """What tells the row from others."""
        return self.class_


class InteractionRow(Row):
    """Two drugs, or classes, that do not go together."""

    drug_a: Name
    drug_b: Name
    severity: RuleSeverity
    effect: Name
    action: Name
    source: Name

    @property
    def key(self) -> frozenset[str]:
        """What tells the row from others."""
        return frozenset((self.drug_a, self.drug_b))

    @property
    def id(self) -> str:
        """The rule's name in a report."""
        return f"{self.drug_a}+{self.drug_b}"


class DoseRow(Row):
    """The limits of a drug by one route."""

    drug: Name
    route: Literal["oral", "subcutaneous", "intramuscular", "intravenous", "sublingual", "rectal", "inhaled", "nasal"]
    unit: Name
    max_single: Amount
    max_daily: Amount
    max_single_per_kg: Amount
    max_daily_per_kg: Amount
    child_single_per_kg: Amount
    child_daily_per_kg: Amount
    min_hours: Amount
    """The least time between doses."""
    min_age: Amount
    """Years."""
    max_age: Amount
    age_severity: Annotated[RuleSeverity | None, BeforeValidator(_blank)]
    usual_least: Amount = None
    """The smallest single dose in use, children's too: far less is likely a slip of the unit. The column may lack."""
    note: str
    source: Name

    @property
    def key(self) -> tuple[str, str]:
        """What tells the row from others."""
        return (self.drug, self.route)

    @property
    def id(self) -> str:
        """The rule's name in a report."""
        return f"{self.drug}/{self.route}"


class UnitRow(Row):
    """A unit of `units.txt`, and how it is written."""

    unit: Name
    spellings: Listed

    @property
    def key(self) -> str:
        """What tells the row from others."""
        return self.unit


AnyRow = TypeVar("AnyRow", DrugRow, ProductRow, ClassRow, InteractionRow, DoseRow, UnitRow)


def read_table(name: str, data: bytes, kind: type[AnyRow]) -> Iterator[tuple[int, AnyRow]]:
    """Yield the rows of a CSV file with the number of the line that each ends on.

    Args:
        name: The file's name, for errors.
        data: The file, UTF-8.
        kind: What a row is.

    Raises:
        MedcodeError: Not UTF-8, a column missing or unknown, a wrong value, a row twice.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise MedcodeError(f"{name}, row {line}: not UTF-8; save the file as UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    fields = {field.alias or column: field for column, field in kind.model_fields.items()}
    header = list(reader.fieldnames or ())
    columns = [column for column, field in fields.items() if field.is_required() or column in header]
    _check_header(name, header, columns)
    seen: dict[object, int] = {}
    try:
        for values in reader:
            row = _read_row(f"{name}, row {reader.line_num}", values, columns, kind)
            if row.key in seen:
                raise MedcodeError(f"{name}, row {reader.line_num}: the same as row {seen[row.key]}; keep one of them")
            seen[row.key] = reader.line_num
            yield reader.line_num, row
    except csv.Error as error:
        raise MedcodeError(f"{name}, row {reader.line_num}: no CSV ({error}); check the quotes") from error


def _check_header(name: str, found: list[str], columns: list[str]) -> None:
    missing = [column for column in columns if column not in found]
    unknown = [column for column in found if column not in columns]
    if missing or unknown or len(set(found)) < len(found):
        told = [f"columns missing: {', '.join(missing)}"] if missing else []
        told += [f"columns unknown: {', '.join(map(repr, unknown))}"] if unknown else []
        raise MedcodeError(f"{name}, row 1: {'; '.join(told) or 'a column twice'}; they must be {','.join(columns)}")


def _read_row(place: str, values: Mapping[str | None, object], columns: list[str], kind: type[AnyRow]) -> AnyRow:
    if None in values or None in values.values():
        raise MedcodeError(f"{place}: needs {len(columns)} values; put text with commas in double quotes")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise MedcodeError(f"{place}, column {first['loc'][0]}: {first['msg']}") from error
