"""What a check says of answers: interactions, red flags, doses, and what is no danger."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_serving.safety import SafetyReport, SafetyWarning, check_safety
from medcode_serving.safety.options import without_options


def check(question: str, answer: str) -> SafetyReport:
    return check_safety(answer, question=question)


def only(question: str, answer: str) -> SafetyWarning:
    (warning,) = check(question, answer).warnings
    return warning


def test_one_drug_in_the_question_and_one_in_the_answer() -> None:
    report = check("I take warfarin.", "Take ibuprofen.")
    (warning,) = report.warnings
    assert report.risk_level == "high"
    assert (warning.kind, warning.rule, warning.severity) == ("interaction", "warfarin+ibuprofen", "high")
    assert warning.source == "FDA label, warfarin, section 7"
    assert [(span.where, span.text) for span in warning.spans] == [("question", "warfarin"), ("answer", "ibuprofen")]
    assert [(span.start, span.end) for span in warning.spans] == [(7, 15), (5, 14)]
    assert "Not for clinical use" in report.disclaimer
    assert len(report.rules) == 16


def test_nothing_to_say() -> None:
    report = check("How do I sleep better?", "Keep a regular rhythm.")
    assert (report.risk_level, report.warnings) == ("none", ())


def test_spans_point_into_the_original_through_odd_letters() -> None:
    question = "I take wаr\u200bfа\u00adrin"  # Cyrillic a, a zero-width space, a soft hyphen
    span = only(question, "Take ibuprofén.").spans[0]
    assert span.text == "wаr\u200bfа\u00adrin" == question[span.start : span.end]


def test_advice_against_is_low_and_says_so() -> None:
    warning = only("I take warfarin. Can I take ibuprofen?", "No, do not take ibuprofen with warfarin.")
    assert (warning.severity, warning.addressed) == ("low", True)
    assert warning.message.endswith("The answer itself advises against it.")


@pytest.mark.parametrize(
    ("question", "answer", "addressed"),
    [
        ("I take warfarin.", "Avoid ibuprofen.", True),
        ("I take warfarin.", "Avoid ibuprofen. On second thought, take ibuprofen.", False),
        ("I take warfarin.", "You do not need to avoid ibuprofen.", False),
        ("Is it dangerous to take warfarin with ibuprofen?", "No.", False),
        ("Is it dangerous to take warfarin with ibuprofen?", "Yes.", True),
        ("Can I take warfarin with ibuprofen?", "No.", True),
        ("Can I take warfarin with ibuprofen?", "Yes.", False),
    ],
)
def test_yes_and_no(question: str, answer: str, addressed: bool) -> None:
    assert only(question, answer).addressed is addressed


def test_a_choice_is_no_combination() -> None:
    assert check("My back hurts.", "Take ibuprofen or naproxen.").warnings == ()
    assert only("My back hurts.", "Take ibuprofen and naproxen.").rule == "class:nsaid+class:nsaid"


def test_options_of_an_exam_question_are_taken_by_nobody() -> None:
    options = "A. phenytoin\nB. amiodarone\nC. warfarin\nD. ibuprofen"
    assert check(f"Which drug causes overgrowth of the gums?\n{options}", "phenytoin").warnings == ()
    # What somebody takes is listed in the same way.
    for asked in (
        f"I take:\n{options}",
        f"May my mother take these together?\n{options}",
        f"Is this safe?\n{options[3:]}",
    ):
        assert check(asked, "Ask your doctor.").warnings, asked
    stem = "A patient on warfarin has pain. Which drug would harm?\n"
    (warning,) = check(f"{stem}A. ibuprofen\nB. saline", "Ibuprofen is given.").warnings
    assert [(span.where, span.text) for span in warning.spans] == [("question", "warfarin"), ("answer", "Ibuprofen")]


@given(st.text(alphabet="AaBb.)\n ?:xI\u2028", max_size=40))
def test_options_keep_every_place(question: str) -> None:
    left = without_options(question)
    assert len(left) == len(question)
    assert all(after in (before, " ") for before, after in zip(question, left, strict=True))


def test_a_class_and_its_own_drug() -> None:
    assert check("Is ibuprofen an NSAID?", "Yes, NSAIDs such as ibuprofen relieve pain.").warnings == ()


def test_look_alikes_are_told_apart() -> None:
    assert check("I take warfarin and Celexa.", "Fine.").warnings[0].rule == "warfarin+citalopram"
    assert check("I take warfarin and Celebrex.", "Fine.").warnings[0].rule == "warfarin+celecoxib"


def test_a_red_flag_says_whether_the_answer_sends_to_care() -> None:
    question = "I have chest pain and my left arm is numb."
    assert check(question, "Rest.").risk_level == "emergency"
    assert not only(question, "Rest.").addressed
    sent = only(question, "Call 911 now.")
    assert sent.addressed
    assert (sent.rule, sent.severity) == ("heart_attack", "emergency")
    assert not only(question, "There is no need to call 911.").addressed


@pytest.mark.parametrize(
    "question",
    [
        "I have no chest pain.",
        "I don't have chest pain.",
        "My chest pain resolved years ago.",
        "What causes chest pain?",
        "If I get chest pain, what should I do?",
        "Chest pain was ruled out.",
    ],
)
def test_no_chest_pain(question: str) -> None:
    assert check(question, "Rest.").risk_level == "none"


@pytest.mark.parametrize(
    "question",
    [
        "I don't know why I have chest pain.",
        "It's not only chest pain.",
        "My chest pain won't go away.",
        "No fever, but chest pain since today.",
        "I had chest pain years ago and now I have chest pain again.",
    ],
)
def test_chest_pain_all_the_same(question: str) -> None:
    assert only(question, "Rest.").rule == "chest_pain"


def test_only_a_young_baby_has_an_emergency_with_fever() -> None:
    assert only("My 2-month-old has a fever.", "Wait.").rule == "infant_fever"
    assert check("My 4-month-old has a fever.", "Wait.").warnings == ()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("Acetaminophen 1000 mg every 4-6 hours.", "6000 mg in a day is more than 4000 mg"),  # the worst case: 24 / 4
        ("Take 2 tablets of 800 mg ibuprofen.", "1600 mg in one dose is more than 800 mg"),
        ("Ibuprofen 1 g three times a day.", "1000 mg in one dose is more than 800 mg"),
        ("Metformin 1,300 mg twice daily.", "2600 mg in a day is more than 2550 mg"),
        ("Digoxin 2.5 mg daily.", "2500 mcg in a day is more than 500 mcg"),
        ("Levothyroxine 1 mg daily.", "1000 mcg in a day is more than 300 mcg"),
        ("Take methotrexate 10 mg daily.", "taken oftener than every 168 hours"),
        ("Insulin lispro 20 mg before dinner.", "stated in mg, but dosed in units"),
        ("Ketorolac 100 mg iv.", "100 mg in one dose is more than 30 mg"),
        ("The maximum of acetaminophen is 8 g a day.", "8000 mg in a day is more than 4000 mg"),
    ],
)
def test_doses_too_high(answer: str, told: str) -> None:
    warning = only("Pain.", answer)
    assert warning.kind == "dose"
    assert told in warning.message


@pytest.mark.parametrize(
    "answer",
    [
        "Acetaminophen 500 mg every 4-6 hours.",
        "Acetaminophen 1 g q6h.",
        "Acetaminophen 650 to 1000 mg every 4 to 6 hours, at most 4 g a day.",
        "Digoxin 250 mcg daily.",
        "Digoxin 0,25 mg daily.",
        "Alprazolam .5 mg twice daily.",
        "Methotrexate 15 mg once a week.",
        "Morphine 10 mg iv.",
        "Do not take 8 g of acetaminophen a day.",
        "More than 10 g of acetaminophen destroys the liver.",
        "Vitamin D 50,000 units weekly.",
        "Vitamin D 25 mcg (1000 units) daily.",
        "Diclofenac gel 4 g four times daily.",
        "Alendronate 70 mg once a week.",
        "Potassium was 4.1 mmol/L; digoxin level 1.2 ng/mL; ibuprofen 400 mg.",
    ],
)
def test_doses_within_limits(answer: str) -> None:
    assert check("Pain.", answer).warnings == ()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("Take 500 mcg of paracetamol.", "0.5 mg is far below any usual dose (40 mg or more)"),
        ("Take 0.5 mg of metformin.", "0.5 mg is far below any usual dose (250 mg or more)"),
        ("Sertraline 50 micrograms daily.", "0.05 mg is far below any usual dose (25 mg or more)"),
    ],
)
def test_doses_far_too_low(answer: str, told: str) -> None:
    warning = only("Pain.", answer)
    assert (warning.kind, warning.severity, warning.addressed) == ("dose", "low", False)
    assert told in warning.message


@pytest.mark.parametrize(
    "answer",
    [
        "Levothyroxine 50 mcg daily.",
        "Acetaminophen 40 mg for the baby.",
        "Acetaminophen 15 mg/kg.",
        "Metformin level 0.5 mg/L.",
        "Metoprolol 1 mg iv.",
        "Do not exceed 1 mg of metformin.",
    ],
)
def test_small_doses_that_are_no_slip(answer: str) -> None:
    assert check("Pain.", answer).warnings == ()


def test_steroids_have_limits() -> None:
    assert "40000 mg" in only("Asthma.", "Prednisolone 40 g.").message
    assert check("Asthma.", "Prednisolone 40 mg daily.").warnings == ()


def test_a_small_excess_is_moderate() -> None:
    assert only("Pain.", "Acetaminophen 4.5 g a day.").severity == "moderate"
    assert only("Pain.", "Acetaminophen 6 g a day.").severity == "high"


def test_doses_by_weight() -> None:
    # 20 kg x 10 mg/kg = 200 mg at once, 20 kg x 40 mg/kg = 800 mg a day
    assert check("My 20 kg child has a fever.", "Ibuprofen 200 mg every 8 hours.").warnings == ()
    told = only("My 44 lb child.", "Ibuprofen 300 mg.").message
    assert "300 mg in one dose is more than 199.581 mg" in told  # 44 lb = 19.9581 kg
    assert "1000 mg in a day is more than 800 mg" in only("My 20 kg child.", "Ibuprofen 50 mg/kg/day.").message
    assert "20 mg/kg in one dose is more than 10 mg/kg" in only("My child.", "Ibuprofen 20 mg/kg.").message
    assert "300 mg in one dose" in only("My 20 kg child.", "Give 15 mL of ibuprofen 100 mg/5 mL.").message


def test_ages() -> None:
    young = only("My 8 year old has a cough.", "Give codeine syrup.")
    assert (young.kind, young.rule, young.severity) == ("age", "codeine/oral", "high")
    assert "under 12 years" in young.message
    assert "over 64 years" in only("I am 80 years old.", "Take diazepam 2 mg.").message
    assert check("My 8 year old has a cough.", "Do not give codeine.").warnings == ()
    assert check("I am 40 years old.", "Take diazepam 2 mg.").warnings == ()


def test_an_age_in_the_answer() -> None:
    told = only("He is teething.", "Give ibuprofen to your 3 month old.")
    assert (told.kind, told.rule) == ("age", "ibuprofen/oral")
    # a limit is nobody's age, and the question goes first
    assert check("Teething.", "Ibuprofen is for babies from 6 months old, not for 3 month olds.").warnings == ()
    assert check("He is 5 years old.", "Give ibuprofen to your 3 month old.").warnings == ()


def test_the_most_severe_stands_first() -> None:
    report = check("I have chest pain and sweat. I take lisinopril and naproxen.", "Take acetaminophen 9 g a day.")
    assert [one.severity for one in report.warnings] == ["emergency", "high", "moderate"]


def test_many_threads_get_the_same() -> None:
    question, answer = "I take Coumadin, 2 year old boy", "Take w4rfarin and ibu-profen 5 g."
    found: list[SafetyReport] = []
    threads = [threading.Thread(target=lambda: found.append(check(question, answer))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len({report.model_dump_json() for report in found}) == 1


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        *(("", piece) for piece in ["I take warfarin 5 mg, no chest pain. Take 1 g ibuprofen.\n- ", "1 ", "no ", "9"]),
        *(("", piece) for piece in ["1-1 mg ", ".", "?!", "x:\nA. a\nB. b\n"]),
        *(("I am aged 5 mg ibuprofen every 5", piece) for piece in [" ", "\n \t", "\u00a0", " per a"]),
    ],
)
def test_time_grows_with_the_length_only(beginning: str, piece: str) -> None:
    def seconds(repeated: str) -> float:
        text = f"{beginning}{repeated}x"
        started = time.thread_time()
        check_safety(text, question=text)
        return time.thread_time() - started

    seconds(piece)
    short = piece * (2000 // len(piece))
    limit = 30 * max(seconds(short), 0.01)  # it takes about 10 times as long; with its square it would be 100
    assert any(seconds(short * 10) < limit for _ in range(3))  # a noisy neighbour takes of the processor's caches, too


def test_long_blanks_are_short_and_places_stay() -> None:
    question = "I take\u00a0\n" + " " * 50 + "warfarin, 5" + "\t" * 50 + "mg."
    (span, _) = only(question, "Take ibuprofen.").spans
    assert question[span.start : span.end] == span.text == "warfarin"
