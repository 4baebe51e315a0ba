"""Accuracy of answers to multiple-choice questions."""

import re
from collections.abc import Sequence

from medcode_assets.evaluation.text_metrics.answer_statistics import mean_statistics, with_intervals
from medcode_assets.evaluation.text_metrics.report import ChoiceAccuracy
from medcode_serving.errors import MedcodeError

OPTIONS = ("A", "B", "C", "D")


def accuracy(answers: Sequence[str], references: Sequence[str], *, options: Sequence[str] = OPTIONS) -> ChoiceAccuracy:
    """Return the share of answers that choose the right option; an unparsable answer is wrong, and counted.

    Args:
        answers: What the model wrote, read by `chosen_option`.
        references: The right option of each question.
        options: Labels of the options, upper case.

    Raises:
        MedcodeError: there are no answers.
        ValueError: answers and references are not as many, or a reference is no option.
    """
    import numpy as np

    if len(answers) != len(references):
        raise ValueError(f"there are {len(answers)} answers and {len(references)} references")
    if not answers:
        raise MedcodeError("there are no answers to measure; check that the split has examples")
    if unknown := set(references) - set(options):
        raise ValueError(f"{len(unknown)} different references are not among the options {', '.join(options)}")
    chosen = [chosen_option(answer, options) for answer in answers]
    # Sorted: the interval must not depend on the order of the questions.
    right = sorted(choice == reference for choice, reference in zip(chosen, references, strict=True))
    rows = np.array(right, dtype=np.float64)[:, None]
    (metric,) = with_intervals(
        mean_statistics(rows, ("accuracy",), f"options {', '.join(options)}; unparsable is wrong")
    )
    return ChoiceAccuracy(accuracy=metric, answers=len(answers), unparsable=chosen.count(None))


def chosen_option(answer: str, options: Sequence[str] = OPTIONS) -> str | None:
    """Return the option that an answer chooses, or None if it names none, or several.

    Two things are read as a choice:

    1. a label after `answer is`, `option:` and the like: `the correct answer is B`, `Answer: (B)`. Upper case only,
       for `a` is an article. All must agree, and `B or C` chooses neither.
    2. else a label that is the whole answer, or opens it and is set off: `B`, `(b)`, `**B**`, `B. metformin`,
       `b) …`. If other labels open lines of their own, the answer only lists the options.

    A label elsewhere, as in `Vitamin B is lacking`, is no choice.
    """
    label = "|".join(map(re.escape, options))
    another = rf"[\s*_)\]]*(?:,|/|&|(?i:or|and)\b)[\s*_(\[]*(?:{label})(?![\w'-])"
    told = rf"(?i:answer|option|choice)[\s*_]*(?:(?i:is)|:)[\s*_:(\[]*({label})(?![\w'-])(?!{another})"
    opening = rf"^[^\S\n]*[*_(\[]*({label})(?:[*_.)\]\s]*$|[*_]*[).:\]]|\s+[-–—]\s)"
    named = set(re.findall(told, answer))
    if not named and re.match(opening, answer.strip(), re.IGNORECASE | re.MULTILINE):
        named = {choice.upper() for choice in re.findall(opening, answer, re.IGNORECASE | re.MULTILINE)}
    return named.pop() if len(named) == 1 else None
