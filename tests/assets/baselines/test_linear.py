import csv
import gzip
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_assets.baselines.corpus import spooled_corpus
from medcode_assets.baselines.linear import CandidateCode, LinearSettings, fit_linear
from medcode_assets.baselines.scorers import fit_phrases, fit_ridge, spread, title_index, weighted_titles
from medcode_assets.baselines.stacking import fit_logistic
from medcode_serving.codes.systems import dotted
from medcode_serving.engines.linear import LinearEngine
from medcode_serving.errors import MedcodeError
from medcode_serving.linear.text import COLUMNS, WordTable, title_stem

SMALL = LinearSettings(dimensions=64, folds=3)
FILES = ("model.json", "weights.safetensors", "codes.parquet")
CODIESP = Path(__file__).parents[4] / "shared/data/codiesp-mimic-iv"

# Word, code, description: the first three are in training notes, the last is in none.
TRAINED = [
    ("wheezing", "icd10cm", "J45.909", "Unspecified asthma, uncomplicated"),
    ("insulin", "icd10cm", "E11.9", "Type 2 diabetes mellitus without complications"),
    ("appendectomy", "icd9pcs", "47.01", "Laparoscopic appendectomy"),
]
UNSEEN = CandidateCode("icd10cm", "N20.0", "Calculus of kidney", 0)


def made_notes(count: int = 48) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Note n tells of word i if bit i of n is set, and has its code."""
    notes, gold = [], []
    for number in range(count):
        told = [row for bit, row in enumerate(TRAINED) if number >> bit & 1]
        said = " ".join(f"There was {word} on day {number % 5}." for word, *_ in told)
        notes.append(f"A person of {40 + number % 30} years came in. {said} The course was calm.")
        gold.append([(system, code) for _, system, code, _ in told])
    return notes, gold


def made_codes(gold: list[list[tuple[str, str]]]) -> list[CandidateCode]:
    frequency = Counter(code for answer in gold for code in answer)
    return [
        *(CandidateCode(system, code, title, frequency[system, code]) for _, system, code, title in TRAINED),
        UNSEEN,
    ]


def fit(folder: Path, **options) -> Path:
    notes, gold = made_notes()
    fit_linear(
        lambda: iter([(notes[:20], gold[:20]), (notes[20:], gold[20:])]), made_codes(gold), folder, SMALL, **options
    )
    return folder


def test_learns_codes_of_two_systems_from_their_words(tmp_path):
    engine = LinearEngine.load(fit(tmp_path))
    (answer,) = engine.predict(["The course was calm but there was wheezing, then an appendectomy."])
    probability = {(code.system, code.code): code.probability for code in answer.codes}
    assert probability["icd10cm", "J45.909"] > 0.5
    assert probability["icd9pcs", "47.01"] > 0.5
    assert probability["icd10cm", "E11.9"] < 0.2
    assert [code.probability for code in answer.codes] == sorted(probability.values(), reverse=True)


def test_a_title_reaches_a_code_that_no_training_note_has(tmp_path):
    # Every training note has a code of its own, and names it as its title does: held out, each was reached by title.
    organs = [f"{first}{second}ule" for first in "bdfgklmp" for second in ("ana", "eri", "ilo", "omu", "uta")]
    codes = [
        CandidateCode("icd10cm", f"N{30 + number}.0", f"Lesion of {organ}", 1) for number, organ in enumerate(organs)
    ]
    notes = [f"She came on day {len(organ)}. A lesion of the {organ} was seen." for organ in organs]
    gold = [[(code.system, code.code)] for code in codes]
    fit_linear(lambda: iter([(notes, gold)]), [*codes, UNSEEN], tmp_path, SMALL)
    (answer,) = LinearEngine.load(tmp_path).predict(["He came on day 7. A calculus of the kidney was seen."])
    assert (answer.codes[0].code, answer.codes[0].description) == ("N20.0", "Calculus of kidney")
    assert answer.codes[0].probability > 0.5


def test_same_notes_same_files_however_they_are_chunked(tmp_path):
    notes, gold = made_notes()
    whole = tmp_path / "whole"
    fit_linear(lambda: iter([(notes, gold)]), list(reversed(made_codes(gold))), whole, SMALL)
    parts = fit(tmp_path / "parts")
    for name in FILES:
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_nothing_but_the_model_is_left_in_the_folder(tmp_path):
    assert sorted(path.name for path in fit(tmp_path).iterdir()) == sorted(FILES)


def test_no_word_of_a_note_is_in_the_files(tmp_path):
    folder = fit(tmp_path)
    for name in FILES:
        assert b"wheezing" not in (folder / name).read_bytes()


def test_progress_grows_to_one(tmp_path):
    told: list[float] = []
    fit(tmp_path, on_progress=lambda stage, share: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_many_notes_hold_some_out_for_good(tmp_path):
    notes, gold = made_notes()
    stages = []
    fit_linear(
        lambda: iter([(notes, gold)]),
        made_codes(gold),
        tmp_path,
        LinearSettings(dimensions=8, folded_notes=48, sampled_notes=30, notes_per_code=5),
        on_progress=lambda stage, share: stages.append(stage),
    )
    assert "scorers of a fold" not in stages
    (answer,) = LinearEngine.load(tmp_path).predict(["There was insulin on day 2."])
    assert answer.codes[0].code == "E11.9"


def test_a_gold_code_that_is_no_candidate_is_not_learned(tmp_path):
    notes, gold = made_notes()
    fit_linear(lambda: iter([(notes, [[*g, ("icd10cm", "Z99")] for g in gold])]), made_codes(gold), tmp_path, SMALL)
    assert "Z99" not in {code.code for code in LinearEngine.load(tmp_path).predict(["insulin"])[0].codes}
    assert json.loads((tmp_path / "model.json").read_text())["trained_codes"] == 3


@pytest.mark.parametrize(
    ("notes", "codes", "message"),
    [
        ([], [CandidateCode("icd10cm", "I10", None, 1)], "2 training notes or more, there are 0"),
        (["one"], [CandidateCode("icd10cm", "I10", None, 1)], "2 training notes or more, there are 1"),
        (["one", "two"], [UNSEEN], "no trained codes; lower data.min_frequency"),
    ],
)
def test_too_little_to_learn_from_is_one_line(tmp_path, notes, codes, message):
    with pytest.raises(MedcodeError, match=message):
        fit_linear(lambda: iter([(notes, [[("icd10cm", "I10")]] * len(notes))]), codes, tmp_path, SMALL)


def test_a_code_there_twice_is_a_programming_error(tmp_path):
    with pytest.raises(ValueError, match="twice"):
        fit_linear(lambda: iter([]), [UNSEEN, UNSEEN], tmp_path, SMALL)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MedcodeError, match="not written"):
        fit(tmp_path / "file" / "model")


def corpus_of(notes, gold, folder):
    return spooled_corpus(lambda: iter([(notes, gold)]), [("icd10cm", "A"), ("icd10cm", "B")], folder)


def test_phrases_by_hand(tmp_path):
    # "fever" is in three notes, two of them with A. A has 2 of 4 notes, so its prior is 0.5 and
    # (2 + 0.5 k) / (3 + k) is 2.25 / 3.5, 3 / 5 and 6 / 11 for k = 0.5, 2 and 8.
    # "rash", in two notes, has A in one of them: (1 + 0.5 k) / (2 + k) is 0.5 whatever k is.
    # "once" is in one note only and is no phrase of the model.
    notes = ["fever once", "fever. rash", "fever. rash", "calm"]
    gold = [[("icd10cm", "A")], [("icd10cm", "A")], [("icd10cm", "B")], []]
    table = WordTable()

    def scores(phrases, text):
        return phrases.scores(table.phrases(table.encode(text)))[:, 0].tolist()

    with corpus_of(notes, gold, tmp_path) as corpus:
        phrases = fit_phrases(corpus, np.arange(4), 2, SMALL)
    assert phrases.documents.tolist().count(3) == 1
    assert scores(phrases, "fever") == pytest.approx([2.25 / 3.5, 3 / 5, 6 / 11])
    assert scores(phrases, "rash") == pytest.approx([0.5, 0.5, 0.5])
    assert scores(phrases, "once") == pytest.approx([0.5, 0.5, 0.5])  # the prior


@pytest.mark.parametrize("dimensions", [3, 64])  # more notes than dimensions, and fewer
def test_ridge_solves_its_normal_equations(tmp_path, dimensions):
    # At the minimum of |XW - Y|² + p|W|² the gradient Xᵀ(XW - Y) + pW is 0.
    notes = ["fever and cough", "cough", "pain of the chest", "pain", "fever with pain", "calm"]
    gold = [[("icd10cm", "A")], [], [("icd10cm", "B")], [("icd10cm", "B")], [("icd10cm", "A"), ("icd10cm", "B")], []]
    y = np.array([[1, 0], [0, 0], [0, 1], [0, 1], [1, 1], [0, 0]])
    from medcode_serving.linear.ridge import projected

    with corpus_of(notes, gold, tmp_path) as corpus:
        idf = np.ones(COLUMNS, np.float32)
        ridge = fit_ridge(corpus, np.arange(6), 2, idf, LinearSettings(dimensions=dimensions, penalty=0.3))
        x = np.stack([projected(corpus.features(note), idf, dimensions) for note in range(6)])
    assert x.T @ (x @ ridge.weights - y) + 0.3 * ridge.weights == pytest.approx(0, abs=1e-5)


def test_title_weights_by_hand():
    # Two titles; "kidney" is in both, "calculus" in one; of 9 notes all have "kidney" and one has "calculus".
    # kidney: min(log 10/10, log 2/2) + 0.5 = 0.5; calculus: min(log 10/2, log 2/1) + 0.5 = log 2 + 0.5.
    titles = title_index(["Calculus of kidney", "Unspecified kidney"])
    in_notes = np.where(titles.stems == title_stem("kidney"), 9, 1)
    weights = dict(zip(titles.stems.tolist(), weighted_titles(titles, in_notes, 9).weights.tolist(), strict=True))
    assert weights[title_stem("kidney")] == pytest.approx(0.5)
    assert weights[title_stem("calculus")] == pytest.approx(math.log(2) + 0.5)


def test_logistic_regression_by_hand():
    # Of 1,000 examples with x = 0 one in four is right, with x = 1 three in four: log odds -log 3 and log 3.
    x = np.repeat([0.0, 1.0], 1000)[:, None]
    y = np.tile(np.repeat([1, 0], [250, 750]), 2)
    y[1000:] = 1 - y[1000:]
    weights, intercept = fit_logistic(np.hstack([x, np.full_like(x, 7)]), y)
    assert weights == pytest.approx([2 * math.log(3), 0], abs=0.02)
    assert intercept == pytest.approx(-math.log(3), abs=0.01)


@given(st.integers(0, 60), st.integers(1, 30))
@settings(deadline=None)
def test_spread_is_even(count, most):
    taken = spread(np.arange(count), most)
    assert len(taken) == min(count, most)
    steps = np.diff(taken)
    assert not len(steps) or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def read(name):
    path = CODIESP / name
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        yield from csv.DictReader(file)


@pytest.mark.skipif(not CODIESP.is_dir(), reason="CodiEsp is not in shared/data")
def test_real_notes_reach_a_micro_f1_of_38(tmp_path):
    split = {row["hadm_id"]: row["split"] for row in read("splits.csv")}
    notes = {row["hadm_id"]: row["text"] for row in read("note/discharge.csv.gz")}
    gold: dict[str, set[tuple[str, str]]] = {admission: set() for admission in split}
    for row in read("hosp/diagnoses_icd.csv.gz"):
        if row["hadm_id"] in gold:
            gold[row["hadm_id"]].add(("icd10cm", dotted("icd10cm", row["icd_code"])))
    train = sorted(one for one, name in split.items() if name == "train")
    dev = sorted(one for one, name in split.items() if name == "dev")

    # A quarter of train is left for the threshold: one fit instead of two.
    learned, held_out = [one for place, one in enumerate(train) if place % 4], train[::4]
    frequency = Counter(code for one in learned for code in gold[one])
    codes = [
        CandidateCode("icd10cm", code, row["long_title"], frequency["icd10cm", code])
        for row in read("hosp/d_icd_diagnoses.csv.gz")
        if row["icd_version"] == "10"
        for code in [dotted("icd10cm", row["icd_code"])]
    ]
    chunk = [notes[one] for one in learned], [sorted(gold[one]) for one in learned]
    fit_linear(lambda: iter([chunk]), codes, tmp_path, LinearSettings(dimensions=512, folds=2))
    engine = LinearEngine.load(tmp_path)

    def f1(admissions, threshold):
        predicted = [
            {(c.system, c.code) for c in answers[one].codes if c.probability >= threshold} for one in admissions
        ]
        right = sum(len(codes & gold[one]) for codes, one in zip(predicted, admissions, strict=True))
        return 2 * right / (sum(map(len, predicted)) + sum(len(gold[one]) for one in admissions))

    answers = dict(zip(held_out + dev, engine.predict([notes[one] for one in held_out + dev]), strict=True))
    threshold = max(np.arange(0.05, 0.5, 0.01), key=lambda value: f1(held_out, value))
    assert f1(dev, threshold) >= 0.38
