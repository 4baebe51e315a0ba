import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from medcode_serving.engines.linear import LinearEngine
from medcode_serving.errors import MedcodeError
from medcode_serving.linear.files import CODES, MODEL, WEIGHTS, save_model
from medcode_serving.linear.model import FEATURES, LinearCode, LinearModel, Scorers
from medcode_serving.linear.phrases import Phrases, find_sorted, ranges
from medcode_serving.linear.ridge import Ridge, projected
from medcode_serving.linear.text import COLUMNS, WordTable, title_stem
from medcode_serving.linear.titles import Titles

TABLE = WordTable()
STONE, FEVER = LinearCode("icd10cm", "N20.0", "Calculus of kidney", 0), LinearCode("icd10cm", "R50.9", "Fever", 3)
PROCEDURE = LinearCode("icd9pcs", "55.03", "Stone removal", 2)


def phrase(word: str) -> int:
    return int(TABLE.phrases(TABLE.encode(word))[0])


def made_model() -> LinearModel:
    """Fever and the procedure are trained, each by one phrase; the stone is reached by its title."""
    keys = np.array([phrase("febrile"), phrase("nephrolithotomy")], np.uint64)
    order = np.argsort(keys)
    stems = np.array(sorted(title_stem(word) for word in ("calculus", "kidney")), np.uint64)
    scorers = Scorers(
        Phrases(
            keys[order],
            np.array([3, 2], np.int32)[order],
            np.array([0, 1, 2]),
            np.array([0, 1], np.int32)[order],
            np.array([3, 2], np.float32)[order],
            np.array([0.03, 0.02], np.float32),
        ),
        Ridge(np.ones(COLUMNS, np.float32), np.zeros((9, 2), np.float32)),
        Titles(stems, np.ones(2, np.float32), np.array([0, 0, 0, 2]), np.array([0, 1], np.int32)),
        np.array([3, 2]),
    )
    weights = np.zeros(len(FEATURES))
    weights[FEATURES.index("phrase")], weights[FEATURES.index("title_complete")] = 1.0, 5.0
    return LinearModel(scorers, weights, -1.0, (FEVER, PROCEDURE, STONE))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(made_model(), tmp_path / "linear", {"training_notes": 100})
    return tmp_path / "linear"


def names(engine: LinearEngine, note: str) -> list[str]:
    return [code.code for code in engine.predict([note])[0].codes]


def test_a_trained_code_by_its_phrase(folder):
    # (3 + 2 · 0.03) / (3 + 2) = 0.612; its log odds with the guard of 0.001 are log(0.613 / 0.389) = 0.455, and the
    # logistic of 0.455 - 1 is 0.367.
    best = LinearEngine.load(folder).predict(["He was febrile."])[0].codes[0]
    assert (best.system, best.code, best.description) == ("icd10cm", "R50.9", "Fever")
    assert best.probability == pytest.approx(0.367, abs=0.001)


def test_an_unseen_code_by_its_title_in_one_sentence(folder):
    engine = LinearEngine.load(folder)
    assert names(engine, "Calculi: calculus in the left kidney.")[0] == "N20.0"
    apart = engine.predict(["A calculus in the bladder. The kidney is normal."])[0].codes
    together = engine.predict(["A calculus in the left kidney."])[0].codes
    assert together[0].probability > apart[0].probability


def test_codes_of_two_systems_in_one_answer(folder):
    answer = LinearEngine.load(folder).predict(["Febrile after nephrolithotomy."])[0]
    assert {code.system for code in answer.codes[:2]} == {"icd10cm", "icd9pcs"}


@pytest.mark.parametrize("note", ["", " \n\n ", "!!! --- ??? ...", "\x00", "žluťoučký kůň 发热 38.5"])
def test_a_note_that_tells_nothing_has_unlikely_codes(folder, note):
    (answer,) = LinearEngine.load(folder).predict([note])
    assert answer.codes
    assert all(0 <= code.probability < 0.05 for code in answer.codes)
    assert not answer.truncated


def test_a_very_long_note_is_read_to_its_end(folder):
    note = "The course was calm and long. " * 10_000 + "At last he was febrile."
    (answer,) = LinearEngine.load(folder).predict([note])
    assert answer.codes[0].code == "R50.9"
    assert not answer.truncated


def test_notes_are_answered_in_order_and_counted(folder):
    done: list[int] = []
    answers = LinearEngine.load(folder).predict(["febrile", "nephrolithotomy"], on_progress=done.append)
    assert [answer.codes[0].code for answer in answers] == ["R50.9", "55.03"]
    assert sum(done) == 2


@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_a_note_s_answer_does_not_depend_on_the_others(texts):
    together = LinearEngine(made_model()).predict(texts)
    assert together == [LinearEngine(made_model()).predict([text])[0] for text in texts]
    for answer in together:
        scores = [code.probability for code in answer.codes]
        assert scores == sorted(scores, reverse=True)
        assert len({(code.system, code.code) for code in answer.codes}) == len(scores)


def test_a_full_word_table_starts_afresh():
    small, large = WordTable(limit=2), WordTable()
    for note in ("one two three", "four five", "one five"):
        expected = large.features(large.encode(note))
        found = small.features(small.encode(note))
        assert found.phrases.tolist() == expected.phrases.tolist()
        assert found.columns.tolist() == expected.columns.tolist()


def test_phrases_are_words_and_neighbours_in_either_order():
    def count(text):
        return len(TABLE.phrases(TABLE.encode(text)))

    assert count("chest pain") == 3
    assert count("chest. pain") == 2  # no pair over the end of a sentence
    assert count("chest\npain") == 3  # notes are hard-wrapped
    assert count("chest\n\npain") == 2
    assert count("chest pain. Pain in the chest. Pains") == 3


def test_hashes_are_the_same_in_every_process():
    code = (
        "from medcode_serving.linear.text import WordTable; t = WordTable(); print(t.phrases(t.encode('chest pain')))"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(found) == 1


def test_projection_has_length_one_and_its_constant():
    # 60 distinct words: the projection keeps lengths up to about 1/√4096, a percent or two.
    note = TABLE.features(TABLE.encode(" ".join(f"word{number}" for number in range(60))))
    vector = projected(note, np.ones(COLUMNS, np.float32), 4096)
    assert np.linalg.norm(vector[:-1]) == pytest.approx(1, abs=0.1)
    assert vector[-1] == pytest.approx(0.45)


def test_ranges_by_hand():
    assert ranges(np.array([5, 9, 2]), np.array([2, 0, 1])).tolist() == [5, 6, 2]
    assert ranges(np.array([], int), np.array([], int)).tolist() == []


@given(st.lists(st.integers(0, 50), unique=True), st.lists(st.integers(0, 60), unique=True))
def test_find_sorted_finds_what_is_there(keys, wanted):
    keys, wanted = np.sort(np.array(keys, np.uint64)), np.sort(np.array(wanted, np.uint64))
    assert keys[find_sorted(keys, wanted)].tolist() == sorted(set(keys.tolist()) & set(wanted.tolist()))


@pytest.mark.parametrize("name", [MODEL, WEIGHTS, CODES])
def test_a_missing_or_broken_file_is_one_line(folder, name):
    (folder / name).write_bytes(b"broken")
    with pytest.raises(MedcodeError, match=f"{name} cannot be read .*; materialize the linear baseline anew") as error:
        LinearEngine.load(folder)
    assert "\n" not in str(error.value)
    (folder / name).unlink()
    with pytest.raises(MedcodeError, match=f"{name} is missing"):
        LinearEngine.load(folder)


def test_another_version_s_features_are_refused(folder):
    described = json.loads((folder / MODEL).read_text())
    (folder / MODEL).write_text(json.dumps({**described, "features": described["features"][1:]}))
    with pytest.raises(MedcodeError, match="of another version"):
        LinearEngine.load(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prior", np.zeros(3, np.float32)),
        ("idf", np.zeros(5, np.float32)),
        ("ridge", np.zeros((9, 5), np.float16)),
        ("phrase_codes", np.array([0, 9], np.int32)),
        ("phrase_starts", np.array([0, 2, 1])),
        ("title_places", np.array([0, 7], np.int32)),
        ("title_starts", np.array([0, 0, 9, 2])),
    ],
)
def test_an_array_that_does_not_fit_is_named(folder, name, value):
    arrays = load_file(folder / WEIGHTS)
    save_file({**arrays, name: value}, folder / WEIGHTS)
    with pytest.raises(MedcodeError, match=f"weights.safetensors: {name} does not fit the codes"):
        LinearEngine.load(folder)


def test_files_of_two_models_are_refused(folder, tmp_path):
    model = made_model()
    other = LinearModel(model.scorers, model.weights, 0.0, (*model.codes, LinearCode("icd10cm", "I10", None, 1)))
    save_model(other, tmp_path / "other", {})
    shutil.copy(tmp_path / "other" / CODES, folder / CODES)
    with pytest.raises(MedcodeError, match="does not fit the codes"):
        LinearEngine.load(folder)
