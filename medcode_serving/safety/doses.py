"""Doses above the maximum, too often, or for the wrong age."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medcode_serving.safety.attached import Stated, find_stated
from medcode_serving.safety.frequencies import is_weekly, times_a_day
from medcode_serving.safety.interactions import Mention, refuses
from medcode_serving.safety.patient import Patient
from medcode_serving.safety.reading import Reading
from medcode_serving.safety.report import LEVELS, MatchedSpan, SafetyWarning, Severity
from medcode_serving.safety.rules import SafetyRules
from medcode_serving.safety.tables import DoseRow

_MUCH = 1.25
"""Times the maximum; less is moderate."""
_ROUNDING = 1.001
_WEIGHT_ROUNDING = 1.1
"""Doses by weight are rounded to a spoon or a tablet."""
_LIGHT = 50
"""Kilograms: adults under it have limits by weight too."""
_REACH = 8
_FAR_BELOW = 0.1
"""Of the smallest dose in use."""
_DAYS_APART = 24
"""Hours: drugs with more between doses are checked for daily use even without an amount."""


@dataclass(frozen=True)
class _Limits:
    """What a patient may take at most, in the row's unit."""

    single: float | None
    daily: float | None
    rounding: float


def find_doses(question: Reading, answer: Reading, patient: Patient, rules: SafetyRules) -> list[SafetyWarning]:
    """Return the doses that are too high or too often.

    Args:
        question: The question.
        answer: The answer.
        patient: Who takes them.
        rules: The rules.
    """
    refused, urgent = refuses(question, answer), bool(answer.hits.get("urgent"))
    worst: dict[str, SafetyWarning] = {}
    for text in (question, answer):
        spoken_of = question.names[-1] if text is answer and question.names else None
        stated = find_stated(text, rules.units, spoken_of)
        judged = [
            (dose, _judge(dose, row, text, patient, rules))
            for dose in stated
            if (row := _row(dose.drug, text, dose.word, rules)) and not _is_no_dose(dose, text)
        ]
        # "1 g every 4 to 6 hours, at most 4 g a day" is no 6 g a day.
        limited = {dose.drug for dose, warning in judged if warning is None and _is_ceiling(dose, text)}
        for dose, warning in judged:
            within = dose.drug in limited and warning is not None and "in a day" in warning.message
            _keep(worst, None if within else warning, text is question and refused, urgent)
        for warning in _daily_by_mistake(text, {dose.name.start for dose in stated}, rules):
            _keep(worst, warning, text is question and refused, urgent)
    return list(worst.values())


def find_ages(
    mentions: Sequence[Mention], question: Reading, answer: Reading, patient: Patient, rules: SafetyRules
) -> list[SafetyWarning]:
    """Return the drugs that are not for the patient's age.

    Args:
        mentions: Where drugs are named.
        question: The question.
        answer: The answer.
        patient: Who takes them.
        rules: The rules.
    """
    age = patient.age_for_limits
    found: dict[str, SafetyWarning] = {}
    if age is None:
        return []
    against = {mention.drug for mention in mentions if mention.advised_against}
    for mention in mentions:
        row = next((row for row in rules.doses.get(mention.drug, ()) if row.age_severity), None)
        if row is None or row.id in found or (mention.drug in against and not mention.recommended):
            continue
        too_young = row.min_age is not None and age < row.min_age
        too_old = row.max_age is not None and age > row.max_age
        if too_young or too_old:
            limit = f"under {row.min_age:g} years" if too_young else f"over {row.max_age:g} years"
            addressed = mention.text is question and refuses(question, answer)
            found[row.id] = _warning(
                row, "age", row.age_severity or "moderate", f"not for patients {limit}",
                (mention.text.span(mention.start, mention.end),), addressed,
            )  # fmt: skip
    return list(found.values())


def _keep(worst: dict[str, SafetyWarning], warning: SafetyWarning | None, refused: bool, urgent: bool) -> None:
    """Keep a warning if it is the worst of its rule; one that the answer refuses is low."""
    if warning is None:
        return
    if refused:
        warning = warning.model_copy(update={"severity": "low", "addressed": True})
    elif urgent and warning.spans[0].where == "question":
        warning = warning.model_copy(update={"addressed": True})
    known = worst.get(warning.rule)
    if known is None or LEVELS.index(warning.severity) > LEVELS.index(known.severity):
        worst[warning.rule] = warning


def _row(drug: str, text: Reading, word: int, rules: SafetyRules) -> DoseRow | None:
    """Return the limits of a drug by the route that the sentence names, else by its usual one."""
    rows = rules.doses.get(drug, ())
    sentence = text.sentence(word)
    named = [
        group.removeprefix("route:")
        for group in text.hits
        if group.startswith("route:") and text.in_sentence(group, sentence)
    ]
    if not named:
        return rows[0] if rows else None
    return next((row for row in rows if row.route in named), None)


def _is_ceiling(dose: Stated, text: Reading) -> bool:
    """Tell whether an amount is named as a limit."""
    return text.reached_from_before("ceiling", dose.word, _REACH) is not None


def _is_no_dose(dose: Stated, text: Reading) -> bool:
    """Tell whether an amount is one that the text speaks against, or from which harm begins."""
    if _is_ceiling(dose, text):
        return False
    against = text.where == "answer" and text.reached_from_before("against", dose.word, _REACH)
    behind = text.where == "answer" and text.reached_from_behind("against_after", dose.word + 1, _REACH)
    return bool(against or behind or text.reached_from_before("threshold", dose.word, 2))


def _judge(dose: Stated, row: DoseRow, text: Reading, patient: Patient, rules: SafetyRules) -> SafetyWarning | None:
    """Return the warning for a dose, or None where it is within the limits."""
    name, quantity = dose.name, dose.quantity
    spans: tuple[MatchedSpan, ...] = (text.place(quantity.start, quantity.end),)
    if name in text.names_between(name.start, name.start + 1):
        spans = (*spans, text.span(name.start, name.end))
    factor = rules.units.convert(1.0, quantity.unit, row.unit)
    if factor is None:
        is_mass = rules.units.convert(1.0, quantity.unit, "mg") is not None
        message = f"stated in {quantity.unit}, but dosed in {row.unit}s"
        is_slip = is_mass and row.unit == "unit" and quantity.unit != "mcg"  # labels of vitamins state both
        return _warning(row, "dose", "moderate", message, spans) if is_slip else None
    limits = _limits(row, patient, quantity.per_kg)
    if quantity.per_kg and patient.weight:
        factor *= patient.weight
    single = dose.single * factor if dose.single is not None else None
    daily = dose.daily * factor if dose.daily is not None else None
    if _is_ceiling(dose, text):
        single, daily = None, daily or single
    unit = f"{row.unit}/kg" if quantity.per_kg and not patient.weight else row.unit
    excess = [
        (amount / limit, f"{amount:g} {unit} {when} is more than {limit:g} {unit}")
        for amount, limit, when in ((single, limits.single, "in one dose"), (daily, limits.daily, "in a day"))
        if amount and limit and amount > limit * limits.rounding
    ]
    if excess:
        ratio, told = max(excess)[0], excess[0][1]  # told of the single dose, if that is too much by itself
        return _warning(row, "dose", "high" if ratio > _MUCH else "moderate", told, spans)
    return _too_often(row, dose.times, dose.told, spans) or _far_below(row, single or daily, dose, text, spans)


def _far_below(
    row: DoseRow, amount: float | None, dose: Stated, text: Reading, spans: tuple[MatchedSpan, ...]
) -> SafetyWarning | None:
    """Return the warning for a dose of which nobody would take so little: mcg for mg, most likely."""
    if not row.usual_least or not amount or dose.quantity.per_kg or _is_ceiling(dose, text):
        return None
    if amount >= row.usual_least * _FAR_BELOW:
        return None
    told = f"{amount:g} {row.unit} is far below any usual dose ({row.usual_least:g} {row.unit} or more): the unit?"
    return _warning(row, "dose", "low", told, spans)


def _too_often(row: DoseRow, times: float | None, told: str, spans: tuple[MatchedSpan, ...]) -> SafetyWarning | None:
    if not row.min_hours or not times or times * row.min_hours <= 24 * _ROUNDING:
        return None
    if row.min_hours > _DAYS_APART and is_weekly(told):
        return None
    return _warning(row, "dose", "high", f"taken oftener than every {row.min_hours:g} hours", spans)


def _daily_by_mistake(text: Reading, with_dose: set[int], rules: SafetyRules) -> Iterator[SafetyWarning]:
    """Yield warnings of drugs of a weekly dose that are said to be taken daily, without an amount."""
    for place, name in enumerate(text.names):
        row = next((row for row in rules.doses.get(name.drugs[0], ())), None)
        if row is None or name.start in with_dose or not row.min_hours or row.min_hours <= _DAYS_APART:
            continue
        if text.where == "answer" and text.reached_from_before("against", name.start):
            continue
        until = text.names[place + 1].start if place + 1 < len(text.names) else len(text.words)
        words = [one for one in text.words[name.end : until] if one.sentence == text.sentence(name.start)]
        if words and not any(hit.start >= name.end for hit in text.in_sentence("against", words[0].sentence)):
            told = text.plain.text[words[0].start : words[-1].end]
            often = times_a_day(told) or (1.0 if "daily" in told or "every day" in told else None)
            warning = _too_often(row, often, told, (text.span(name.start, name.end),))
            if warning:
                yield warning


def _limits(row: DoseRow, patient: Patient, per_kg: bool) -> _Limits:
    """Return what a patient may take, or what is taken for a kilogram where the weight is not known."""
    for_child = patient.has_child_doses
    by_weight = (
        (row.child_single_per_kg, row.child_daily_per_kg)
        if for_child or (patient.weight or _LIGHT) < _LIGHT or (per_kg and not row.max_single_per_kg)
        else (row.max_single_per_kg, row.max_daily_per_kg)
    )
    if per_kg and not patient.weight:
        return _Limits(*by_weight, _WEIGHT_ROUNDING)
    single, daily = row.max_single or row.max_daily, row.max_daily
    rounding = _ROUNDING
    if patient.weight and any(by_weight):
        weighed = [limit * patient.weight if limit else None for limit in by_weight]
        single, daily = (_least(fixed, limit) for fixed, limit in zip((single, daily), weighed, strict=True))
        rounding = _WEIGHT_ROUNDING
    return _Limits(single, daily, rounding)


def _least(fixed: float | None, by_weight: float | None) -> float | None:
    return min((limit for limit in (fixed, by_weight) if limit is not None), default=None)


def _warning(
    row: DoseRow,
    kind: str,
    severity: Severity,
    told: str,
    spans: tuple[MatchedSpan, ...],
    addressed: bool = False,
) -> SafetyWarning:
    note = f" {row.note}" if row.note else ""
    ending = " The answer itself advises against it." if addressed else ""
    return SafetyWarning(
        kind="age" if kind == "age" else "dose",
        severity="low" if addressed else severity,
        message=f"{row.drug} ({row.route}): {told}.{note}{ending}",
        spans=spans,
        rule=row.id,
        source=row.source,
        addressed=addressed,
    )
