"""The check of one question and its answer."""

from medcode_serving.safety.doses import find_ages, find_doses
from medcode_serving.safety.emergencies import find_emergencies
from medcode_serving.safety.interactions import find_interactions, find_mentions
from medcode_serving.safety.options import without_options
from medcode_serving.safety.patient import read_patient
from medcode_serving.safety.reading import read_text
from medcode_serving.safety.report import SafetyReport, make_report
from medcode_serving.safety.rules import SafetyRules, load_rules


def check_safety(answer: str, *, question: str = "", rules: SafetyRules | None = None) -> SafetyReport:
    """Return what is dangerous in an answer, or urgent in the question that it answers.

    Both are read: drugs may stand one in each, red flags are what the person describes. Any number of threads may call
    this. Nothing is kept or logged.

    Args:
        answer: The generated answer.
        question: What was asked.
        rules: As `load_rules` returns them; the shipped ones if not given.
    """
    rules = rules or load_rules()
    asked, answered = read_text(without_options(question), "question", rules), read_text(answer, "answer", rules)
    patient = read_patient(asked.plain.text, answered.plain.text)
    mentions = find_mentions(asked, answered)
    return make_report(
        [
            *find_emergencies(asked, answered, patient, rules),
            *find_interactions(mentions, asked, answered, rules),
            *find_doses(asked, answered, patient, rules),
            *find_ages(mentions, asked, answered, patient, rules),
        ],
        rules.version,
    )
