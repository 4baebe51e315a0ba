from typing import TYPE_CHECKING

import pytest

from medcode_assets.config import DataSettings
from medcode_assets.mimic.transform import build_cohort, build_facts, build_splits, split_hash
from medcode_assets.recipes.baselines import candidate_codes, training_chunks
from medcode_assets.recipes.icd.examples import build_examples
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import duckdb


def prepare(con: "duckdb.DuckDBPyConnection", **settings: object) -> None:
    data = DataSettings(**settings)
    build_cohort(con, "mimic-iv", data)
    build_facts(con)
    build_splits(con, data)


def assign(con: "duckdb.DuckDBPyConnection", *, validation: int, test: int) -> None:
    con.execute("UPDATE splits SET split = 'train'")
    con.execute("UPDATE splits SET split = 'validation' WHERE subject_id = ?", [validation])
    con.execute("UPDATE splits SET split = 'test' WHERE subject_id = ?", [test])


def test_facts_have_reports_before_addenda_and_each_code_once(con: "duckdb.DuckDBPyConnection") -> None:
    prepare(con)
    text, codes = con.execute(
        "SELECT text, codes FROM admission_codes JOIN documents USING (hadm_id) WHERE hadm_id = 101"
    ).fetchall()[0]
    assert text == 'report, with "quotes"\nand lines\n\naddendum'
    assert codes == [
        {"system": "icd10cm", "code": "I10"},
        {"system": "icd10cm", "code": "E11.9"},
        {"system": "icd10pcs", "code": "0DTJ4ZZ"},
    ]


def test_addenda_come_in_the_order_in_which_they_were_written(con: "duckdb.DuckDBPyConnection") -> None:
    con.execute(
        "INSERT INTO raw.notes SELECT note_id, 2, 102, kind, seq, NULL, NULL, text, length(text), hash(text) "
        "FROM (VALUES ('2-AD-9', 'AD', 9, 'third'), ('2-AD-5', 'AD', 5, 'second'), ('2-DS-7', 'DS', 7, 'other report')"
        ") AS added(note_id, kind, seq, text)"
    )
    prepare(con)
    row = con.execute("SELECT text, notes, characters FROM facts JOIN documents USING (hadm_id) WHERE hadm_id = 102")
    assert row.fetchall() == [("note 2\n\nother report\n\nsecond\n\nthird", 4, 29)]


def test_billed_codes_are_kept_namespaced_and_no_targets_by_default(con: "duckdb.DuckDBPyConnection") -> None:
    prepare(con)
    codes = con.execute("SELECT codes FROM admission_codes WHERE hadm_id = 103").fetchall()[0][0]
    assert [(code["system"], code["code"]) for code in codes] == [
        ("icd10cm", "I10"),
        ("cpt", "99219"),
        ("hcpcs", "A0428"),
    ]
    query = "SELECT system, code, description FROM code_counts WHERE system IN ('cpt', 'hcpcs') ORDER BY system"
    assert con.execute(query).fetchall() == [
        ("cpt", "99219", None),
        ("hcpcs", "A0428", "Ambulance service, basic life support"),
    ]
    build_examples(con, DataSettings())
    assert con.execute("SELECT count(*) FROM icd.labels WHERE system IN ('cpt', 'hcpcs')").fetchall() == [(0,)]
    build_examples(con, DataSettings(systems=["icd10cm", "hcpcs", "cpt"]))
    assert con.execute("SELECT count(*) FROM icd.labels WHERE system IN ('cpt', 'hcpcs')").fetchall() == [(2,)]


def test_systems_and_leading_zeros_keep_equal_digits_apart(con: "duckdb.DuckDBPyConnection") -> None:
    prepare(con)
    codes = con.execute("SELECT codes FROM admission_codes WHERE hadm_id = 102").fetchall()[0][0]
    assert [(code["system"], code["code"]) for code in codes] == [
        ("icd9cm", "033.1"),
        ("icd9cm", "E812.0"),
        ("icd9pcs", "03.31"),
    ]


def test_patients_with_a_note_come_first(con: "duckdb.DuckDBPyConnection") -> None:
    prepare(con, num_patients=11)  # patient 12 has none
    assert con.execute("SELECT count(*), min(discharge_notes), max(subject_id) FROM cohort").fetchall() == [(11, 1, 11)]
    prepare(con)
    assert con.execute("SELECT count(*) FROM cohort").fetchall() == [(12,)]
    assert con.execute("SELECT count(*) FROM facts").fetchall() == [(11,)]


def test_splits_are_by_patient_and_the_seed_decides(con: "duckdb.DuckDBPyConnection") -> None:
    prepare(con)
    counts = con.execute("SELECT split, count(*) FROM splits GROUP BY split ORDER BY split").fetchall()
    assert counts == [("test", 1), ("train", 9), ("validation", 1)]
    first = split_hash(con)
    prepare(con, seed=1)
    assert split_hash(con) != first
    prepare(con, seed=0)
    assert split_hash(con) == first


def test_each_split_can_be_read_as_a_dataset(con: "duckdb.DuckDBPyConnection") -> None:
    prepare(con)
    assign(con, validation=3, test=2)
    assert con.execute("SELECT subject_id, hadm_id, text, len(codes) FROM test").fetchall() == [(2, 102, "note 2", 3)]
    assert con.execute("SELECT text FROM validation").fetchall() == [("note 3",)]
    assert con.execute("SELECT count(*) FROM train").fetchall() == [(9,)]


def test_the_same_seed_draws_the_same_patients(con: "duckdb.DuckDBPyConnection") -> None:
    drawn = []
    for seed in (0, 2, 0):
        prepare(con, num_patients=10, seed=seed)
        drawn.append(con.execute("SELECT list(subject_id ORDER BY subject_id) FROM cohort").fetchall())
    assert drawn[0] == drawn[2]
    assert drawn[0] != drawn[1]
    strangers = "SELECT count(*) FROM facts WHERE subject_id NOT IN (SELECT subject_id FROM cohort)"
    assert con.execute(strangers).fetchall() == [(0,)]


def test_too_few_patients_for_three_splits(con: "duckdb.DuckDBPyConnection") -> None:
    with pytest.raises(MedcodeError, match="9 patients with notes, at least 10"):
        prepare(con, num_patients=9)


def test_a_step_is_skipped_until_its_inputs_change(con: "duckdb.DuckDBPyConnection") -> None:
    prepare(con)
    assert build_cohort(con, "mimic-iv", DataSettings()).skipped
    assert build_facts(con).skipped
    assert not build_cohort(con, "mimic-iv", DataSettings(seed=5)).skipped
    assert not build_facts(con).skipped


def test_labels_count_on_train_and_keep_unseen_codes_in_the_gold(con: "duckdb.DuckDBPyConnection") -> None:
    prepare(con)
    assign(con, validation=3, test=2)
    build_examples(con, DataSettings())
    query = "SELECT label, system, code, description, frequency FROM icd.labels ORDER BY label"
    labels = con.execute(query).fetchall()
    assert labels[:3] == [
        (0, "icd10cm", "I10", "Essential (primary) hypertension", 9),
        (1, "icd10cm", "E11.9", "Type 2 diabetes mellitus without complications", 1),
        (2, "icd10pcs", "0DTJ4ZZ", "Resection of Appendix, Percutaneous Endoscopic Approach", 1),
    ]
    assert [(code, description, frequency) for _, _, code, description, frequency in labels[3:]] == [
        ("033.1", "Whooping cough due to bordetella parapertussis", 0),
        ("E812.0", None, 0),
        ("03.31", "Spinal tap", 0),
    ]
    rows = dict(con.execute("SELECT example_id, (gold, answer) FROM icd.examples").fetchall())
    assert rows[101] == ([0, 1, 2], ["I10", "E11.9", "0DTJ4ZZ"])
    assert rows[102] == ([3, 4, 5], [])


def test_the_linear_baseline_may_name_the_dictionarys_codes_unless_the_task_is_closed(
    con: "duckdb.DuckDBPyConnection",
) -> None:
    prepare(con)
    assign(con, validation=1, test=3)  # E11.9 is only in validation, and has a title
    build_examples(con, DataSettings(systems=["icd10cm"]))
    assert [(code.code, code.frequency) for code in candidate_codes(con, "icd")] == [("I10", 8), ("E11.9", 0)]
    notes, gold = zip(*training_chunks(con, "icd"), strict=True)
    assert [len(chunk) for chunk in notes] == [8]
    assert gold[0] == [[("icd10cm", "I10")]] * 8
    for closed in ({"min_frequency": 1}, {"top_codes": 2}):
        build_examples(con, DataSettings(systems=["icd10cm"], **closed))
        assert [code.code for code in candidate_codes(con, "icd")] == ["I10"]


def test_frequency_systems_and_top_codes_define_the_task(con: "duckdb.DuckDBPyConnection") -> None:
    prepare(con)
    assign(con, validation=3, test=4)
    build_examples(con, DataSettings(min_frequency=2))
    assert con.execute("SELECT code FROM icd.labels").fetchall() == [("I10",)]
    build_examples(con, DataSettings(top_codes=2))
    assert con.execute("SELECT count(*) FROM icd.labels").fetchall() == [(2,)]
    build_examples(con, DataSettings(systems=["icd10cm"]))
    assert con.execute("SELECT code FROM icd.labels ORDER BY label").fetchall() == [("I10",), ("E11.9",)]
    with pytest.raises(MedcodeError, match="no validation admission has a code of icd9cm"):
        build_examples(con, DataSettings(systems=["icd9cm"]))


def test_frequency_over_all_splits_keeps_what_only_the_test_has(con: "duckdb.DuckDBPyConnection") -> None:
    prepare(con)
    assign(con, validation=3, test=2)  # patient 2 alone has ICD-9 codes
    con.execute("UPDATE splits SET split = 'test' WHERE subject_id = 4")
    build_examples(con, DataSettings(min_frequency=1))
    assert con.execute("SELECT count(*) FROM icd.labels WHERE system = 'icd9cm'").fetchall() == [(0,)]
    build_examples(con, DataSettings(min_frequency=1, frequency_over="all"))
    query = "SELECT code, frequency FROM icd.labels WHERE system = 'icd9cm' ORDER BY code"
    assert con.execute(query).fetchall() == [("033.1", 0), ("E812.0", 0)]


def test_codes_that_two_systems_spell_alike_name_their_system(con: "duckdb.DuckDBPyConnection") -> None:
    con.execute("INSERT INTO raw.diagnoses_icd VALUES (1, 101, 9, 'V433', 9), (1, 101, 10, 'V433', 10)")
    prepare(con)
    assign(con, validation=3, test=4)
    build_examples(con, DataSettings())
    texts = con.execute("SELECT text FROM icd.labels WHERE code = 'V43.3' ORDER BY system").fetchall()
    assert texts == [("icd10cm:V43.3",), ("icd9cm:V43.3",)]
