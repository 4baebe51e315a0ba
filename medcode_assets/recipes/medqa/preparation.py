"""From a source's rows to questions as the chain takes them: what is dropped and why, splits, sample, examples."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medcode_assets.recipes.medqa.augmentation import augmented
from medcode_assets.recipes.medqa.rows import LABELS, ExamRow
from medcode_assets.recipes.medqa.settings import MedqaSection
from medcode_assets.recipes.medqa.splitting import PROTECTED, Keyed, sample, with_splits
from medcode_assets.recipes.medqa.wording import question_key, words
from medcode_assets.recipes.words.questions import SPLITS, Question
from medcode_serving.errors import MedcodeError

REASONS = {
    "missing_question": "no question",
    "missing_option": "an option is empty",
    "duplicate_options": "two options are the same",
    "missing_answer": "no right option, or no answer to an open question",
    "withheld_answer": "the source withholds the answer: cop is -1, or its test split has no such column",
    "repeated": "the same question with the same options stands there already",
    "contradiction": "the same question with the same options has another answer",
    "in_a_held_out_split": "nearly the same question is in a split that is held out",
    "not_sampled": "more than medqa.limit or medqa.held_out",
}
"""Why a row is not taken."""


@dataclass(frozen=True)
class PreparationFacts:
    """What became of a source's rows."""

    read: int
    dropped: dict[str, int]
    """Rows by reason."""
    kept: dict[str, int]
    """Questions by split."""
    examples: int
    """Of training, augmentation included."""
    groups: int
    """Of near-identical questions."""
    open_questions: int
    splits: str
    """How they came about."""
    subjects: dict[str, dict[str, int]] = field(default_factory=dict)
    """Questions by subject and split."""

    def recorded(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def prepare(rows: Sequence[ExamRow], settings: MedqaSection) -> tuple[list[Question], PreparationFacts]:
    """Return a source's questions, ready to be loaded; the same rows and settings give the same questions.

    Args:
        rows: With `cop` counted from 0.
        settings: Section `medqa`.

    Raises:
        MedcodeError: no row can be used.
    """
    dropped: Counter[str] = Counter()
    usable = list(_usable(rows, dropped))
    if not usable:
        told = ", ".join(f"{reason} {count}" for reason, count in dropped.most_common(3))
        raise MedcodeError(f"medqa.source {settings.source}: none of {len(rows):,} rows can be used ({told})")
    drawn, in_held_out, how = with_splits(usable, settings.seed, settings.validation_share, settings.test_share)
    dropped["in_a_held_out_split"] += in_held_out
    chosen: list[Keyed] = []
    for split in SPLITS:
        of_split = [one for one in drawn if one.split == split]
        chosen += sample(of_split, settings.limit if split == "train" else settings.held_out, settings.seed)
    dropped["not_sampled"] += len(drawn) - len(chosen)
    questions = [question for one in chosen for question in _examples(one, settings)]
    return questions, _facts(rows, dropped, chosen, questions, how)


def _usable(rows: Sequence[ExamRow], dropped: Counter[str]) -> Iterator[Keyed]:
    """Yield rows that can be asked, each question once: in the split that is most protected."""
    answers: dict[tuple[str, ...], str] = {}
    for row in sorted(rows, key=lambda row: PROTECTED.index(row.split or "train")):
        reason = _unusable(row)
        if not reason:
            answer = right_answer(row)
            same = (" ".join(words(row.question)), *sorted(_same_text(option) for option in row.options))
            if same in answers:
                reason = "repeated" if answers[same] == _same_text(answer) else "contradiction"
            answers.setdefault(same, _same_text(answer))
        if reason:
            dropped[reason] += 1
        else:
            yield Keyed(row, question_key(row.question, answer))


def _unusable(row: ExamRow) -> str | None:
    if not row.question:
        return "missing_question"
    if not row.options:
        return None if row.answer else "missing_answer"
    if not all(row.options):
        return "missing_option"
    if len({_same_text(option) for option in row.options}) < len(row.options):
        return "duplicate_options"
    if row.cop is None:
        return "withheld_answer" if row.withheld else "missing_answer"
    return None


def _same_text(text: str) -> str:
    """Return a text as it is compared: signs count, for `+` is not `-`; letters' case and a full stop do not."""
    return " ".join(text.casefold().split()).rstrip(". ")


def right_answer(row: ExamRow) -> str:
    """Return the text of the right answer."""
    return row.answer if not row.options else row.options[row.cop or 0]


def _examples(one: Keyed, settings: MedqaSection) -> Iterator[Question]:
    factor = settings.augmentation if one.split == "train" else 1
    for row in augmented(one.row, factor, settings.seed, explains=settings.explanations):
        yield exam_question(row, one.split, one.key, settings)


def exam_question(row: ExamRow, split: str, group: str, settings: MedqaSection) -> Question:
    """Return a row as a question with its completions."""
    completions = tuple(
        settings.answer_template.format(label=label, option=option)
        for label, option in zip(LABELS, row.options, strict=False)
    )
    answer = completions[row.cop] if completions and row.cop is not None else row.answer
    if settings.explanations and row.explanation and row.explanation != row.answer:
        answer = f"{answer}\n\n{row.explanation}"
    return Question(
        question="\n".join([row.question, *map("{}. {}".format, LABELS[: len(row.options)], row.options)]),
        answer=answer,
        split=split,
        group=group,
        subject=row.subject,
        options=completions,
        correct=row.cop if completions else None,
    )


def _facts(
    rows: Sequence[ExamRow], dropped: Counter[str], chosen: Sequence[Keyed], questions: Sequence[Question], how: str
) -> PreparationFacts:
    subjects: dict[str, dict[str, int]] = {}
    for one in chosen:
        subjects.setdefault(one.row.subject, dict.fromkeys(SPLITS, 0))[one.split] += 1
    kept = Counter(one.split for one in chosen)
    return PreparationFacts(
        read=len(rows),
        dropped={reason: dropped[reason] for reason in REASONS if dropped[reason]},
        kept={split: kept[split] for split in SPLITS},
        examples=sum(question.split == "train" for question in questions),
        groups=len({one.key for one in chosen}),
        open_questions=sum(not one.row.options for one in chosen),
        splits=how,
        subjects=dict(sorted(subjects.items())),
    )
