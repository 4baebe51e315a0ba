"""MIMIC's admissions as lines of stage 1: why the patient came, and the principal diagnosis."""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from medcode_assets.recipes.reasoning.formats import Stage1Line, stage_1_line
from medcode_assets.warehouse import fingerprint, inputs, open_warehouse
from medcode_serving.sections import join_parts, sections_hash, split_note

SECTIONS = ("chief_complaint", "history_of_present_illness")
"""What is known when the patient comes. What stands further down names the diagnosis itself."""
ADMISSIONS = 500
"""Read at once."""


def mimic_lines(warehouse_file: Path) -> Iterator[Stage1Line]:
    """Yield a line for each admission with a principal diagnosis in ICD-10-CM, in the order of a hash.

    Admissions whose summary has no section that tells why the patient came are left out, and so are those that are
    coded in ICD-9-CM: MIMIC-III gives no line. The warehouse stays open for reading as long as lines are asked for.

    Args:
        warehouse_file: A version's DuckDB file.

    Raises:
        MedcodeError: there is no such file, or the version's facts were not made yet.
    """
    with open_warehouse(warehouse_file, read_only=True, purpose="recipe reasoning") as con:
        inputs(con, "facts")
        rows = con.execute(_query())
        while chunk := rows.fetchmany(ADMISSIONS):
            for subject, code, description, text in chunk:
                if narrative := presenting_narrative(text):
                    yield stage_1_line(
                        narrative, "icd10cm", code, description, source="mimic", group=f"subject-{subject}"
                    )


def presenting_narrative(note: str) -> str:
    """Return the sections of a discharge summary that tell why the patient came; empty if it has none of them."""
    kept = [note[part.start : part.end] for part in split_note(note) if part.name in SECTIONS]
    return join_parts(kept).strip()


def mimic_fingerprint(warehouse_file: Path) -> str:
    """Return a hash of all that `mimic_lines` yields comes from.

    Raises:
        MedcodeError: there is no such file, or the version's facts were not made yet.
    """
    with open_warehouse(warehouse_file, read_only=True, purpose="recipe reasoning") as con:
        return fingerprint(sql=_query(), sections=sections_hash(), names=SECTIONS, inputs=inputs(con, "facts"))


def _query() -> str:
    return resources.files(__package__).joinpath("sql", "principal-diagnoses.sql").read_text()
