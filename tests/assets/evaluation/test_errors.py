"""Error analysis over small made warehouses, every count worked by hand."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_assets.config import Settings
from medcode_assets.evaluation.errors.analyse import analyse_errors
from medcode_assets.evaluation.errors.findings import measured, patterns
from medcode_assets.evaluation.errors.model import NEAR_MISSES, ErrorAnalysis, read_analysis, write_analysis
from medcode_assets.evaluation.errors.table import findings_table
from medcode_assets.evaluation.groups import FREQUENCIES
from medcode_assets.warehouse import open_warehouse
from medcode_serving.errors import MedcodeError
from medcode_serving.settings import InferenceSettings

if TYPE_CHECKING:
    import duckdb

SCHEMA = pa.schema(
    [
        ("hadm_id", pa.int64()),
        ("system", pa.string()),
        ("code", pa.string()),
        ("probability", pa.float64()),
        ("kept", pa.bool_()),
        ("truncated", pa.bool_()),
        ("dropped", pa.int32()),
    ]
)
SECRET = "zebrawood"
"""Stands in every note; must come out nowhere."""


FIRST = 987_654_000
"""The first document's number: none that occurs as a count."""


class Case:
    """A warehouse of one recipe `r` and an engine's answers, put together code by code."""

    def __init__(self) -> None:
        self.labels: dict[str, dict[str, Any]] = {}
        self.examples: dict[int, list[str]] = {}
        self.tokens: list[dict[str, Any]] = []
        self.notes: dict[int, str] = {}
        self.answers: list[dict[str, Any]] = []

    def code(self, name: str, title: str | None = None, frequency: int = 100) -> None:
        """Add a code of the task; `system:code`, icd10cm if no system is given."""
        system, code = split(name)
        self.labels[name] = {
            "label": len(self.labels), "system": system, "code": code, "description": title, "frequency": frequency,
        }  # fmt: skip

    def document(
        self,
        gold: str,
        told: str,
        *,
        note: str = "",
        cut: tuple[int, int] | None = None,
        cut_sections: tuple[str, ...] = (),
        tokenized: bool = True,
        dropped: int = 0,
        unsure: str = "",
    ) -> int:
        """Add a document with its gold codes, those told at or above the threshold, and those told below it.

        `cut` is (tokens kept, tokens in all) of a shortened note.
        """
        example_id = FIRST + len(self.examples)
        for name in gold.split():
            if name not in self.labels:
                self.code(name)
        self.examples[example_id] = gold.split()
        self.notes[example_id] = f"{SECRET} {note}"
        kept, whole = cut or (10, 10)
        if tokenized:
            self.tokens.append(
                {
                    "example_id": example_id,
                    "prompt_ids": [0] * kept,
                    "whole_length": whole,
                    "truncated": cut is not None,
                    "cut_sections": list(cut_sections),
                }
            )
        row = {"hadm_id": example_id, "truncated": cut is not None, "dropped": dropped}
        codes = [(name, 0.9, True) for name in told.split()] + [(name, 0.1, False) for name in unsure.split()]
        for name, probability, above in codes:
            system, code = split(name)
            self.answers.append(row | {"system": system, "code": code, "probability": probability, "kept": above})
        if not codes:
            self.answers.append(row)
        return example_id

    def analyse(self, folder: Path) -> ErrorAnalysis:
        with self.warehouse(folder) as con:
            return analyse_errors(con, "r", self.predictions)

    def rows(self, folder: Path, query: str) -> list[tuple[Any, ...]]:
        """Analyse, and query what is left in the warehouse."""
        with self.warehouse(folder) as con:
            analyse_errors(con, "r", self.predictions)
            return list(con.execute(query).fetchall())

    @property
    def predictions(self) -> pa.Table:
        return pa.Table.from_pylist(self.answers, SCHEMA)

    @contextmanager
    def warehouse(self, folder: Path) -> "Iterator[duckdb.DuckDBPyConnection]":
        text, texts, ids = pa.string(), pa.list_(pa.string()), pa.list_(pa.int32())
        tables = {
            "labels": (
                list(self.labels.values()),
                {"label": pa.int32(), "system": text, "code": text, "description": text, "frequency": pa.int64()},
            ),
            "examples": (
                [
                    {"example_id": id_, "split": "test", "gold": [self.labels[name]["label"] for name in gold]}
                    for id_, gold in self.examples.items()
                ],
                {"example_id": pa.int64(), "split": text, "gold": ids},
            ),
            "notes": (
                [{"example_id": id_, "note": note} for id_, note in self.notes.items()],
                {"example_id": pa.int64(), "note": text},
            ),
            "tokens": (
                self.tokens,
                {
                    "example_id": pa.int64(),
                    "prompt_ids": ids,
                    "whole_length": pa.int32(),
                    "truncated": pa.bool_(),
                    "cut_sections": texts,
                },
            ),
        }

        with open_warehouse(folder / "w.duckdb") as con:
            con.execute("CREATE SCHEMA IF NOT EXISTS r")
            for name, (rows, fields) in tables.items():
                con.register("made_up", pa.Table.from_pylist(rows, pa.schema(fields)))
                con.execute(f"CREATE OR REPLACE TABLE r.{name} AS FROM made_up")
                con.execute("INSERT OR REPLACE INTO made VALUES (?, 'f', 0, now(), '{}')", [f"r.{name}"])
                con.unregister("made_up")
            yield con


def split(name: str) -> tuple[str, str]:
    system, _, code = name.rpartition(":")
    return system or "icd10cm", code


@pytest.fixture
def case() -> Case:
    return Case()


def pairs_of(analysis: ErrorAnalysis) -> dict[str, int]:
    return {near.pattern: near.pairs for near in analysis.near_misses if near.pairs}


def slices_of(analysis: ErrorAnalysis, kind: str) -> dict[str, tuple[int, int, int, int]]:
    return {s.name: (s.documents, s.gold, s.predicted, s.right) for s in analysis.slices if s.kind == kind}


def test_totals_by_hand(case, tmp_path):
    case.code("I10", frequency=500)
    case.code("E11.9", frequency=3)
    case.code("J45.909", frequency=0)
    case.code("N17.9", frequency=8)
    case.document(
        "I10 E11.9", "I10 Z99.89 nonsense"
    )  # 1 right, 1 missed, 2 outside the vocabulary, 1 of them malformed
    case.document("I10 J45.909", "", dropped=3)  # nothing right
    case.document("I10", "I10 E11.9 N17.9", unsure="J45.909")  # 1 right, 2 spurious: over twice as many
    case.document("I10 N17.9", "I10", unsure="N17.9")  # told below the threshold: missed
    totals = case.analyse(tmp_path).totals
    assert (totals.documents, totals.gold, totals.predicted, totals.right) == (4, 7, 7, 3)
    assert (totals.missed, totals.spurious) == (4, 4)
    assert totals.micro_f1 == pytest.approx(2 * 3 / 14)
    assert (totals.over_coded, totals.under_coded) == (2, 2)
    assert totals.mean_surplus == pytest.approx((1 - 2 + 2 - 1) / 4)
    assert (totals.verbosity, totals.twice_as_many) == (1.0, 0.25)
    assert (totals.without_codes, totals.gold_without_codes) == (1, 2)
    assert (totals.with_dropped, totals.dropped) == (1, 3)
    assert (totals.outside_vocabulary, totals.malformed, totals.below_threshold) == (2, 1, 1)
    # E11.9 and N17.9 are predicted somewhere, J45.909 was never trained: no trained code is silent.
    assert (totals.silent_codes, totals.silent_pairs) == (0, 0)


def test_trained_codes_that_are_never_predicted(case, tmp_path):
    case.document("I10 E11.9", "I10", unsure="E11.9")
    case.document("E11.9", "")
    totals = case.analyse(tmp_path).totals
    assert (totals.silent_codes, totals.silent_pairs) == (1, 2)


TITLES = {
    "M25.561": "Pain in right knee",
    "M25.562": "Pain in left knee",
    "M25.569": "Pain in unspecified knee",
    "M25.551": "Pain in right hip",
    "H25.11": "Age-related nuclear cataract, right eye",
    "H25.13": "Age-related nuclear cataract, bilateral",
    "G81.91": "Hemiplegia, unspecified affecting right dominant side",
    "G81.94": "Hemiplegia, unspecified affecting left nondominant side",
    "M79.601": "Pain in right arm",
    "M79.605": "Pain in left leg",
    "S72.001A": "Fracture of unspecified part of neck of right femur, initial encounter for closed fracture",
    "S72.001D": "Fracture of unspecified part of neck of right femur, subsequent encounter for closed fracture",
    "I50.9": "Heart failure, unspecified",
    "I50.1": "Left ventricular failure, unspecified",
    "I50.22": "Chronic systolic (congestive) heart failure",
    "I50.23": "Acute on chronic systolic (congestive) heart failure",
    "I50.33": "Acute on chronic diastolic (congestive) heart failure",
    "E11.9": "Type 2 diabetes mellitus without complications",
    "E11.2": "Type 2 diabetes mellitus with kidney complications",
    "E11.22": "Type 2 diabetes mellitus with diabetic chronic kidney disease",
    "O36.8120": "Decreased fetal movements, second trimester, not applicable or unspecified",
    "G47.30": "Sleep apnea, unspecified",
    "E78.2": "Mixed hyperlipidemia",
    "E78.9": "Other disorder of lipoprotein metabolism",
    "icd9cm:401.1": "Benign essential hypertension",
    "icd9cm:401.9": None,
    "icd9cm:428.0": "Congestive heart failure NOS",
    "icd9cm:428.21": "Acute systolic heart failure",
    "icd10pcs:0SR90JZ": "Replacement of Right Hip Joint with Synthetic Substitute, Open Approach",
    "icd10pcs:0SRB0JZ": "Replacement of Left Hip Joint with Synthetic Substitute, Open Approach",
    "I10": "Essential (primary) hypertension",
}


NEAR = [
    ("M25.561", "M25.562", "laterality"),
    ("M25.561", "M25.569", "laterality"),  # the side is all that is unspecified
    ("H25.11", "H25.13", "laterality"),  # "eye" is the one word more
    ("G81.91", "G81.94", "laterality"),
    ("icd10pcs:0SR90JZ", "icd10pcs:0SRB0JZ", "laterality"),
    ("M25.561", "M25.551", "same_category"),  # knee, hip: codes differ in the last but one
    ("M79.601", "M79.605", "sibling"),  # another limb too
    ("S72.001A", "S72.001D", "encounter"),
    ("I50.23", "I50.9", "unspecified_for_specified"),
    ("I50.9", "I50.23", "specified_for_unspecified"),
    ("I50.1", "I50.9", "sibling"),  # "left" is the ventricle's, and both are unspecified
    ("E11.22", "E11.9", "unspecified_for_specified"),  # .9 is the rest of its category
    ("E11.22", "E11.2", "unspecified_for_specified"),  # a header
    ("E11.2", "E11.22", "specified_for_unspecified"),
    ("E78.2", "E78.9", "sibling"),  # "other" is not unspecified
    ("icd9cm:401.1", "icd9cm:401.9", "unspecified_for_specified"),
    ("icd9cm:428.21", "icd9cm:428.0", "unspecified_for_specified"),
    ("I50.22", "I50.23", "sibling"),
    ("I50.22", "I50.33", "same_category"),
    ("I50.22", "I10", None),
    ("icd9cm:401.1", "I10", None),
]
"""Gold code, predicted code, and which near miss they are."""


def test_each_near_miss(case, tmp_path):
    for name, title in TITLES.items():
        case.code(name, title)
    patterns_by_id = {case.document(gold, told): pattern for gold, told, pattern in NEAR}
    missed = case.rows(tmp_path, "SELECT example_id, near_miss FROM r.errors WHERE kind = 'missed'")
    assert dict(missed) == patterns_by_id
    analysis = case.analyse(tmp_path)
    assert pairs_of(analysis) == Counter(pattern for _, _, pattern in NEAR if pattern)
    encounter = next(near for near in analysis.near_misses if near.pattern == "encounter")
    assert encounter.micro_f1 == pytest.approx(1 / len(NEAR))  # nothing else is right
    ((example,),) = (encounter.examples,)
    assert (example.system, example.gold, example.predicted, example.count) == ("icd10cm", "S72.001A", "S72.001D", 1)


def test_a_code_has_one_counterpart_and_the_most_alike_comes_first(case, tmp_path):
    for name, title in TITLES.items():
        case.code(name, title)
    # I50.22 shares four characters with I50.23 and three with I50.9: sibling. I50.1 is left with I50.9.
    id_ = case.document("I50.22 I50.1", "I50.23 I50.9 I10")
    case.document("I10", "I10")
    rows = case.rows(tmp_path, "SELECT example_id, code, kind, near_miss, counterpart FROM r.errors")
    assert rows == [
        (id_, "I50.1", "missed", "sibling", "I50.9"),
        (id_, "I50.22", "missed", "sibling", "I50.23"),
        (id_, "I10", "spurious", None, None),
        (id_, "I50.23", "spurious", "sibling", "I50.22"),
        (id_, "I50.9", "spurious", "sibling", "I50.1"),
    ]
    analysis = case.analyse(tmp_path)
    # right 1, gold 3, predicted 4; with the two pairs right: 2 * 3 / 7.
    assert {near.pattern: near.micro_f1 for near in analysis.near_misses}["sibling"] == pytest.approx(6 / 7)
    assert [(code.code, code.counterpart, code.counterpart_count) for code in analysis.missed] == [
        ("I50.1", "I50.9", 1),
        ("I50.22", "I50.23", 1),
    ]


def test_codes_of_other_documents_and_systems_are_no_counterparts(case, tmp_path):
    case.document("I50.22", "")
    case.document("I10", "I10 I50.23")
    case.code("icd9cm:285.9")
    case.document("icd9pcs:28.5", "icd9cm:285.9")
    assert pairs_of(case.analyse(tmp_path)) == {}


def test_most_missed_and_most_spurious_codes(case, tmp_path):
    case.code("I10", "Hypertension", 7)
    case.document("I10 I50.22", "I50.23")
    case.document("I10 I50.22", "I50.23")
    case.document("I10", "I10 E11.9")
    analysis = case.analyse(tmp_path)
    assert [(c.code, c.count, c.gold, c.predicted, c.frequency, c.description) for c in analysis.missed] == [
        ("I10", 2, 3, 1, 7, "Hypertension"),
        ("I50.22", 2, 2, 0, 100, None),
    ]
    assert [(c.code, c.count, c.gold, c.counterpart) for c in analysis.spurious] == [
        ("I50.23", 2, 0, "I50.22"),
        ("E11.9", 1, 0, None),
    ]


def test_slices_by_length_by_cut_by_number_of_codes_and_by_frequency(case, tmp_path):
    for name, frequency in {"A00": 0, "A01": 1, "A02": 10, "A03": 11, "A04": 100, "A05": 101, "A06": 501}.items():
        case.code(name, frequency=frequency)
    case.document("A00 A01 A02", "A02", cut=(1024, 1024))  # truncated says cut, by nothing: read whole
    case.document("A03 A04 A05 A06 A01 A02", "A06 Z99.89", cut=(900, 1025))  # 12.2 % cut
    case.document("A06", "A06", cut=(4000, 10_000))  # 60 % cut
    case.document("A00", "A01", tokenized=False)
    analysis = case.analyse(tmp_path)
    assert slices_of(analysis, "tokens") == {
        "tokens:1-1024": (1, 3, 1, 1),
        "tokens:1025-2048": (1, 6, 2, 1),
        "tokens:over-8192": (1, 1, 1, 1),
        "tokens:unknown": (1, 1, 1, 0),
    }
    assert slices_of(analysis, "cut") == {
        "cut:none": (2, 4, 2, 1),
        "cut:10-30": (1, 6, 2, 1),
        "cut:over-60": (1, 1, 1, 1),
    }
    assert slices_of(analysis, "codes") == {"codes:1-5": (3, 5, 3, 2), "codes:6-10": (1, 6, 2, 1)}
    assert slices_of(analysis, "frequency") == {
        "frequency:unseen": (3, 2, 1, 0),  # A00 twice, and Z99.89 told
        "frequency:1-10": (3, 4, 2, 1),  # A01 and A02 twice each; A02 right, A01 told once
        "frequency:11-50": (1, 1, 0, 0),
        "frequency:51-100": (1, 1, 0, 0),
        "frequency:101-500": (1, 1, 0, 0),
        "frequency:over-500": (2, 2, 2, 2),
    }
    assert slices_of(analysis, "frequency").keys() == {f"frequency:{name}" for name, *_ in FREQUENCIES}
    rare = next(part for part in analysis.slices if part.name == "frequency:1-10")
    assert (rare.precision, rare.recall, rare.f1) == (0.5, 0.25, pytest.approx(2 * 1 / 6))


NOTE = """
Chief Complaint: cough
Brief Hospital Course: treated for pneumonia, aspiration likely
Discharge Diagnosis:
1. Aspiration pneumonia
2. Chronic kidney disease, stage 3
"""


def test_recall_by_the_section_that_names_the_code(case, tmp_path):
    case.code("R05", "Cough, unspecified")
    case.code("J69.0", "Aspiration pneumonia")
    case.code("N18.3", "Chronic kidney disease, stage 3 (moderate)")
    case.code("I10", "Essential (primary) hypertension")
    case.code("B99", None)
    gold = "R05 J69.0 N18.3 I10 B99"
    id_ = case.document(gold, "R05", note=NOTE, cut=(50, 100), cut_sections=("hospital_course", "discharge_diagnosis"))
    case.document(gold, "R05 J69.0 I10", note=NOTE)
    analysis = case.analyse(tmp_path)
    # Both words of J69.0 stand in two sections: the first of them counts. No word of I10 is there, and B99 has none.
    assert {s.section: (s.gold, s.right, s.cut_gold, s.cut_right) for s in analysis.sections} == {
        None: (4, 1, 0, 0),
        "chief_complaint": (2, 2, 0, 0),
        "hospital_course": (2, 1, 1, 0),
        "discharge_diagnosis": (2, 0, 1, 0),
    }
    assert case.rows(tmp_path, f"SELECT code, section FROM r.errors WHERE example_id = {id_} ORDER BY code") == [
        ("B99", None),
        ("I10", None),
        ("J69.0", "hospital_course"),
        ("N18.3", "discharge_diagnosis"),
    ]


def test_documents_for_drilling_down(case, tmp_path):
    first = case.document("I10 E11.9", "I10 N17.9 N17.9", note="x", cut=(25, 100), dropped=2)
    second = case.document("I10", "")
    length = len(SECRET) + 1
    assert case.rows(tmp_path, "FROM r.error_documents") == [
        (first, length + 1, 100, 0.25, True, 2, 2, 1, 2),
        (second, length, 10, 1.0, False, 1, 0, 0, 0),
    ]


def test_an_engine_that_tells_a_code_twice_told_it_once(case, tmp_path):
    case.document("I10", "I10 I10 E11.9", unsure="I10 E11.9")
    totals = case.analyse(tmp_path).totals
    assert (totals.predicted, totals.right, totals.spurious, totals.below_threshold) == (2, 1, 1, 0)


def test_null_probabilities_and_unknown_systems(case, tmp_path):
    case.document("I10", "I10 snomed:38341003")
    for answer in case.answers:
        answer["probability"] = None
    assert case.analyse(tmp_path).totals.malformed == 1
    assert case.rows(tmp_path, "SELECT system, probability FROM r.errors") == [("snomed", None)]


def test_nothing_predicted_at_all(case, tmp_path):
    case.document("I10 E11.9", "")
    case.document("I10", "")
    analysis = case.analyse(tmp_path)
    assert (analysis.totals.missed, analysis.totals.micro_f1, analysis.totals.verbosity) == (3, 0.0, 0.0)
    assert analysis.spurious == ()
    found = {finding.pattern: finding for finding in analysis.findings}
    assert found["documents_without_codes"].sentence == "100% of the documents (2) get no code at all."
    assert found["documents_without_codes"].gain == 1.0
    assert "0.00 codes for each gold code" in found["under_coding"].sentence


def test_nothing_wrong_at_all(case, tmp_path):
    case.document("I10 E11.9", "I10 E11.9")
    analysis = case.analyse(tmp_path)
    assert (analysis.totals.micro_f1, analysis.findings, analysis.missed) == (1.0, (), ())
    assert "No pattern is large enough" in findings_table(analysis)


def test_findings_come_by_their_gain(case, tmp_path):
    case.code("E11.9", frequency=4)
    case.code("N17.9", frequency=0)
    case.code("I50.22", frequency=900)
    case.document("I10 E11.9 E11.8 E11.7", "I10")
    case.document("I10 N17.9 I50.22", "I10 I50.23")
    findings = case.analyse(tmp_path).findings
    assert [finding.gain for finding in findings] == sorted((f.gain for f in findings), reverse=True)
    found = {finding.pattern: finding for finding in findings}
    # 5 missed: E11.9 has 4 training notes, N17.9 none; right 2, gold 7, predicted 3.
    assert found["rare_codes"].sentence == "20% of the misses (1) are codes with fewer than 11 training notes."
    assert found["rare_codes"].gain == pytest.approx(2 * 3 / (7 + 4) - 2 * 2 / (7 + 3))
    assert found["sibling"].gain == pytest.approx(2 * 3 / 10 - 2 * 2 / 10)
    assert found["unseen_codes"].count == 1
    assert "over_coding" not in found


def test_codes_lost_with_what_was_cut(case, tmp_path):
    case.code("J69.0", "Aspiration pneumonia")
    case.document("J69.0", "", note=NOTE, cut=(50, 100), cut_sections=("hospital_course",))
    case.document("J69.0", "J69.0", note=NOTE)
    found = {finding.pattern: finding for finding in case.analyse(tmp_path).findings}
    assert found["cut_sections"].sentence == "100% of the misses (1) lie in sections that were cut."
    assert found["cut_notes"].sentence == (
        "Notes that were cut have recall 0.00, those read whole 1.00: 1 more misses."
    )


def test_every_pattern_is_measured_and_names_real_settings(case, tmp_path):
    case.document("I10", "I10")
    assert {pattern.name for pattern in patterns()} == measured(case.analyse(tmp_path)).keys()
    assert set(NEAR_MISSES) <= {pattern.name for pattern in patterns()}
    sections = Settings.model_fields.keys() | InferenceSettings.model_fields.keys()
    for pattern in patterns():
        named = re.findall(r"\b([a-z]+)\.([a-z_]+)\b", pattern.suggestion)
        for section, setting in [pair for pair in named if pair[0] in sections]:
            owners = [
                fields[section].annotation
                for fields in (Settings.model_fields, InferenceSettings.model_fields)
                if section in fields
            ]
            assert any(setting in owner.model_fields for owner in owners), f"{pattern.name}: {section}.{setting}"
        assert named or "table" in pattern.suggestion, pattern.name


def test_no_note_text_and_no_document_leaves(case, tmp_path):
    id_ = case.document("I10", "E11.9", note=f"Discharge Diagnosis: {SECRET} hypertension")
    case.code("E11.9", "Type 2 diabetes")
    analysis = case.analyse(tmp_path)
    for text in (analysis.model_dump_json(), findings_table(analysis)):
        assert SECRET not in text
        assert str(id_) not in text
    kept = case.rows(tmp_path, "SELECT to_json(e) FROM r.errors e UNION ALL SELECT to_json(d) FROM r.error_documents d")
    assert SECRET not in str(kept)


def test_nothing_temporary_stays_and_a_second_analysis_replaces_the_first(case, tmp_path):
    case.document("I10", "E11.9")
    with case.warehouse(tmp_path) as con:
        first = analyse_errors(con, "r", case.predictions)
        assert analyse_errors(con, "r", case.predictions) == first
        names = con.execute(
            "SELECT table_name FROM duckdb_tables() WHERE temporary "
            "UNION ALL SELECT view_name FROM duckdb_views() WHERE temporary AND NOT internal"
        ).fetchall()
        assert names == []
        made = con.execute("SELECT name, rows FROM made WHERE name LIKE 'r.error%' ORDER BY name").fetchall()
        assert made == [("r.error_documents", 1), ("r.errors", 2)]


def test_predictions_of_other_documents_are_refused(case, tmp_path):
    with pytest.raises(MedcodeError, match="recipe r: no predictions to analyse"):
        case.analyse(tmp_path)
    case.document("I10", "I10")
    case.answers.append(case.answers[0] | {"hadm_id": 7})
    with pytest.raises(MedcodeError, match="1 of 2 predicted documents are not in r.examples"):
        case.analyse(tmp_path)


def test_the_file_gives_back_what_was_written(case, tmp_path):
    case.code("I10", "Essential | primary hypertension")
    case.document("I10 I50.22", "I50.23", dropped=1)
    analysis = case.analyse(tmp_path)
    file = tmp_path / "errors" / "errors.json"
    write_analysis(analysis, file)
    assert read_analysis(file) == analysis
    assert [path.name for path in file.parent.iterdir()] == ["errors.json"]
    rows = [line for line in findings_table(analysis).splitlines() if line.startswith("|")]
    assert any("Essential \\| primary" in row for row in rows)
    json_fields = json.loads(file.read_text())
    del json_fields["totals"]
    file.write_text(json.dumps(json_fields))
    with pytest.raises(MedcodeError, match="fields missing or wrong: totals"):
        read_analysis(file)
    with pytest.raises(MedcodeError, match="no error analysis there"):
        read_analysis(tmp_path / "none.json")


@settings(deadline=None, max_examples=6)
@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from(["I50.1", "I50.9", "I50.22", "I50.23", "I50.33", "I10"]), min_size=1),
            st.sets(st.sampled_from(["I50.1", "I50.9", "I50.22", "I50.23", "I50.33", "I10", "I50"])),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_pairs_are_one_to_one_and_no_pair_is_left_over(tmp_path_factory, documents):
    case = Case()
    for name, title in TITLES.items():
        case.code(name, title)
    for gold, told in documents:
        case.document(" ".join(sorted(gold)), " ".join(sorted(told)))
    rows = case.rows(
        tmp_path_factory.mktemp("w"), "SELECT example_id, kind, code, counterpart FROM r.errors WHERE code != 'I10'"
    )
    for place, (gold, told) in enumerate(documents):
        missed = {code: other for id_, kind, code, other in rows if id_ == FIRST + place and kind == "missed"}
        spurious = {code: other for id_, kind, code, other in rows if id_ == FIRST + place and kind == "spurious"}
        assert missed.keys() == gold - told - {"I10"}
        assert spurious.keys() == told - gold - {"I10"}
        paired = {(code, other) for code, other in missed.items() if other}
        assert paired == {(other, code) for code, other in spurious.items() if other}
        # All are of one category, so the shorter side is used up.
        assert len(paired) == min(len(missed), len(spurious))
