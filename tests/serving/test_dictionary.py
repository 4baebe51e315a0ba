from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_serving.bundle import Bundle
from medcode_serving.codes.dictionary import Dictionary
from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from medcode_serving.decoding import parse_answer
from medcode_serving.errors import MedcodeError
from medcode_serving.reasoned import code_line
from tests.serving.conftest import make_manifest
from tests.tiny import write_codes

TRAINED = [
    ("icd10cm", "I10", "Essential (primary) hypertension", 90),
    ("icd10cm", "E11.9", "Type 2 diabetes mellitus without complications", 50),
    ("icd9cm", "V43.3", "Heart valve replaced", 4),
]
OTHERS = [
    ("icd10cm", "E11.65", "Type 2 diabetes mellitus with hyperglycemia", 0),
    ("icd10cm", "E11", "Type 2 diabetes mellitus", 0),
    ("icd10cm", "S72.9", "Unspecified fracture of femur", 0),
    ("icd10cm", "V43.3", "Car occupant injured in collision with car", 0),
    ("icd10cm", "K50.90", "Crohn's disease, unspecified", 2),
    ("icd10cm", "H81.0", "Ménière's disease", 0),
    ("icd10cm", "Z13.1", "Encounter for screening for diabetes", 0),
    ("icd10pcs", "0DTJ4ZZ", None, 0),
    ("icd9cm", "E812.0", "Motor vehicle collision, driver", 0),
    ("icd9cm", "E812.1", "Motor vehicle collision, passenger", 0),
]


def rows(table) -> list[VocabularyCode]:
    return [VocabularyCode(system, code, code, text, frequency) for system, code, text, frequency in table]


@pytest.fixture(scope="module")
def dictionary() -> Dictionary:
    return Dictionary(rows(TRAINED), rows(OTHERS))


def found(dictionary: Dictionary, text: str, **options) -> list[str]:
    return [known.code for known in dictionary.search(text, **options)]


@pytest.mark.parametrize("written", ["E11.9", "E119", "e11.9", " e119 "])
def test_a_code_is_found_however_it_is_written(dictionary: Dictionary, written: str) -> None:
    known = dictionary.find("icd10cm", written)
    assert known is not None
    assert (known.code, known.frequency, known.predicted) == ("E11.9", 50, True)
    assert dictionary.find("icd9cm", written) is None


def test_two_systems_may_share_a_code(dictionary: Dictionary) -> None:
    heart, car = dictionary.find("icd9cm", "V433"), dictionary.find("icd10cm", "V43.3")
    assert heart is not None and heart.predicted and heart.description == "Heart valve replaced"
    assert car is not None and not car.predicted and car.frequency == 0
    assert {known.system for known in dictionary.search("v43.3")} == {"icd9cm", "icd10cm"}


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("e11", ["E11", "E11.9", "E11.65"]),  # the code itself, then by frequency
        ("E119", ["E11.9"]),
        ("diabetes mellitus", ["E11.9", "E11", "E11.65"]),  # of the untrained, the shorter description
        ("mellitus DIABETES 2", ["E11.9", "E11", "E11.65"]),
        ("diab hyperg", ["E11.65"]),
        ("hyperglycemia diabetes hypertension", []),
        ("fractures of femurs", ["S72.9"]),
        ("crohns", ["K50.90"]),
        ("crohn’s", ["K50.90"]),
        ("meniere", ["H81.0"]),
        ("MÉNIÈRE'S DISEASES", ["H81.0"]),
        ("disease", ["K50.90", "H81.0"]),
        ("car", ["V43.3"]),
        ("0dtj", ["0DTJ4ZZ"]),
        ("", []),
        (" . ", []),
        ("٣", []),
        ("ﬁ\ud800", []),
    ],
)
def test_search(dictionary: Dictionary, text: str, codes: list[str]) -> None:
    assert found(dictionary, text) == codes


def test_whole_words_come_before_beginnings_and_limits_hold(dictionary: Dictionary) -> None:
    more = Dictionary(rows([("cpt", "11111", "Carpal bone", 99)]), rows(OTHERS))
    assert found(more, "car") == ["V43.3", "11111"]
    assert found(more, "car", limit=1) == ["V43.3"]
    assert found(more, "car", system="cpt") == ["11111"]
    assert found(more, "car", system="no such system") == []


def test_near_codes_are_of_the_category(dictionary: Dictionary) -> None:
    assert [known.code for known in dictionary.near("icd10cm", "E11.69")] == ["E11.65", "E11.9", "E11"]
    assert [known.code for known in dictionary.near("icd10cm", "E11.9", limit=1)] == ["E11"]
    assert [known.code for known in dictionary.near("icd9cm", "E8129")] == ["E812.0", "E812.1"]
    assert dictionary.near("hcpcs", "A0001") == []


def test_the_whole_vocabulary_begins_with_the_trained_one(dictionary: Dictionary) -> None:
    vocabulary = dictionary.vocabulary()
    assert vocabulary.codes[:3] == tuple(rows(TRAINED))
    assert len(vocabulary) == len(dictionary) == len(TRAINED) + len(OTHERS)
    assert vocabulary.codes[vocabulary.index_of["icd10cm:V43.3"]].description.startswith("Car occupant")
    assert vocabulary.codes[vocabulary.index_of["V43.3"]].system == "icd9cm"  # trained under this text
    assert [mention.index for mention in parse_answer("V43.3, icd10cm:V43.3", vocabulary).mentions] == [2, 6]
    assert [known.code for known in dictionary.codes] == [row.code for row in vocabulary.codes]


def test_where_answers_are_lines_the_others_are_lines_too() -> None:
    line = code_line("icd10cm", "I10", "Essential (primary) hypertension")
    trained = [VocabularyCode("icd10cm", "I10", line, "Essential (primary) hypertension", 3)]
    vocabulary = Dictionary(trained, [*rows(OTHERS[:1]), *rows([("cpt", "99213", None, 0), OTHERS[-1]])]).vocabulary()
    assert [code.text for code in vocabulary.codes] == [
        "ICD10: I10 (Essential (primary) hypertension)",
        "ICD10: E11.65 (Type 2 diabetes mellitus with hyperglycemia)",
        "CPT: 99213",
    ]


@given(st.lists(st.tuples(st.sampled_from(["icd10cm", "cpt"]), st.text("AB1", min_size=1, max_size=4)), unique=True))
def test_every_code_is_found_by_each_of_its_beginnings(codes) -> None:
    dictionary = Dictionary([VocabularyCode(system, code, code, None, 0) for system, code in codes])
    for system, code in codes:
        known = dictionary.find(system, code)
        assert known is not None and (known.system, known.code) == (system, code)
        for end in range(1, len(code) + 1):
            expected = {one for one in codes if one[1].startswith(code[:end])}
            hits = dictionary.search(code[:end], limit=1000)
            assert {(hit.system, hit.code) for hit in hits} == expected
            assert not expected or hits[0].code == code[:end] or code[:end] not in {one[1] for one in codes}


def test_a_bundle_s_dictionary(vocabulary: Vocabulary, tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors").touch()
    bundle = Bundle(tmp_path, make_manifest(tmp_path))
    write_codes(bundle.codes, vocabulary)
    assert len(Dictionary.read(bundle)) == len(vocabulary)
    (tmp_path / "linear").mkdir()
    listed = [("icd10cm", "E11.9", "twice", 3), ("icd10cm", "Z99.9", "Dependence on machine", 0)]
    columns = dict(
        zip(("system", "code", "description", "frequency"), map(list, zip(*listed, strict=True)), strict=True)
    )
    pq.write_table(pa.table(columns), tmp_path / "linear" / "codes.parquet")
    dictionary = Dictionary.read(bundle)
    assert len(dictionary) == len(vocabulary) + 1
    assert dictionary.find("icd10cm", "E11.9").description == "Type 2 diabetes mellitus without complications"
    assert not dictionary.find("icd10cm", "Z99.9").predicted
    (tmp_path / "linear" / "codes.parquet").write_bytes(b"PAR1")
    with pytest.raises(MedcodeError, match=r"codes\.parquet"):
        Dictionary.read(bundle)


def test_an_index_of_no_words() -> None:
    empty = Dictionary([VocabularyCode("icd10pcs", "0DTJ4ZZ", "0DTJ4ZZ", None, 1)])
    assert found(empty, "resection") == []
    assert found(empty, "0D") == ["0DTJ4ZZ"]
