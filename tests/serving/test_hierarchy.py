import csv
import gzip
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_serving.codes import hierarchy
from medcode_serving.codes.hierarchy import category, chapter
from medcode_serving.codes.systems import SYSTEMS
from medcode_serving.errors import MedcodeError


@pytest.mark.parametrize(
    ("system", "code", "expected"),
    [
        ("icd10cm", "E11.9", "E11"),
        ("icd10cm", "e119", "E11"),
        ("icd10cm", "I10", "I10"),
        ("icd10cm", "C7A.00", "C7A"),
        ("icd9cm", "250.00", "250"),
        ("icd9cm", "E812.0", "E812"),
        ("icd9cm", "V45.81", "V45"),
        ("icd9pcs", "39.61", "39"),
        ("icd10pcs", "0DTJ4ZZ", "0DT"),
        ("hcpcs", "J1885", "J18"),
        ("cpt", "99223", "992"),
    ],
)
def test_category(system, code, expected):
    assert category(system, code) == expected


@pytest.mark.parametrize(
    ("system", "code", "name", "title"),
    [
        ("icd10cm", "A00.0", "A00-B99", "Certain infectious and parasitic diseases"),
        ("icd10cm", "C7A.00", "C00-D49", "Neoplasms"),
        ("icd10cm", "D49.9", "C00-D49", "Neoplasms"),
        ("icd10cm", "H59.8", "H00-H59", "Diseases of the eye and adnexa"),
        ("icd10cm", "H60.0", "H60-H95", "Diseases of the ear and mastoid process"),
        ("icd10cm", "I10", "I00-I99", "Diseases of the circulatory system"),
        ("icd10cm", "O9A.2", "O00-O9A", "Pregnancy, childbirth and the puerperium"),
        ("icd10cm", "U07.1", "U00-U85", "Codes for special purposes"),
        ("icd10cm", "W19.XXXA", "V00-Y99", "External causes of morbidity"),
        ("icd10cm", "Z3A.20", "Z00-Z99", "Factors influencing health status and contact with health services"),
        ("icd9cm", "0389", "001-139", "Infectious and parasitic diseases"),
        ("icd9cm", "428.0", "390-459", "Diseases of the circulatory system"),
        ("icd9cm", "E812.0", "E000-E999", "External causes of injury and poisoning"),
        ("icd9cm", "V45.81", "V01-V91", "Factors influencing health status and contact with health services"),
        ("icd9pcs", "00.66", "00", "Procedures and interventions, not elsewhere classified"),
        ("icd9pcs", "39.61", "35-39", "Operations on the cardiovascular system"),
        ("icd10pcs", "0DTJ4ZZ", "0", "Medical and surgical"),
        ("icd10pcs", "XW033E5", "X", "New technology"),
        ("hcpcs", "J1885", "J", "Drugs administered other than by mouth"),
        ("cpt", "33533", "33010-37799", "Surgery: cardiovascular system"),
        ("cpt", "99140", "00100-01999", "Anesthesia"),
        ("cpt", "99223", "99201-99499", "Evaluation and management"),
        ("cpt", "99500", "90281-99607", "Medicine"),
        ("cpt", "0001F", "0001F-9999F", "Category II: performance measurement"),
        ("cpt", "0042T", "0001T-9999T", "Category III: emerging technology"),
        ("cpt", "0240U", "80047-89398", "Pathology and laboratory"),
    ],
)
def test_chapter(system, code, name, title):
    assert chapter(system, code) == (system, name, title)


@pytest.mark.parametrize(
    ("system", "code"),
    [
        ("icd9cm", "000.1"),  # before the first chapter
        ("icd9cm", "V99"),
        ("icd10cm", "F00.0"),  # ICD-10 has it, ICD-10-CM begins with F01
        ("icd10cm", "XYZ"),  # between V00 and Y99, and no code
        ("icd10cm", ""),
        ("icd10pcs", "0DT"),
        ("icd10pcs", "EDTJ4ZZ"),
        ("hcpcs", "Z0001"),
        ("cpt", "00001"),
    ],
)
def test_what_no_chapter_holds(system, code):
    assert chapter(system, code) is None


def test_an_unknown_system_is_said():
    for function in (category, chapter):
        with pytest.raises(MedcodeError, match="unknown code system 'icd11'"):
            function("icd11", "1A00")


def test_the_table():
    with Path(hierarchy.__file__).with_name("chapters.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {system: {row["chapter"] for row in rows if row["system"] == system} for system in SYSTEMS}
    assert [len(names[system]) for system in ("icd10cm", "icd9cm", "icd9pcs", "icd10pcs")] == [22, 19, 18, 17]
    assert len({(row["system"], row["chapter"]) for row in rows}) == len(
        {(row["system"], row["chapter"], row["title"]) for row in rows}
    )
    for one, other in combinations(rows, 2):
        if one["system"] == other["system"] and one["first"][-1].isalpha() == other["first"][-1].isalpha():
            assert one["last"] < other["first"] or other["last"] < one["first"] or one["last"][-1] != other["last"][-1]


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(sorted(SYSTEMS)).flatmap(
        lambda s: st.tuples(st.just(s), st.from_regex(SYSTEMS[s].pattern, fullmatch=True))
    )
)
def test_codes_of_one_category_share_a_chapter_but_in_cpt(pair):
    system, code = pair
    kin = category(system, code)
    assert category(system, kin) == kin
    assert code.replace(".", "").startswith(kin)
    if system in ("icd10cm", "icd9cm", "icd9pcs"):  # whose categories are codes themselves
        assert chapter(system, kin) == chapter(system, code)


DICTIONARIES = Path(__file__).parents[3] / "shared" / "data" / "mimic-iv-demo" / "hosp"


@pytest.mark.skipif(not DICTIONARIES.exists(), reason="shared/data/mimic-iv-demo is not on this machine")
@pytest.mark.parametrize(
    ("table", "systems"),
    [("d_icd_diagnoses", ("icd9cm", "icd10cm")), ("d_icd_procedures", ("icd9pcs", "icd10pcs"))],
)
def test_every_code_of_the_dictionaries_has_a_chapter(table, systems):
    with gzip.open(DICTIONARIES / f"{table}.csv.gz", "rt") as file:
        codes = [(systems[row["icd_version"] == "10"], row["icd_code"].strip()) for row in csv.DictReader(file)]
    assert len(codes) > 80_000
    headings = [(system, code) for system, code in codes if system == "icd10pcs" and len(code) == 3]
    assert {code for code in codes if chapter(*code) is None} == set(headings)
