"""The shipped code tables, and lists of a user's own."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from medcode_serving.codes.systems import SYSTEMS, undotted
from medcode_serving.codes.tables import FOLDER, HCPCS_SELECTION, SHIPPED, CodeTables, TableCode, code_tables
from medcode_serving.errors import MedcodeError

TABLES = code_tables()


def codes_of(found: list[TableCode]) -> list[str]:
    return [code.code for code in found]


@pytest.mark.parametrize(
    ("system", "written", "code", "title", "billable", "retired"),
    [
        ("icd10cm", "E11.9", "E11.9", "Type 2 diabetes mellitus without complications", True, False),
        ("icd10cm", "e119", "E11.9", "Type 2 diabetes mellitus without complications", True, False),
        ("icd10cm", "E11", "E11", "Type 2 diabetes mellitus", False, False),
        ("icd10cm", "I10", "I10", "Essential (primary) hypertension", True, False),
        ("icd10cm", "A04.7", "A04.7", "Enterocolitis due to Clostridium difficile", False, True),
        ("icd10cm", "W19XXXA", "W19.XXXA", "Unspecified fall, initial encounter", True, False),
        ("icd9cm", "250.00", "250.00", None, True, False),
        ("icd9cm", "E8120", "E812.0", None, True, False),
        ("icd9pcs", "00.66", "00.66", "Percutaneous transluminal coronary angioplasty [PTCA]", True, False),
        ("hcpcs", "e0130", "E0130", "Walker, rigid, adjustable or fixed height", True, False),
    ],
)
def test_a_code_is_found_however_it_is_written(system, written, code, title, billable, retired):
    found = TABLES.find(system, written)
    assert found is not None
    assert (found.system, found.code, found.billable, found.retired) == (system, code, billable, retired)
    assert found.title
    assert title in (None, found.title)


@pytest.mark.parametrize(
    ("system", "code"),
    [
        ("icd9cm", "00.66"),  # a procedure; without its dot it would be the diagnosis 006.6
        ("icd9pcs", "401.9"),
        ("icd10cm", "E1.19"),
        ("icd10cm", "E11.99"),
        ("icd10cm", ""),
        ("icd10cm", "É11.9"),
        ("icd10cm", "E" * 50),
        ("hcpcs", "D0120"),
        ("cpt", "99213"),
        ("icd10pcs", "0DTJ4ZZ"),
    ],
)
def test_what_is_in_no_table_is_not_found(system, code):
    assert TABLES.find(system, code) is None


def test_leading_zeros_and_seventh_characters_are_kept():
    assert TABLES.find("icd9cm", "0010").code == "001.0"
    assert TABLES.find("icd9pcs", "0001").code == "00.01"
    assert TABLES.find("icd10cm", "S52521A").code == "S52.521A"


def test_below_gives_the_billable_codes_of_a_header():
    assert codes_of(TABLES.below("icd10cm", "A04.7")) == ["A04.71", "A04.72"]
    assert codes_of(TABLES.below("icd10cm", "E11", limit=2)) == ["E11.8", "E11.9"]
    assert codes_of(TABLES.below("icd10cm", "W19")) == ["W19.XXXA", "W19.XXXD", "W19.XXXS"]
    assert TABLES.below("icd10cm", "E11.9") == []
    assert TABLES.below("cpt", "9921") == []


@pytest.mark.parametrize(
    ("system", "code", "expected"),
    [
        ("icd10cm", "E11.99", "E11.9"),  # one too many
        ("icd10cm", "J20.9X", "J20.9"),
        ("icd10cm", "E19.1", "E11.9"),  # two swapped
        ("icd10cm", "S02.10XA", "S02.101A"),  # one wrong; the encounter stays
        ("icd9cm", "25000", "250.01"),  # valid itself: its neighbours
        ("icd9pcs", "00.6", "00.66"),
    ],
)
def test_near_misses_come_first(system, code, expected):
    assert expected in codes_of(TABLES.near(system, code, 5))[:5]
    assert codes_of(TABLES.near(system, code, 1)) == [expected] or system.startswith("icd9")


def test_near_suggests_only_billable_codes_and_never_the_code_itself():
    for code in ("E11", "A04.7", "E11.9", "Z99999", "S52.521"):
        found = TABLES.near("icd10cm", code, 20)
        assert found
        assert all(near.billable and near.code != code for near in found)
        assert len(set(found)) == len(found)


def test_words_are_looked_for_in_titles():
    assert codes_of(TABLES.with_words("icd10cm", ["bronchitis", "acute", "unspecified"])) == ["J20.9"]
    found = TABLES.with_words("icd10cm", ["diabetes"])
    assert found == sorted(found, key=lambda code: len(code.title))
    assert all("diabetes" in code.title.lower() and "prediabetes" not in code.title.lower() for code in found)
    assert TABLES.with_words("icd10cm", ["xyzzy"]) == []


def test_the_tables_say_which_edition_they_are():
    assert TABLES.list_name("icd10cm") == "ICD-10-CM of April 2026"
    assert TABLES.list_name("cpt") is None
    assert TABLES.is_whole("icd9pcs")
    assert not TABLES.is_whole("hcpcs")


@pytest.mark.parametrize("system", SHIPPED)
def test_every_shipped_code_is_well_formed_and_in_order(system):
    table = pq.ParquetFile(FOLDER / f"{system}.parquet").read().to_pydict()
    codes = table["code"]
    assert all(SYSTEMS[system].pattern.fullmatch(code) for code in codes)
    bare = [undotted(code) for code in codes]
    assert bare == sorted(set(bare))
    assert all(title and title == " ".join(title.split()) for title in table["title"])
    assert not any(billable and retired for billable, retired in zip(table["billable"], table["retired"], strict=True))
    if system == "icd10cm":
        billable = {code for code, billable in zip(bare, table["billable"], strict=True) if billable}
        assert not billable & {code[:length] for code in billable for length in range(3, len(code))}


def test_the_selection_of_hcpcs_is_shipped_without_dental_codes():
    codes = [line.split(",")[0] for line in HCPCS_SELECTION.read_text().splitlines()[1:]]
    assert len(codes) >= 100
    assert codes == sorted(set(codes))
    assert not any(code.startswith("D") for code in codes)
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 1_000_000


def test_a_users_lists_are_looked_up(tmp_path: Path):
    cpt = tmp_path / "cpt.csv"
    cpt.write_text('code,note,description\n99213,x,"Visit, made up"\n00100,,\n', encoding="utf-8-sig")
    hcpcs = tmp_path / "hcpcs.csv"
    hcpcs.write_text("code,description\nJ9999,Made up\n")
    tables = code_tables(cpt, hcpcs)
    assert tables.find("cpt", "99213").title == "Visit, made up"
    assert tables.find("cpt", "00100").title is None
    assert tables.find("hcpcs", "j9999").title == "Made up"
    assert tables.find("hcpcs", "E0130") is None
    assert tables.is_whole("hcpcs")
    assert tables.list_name("cpt") == str(cpt)
    assert codes_of(tables.near("cpt", "99231")) == ["99213"]
    assert TABLES.find("cpt", "99213") is None, "lists of others stay theirs"


def test_the_tables_are_read_once_and_again_when_a_list_changed(tmp_path: Path):
    assert code_tables() is code_tables()  # not TABLES: other tests' lists may have taken its place
    cpt = tmp_path / "cpt.csv"
    cpt.write_text("code,description\n99213,Old\n")
    tables = code_tables(cpt)
    assert code_tables(cpt) is tables
    assert tables.find("cpt", "99213").title == "Old"
    cpt.write_text("code,description\n99213,New and longer\n")
    assert code_tables(cpt).find("cpt", "99213").title == "New and longer"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "no column code"),
        (b"code;description\n99213;x\n", "no column code"),
        (b"code\n99213\n", "no column description"),
        (b"code,description\n", "no codes"),
        (b"code,description\n99213,a\n100,b\n", "line 3: '100' is no CPT code"),
        (b"code,description\n99213,Visit, of a patient\n", "line 2: more cells than columns"),
        (b"code,description\n99213,a\n99213,b\n", "line 3: 99213 is there already"),
        (b'code,description\n99213,"a\n', "not CSV"),
        (b"code,description\n99213,\xff\n", "UTF-8"),
    ],
)
def test_a_broken_list_is_named_with_its_line(tmp_path: Path, contents: bytes, message: str):
    file = tmp_path / "cpt.csv"
    file.write_bytes(contents)
    with pytest.raises(MedcodeError) as caught:
        code_tables(cpt_descriptions=file).find("cpt", "99213")
    assert str(file) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_list_and_an_unknown_system_are_mistakes(tmp_path: Path):
    with pytest.raises(MedcodeError, match="nowhere.csv"):
        code_tables(hcpcs=tmp_path / "nowhere.csv")
    with pytest.raises(MedcodeError, match="unknown code system 'icd11'"):
        CodeTables().find("icd11", "1A00")


def test_looking_up_imports_no_pandas():
    code = (
        "import sys\nfrom medcode_serving.codes.tables import code_tables\nt = code_tables()\n"
        "assert t.find('icd10cm', 'E11.9') and t.find('hcpcs', 'E0130') and t.with_words('icd9cm', ['diabetes'])\n"
        "print([name for name in ('pandas', 'torch', 'pyarrow.dataset') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
