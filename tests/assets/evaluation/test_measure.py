import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from medcode_assets.evaluation.columns import CodeColumns
from medcode_assets.evaluation.measure import COMPARED, differences, group_sizes, measure
from medcode_serving.errors import MedcodeError

CODES = (
    ("icd10cm", "I10"),
    ("icd10cm", "I50.9"),
    ("icd10cm", "I50.2"),
    ("icd10pcs", "0DTJ4ZZ"),
    ("icd9cm", "428.0"),
)
COLUMNS = CodeColumns(CODES)
FREQUENCIES = np.array([900, 40, 5, 0, 0])
# The second document's I50.9 is told as I50.2; nobody has 0DTJ4ZZ, which is told at the threshold.
GOLD = csr_array([[1, 1, 0, 0, 0], [0, 1, 0, 0, 1], [1, 0, 0, 0, 0]])
SCORES = csr_array([[0.9, 0.8, 0, 0, 0], [0, 0, 0.7, 0.5, 0.6], [0.9, 0, 0, 0, 0.4]])
THRESHOLD = 0.5


def measured(gold=GOLD, scores=SCORES, resamples=0, **changed):
    metrics = measure(
        gold, scores, THRESHOLD, COLUMNS, FREQUENCIES, engine="adapter", split="test", resamples=resamples, **changed
    )
    assert {(metric.engine, metric.split) for metric in metrics} == {("adapter", "test")}
    found = {(metric.name, metric.label_space, metric.level, metric.group): metric for metric in metrics}
    assert len(found) == len(metrics)
    return found


def value(found, name, space, level="code", group="all"):
    return found[name, space, level, group].value


def test_over_all_codes_by_hand():
    found = measured()
    # tp: I10 2, I50.9 1, 428.0 1. fp: I50.2, 0DTJ4ZZ. fn: I50.9. Closed: I10, I50.9 and 428.0.
    assert value(found, "micro_f1", "closed") == pytest.approx(8 / (8 + 0 + 1))
    assert value(found, "micro_f1", "open") == value(found, "micro_f1", "caml") == pytest.approx(8 / (8 + 2 + 1))
    assert value(found, "macro_f1", "closed") == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert value(found, "macro_f1", "open") == pytest.approx((1 + 2 / 3 + 1) / 5)
    # Macro precision 3/5 and macro recall 2.5/5.
    assert value(found, "macro_f1", "caml") == pytest.approx(2 * 0.6 * 0.5 / 1.1)
    assert value(found, "exact_match_ratio", "open") == pytest.approx(2 / 3)
    # The second document's ranks, open: I50.2 wrong, 428.0 right, 0DTJ4ZZ wrong: ½ / 2. Closed, 428.0 is first: 1 / 2.
    assert value(found, "map", "open") == pytest.approx((1 + 1 / 4 + 1) / 3)
    assert value(found, "map", "closed") == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert value(found, "precision_at_5", "open") == pytest.approx((2 + 1 + 1) / 15)
    # I10 and 428.0: 1. I50.9: its told positive is above, its other ties with the negative: (1 + ½) / 2.
    assert value(found, "macro_auc", "open") == value(found, "macro_auc", "closed") == pytest.approx(2.75 / 3)


def test_by_group_by_hand():
    found = measured()
    assert value(found, "micro_f1", "closed", group="system:icd10cm") == pytest.approx(6 / (6 + 0 + 1))
    assert value(found, "micro_f1", "open", group="system:icd10cm") == pytest.approx(6 / (6 + 1 + 1))
    assert value(found, "macro_recall", "open", group="system:icd10cm") == pytest.approx((1 + 0.5 + 0) / 3)
    assert value(found, "micro_f1", "open", group="frequency:11-50") == pytest.approx(2 / 3)
    assert value(found, "macro_f1", "open", group="frequency:unseen") == pytest.approx(1 / 2)
    assert value(found, "micro_f1", "closed", group="chapter:icd9cm:390-459") == 1
    groups = {group for _, _, _, group in found}
    assert "system:icd10pcs" not in groups  # told, but no document has one
    assert "frequency:1-10" not in groups
    assert {space for _, space, _, group in found if group != "all"} == {"closed", "open"}


def test_over_parents_by_hand():
    found = measured()
    # I50.2 for I50.9 is the right category; 0DT remains wrong: 5 of 6 are right, and none is missing.
    assert value(found, "micro_f1", "closed", "category") == 1
    assert value(found, "micro_f1", "open", "category") == pytest.approx(10 / 11)
    assert value(found, "macro_f1", "open", "category") == pytest.approx(3 / 4)
    # I10 and I50.9 of the first document are one I00-I99: 4 of 5 are right.
    assert value(found, "micro_f1", "open", "chapter") == pytest.approx(8 / 9)
    assert value(found, "micro_f1", "closed", "chapter") == 1


def test_what_is_measured():
    found = measured()
    names = {(name, space) for name, space, level, group in found if (level, group) == ("code", "all")}
    counted = {f"{kind}_{what}" for kind in ("micro", "macro") for what in ("precision", "recall", "f1")}
    ranked = {f"{what}_at_{depth}" for what in ("precision", "recall") for depth in (5, 8, 15)}
    other = {"map", "r_precision", "exact_match_ratio", "macro_auc", "micro_auc"}
    assert names == {
        *((name, space) for name in counted for space in ("closed", "open", "caml")),
        *((name, space) for name in ranked | other for space in ("closed", "open")),
    }
    assert (
        len([key for key in found if key[2] == "category"]) == len([key for key in found if key[2] == "chapter"]) == 12
    )


def test_group_sizes():
    sizes = group_sizes(GOLD, COLUMNS, FREQUENCIES)
    assert {(group.name, group.codes, group.pairs) for group in sizes} == {
        ("system:icd9cm", 1, 1),
        ("system:icd10cm", 2, 4),
        ("frequency:unseen", 1, 1),
        ("frequency:11-50", 1, 2),
        ("frequency:over-500", 1, 2),
        ("chapter:icd9cm:390-459", 1, 1),
        ("chapter:icd10cm:I00-I99", 2, 4),
    }
    assert {group.name for group in sizes} == {group for *_, group in measured()} - {"all"}


def test_intervals_hold_their_values_and_repeat():
    found = measured(resamples=30)
    assert all(0 <= metric.low <= metric.value <= metric.high <= 1 for metric in found.values())
    assert found == measured(resamples=30)
    assert found != measured(resamples=30, seed=1)
    assert all(metric.low is None and metric.high is None for metric in measured().values())


def test_nothing_told():
    found = measured(scores=csr_array(GOLD.shape))
    areas = {key: metric.value for key, metric in found.items() if key[0].endswith("auc")}
    assert set(areas.values()) == {0.5}
    assert {metric.value for key, metric in found.items() if key not in areas} == {0.0}


def test_without_negatives_there_is_no_area():
    gold = csr_array(np.ones((2, 5), dtype=np.int64))
    assert not {key for key in measured(gold=gold, scores=csr_array((2, 5))) if key[0].endswith("auc")}


def test_a_split_without_documents_or_codes_is_an_error():
    with pytest.raises(MedcodeError, match="test split has 3 documents and none has a code"):
        measured(gold=csr_array(GOLD.shape, dtype=np.int64))
    with pytest.raises(MedcodeError, match="test split has no documents"):
        measured(gold=csr_array((0, 5), dtype=np.int64), scores=csr_array((0, 5)))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="scores are"):
        measured(scores=csr_array((3, 4)))
    with pytest.raises(ValueError, match="columns"):
        differences(GOLD, (SCORES, 0.5), (SCORES, 0.5), CodeColumns(CODES[:2]), FREQUENCIES, names=("a", "b"))
    with pytest.raises(ValueError, match="resamples"):
        differences(GOLD, (SCORES, 0.5), (SCORES, 0.5), COLUMNS, FREQUENCIES, names=("a", "b"), resamples=0)


def test_equal_answers_do_not_differ():
    rows = differences(GOLD, (SCORES, 0.5), (SCORES, 0.5), COLUMNS, FREQUENCIES, names=("a", "b"), resamples=20)
    assert [(row.name, row.label_space) for row in rows] == [(key.name, key.label_space) for key in COMPARED]
    assert {(row.first, row.second, row.value, row.low, row.high, row.p_value) for row in rows} == {
        ("a", "b", 0, 0, 0, 1)
    }


@st.composite
def answers(draw):
    seed = draw(st.integers(0, 10_000))
    generator = np.random.default_rng(seed)
    gold = csr_array((generator.random((8, 5)) < 0.4).astype(np.int64))
    told = [csr_array(generator.random((8, 5)) * (generator.random((8, 5)) < 0.6)) for _ in range(2)]
    return gold, *told


@settings(deadline=None, max_examples=15)
@given(answers())
def test_differences_are_of_what_is_measured_and_turn_round(answer):
    gold, one, other = answer
    if not gold.sum():
        return
    rows = differences(gold, (one, 0.5), (other, 0.4), COLUMNS, FREQUENCIES, names=("a", "b"), resamples=40)
    turned = differences(gold, (other, 0.4), (one, 0.5), COLUMNS, FREQUENCIES, names=("b", "a"), resamples=40)
    values = [
        {
            (metric.name, metric.label_space): metric.value
            for metric in measure(gold, scores, threshold, COLUMNS, FREQUENCIES, engine="", split="test", resamples=0)
            if (metric.level, metric.group) == ("code", "all")
        }
        for scores, threshold in ((one, 0.5), (other, 0.4))
    ]
    for row, back in zip(rows, turned, strict=True):
        key = (row.name, row.label_space)
        assert row.value == pytest.approx(values[0][key] - values[1][key])
        assert row.low <= row.value <= row.high
        assert (back.value, back.low, back.high) == pytest.approx((-row.value, -row.high, -row.low))
        assert back.p_value == pytest.approx(row.p_value)


def test_a_clear_difference_is_told_from_none():
    gold = csr_array(
        np.eye(40, 5, dtype=np.int64) + np.eye(40, 5, -20, dtype=np.int64) + np.eye(40, 5, 1, dtype=np.int64)
    )
    right, wrong = csr_array(gold * 0.9), csr_array(np.roll(gold.toarray(), 2, axis=1) * 0.9)
    rows = {
        (row.name, row.label_space): row
        for row in differences(
            gold, (right, 0.5), (wrong, 0.5), COLUMNS, FREQUENCIES, names=("right", "wrong"), resamples=100
        )
    }
    row = rows["micro_f1", "open"]
    assert row.low > 0
    assert row.p_value == 1 / 100
