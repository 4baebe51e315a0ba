"""Untuned models asked what the adapter was asked: base and instruct models, side by side with it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from medcode_assets.artifacts import making
from medcode_assets.progress import step
from medcode_assets.recipes.consult.recipe import CONSULT
from medcode_assets.recipes.recipe import Words
from medcode_assets.recipes.words.answers import TUNED, UNTUNED, answers_file, read_word_answers, write_word_answers
from medcode_assets.recipes.words.asking import ask_model
from medcode_assets.recipes.words.measuring import WordReport, word_report, write_word_report
from medcode_assets.warehouse import fingerprint
from medcode_serving.base_models import LocalModel, resolve_base_model
from medcode_serving.bundle import DecodingSettings

VERSION = 1
"""Of how models are compared."""


@dataclass(frozen=True)
class Candidate:
    """A model beside the adapter."""

    name: str
    """As settings name it."""
    model: LocalModel


def candidates(names: Sequence[str], base: LocalModel, cache: Path) -> list[Candidate]:
    """Return the models that must be asked: the adapter's own base has answered already.

    Args:
        names: Hub ids, folders or `embedded`.
        base: The adapter's base model.
        cache: Folder of downloaded models.

    Raises:
        MedcodeError: one is not to be had.
    """
    found = [Candidate(name, resolve_base_model(name, cache)) for name in names]
    return [one for one in found if one.model.revision != base.revision]


def compared_fingerprint(evaluation: str, others: Sequence[Candidate]) -> str:
    """Return the fingerprint of a comparison; `evaluation` is the seal of the adapter's and its base's answers."""
    return fingerprint(evaluation=evaluation, others={one.name: one.model.revision for one in others}, version=VERSION)


def compare_models(
    evaluation: Path,
    others: Sequence[Candidate],
    words: Words,
    target: Path,
    parts: Path,
    *,
    made_from: str,
    decoding: DecodingSettings,
    batch_size: int,
    device: str,
) -> WordReport:
    """Ask each model the test split, and write all answers and their measures as one artifact.

    Every model is asked in its own chat template, with the recipe's system message, and within the adapter's limits.

    Args:
        evaluation: Artifact with the adapter's and its untuned base's answers.
        others: Models to ask.
        words: How answers are measured.
        target: Folder of the artifact.
        parts: Folder of answers so far.
        made_from: `compared_fingerprint`.
        decoding: Limits of prompt and answer.
        batch_size: Questions that go together.
        device: auto, cpu, cuda or mps.
    """
    asked, tuned = read_word_answers(answers_file(evaluation, TUNED))
    untuned = answers_file(evaluation, UNTUNED)
    answers = {UNTUNED: read_word_answers(untuned)[1]} if untuned.exists() else {}
    with making(target, made_from) as (folder, facts):
        for other in others:
            with tqdm(total=len(asked), desc=f"answering: {other.name}", unit="question") as bar:
                answers[other.name] = ask_model(
                    asked,
                    other.name,
                    CONSULT.for_base(other.model).prompt,
                    other.model,
                    None,
                    decoding,
                    device=device,
                    batch_size=batch_size,
                    parts=parts / plain_name(other.name),
                    on_progress=lambda more, bar=bar: step(bar, more),  # type: ignore[misc]
                )
            write_word_answers(answers_file(folder, plain_name(other.name)), asked, answers[other.name])
        report = word_report(asked, {**answers, TUNED: tuned}, words)
        write_word_report(report, folder)
        facts["models"] = list(report.models)
    return report


def plain_name(name: str) -> str:
    """Return a model's name as a file may have it."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.")
