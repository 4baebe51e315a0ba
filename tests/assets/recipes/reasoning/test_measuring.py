import time
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_assets.recipes.reasoning.measuring import Asked, ReasoningLimits, measure_answers
from medcode_assets.recipes.reasoning.preferences import compare_preferences, mcnemar, measure_preferences
from medcode_assets.recipes.reasoning.rates import rates
from medcode_serving.codes.tables import code_tables
from medcode_serving.errors import MedcodeError
from medcode_serving.reasoned import read_answer

COUGH = "Productive cough and fever for four days. Chest film clear."
THIRST = "Thirst and weight loss; glucose 312."
BRONCHITIS = Asked(COUGH, "icd10cm", "J20.9", "Acute bronchitis, unspecified")
DIABETES = Asked(THIRST, "icd10cm", "E11.9", "Type 2 diabetes mellitus without complications")
WALKER = Asked("Needs a rigid walker at home.", "hcpcs", "E0130", None)
VISIT = Asked("Visit of a known patient, twenty minutes.", "cpt", "99213", None)
REASONED = """<think>
- productive cough and fever for four days
- clear chest film: no pneumonia
</think>
ICD10: J20.9 (Acute bronchitis, unspecified)"""

ANSWERS = [
    (BRONCHITIS, REASONED, None),
    (DIABETES, "ICD10: E11.65 (Something else)", "wrong_code"),
    (WALKER, "HCPCS: e0130", None),  # lower case: right, and out of the format
    (VISIT, "CPT: 99214", "wrong_code"),  # the same section, 99
    (BRONCHITIS, "", "no_code"),
    (BRONCHITIS, "<think>\n- cough\n- ICD10: J20.9", "no_code"),  # thought never ends
    (DIABETES, "ICD10: E11", "invalid_code"),  # a header
    (DIABETES, "HCPCS: E0130", "wrong_system"),
    (BRONCHITIS, "<think>\n- the moon is bright tonight\n</think>\nICD10: J45.909", "wrong_category"),
    (DIABETES, "ICD10: SMITH", "malformed"),
    (DIABETES, "I think it is ICD10: J20.9 here", "malformed"),
]
FREQUENCIES = {("icd10cm", "J20.9"): 10, ("icd10cm", "E11.9"): 501, ("hcpcs", "E0130"): 11}


@cache
def tables():
    return code_tables()


def measured(answers, **options):
    asked, texts = [asked for asked, *_ in answers], [text for _, text, *_ in answers]
    return measure_answers(texts, asked, **{"tables": tables(), "resamples": 50, **options})


def test_every_measure_by_hand():
    found = measured(ANSWERS)
    shares = {
        "exact_accuracy": 2,
        "category_accuracy": 5,  # those, E11.65, 99214 and E11
        "system_accuracy": 8,  # all but the two without a code and the one of another system
        "valid_code_rate": 7,  # not: two without, E11, SMITH
        "format_compliance": 6,  # SMITH is no code, and its line none
        "reasoning_rate": 2,
        "valid_reasoning_rate": 1,  # the moon is not in the narrative
    }
    for name, count in shares.items():
        rate = getattr(found, name)
        assert (rate.value, rate.of) == (pytest.approx(count / 11), 11), name
        assert 0 <= rate.low < rate.value < rate.high <= 1, name
    assert found.narratives == 11
    assert found.code_statuses == {"valid": 6, "format_only": 1, "header": 1, "malformed": 1}
    assert found.unclosed == 1
    assert (found.mean_support.value, found.mean_support.of) == (0.5, 2)
    assert found.reasoning_words.model_dump() == pytest.approx({"mean": 8.5, "p50": 8.5, "p95": 5 + 0.95 * 7})
    assert found.reasoning_points.model_dump() == pytest.approx({"mean": 1.5, "p50": 1.5, "p95": 1.95})


def test_every_wrong_answer_is_of_one_kind():
    found = measured(ANSWERS)
    assert found.errors == {
        "no_code": 2,
        "malformed": 2,
        "invalid_code": 1,
        "wrong_code": 2,
        "wrong_category": 1,
        "wrong_system": 1,
    }
    assert found.exact == "10100000000"
    assert found.valid_reasoning == "10000000000"
    for asked, text, kind in ANSWERS:
        one = measured([(asked, text)])
        assert {name for name, count in one.errors.items() if count} == ({kind} if kind else set()), text


def test_codes_groups_and_confusions():
    found = measured([*ANSWERS, (DIABETES, "ICD10: E11.65", None)], frequencies=FREQUENCIES)
    assert [(one.system, one.code, one.support, one.right) for one in found.codes] == [
        ("icd10cm", "E11.9", 6, 0),
        ("icd10cm", "J20.9", 4, 1),
        ("cpt", "99213", 1, 0),
        ("hcpcs", "E0130", 1, 1),
    ]
    assert found.codes[1].accuracy == 0.25
    assert {one.name: (one.exact.value, one.exact.of) for one in found.groups} == {
        "system:icd10cm": (0.1, 10),
        "system:hcpcs": (1.0, 1),
        "system:cpt": (0.0, 1),
        "frequency:unseen": (0.0, 1),
        "frequency:1-10": (0.25, 4),
        "frequency:11-50": (1.0, 1),
        "frequency:over-500": (0.0, 6),
    }
    rows = [(one.code, one.written_system, one.written_code, one.count) for one in found.confusions]
    assert rows[:2] == [("E11.9", "icd10cm", "E11.65", 2), ("J20.9", None, None, 2)]
    assert ("E11.9", "icd10cm", None, 1) in rows  # SMITH is not named: it may be the narrative's
    assert ("E11.9", "hcpcs", "E0130", 1) in rows
    assert sum(one.count for one in found.confusions) == sum(found.errors.values())


def test_descriptions_are_those_of_the_written_code():
    def rate(asked, text):
        found = measured([(asked, text)]).right_description_rate
        return found.value if found else None

    assert rate(BRONCHITIS, "ICD10: J20.9 (Acute bronchitis, unspecified)") == 1
    assert rate(BRONCHITIS, "ICD10: J20.9 (acute  Bronchitis, unspecified)") == 1
    assert rate(BRONCHITIS, "ICD10: J20.9") == 0
    assert rate(DIABETES, "ICD10: J20.9 (Acute bronchitis, unspecified)") == 1  # of another code than the asked one
    assert rate(DIABETES, "ICD10: J20.9 (Type 2 diabetes mellitus without complications)") == 0
    assert rate(VISIT, "CPT: 99213 (Office visit)") is None  # nobody may know
    assert rate(DIABETES, "ICD10: E0130 (Walker, rigid, adjustable or fixed height)") is None  # of another system
    assert rate(DIABETES, "") is None


def test_a_code_behind_another_marker_is_named_so():
    found = measured([(WALKER, "ICD10: E0130")])
    assert found.code_statuses == {"wrong_system": 1}
    assert found.errors["invalid_code"] == 1
    assert found.valid_code_rate.value == 0


def test_codes_are_compared_with_their_dots():
    assert measured([(DIABETES, "ICD10: E119")]).exact_accuracy.value == 1
    misplaced = measured([(DIABETES, "ICD10: E.119")])
    assert misplaced.exact_accuracy.value == misplaced.valid_code_rate.value == 0
    assert misplaced.errors["invalid_code"] == 1
    without = Asked(THIRST, "icd10cm", "E119", None)
    assert measured([(without, "ICD10: E11.9")]).exact_accuracy.value == 1


@pytest.mark.parametrize(
    ("limits", "valid"),
    [
        (ReasoningLimits(points=2, words=12), 1),
        (ReasoningLimits(points=1, words=12), 0),
        (ReasoningLimits(points=2, words=11), 0),
    ],
)
def test_reasoning_is_bounded(limits, valid):
    found = measured([(BRONCHITIS, REASONED)], limits=limits)
    assert found.valid_reasoning_rate.value == valid
    assert found.reasoning_rate.value == 1


def test_half_of_the_points_must_be_supported():
    other, two = "- rain all over town\n", "- cough and fever\n"
    for points, valid in ((two + other, 1), (two + other + other, 0)):
        found = measured([(BRONCHITIS, f"<think>\n{points}</think>\nICD10: J20.9")])
        assert found.valid_reasoning_rate.value == valid


def test_without_tables_nothing_is_called_valid():
    found = measured(ANSWERS, tables=None)
    assert found.valid_code_rate is None
    assert found.code_statuses == {}
    assert found.exact_accuracy.value == pytest.approx(2 / 11)
    assert found.errors["invalid_code"] == 0  # of E11 nobody knows that it is a header
    assert found.errors["wrong_code"] == 3
    assert (found.right_description_rate.value, found.right_description_rate.of) == (1, 1)  # of the asked code only


@pytest.mark.parametrize("text", ["", " \n", "<think>", "</think>", "<think></think>", "ICD10:", "\x00�"])
def test_one_narrative_without_an_answer(text):
    found = measured([(BRONCHITIS, text)])
    assert found.errors["no_code"] == 1
    assert (found.exact_accuracy.value, found.exact_accuracy.low, found.exact_accuracy.high) == (0, 0, 0)
    assert found.valid_code_rate.value == found.format_compliance.value == found.valid_reasoning_rate.value == 0
    assert found.right_description_rate is found.mean_support is found.reasoning_words is None


def test_garbage_is_read_fast():
    garbage = ["ICD10: " * 20_000, "ICD10: " + "A" * 100_000, "<think>\n" + "- a\n" * 30_000, "." * 100_000]
    garbage += ["ICD10: " + "." * 100_000, "</think>" * 20_000, "ICD10: X" + "9." * 50_000, "(" * 100_000]
    start = time.thread_time()
    found = measured([(BRONCHITIS, text) for text in garbage])
    assert time.thread_time() - start < 20  # half a second; quadratic in a text, it is minutes
    assert found.exact_accuracy.value == found.valid_code_rate.value == found.reasoning_rate.value == 0
    assert found.code_statuses == {"malformed": 3}  # As, X9.9.9 and the marker that stands for a code
    assert len(found.model_dump_json()) < 10_000


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("right", [0, 1, 29, 30])
def test_an_interval_stays_within_what_can_be(right, seed):
    shares = {"share": [1.0] * right + [0.0] * (30 - right)}
    rate = rates(shares, resamples=200, seed=seed)["share"]
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.value == pytest.approx(right / 30)
    assert (rate.low < rate.high) == (0 < right < 30)


FRAGMENTS = ["<think>", "</think>", "\n", "- ", "ICD10: ", "CPT:", "HCPCS: ", "J20.9", "j209", "E11", "99213", "E0130"]
FRAGMENTS += [" (Acute bronchitis, unspecified)", "cough", " ", ".", "é", "ICD10"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join), min_size=1, max_size=6))
def test_whatever_is_written_measures_agree(texts):
    found = measured([(BRONCHITIS, text) for text in texts], resamples=5)
    right = found.exact.count("1")
    assert right + sum(found.errors.values()) == len(texts)
    assert found.exact_accuracy.value == pytest.approx(right / len(texts))
    assert found.exact_accuracy.value <= found.category_accuracy.value <= found.system_accuracy.value
    assert found.exact_accuracy.value <= found.valid_code_rate.value  # J20.9 may be billed
    assert found.valid_reasoning_rate.value <= found.reasoning_rate.value <= found.format_compliance.value
    assert sum(found.code_statuses.values()) == len(texts) - sum(read_answer(text).code is None for text in texts)
    assert sum(one.right for one in found.codes) == right


def test_no_narrative_text_is_told():
    secret = "Zebediah"
    asked = Asked(f"{secret} coughs", "icd10cm", "J20.9", None)
    texts = [f"ICD10: {secret}", f"ICD10: {secret.upper()}", f"<think>\n- {secret}\n</think>\nCPT: {secret} ({secret})"]
    found = measured([(asked, text) for text in texts], frequencies={})
    assert secret.upper() not in found.model_dump_json().upper()


def test_the_same_questions_have_the_same_hash():
    one, other = measured(ANSWERS), measured([(asked, "") for asked, *_ in ANSWERS])
    assert one.asked_hash == other.asked_hash
    assert one.asked_hash != measured(ANSWERS[::-1]).asked_hash
    assert one == measured(ANSWERS)
    assert one != measured(ANSWERS, seed=1)


def test_what_cannot_be_measured_is_said():
    with pytest.raises(MedcodeError, match="no narratives"):
        measured([])
    with pytest.raises(MedcodeError, match="narrative 2 of the test split asks for system 'icd9cm'"):
        measured([(BRONCHITIS, ""), (Asked(COUGH, "icd9cm", "466.0", None), "")])
    with pytest.raises(ValueError, match="1 texts for 0 narratives"):
        measure_answers(["ICD10: J20.9"], [], tables())


def preferences(margins, lengths=None, **options):
    chosen_rejected = np.array([[-20.0, -20.0 - margin] for margin in margins])
    return measure_preferences(chosen_rejected, np.array(lengths or [[10, 10]] * len(margins)), **options)


def test_preferences_by_hand():
    # Won, won, tied, lost. A token: -2 and -1.1, -2 and -4.4; -1 and -4; -5 and -1.
    lengths = [[10, 20], [10, 5], [20, 5], [4, 10]]
    found = preferences([2.0, 2.0, 0.0, -10.0], lengths)
    assert found.each == ">>=<"
    assert found.win_rate.value == 2.5 / 4
    assert found.win_rate_per_token.value == 2 / 4
    assert found.margin.value == -1.5
    assert found.margin_per_token.value == pytest.approx((-0.9 + 2.4 + 3 - 4) / 4)
    assert found.win_rate.low < found.win_rate.value < found.win_rate.high
    assert (found.pairs, found.win_rate.of) == (4, 4)


def test_what_training_changed_by_hand():
    before = preferences([1, 1, -1, -1, 0, -1, -1, -1, -1, 0])
    after = preferences([2, -1, 1, 1, 1, 1, 1, 1, 0, -1])
    change = compare_preferences(before, after)
    assert (change.before, change.after) == (pytest.approx(0.3), pytest.approx(0.75))
    # Of ten, the third to the eighth turned right, the second wrong; one from lost to tied is not won.
    assert (change.turned_right, change.turned_wrong) == (6, 1)
    assert change.p_value == pytest.approx(2 * (1 + 7) / 2**7)
    assert change.change.value == pytest.approx(0.45)
    assert change.change.low > 0
    assert compare_preferences(before, before).p_value == 1
    assert mcnemar(0, 3) == mcnemar(3, 0) == pytest.approx(0.25)


def test_preferences_that_cannot_be_measured():
    with pytest.raises(MedcodeError, match="1 of 2 preference pairs, the first is pair 2"):
        preferences([1, np.nan])
    with pytest.raises(MedcodeError, match="no preference pairs"):
        measure_preferences(np.zeros((0, 2)), np.zeros((0, 2), dtype=int))
    with pytest.raises(ValueError, match="no tokens"):
        preferences([1], [[0, 1]])
    with pytest.raises(ValueError, match="above 0"):
        measure_preferences(np.array([[1.0, -1.0]]), np.array([[1, 1]]))
    with pytest.raises(ValueError, match="expected"):
        measure_preferences(np.zeros((2, 2)), np.ones((1, 2), dtype=int))
    with pytest.raises(MedcodeError, match="other pairs"):
        compare_preferences(preferences([1.0]), preferences([1.0, 2.0]))
