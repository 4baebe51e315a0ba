"""Synthetic clinical narratives with the one code each asks for, the reasoning that leads there and a worse answer.

They are made from templates, without a language model and without a network, but carry the difficulties of the task in
small: what is to be coded is said in the last sentence, other conditions, items and services are named beside it, a
third of the conditions is not named at all and has to be told from its findings, and relatives share their complaints.
What is clinical is data: `narrative_conditions.yaml`, `narrative_services.yaml`, `narratives.yaml`. No real patient
text is involved.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from medcode_assets.corpora.narrative_subjects import (
    Subject,
    load_bystanders,
    load_narrative_templates,
    load_subjects,
)
from medcode_assets.recipes.reasoning.formats import STAGES, Line, stage_1_line, stage_2_line, stage_3_line
from medcode_assets.recipes.reasoning.support import content_words, is_supported, supported_share
from medcode_serving.errors import MedcodeError
from medcode_serving.reasoned import answer_text, code_line

SOURCE = "synthetic"
FULL = "full"

_words_of_phrase = cache(content_words)
"""For the few phrases of the templates, which come again and again."""
_NUMBERS = re.compile(r"<([\d.]+(?:-[\d.]+|(?:\|[\d.]+)+))>")


@dataclass(frozen=True)
class SyntheticNarrative:
    """One narrative and its truth."""

    narrative: str
    system: str
    """icd10cm, cpt or hcpcs."""
    code: str
    description: str | None
    """Official title; None for CPT."""
    points: tuple[str, ...]
    """The reasoning: 1 to 3 quotations of the narrative and the conclusion. The narrative supports all of them."""
    better: tuple[str, ...]
    """The reasoning that stage 3 prefers: these points, their conclusion perhaps in other words."""
    worse: tuple[tuple[str, ...], str, str, str | None]
    """Points, system, code and description of a worse answer."""
    worse_kind: str
    """guess, wrong_code, wordy, distractor, borrowed, fabricated or asserted: how it is worse (narratives.yaml)."""


def synthetic_narratives(seed: int, style: str = FULL) -> Iterator[SyntheticNarrative]:
    """Narratives without end; one `seed` gives the same ones, and a longer run starts with a shorter one's.

    Args:
        seed: Of everything drawn.
        style: One of narratives.yaml: `full`, or `brief` for a model of a few million parameters.
    """
    rng = random.Random(f"narratives {seed}")
    templates = load_narrative_templates(style)
    while True:
        case = _draw_case(templates, rng)
        text, used = _write(case, templates, rng)
        points = _reason(case, text, used, templates, rng)
        kind, worse = _worsen(case, points, used, templates, rng)
        better = (*points[:-1], _concluded(case, "linked", templates, rng)) if kind == "asserted" else points
        subject = case.subject
        yield SyntheticNarrative(text, subject.system, subject.code, subject.title, points, better, worse, kind)


def synthetic_lines(stage: int, seed: int, style: str = FULL) -> Iterator[Line]:
    """Lines of a stage without end; no two stages of a seed share narratives, but for chance among brief ones.

    Raises:
        MedcodeError: there is no such stage.
    """
    if stage not in STAGES:
        raise MedcodeError(f"stage {stage} is unknown; choose one of {', '.join(map(str, STAGES))}")
    own_seed = random.Random(f"stage {stage} of {seed}").getrandbits(64)
    return (_line(stage, narrative) for narrative in synthetic_narratives(own_seed, style))


def _line(stage: int, one: SyntheticNarrative) -> Line:
    if stage == 1:
        return stage_1_line(one.narrative, one.system, one.code, one.description, source=SOURCE)
    if stage == 2:
        quality = supported_share(one.points, one.narrative)
        answer = (one.points, one.system, one.code, one.description)
        return stage_2_line(one.narrative, *answer, quality=quality, source=SOURCE)
    points, system, code, description = one.worse
    chosen = answer_text(one.better, code_line(one.system, one.code, one.description))
    rejected = answer_text(points, code_line(system, code, description))
    return stage_3_line(one.narrative, chosen, rejected, source=SOURCE)


@dataclass(frozen=True)
class _Case:
    subject: Subject
    named: bool
    """Whether the narrative names what is to be coded."""
    slots: Mapping[str, str]
    """What the templates' slots are filled with."""
    asides: Mapping[str, Subject]
    """What is named without being coded, by slot."""


def _draw_case(templates: dict[str, Any], rng: random.Random) -> _Case:
    subject = _draw_subject(templates, rng)
    asides = _draw_asides(subject, templates, rng)
    named = subject.kind != "condition" or rng.randrange(100) < templates["named_percent"]
    names = {slot: rng.choice(aside.names) for slot, aside in asides.items()}
    sign = {"sign": rng.choice(asides["other"].findings)}
    drawn = {
        **_draw_patient(subject, templates, rng),
        **_draw_content(subject, named, templates["phrases"], rng),
        **names,
        **sign,
    }
    slots = {slot: _numbered(text, rng) for slot, text in drawn.items()}
    said = content_words(" ".join(slots.values()))
    # What is complained of or found is not denied in the next sentence.
    denied = [symptom for symptom in templates["denied"] if not _words_of_phrase(symptom) & said]
    slots["denied"], slots["denied2"] = rng.sample(denied, 2)
    return _Case(subject, named, slots, asides)


def _draw_subject(templates: dict[str, Any], rng: random.Random) -> Subject:
    shares = templates["systems"]
    system = rng.choices(list(shares), list(shares.values()))[0]
    subjects = load_subjects()[system][: templates["subjects"][system]]
    weights = [1 / (rank + templates["rank_offset"]) for rank in range(len(subjects))]
    return rng.choices(subjects, weights)[0]


def _draw_patient(subject: Subject, templates: dict[str, Any], rng: random.Random) -> dict[str, str]:
    sex: str = subject.sex or rng.choice(["M", "F"])
    male = sex == "M"
    return {
        "age": str(rng.randint(*(subject.ages or templates["ages"]))),
        "sex": sex,
        "person": rng.choice(templates["persons"][sex]),
        "They": "He" if male else "She",
        "they": "he" if male else "she",
        "their": "his" if male else "her",
        "place": rng.choice(templates["places"]),
        "duration": rng.choice(templates["durations"]),
        "relative": rng.choice(templates["relatives"]),
    }


def _draw_content(subject: Subject, named: bool, most: int, rng: random.Random) -> dict[str, str]:
    complaint, complaint2 = rng.sample(subject.complaints[:most], 2)
    finding, finding2 = rng.sample(subject.findings[:most], 2)
    return {
        "complaint": complaint,
        "complaint2": complaint2,
        "finding": finding,
        "finding2": finding2,
        "excluded": rng.choice(subject.excluded),
        "plan": rng.choice(subject.plans or ("",)),
        # Where no name stands in the narrative, the full one is concluded.
        "name": rng.choice(subject.names[:most]) if named else subject.names[0],
    }


def _draw_asides(subject: Subject, templates: dict[str, Any], rng: random.Random) -> dict[str, Subject]:
    """What else is named: long-term conditions, the reason of an order, a relative of the subject, an item."""
    known, systems = load_bystanders(), load_subjects()
    taken = {subject.code, *subject.reasons, *(sibling.code for sibling in subject.siblings)}
    asides = dict(zip(("past", "past2", "kin"), _sample(templates["chronic"], taken, 3, rng), strict=True))
    if subject.reasons:
        asides["reason"] = rng.choice(subject.reasons)
    drawn = {slot: known[code] for slot, code in asides.items()}
    siblings = {sibling.code for sibling in subject.siblings}
    alike = [other for other in systems[subject.system] if other.kind == subject.kind and other != subject]
    drawn["other"] = rng.choice([other for other in alike if other.code in siblings] or alike)
    items = [item for item in systems["hcpcs"] if item.kind == "equipment" and item not in (subject, drawn["other"])]
    return {**drawn, "item": rng.choice(items)}


def _sample(codes: Sequence[str], taken: set[str], count: int, rng: random.Random) -> list[str]:
    return rng.sample([code for code in codes if code not in taken], count)


def _numbered(text: str, rng: random.Random) -> str:
    """The text with a number drawn for each `<88-93>` (as many decimals as its lower end has) and each `<5|10>`."""

    def draw(match: re.Match[str]) -> str:
        if "|" in match[1]:
            return rng.choice(match[1].split("|"))
        low, high = match[1].split("-")
        if "." not in low:
            return str(rng.randint(int(low), int(high)))
        return f"{rng.uniform(float(low), float(high)):.{len(low.partition('.')[2])}f}"

    return _NUMBERS.sub(draw, text)


def _write(case: _Case, templates: dict[str, Any], rng: random.Random) -> tuple[str, str]:
    """The narrative, and its part before the question."""
    layout = rng.choice(templates["layouts"])
    chosen = {"opening", "findings"} | ({"conclusion"} if case.named else set())
    sentences = {part: _sentence(part, case, templates, rng) for part in layout if part in chosen}
    wanted = rng.randint(*templates["words"])
    for part in rng.sample(templates["extras"], len(templates["extras"])):
        if sum(len(sentence.split()) for sentence in sentences.values()) >= wanted:
            break
        sentences[part] = sentences.get(part) or _sentence(part, case, templates, rng)
    joint = rng.choice(templates["joints"])
    body = joint.join(sentences[part] for part in layout if part in sentences)
    return body + joint + rng.choice(templates["kinds"][case.subject.kind]["question"]), body


def _sentence(part: str, case: _Case, templates: dict[str, Any], rng: random.Random) -> str:
    if part == "vitals":
        said = " ".join(case.slots.values())
        signs = [sign for sign in templates["vitals"] if sign.split()[0] not in said.split()]
        sentence = ", ".join(rng.sample(signs, min(3, len(signs)))) + "."
    else:
        own = templates["kinds"][case.subject.kind]
        sentence = rng.choice(own.get(part) or templates["parts"][part])
    # Every sentence, and what stands behind a full stop inside one, starts with a capital letter.
    filled = _numbered(sentence, rng).format_map(case.slots)
    return re.sub(r"(^|[a-z\d%)]\. )([a-z])", lambda match: match[1] + match[2].upper(), filled)


def _reason(case: _Case, text: str, body: str, templates: dict[str, Any], rng: random.Random) -> tuple[str, ...]:
    evidence = [slot for slot in ("complaint", "finding", "finding2", "excluded") if _stands(case.slots[slot], body)]
    own = templates["kinds"][case.subject.kind]
    forms = own["reasoning"] if case.named else own["unnamed_reasoning"]
    words = content_words(text)
    names = [case.slots["name"]] if case.named else case.subject.names
    conclusions = (
        form.format_map({**case.slots, "name": name}) for name in names for form in rng.sample(forms, len(forms))
    )
    # The narrative has none of an unnamed condition's words: one of its names must be no longer than the finding.
    conclusion = next(point for point in conclusions if is_supported(point, words))
    quoted = [case.slots[slot] for slot in evidence if case.slots[slot] not in conclusion]
    kept = sorted(rng.sample(range(len(quoted)), min(len(quoted), rng.choice(templates["quoted"]))))
    return (*(quoted[index] for index in kept), conclusion)


def _stands(phrase: str, text: str) -> bool:
    return phrase.lower() in text.lower()


def _worsen(
    case: _Case, points: tuple[str, ...], body: str, templates: dict[str, Any], rng: random.Random
) -> tuple[str, tuple[tuple[str, ...], str, str, str | None]]:
    shares, worse, subject = templates["worse"], templates["worse_texts"], case.subject
    kind = rng.choices(list(shares), list(shares.values()))[0]
    asides = [slot for slot in case.asides if _stands(case.slots[slot], body)]
    if kind == "distractor" and asides:
        slot = rng.choice(asides)
        aside = case.asides[slot]
        misled = tuple(point.format(aside=case.slots[slot]) for point in rng.choice(worse["distractor"]))
        return kind, (misled, aside.system, aside.code, aside.title)
    if kind == "wordy":
        wordy = tuple(rng.sample(worse["wordy"], rng.randint(2, 4)))
        return kind, (wordy, subject.system, subject.code, subject.title)
    if kind == "asserted" and case.named:
        asserted = (*points[:-1], _concluded(case, "asserted", templates, rng))
        return kind, (asserted, subject.system, subject.code, subject.title)
    if kind == "fabricated" and (invented := _fabricated(case, points, body, templates, rng)):
        return kind, (invented, subject.system, subject.code, subject.title)
    if kind in ("borrowed", "fabricated"):
        kind = "borrowed"
        return kind, (_borrowed(subject, templates, rng), subject.system, subject.code, subject.title)
    sibling = rng.choice(subject.siblings)
    if kind == "wrong_code":
        return kind, (points, subject.system, sibling.code, sibling.title)
    vague = tuple(rng.sample(worse["guess"], rng.randint(2, 3)))
    return "guess", (vague, subject.system, sibling.code, sibling.title)


def _borrowed(subject: Subject, templates: dict[str, Any], rng: random.Random) -> tuple[str, ...]:
    """The reasoning of another subject of the system: fluent, and not of this narrative."""
    most = templates["phrases"]
    known = load_subjects()[subject.system][: templates["subjects"][subject.system]]
    other = rng.choice([one for one in known if one.kind == subject.kind and one != subject] or known[:1])
    evidence = rng.choice([*other.complaints[:most], *other.findings[:most]])
    conclusion = rng.choice(templates["kinds"][other.kind]["reasoning"])
    return _numbered(evidence, rng), _numbered(conclusion.format(name=rng.choice(other.names[:most])), rng)


def _fabricated(
    case: _Case, points: tuple[str, ...], body: str, templates: dict[str, Any], rng: random.Random
) -> tuple[str, ...]:
    """The reasoning with evidence that is usual for the subject and not of this narrative; empty if there is none."""
    most = templates["phrases"]
    usual = [_numbered(phrase, rng) for phrase in (*case.subject.complaints[:most], *case.subject.findings[:most])]
    words = content_words(body)
    missing = [phrase for phrase in usual if not is_supported(phrase, words)]
    if len(missing) < len(points) - 1:
        return ()
    return (*rng.sample(missing, len(points) - 1), points[-1])


def _concluded(case: _Case, way: str, templates: dict[str, Any], rng: random.Random) -> str:
    """A named subject's conclusion: `linked` to the evidence, or `asserted`."""
    own = templates["kinds"][case.subject.kind]
    forms = [form for form in own["reasoning"] if (form in own["linked"]) == (way == "linked")]
    return str(rng.choice(forms)).format(name=case.slots["name"])
