"""Whether a code is valid, why not, and what may have been meant."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medcode_serving.codes.systems import undotted
from medcode_serving.codes.tables import FOLDER, HCPCS_SELECTION, code_tables
from medcode_serving.codes.validation import CODE_TYPES, SUGGESTIONS, check_code, systems_of
from medcode_serving.errors import MedcodeError

TABLES = code_tables()


def checked(code: str, code_type: str):
    return check_code(code, code_type, TABLES)


def suggested(code: str, code_type: str) -> list[str]:
    return [suggestion.code for suggestion in checked(code, code_type).suggestions]


@pytest.mark.parametrize(
    ("written", "code_type", "system", "code", "description"),
    [
        ("E11.9", "icd10", "icd10cm", "E11.9", "Type 2 diabetes mellitus without complications"),
        ("e119", "ICD10", "icd10cm", "E11.9", "Type 2 diabetes mellitus without complications"),
        (" E11.9.\n", "icd10-cm", "icd10cm", "E11.9", "Type 2 diabetes mellitus without complications"),
        ("\ufeffI10\u00a0", "icd10cm", "icd10cm", "I10", "Essential (primary) hypertension"),
        (
            "S52.521A",
            "icd10",
            "icd10cm",
            "S52.521A",
            "Torus fracture of lower end of right radius, initial encounter for closed fracture",
        ),
        ("401.9", "icd9", "icd9cm", "401.9", "Unspecified essential hypertension"),
        ("00.66", "icd9", "icd9pcs", "00.66", "Percutaneous transluminal coronary angioplasty [PTCA]"),
        ("E0130", "hcpcs", "hcpcs", "E0130", "Walker, rigid, adjustable or fixed height"),
    ],
)
def test_valid_codes(written, code_type, system, code, description):
    found = checked(written, code_type)
    assert (found.status, found.valid, found.suggestions) == ("valid", True, ())
    assert (found.given, found.system, found.code, found.description) == (written, system, code, description)


@pytest.mark.parametrize(
    ("code", "code_type", "reason"),
    [
        ("99213", "cpt", "American Medical Association"),
        ("0DTJ4ZZ", "icd10pcs", "no list of ICD-10-PCS"),
        ("J9999", "hcpcs", "selection"),
        ("d0120", "hcpcs", "American Dental Association"),
    ],
)
def test_without_a_list_only_the_format_is_checked(code, code_type, reason):
    found = checked(code, code_type)
    assert (found.status, found.valid, found.description) == ("format_only", True, None)
    assert found.code == code.upper()
    assert reason in found.reason


@pytest.mark.parametrize(
    ("code", "code_type", "status", "suggestions"),
    [
        ("E11", "icd10", "header", ["E11.8", "E11.9", "E11.A", "E11.00", "E11.01"]),
        ("W19.XXX", "icd10", "header", ["W19.XXXA", "W19.XXXD", "W19.XXXS"]),
        ("250", "icd9", "header", ["250.00", "250.01", "250.02", "250.03", "250.10"]),
        ("A04.7", "icd10", "retired", ["A04.71", "A04.72"]),
        ("C86.0", "icd10", "retired", ["C86.00", "C86.01"]),
        ("J20.9X", "icd10", "unknown", ["J20.9", "J20.0", "J20.1", "J20.2", "J20.3"]),
        ("99213-25", "cpt", "malformed", ["99213"]),
        ("E0130-NU", "hcpcs", "malformed", ["E0130"]),
        ("EO13O", "hcpcs", "malformed", ["E0130"]),
        ("E1.19", "icd10", "malformed", ["E11.9"]),
        ("E11,9", "icd10", "malformed", ["E11.9"]),
        ("E 11.9", "icd10", "malformed", ["E11.9"]),
        ("Е11.9", "icd10", "malformed", ["E11.9"]),  # a Cyrillic letter
        ("Ｅ１１．９", "icd10", "malformed", ["E11.9"]),
        ("0DTJ4ZO", "icd10pcs", "malformed", ["0DTJ4Z0"]),
        ("W1234", "hcpcs", "malformed", []),
        ("!!!", "cpt", "malformed", []),
        ("", "icd10", "malformed", []),
        ("...", "icd9", "malformed", []),
        ("x" * 5000, "icd10", "malformed", []),
        ("ſ52.521A", "icd10", "malformed", ["S52.521A"]),  # its capital is an ASCII letter
        ("٤٠١.٩", "icd9cm", "malformed", []),
    ],
)
def test_invalid_codes_with_what_was_meant(code, code_type, status, suggestions):
    found = checked(code, code_type)
    assert (found.status, found.valid) == (status, False)
    assert suggested(code, code_type) == suggestions
    assert "\n" not in found.reason


@pytest.mark.parametrize(
    ("code", "first"), [("E11.99", "E11.9"), ("Z99999", "Z99.89"), ("E1l.9", "E11.9"), ("I2O.9", "I20.9")]
)
def test_unknown_codes_with_the_likeliest_first(code, first):
    assert checked(code, "icd10").status == "unknown"
    assert suggested(code, "icd10")[0] == first
    assert "ICD-10-CM of April 2026" in checked(code, "icd10").reason


def test_retired_codes_keep_their_description_and_their_encounter():
    found = checked("S02.10XA", "icd10")
    assert found.status == "retired"
    assert found.description.startswith("Unspecified fracture of base of skull")
    assert suggested("S02.10XA", "icd10")[:3] == ["S02.101A", "S02.102A", "S02.109A"]


@pytest.mark.parametrize(
    ("code", "code_type", "system", "right"),
    [
        ("00.66", "icd9cm", "icd9pcs", "00.66"),
        ("401.9", "icd9pcs", "icd9cm", "401.9"),
        ("99213", "icd10", "cpt", "99213"),
        ("99213", "hcpcs", "cpt", "99213"),
        ("J1885", "cpt", "hcpcs", "J1885"),
        ("E0130", "icd10", "hcpcs", "E0130"),
        ("V4581", "icd10", "icd9cm", "V45.81"),
        ("E812.0", "icd10", "icd9cm", "E812.0"),
        ("E11.9", "cpt", "icd10cm", "E11.9"),
        ("0DTJ4ZZ", "icd10", "icd10pcs", "0DTJ4ZZ"),
        ("S52521A", "icd10pcs", "icd10cm", "S52.521A"),
    ],
)
def test_codes_of_another_system(code, code_type, system, right):
    found = checked(code, code_type)
    assert (found.status, found.valid, found.code) == ("wrong_system", False, right)
    assert (found.suggestions[0].system, found.suggestions[0].code) == (system, right)
    assert right in found.reason


def test_a_retired_code_under_another_name_suggests_what_became_of_it():
    assert suggested("A04.7", "hcpcs") == ["A04.71", "A04.72"]


def test_an_icd_9_code_without_its_dot_may_be_two():
    found = checked("0066", "icd9")
    assert (found.status, found.system, found.code) == ("valid", "icd9cm", "006.6")
    assert [(code.system, code.code) for code in found.suggestions] == [("icd9pcs", "00.66")]
    assert "00.66" in found.reason
    assert checked("0066", "icd9pcs").suggestions == ()


def test_words_are_no_code():
    found = checked("diabetes", "icd10")
    assert found.status == "malformed"
    assert "search" in found.reason
    assert found.suggestions
    assert all("diabetes" in code.title.lower() for code in found.suggestions)
    assert "diabetes" not in found.reason, "what is no code may be a patient's"
    assert suggested("acute bronchitis unspecified", "icd10") == ["J20.9"]


def test_a_users_list_decides(tmp_path: Path):
    cpt = tmp_path / "cpt.csv"
    cpt.write_text("code,description\n99213,Made up visit\n99214,Longer made up visit\n")
    tables = code_tables(cpt_descriptions=cpt)
    assert check_code("99213", "cpt", tables).status == "valid"
    assert check_code("99213", "cpt", tables).description == "Made up visit"
    found = check_code("99231", "cpt", tables)
    assert found.status == "unknown"
    assert found.suggestions[0].code == "99213"
    assert str(cpt) in found.reason


def test_unknown_types_are_a_mistake():
    assert systems_of(" ICD9 ") == ("icd9cm", "icd9pcs")
    with pytest.raises(MedcodeError, match="'icd11'; known are icd10, "):
        checked("E11.9", "icd11")


def _billable() -> list[tuple[str, str]]:
    found = [("hcpcs", line.split(",")[0]) for line in HCPCS_SELECTION.read_text().splitlines()[1:]]
    for system in ("icd10cm", "icd9cm", "icd9pcs"):
        table = pq.ParquetFile(FOLDER / f"{system}.parquet").read(columns=["code", "billable"]).to_pydict()
        found += [(system, code) for code, good in zip(table["code"], table["billable"], strict=True) if good]
    return found


BILLABLE_CODES = _billable()


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(BILLABLE_CODES),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", " ", "\t", "\n", "\u00a0", "\u200b"]),
    st.sampled_from(["", ".", " ", ". ", "\r\n"]),
)
def test_every_billable_code_is_valid_however_it_is_written(row, lower, dotless, before, after):
    system, code = row
    written = undotted(code) if dotless else code
    found = checked(before + (written.lower() if lower else written) + after, system)
    assert (found.status, found.system, found.code) == ("valid", system, code)
    assert found.description


def test_every_billable_code_is_valid_as_it_is():
    assert len(BILLABLE_CODES) > 93_000
    some = BILLABLE_CODES[:: max(1, len(BILLABLE_CODES) // 5000)]
    assert all(checked(code, system).status == "valid" for system, code in some)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.sampled_from(sorted(CODE_TYPES)))
@example("\x00", "cpt")
@example("É11.9", "icd10")
@example("²50", "icd9")
def test_anything_at_all_gets_an_answer(text, code_type):
    found = checked(text, code_type)
    assert found.given == text
    assert found.reason
    assert "\n" not in found.reason
    assert len(found.suggestions) <= SUGGESTIONS
    assert found.valid == (found.status in ("valid", "format_only"))
    assert all(code.billable and not code.retired for code in found.suggestions)
