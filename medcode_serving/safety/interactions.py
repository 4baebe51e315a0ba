"""Drugs that do not go together, one or both of them in the question or in the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

from medcode_serving.safety.reading import Reading
from medcode_serving.safety.report import LEVELS, SafetyWarning
from medcode_serving.safety.rules import SafetyRules
from medcode_serving.safety.tables import InteractionRow

_NOT_TAKEN_REACH = 6
_MOST_MENTIONS = 12
"""Of one drug, of those that are looked at for what is said of two drugs together."""
_LIST_APART = 3
"""Words between the drugs of a list."""


@dataclass(frozen=True)
class Mention:
    """A drug where it is named."""

    drug: str
    """Or a class."""
    text: Reading
    start: int
    end: int
    advised_against: bool
    recommended: bool

    sentence: tuple[str, int]
    """Told apart over both texts."""
    taker: Literal["me", "another"] | None
    """Who takes it, where the question says so."""


def find_mentions(question: Reading, answer: Reading) -> list[Mention]:
    """Return where drugs are named that somebody takes or may take.

    Drugs that the patient says not to take, or not to tolerate, are left out.

    Args:
        question: The question.
        answer: The answer.
    """
    found = []
    for text in (question, answer):
        for name in text.names:
            is_against = text is answer and _is_against(text, name.start, name.end)
            if not is_against and _is_absent(text, name.start):
                continue
            recommended = text is answer and not is_against and _is_recommended(text, name.start)
            sentence = (text.where, text.sentence(name.start))
            taker = _taker(text, name.start) if text is question else None
            found += [
                Mention(drug, text, name.start, name.end, is_against, recommended, sentence, taker)
                for drug in name.drugs
            ]
    return found


def find_interactions(
    mentions: Sequence[Mention], question: Reading, answer: Reading, rules: SafetyRules
) -> list[SafetyWarning]:
    """Return the interactions of the drugs that are named.

    Args:
        mentions: Where drugs are named.
        question: The question.
        answer: The answer: where it advises against the drugs, the warning is low and says so.
        rules: The rules.
    """
    by_drug: dict[str, list[Mention]] = {}
    for mention in mentions:
        listed = by_drug.setdefault(mention.drug, [])
        if len(listed) < _MOST_MENTIONS:
            listed.append(mention)
    keys = {drug: rules.classes.get(drug, frozenset()) | {drug} for drug in by_drug}
    refused, warned = refuses(question, answer), _warned_sentences(answer)
    found: dict[str, SafetyWarning] = {}
    for left, right in combinations(by_drug, 2):
        row = _row(left, right, keys, rules)
        pairs = [pair for pair in product(by_drug[left], by_drug[right]) if _are_together(*pair)] if row else []
        if row and pairs:
            told = _warning(row, pairs[0], _is_addressed(pairs, by_drug, refused, warned))
            if row.id not in found or LEVELS.index(told.severity) > LEVELS.index(found[row.id].severity):
                found[row.id] = told
    return list(found.values())


def refuses(question: Reading, answer: Reading) -> bool:
    """Tell whether an answer begins with a no to "can I", or a yes to "is it dangerous"."""
    begins_no = any(hit.start == 0 for hit in answer.hits.get("answers_no", ()))
    begins_yes = any(hit.start == 0 for hit in answer.hits.get("answers_yes", ()))
    asks_danger = bool(question.hits.get("asks_danger"))
    return (begins_yes and asks_danger) or (begins_no and bool(question.hits.get("asks_may")) and not asks_danger)


def _is_absent(text: Reading, start: int) -> bool:
    if text.reached_from_before("not_taken", start, _NOT_TAKEN_REACH):
        return True
    return text.where == "question" and bool(text.reached_from_before("negation", start, 2))


def _is_against(text: Reading, start: int, end: int) -> bool:
    return bool(text.reached_from_before("against", start) or text.reached_from_behind("against_after", end))


def _taker(text: Reading, start: int) -> Literal["me", "another"] | None:
    """Return who takes a drug, by the nearest "I take" or "my mother is on" before it in its sentence."""
    mine, others = (text.reached_from_before(f"taken_by_{who}", start) for who in ("me", "another"))
    if mine and others:
        return "me" if mine.end > others.end else "another"
    return "me" if mine else "another" if others else None


def _is_recommended(text: Reading, start: int) -> bool:
    return bool(text.in_sentence("recommends", text.sentence(start)))


def _row(left: str, right: str, keys: Mapping[str, frozenset[str]], rules: SafetyRules) -> InteractionRow | None:
    """Return the rule for two drugs: the one that names both, else the most severe."""
    if right in keys[left] or left in keys[right]:
        return None  # a drug and its own class: "NSAIDs such as ibuprofen"
    rows = [rules.interactions.get(frozenset(pair)) for pair in product(keys[left], keys[right])]

    def rank(row: InteractionRow) -> tuple[bool, int, str]:
        named = not any(drug.startswith("class:") for drug in (row.drug_a, row.drug_b))
        return (named, LEVELS.index(row.severity), row.id)

    return max((row for row in rows if row), key=rank, default=None)


def _are_together(left: Mention, right: Mention) -> bool:
    """Tell whether two mentions may be of drugs taken together, not of a choice between them or by two people."""
    if {left.taker, right.taker} == {"me", "another"}:
        return False
    if left.sentence != right.sentence:
        return True
    first, second = sorted((left, right), key=lambda mention: mention.start)
    if first.start == second.start:
        return False  # one product with both
    text = first.text
    for hit in text.in_sentence("either", text.sentence(first.start)):
        if hit.end <= first.start or first.end <= hit.start < second.start:
            is_choice = text.words[hit.start].text == "or"
            if not is_choice or (hit.start >= first.end and second.start - hit.end <= _LIST_APART):
                return False
    return True


def _is_addressed(
    pairs: Sequence[tuple[Mention, Mention]],
    by_drug: Mapping[str, Sequence[Mention]],
    refused: bool,
    warned: Mapping[int, frozenset[str]],
) -> bool:
    """Tell whether the answer itself advises against a pair of drugs, or warns of it."""
    answered = [mention for mention in pairs[0] if mention.text.where == "answer"]
    if refused and not any(_offered(by_drug[mention.drug]) for mention in answered):
        return True
    if any(_dropped(by_drug[mention.drug]) for mention in pairs[0]):
        return True
    if any(
        left.sentence == right.sentence and (left.advised_against or right.advised_against) for left, right in pairs
    ):
        return True
    drugs = {mention.drug for mention in pairs[0]}
    named: dict[int, set[str]] = {sentence: set() for sentence in warned}
    for drug, mentions in by_drug.items():
        for mention in mentions:
            if mention.text.where == "answer" and mention.sentence[1] in named:
                named[mention.sentence[1]].add(drug)
    return any(
        (drugs <= named[sentence] and "warns" in how) or ("pronoun" in how and named[sentence] <= drugs)
        for sentence, how in warned.items()
    )


def _offered(mentions: Sequence[Mention]) -> bool:
    return any(mention.recommended for mention in mentions)


def _dropped(mentions: Sequence[Mention]) -> bool:
    """Tell whether a drug is advised against, and nowhere else recommended."""
    return any(mention.advised_against for mention in mentions) and not _offered(mentions)


def _warned_sentences(answer: Reading) -> dict[int, frozenset[str]]:
    """Return the sentences of an answer that warn: whether of a danger, and whether of drugs by "it" or "them"."""
    found: dict[int, frozenset[str]] = {}
    for group in ("warns", "against", "against_after"):
        for hit in answer.hits.get(group, ()):
            sentence = answer.sentence(hit.start)
            pronoun = {"pronoun"} if answer.in_sentence("pronoun", sentence) else set()
            found[sentence] = found.get(sentence, frozenset()) | pronoun | {group}
    return found


def _warning(row: InteractionRow, pair: tuple[Mention, Mention], addressed: bool) -> SafetyWarning:
    names = " and ".join(mention.drug.removeprefix("class:").replace("_", " ") for mention in pair)
    told = " The answer itself advises against it." if addressed else ""
    return SafetyWarning(
        kind="interaction",
        severity="low" if addressed else row.severity,
        message=f"{names}: {row.effect} {row.action}{told}",
        spans=tuple(mention.text.span(mention.start, mention.end) for mention in pair),
        rule=row.id,
        source=row.source,
        addressed=addressed,
    )
