"""The history of evaluations, comparisons out of it, and the gates before LATEST."""

from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from medcode_assets.config import GateSettings
from medcode_assets.evaluation.evaluate import Answers, evaluate_answers
from medcode_assets.evaluation.gates import check_gates
from medcode_assets.evaluation.history import (
    EvaluationAbout,
    compare_kept,
    find_evaluation,
    forget_evaluations,
    gold_hash,
    gold_table,
    keep_evaluation,
    kept_evaluations,
)
from medcode_assets.evaluation.predictions import LabelledNotes, predict_documents
from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from medcode_serving.engines.protocol import Prediction, ScoredCode
from medcode_serving.errors import MedcodeError
from tests.tiny import write_codes

CODES = [("icd10cm", code) for code in ("I10", "E11.9", "J18.9")]
VOCABULARY = Vocabulary([VocabularyCode(*code, code[1], None, 5) for code in CODES])


class Knows:
    """Names those of a note's codes, written out in it, that it knows; others get a wrong one."""

    name = "knows"

    def __init__(self, *known: str, dropped: int = 0) -> None:
        self.known = known
        self.dropped = dropped

    def predict(self, notes, *, on_progress=None):
        return [
            Prediction(
                tuple(ScoredCode("icd10cm", code, None, 0.9) for code in self.known if code in note),
                dropped=self.dropped,
            )
            for note in notes
        ]


def split(name: str, first: int, documents: int = 40) -> LabelledNotes:
    gold = [[CODES[place % 3]] + ([CODES[0]] if place % 2 and place % 3 else []) for place in range(documents)]
    notes = [" ".join(code for _, code in codes) for codes in gold]
    return LabelledNotes(name, range(first, first + documents), notes, gold)


def evaluated(engines, validation=None, test=None):
    validation, test = validation or split("validation", 0), test or split("test", 100)
    answers = {
        name: Answers(*(predict_documents(engine, part.ids, part.notes) for part in (validation, test)))
        for name, engine in engines.items()
    }
    return evaluate_answers(answers, validation, test, VOCABULARY, method="none", resamples=200), answers


def keep(home, version, engines, *, day=1, test=None, partition="tiny", split_hash="1" * 64):
    test = test or split("test", 100)
    report, answers = evaluated(engines, test=test)
    files = {}
    for name, given in answers.items():
        files[name] = home / f"{version}-{name}.parquet"
        pq.write_table(given.test, files[name])
    gold = gold_table(test)
    about = EvaluationAbout(
        recipe="icd",
        version=version,
        partition=partition,
        split_hash=split_hash,
        gold_hash=gold_hash(gold),
        base_model="embedded",
        made=datetime(2026, 11, day, tzinfo=UTC),
    )
    codes = write_codes(home / "codes.parquet", VOCABULARY)
    return keep_evaluation(home, about, report, codes=codes, gold=gold, answers=files)


def test_the_history_keeps_what_a_comparison_needs(tmp_path):
    good, bad = Knows("I10", "E11.9", "J18.9"), Knows("I10")
    keep(tmp_path, "tiny-a", {"adapter": bad}, day=1)
    keep(tmp_path, "tiny-b", {"adapter": good, "linear": bad}, day=2)
    assert [kept.about.version for kept in kept_evaluations(tmp_path, "icd")] == ["tiny-b", "tiny-a"]
    new, old = find_evaluation(tmp_path, "icd", "tiny-b"), find_evaluation(tmp_path, "icd", "tiny-a")
    assert new.report.engine("adapter").metric("micro_f1", "open") == 1.0
    rows = {
        (row.name, row.label_space): row for row in compare_kept((new, "adapter"), (old, "adapter"), names=("b", "a"))
    }
    change = rows["micro_f1", "open"]
    expected = 1 - old.report.engine("adapter").metric("micro_f1", "open")
    assert change.value == pytest.approx(expected)
    assert 0 < change.low <= change.value <= change.high
    same = compare_kept((new, "linear"), (old, "adapter"), names=("linear", "a"))
    assert {(row.value, row.low, row.high, row.p_value) for row in same} == {(0, 0, 0, 1)}


def test_what_cannot_be_compared_is_said(tmp_path):
    keep(tmp_path, "tiny-a1", {"adapter": Knows("I10")})
    keep(tmp_path, "tiny-a2", {"adapter": Knows("I10")}, split_hash="2" * 64)
    with pytest.raises(MedcodeError, match="tiny-a: several evaluations begin so.*tiny-a1"):
        find_evaluation(tmp_path, "icd", "tiny-a")
    with pytest.raises(MedcodeError, match="x: no such evaluation of recipe icd"):
        find_evaluation(tmp_path, "icd", "x")
    with pytest.raises(MedcodeError, match="no such evaluation of recipe medqa.*none"):
        find_evaluation(tmp_path, "medqa", "tiny-a1")
    one, two = (find_evaluation(tmp_path, "icd", name) for name in ("tiny-a1", "tiny-a2"))
    with pytest.raises(MedcodeError, match="one and two were measured on other splits"):
        compare_kept((one, "adapter"), (two, "adapter"), names=("one", "two"))
    other_codes = split("test", 100)
    other_codes.gold[0].append(CODES[2])
    three = keep(tmp_path, "three", {"adapter": Knows("I10")}, test=other_codes)
    with pytest.raises(MedcodeError, match="one and three were asked for other codes of the same notes"):
        compare_kept((one, "adapter"), (three, "adapter"), names=("one", "three"))
    four = keep(tmp_path, "four", {"adapter": Knows("I10")}, test=split("test", 900))
    with pytest.raises(MedcodeError, match="no common test document"):
        compare_kept((one, "adapter"), (four, "adapter"), names=("one", "four"))
    (two.folder / "gold.parquet").unlink()
    with pytest.raises(MedcodeError, match=r"gold\.parquet: missing; evaluate tiny-a2 again"):
        compare_kept((two, "adapter"), (two, "adapter"), names=("two", "two"))
    with pytest.raises(MedcodeError, match="engine 'linear' was not evaluated; there are adapter"):
        compare_kept((one, "linear"), (one, "adapter"), names=("one", "two"))


def test_fewer_documents_are_compared_on_those_that_both_have(tmp_path):
    """`evaluation.max_documents` is no way around the gate."""
    all_of_them = keep(tmp_path, "all", {"adapter": ALL})
    some = keep(tmp_path, "some", {"adapter": Knows("I10")}, test=split("test", 100, documents=20))
    rows = {
        (row.name, row.label_space): row
        for row in compare_kept((some, "adapter"), (all_of_them, "adapter"), names=("s", "a"))
    }
    on_some = some.report.engine("adapter").metric("micro_f1", "open")
    assert rows["micro_f1", "open"].value == pytest.approx(on_some - 1)


def test_what_cannot_be_read_is_left_out_and_a_version_can_be_forgotten(tmp_path, caplog):
    keep(tmp_path, "tiny-a", {"adapter": ALL})
    other = keep(tmp_path, "other", {"adapter": ALL}, partition="other")
    broken = keep(tmp_path, "broken", {"adapter": ALL})
    (broken.folder / "about.json").write_text("{}")
    assert {kept.about.version for kept in kept_evaluations(tmp_path, "icd")} == {"tiny-a", "other"}
    assert "broken/about.json: not what this version of medcode wrote" in caplog.text
    forget_evaluations(tmp_path, "tiny")
    assert [kept.about.version for kept in kept_evaluations(tmp_path, "icd")] == ["other"]
    assert other.folder.exists()


def test_a_repeated_evaluation_replaces_its_own(tmp_path):
    keep(tmp_path, "tiny-a", {"adapter": Knows("I10"), "linear": Knows("I10")})
    keep(tmp_path, "tiny-a", {"adapter": Knows("E11.9")})
    (kept,) = kept_evaluations(tmp_path, "icd")
    assert sorted(file.name for file in kept.folder.iterdir()) == [
        "about.json",
        "adapter.parquet",
        "codes.parquet",
        "evaluation.json",
        "gold.parquet",
    ]


ALL = Knows("I10", "E11.9", "J18.9")


def gates(report, against="nothing is published yet", **settings):
    return {gate.name: gate for gate in check_gates(report, GateSettings(**settings), against)}


def test_a_good_adapter_passes_every_gate():
    report, _ = evaluated({"adapter": ALL, "frequency_prior": Knows("I10"), "untuned_base": Knows("E11.9")})
    found = gates(report)
    assert all(gate.passed and not gate.relaxed for gate in found.values()), found
    assert found["no_regression"].reason == "nothing is published yet"


def test_a_gate_says_its_numbers_and_can_be_relaxed_by_name():
    report, _ = evaluated({"adapter": Knows("I10"), "frequency_prior": ALL, "untuned_base": ALL})
    found = gates(report, relax=["above_untuned_base"])
    assert found["above_frequency_prior"].blocks
    assert "frequency_prior 1.0000" in found["above_frequency_prior"].reason
    relaxed = found["above_untuned_base"]
    assert (relaxed.passed, relaxed.relaxed, relaxed.blocks) == (False, True, False)


def test_unparsable_outputs_and_a_collapsed_adapter_block():
    report, _ = evaluated({"adapter": Knows("I10", "E11.9", "J18.9", dropped=1)})
    found = gates(report)
    # 40 documents with one dropped fragment each, and the codes that were told whatever their probability.
    told = report.engine("adapter").told
    assert told == sum(len(codes) for codes in split("test", 100).gold)
    assert found["outputs_parse"].blocks
    assert found["outputs_parse"].reason.startswith(f"40 of {40 + told} fragments")
    assert not gates(report, most_dropped=0.5)["outputs_parse"].blocks
    silent, _ = evaluated({"adapter": Knows()})
    assert gates(silent)["not_collapsed"].blocks
    assert "predicts no code" in gates(silent)["not_collapsed"].reason


def test_only_a_significant_regression_blocks(tmp_path):
    served = keep(tmp_path, "served", {"adapter": ALL})
    worse = keep(tmp_path, "worse", {"adapter": Knows("I10")})
    report = worse.report
    against = compare_kept((worse, "adapter"), (served, "adapter"), names=("worse", "served"))
    assert gates(report, against)["no_regression"].blocks
    assert "served" in gates(report, against)["no_regression"].reason
    back = compare_kept((served, "adapter"), (worse, "adapter"), names=("served", "worse"))
    assert gates(served.report, back)["no_regression"].passed
