"""Red flags in what a person describes."""

from collections.abc import Sequence
from itertools import product

from medcode_serving.safety.denials import is_denied
from medcode_serving.safety.patient import Patient
from medcode_serving.safety.phrases import Hit
from medcode_serving.safety.reading import Reading
from medcode_serving.safety.report import SafetyWarning
from medcode_serving.safety.rules import EmergencyRule, SafetyRules

_SENTENCES_APART = 4
"""Signs further apart than this many sentences are not one picture."""
_MOST_COMBINATIONS = 64


def find_emergencies(question: Reading, answer: Reading, patient: Patient, rules: SafetyRules) -> list[SafetyWarning]:
    """Return the red flags of a question.

    Only the question is read: what an answer says of chest pain is advice. Signs that are denied, long past, asked
    about in general or only imagined do not count.

    Args:
        question: What the person describes.
        answer: Looked at for whether it sends to urgent care.
        patient: Who it is about.
        rules: The rules.
    """
    is_sent = bool(answer.hits.get("urgent"))
    alive: dict[str, list[Hit]] = {}
    found: dict[str, tuple[EmergencyRule, Sequence[Hit]]] = {}
    for rule in rules.emergencies:
        if rule.under is not None and (patient.age is None or patient.age >= rule.under):
            continue
        for combination in rule.when:
            for term in combination:
                if term not in alive:
                    alive[term] = [hit for hit in question.hits.get(f"term:{term}", ()) if _is_so(hit, question)]
            picture = _together([alive[term] for term in combination], question)
            if picture:
                found[rule.id] = (rule, picture)
                break
    return [
        SafetyWarning(
            kind="emergency",
            severity=rule.severity,
            message=rule.message,
            spans=tuple(dict.fromkeys(question.span(hit.start, hit.end) for hit in picture)),
            rule=rule.id,
            source=rule.source,
            addressed=is_sent,
        )
        for rule, picture in found.values()
        if not any(other in found for other in rule.unless)
    ]


def _together(signs: Sequence[Sequence[Hit]], question: Reading) -> Sequence[Hit]:
    """Return one hit of each sign that stand near each other, or nothing."""
    for count, picture in enumerate(product(*signs)):
        sentences = [question.sentence(hit.start) for hit in picture]
        if max(sentences) - min(sentences) <= _SENTENCES_APART:
            return picture
        if count >= _MOST_COMBINATIONS:
            break
    return ()


def _is_so(hit: Hit, question: Reading) -> bool:
    """Tell whether a sign is described as there, now."""
    sentence = question.sentence(hit.start)
    if is_denied(hit, question):
        return False
    if question.in_sentence("past", sentence) and not question.in_sentence("present", sentence):
        return False
    if question.reached_from_before("conditional", hit.start):
        return False
    return not question.in_sentence("generic", sentence) or bool(question.in_sentence("person", sentence))
