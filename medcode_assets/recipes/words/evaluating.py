"""An adapter and its untuned base asked the test split, and what their answers measure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from medcode_assets.artifacts import link_or_copy, making
from medcode_assets.config import EvaluationSettings
from medcode_assets.recipes.answering import discard_parts, examples_made
from medcode_assets.recipes.recipe import Recipe, Words
from medcode_assets.recipes.words.answers import TUNED, answers_file, read_word_answers, write_word_answers
from medcode_assets.recipes.words.asking import ask_model
from medcode_assets.recipes.words.measuring import WordReport, word_report, write_word_report
from medcode_assets.recipes.words.plots import subject_bars, word_bars
from medcode_assets.recipes.words.questions import Asked
from medcode_assets.warehouse import fingerprint
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import DecodingSettings, file_sha256

if TYPE_CHECKING:
    import duckdb

    from medcode_assets.evaluation.text_metrics.bertscore import BertScoreEncoder


PICTURES = "pictures"
"""Folder of an evaluation that holds PNGs."""


def word_answers_fingerprint(
    con: "duckdb.DuckDBPyConnection",
    recipe: Recipe,
    model: str,
    decoding: DecodingSettings,
    evaluation: EvaluationSettings,
) -> str:
    """Return the fingerprint of a model's answers; `model` is its adapter's seal, or its base model's revision."""
    return fingerprint(
        model=model,
        examples=examples_made(con, recipe.name),
        prompt=recipe.prompt.model_dump(),
        decoding=decoding.model_dump(),
        max_documents=evaluation.max_documents,
        version=2,
    )


def word_evaluation_fingerprint(answers: str, untuned: str | None, recipe: Recipe, encoder: str | None) -> str:
    """Return the fingerprint of an evaluation: both models' answers, and how they are measured."""
    measures = dict(recipe.words.measures) if recipe.words else {}
    rules = {file.name: file_sha256(file) for file in recipe.words.rules} if recipe.words else {}
    return fingerprint(answers=answers, untuned=untuned, measures=measures, rules=rules, encoder=encoder, version=1)


def keep_answers(
    asked: Sequence[Asked],
    name: str,
    recipe: Recipe,
    base: LocalModel,
    adapter: Path | None,
    decoding: DecodingSettings,
    evaluation: EvaluationSettings,
    file: Path,
    parts: Path,
    device: str,
) -> None:
    """Ask a model, and write its answers.

    Args:
        asked: The questions.
        name: `TUNED` or `UNTUNED`.
        recipe: With the prompt of this base model.
        base: The base model.
        adapter: Its weights; None: the base model as it is.
        decoding: Limits of prompt and answer.
        evaluation: How many questions go together.
        file: What is written.
        parts: Folder of answers so far.
        device: auto, cpu, cuda or mps.
    """
    with tqdm(total=len(asked), desc=f"answering: {name}", unit="question") as bar:

        def on_progress(more: int) -> None:
            bar.update(more)

        answers = ask_model(
            asked,
            name,
            recipe.prompt,
            base,
            adapter,
            decoding,
            device=device,
            batch_size=evaluation.batch_size,
            parts=parts,
            on_progress=on_progress,
        )
    write_word_answers(file, asked, answers)


def evaluate_words(
    asked: Sequence[Asked],
    recipe: Recipe,
    words: Words,
    base: LocalModel,
    adapter: Path,
    target: Path,
    parts: Path,
    *,
    made_from: str,
    answers_from: str,
    beside: Mapping[str, Path],
    facts_of: Mapping[str, object],
    evaluation: EvaluationSettings,
    decoding: DecodingSettings,
    device: str,
    encoder: "BertScoreEncoder | None" = None,
    earlier_answers: str | None = None,
) -> WordReport:
    """Let the adapter answer, unless it has, and measure it beside other models' answers; write all of them.

    Args:
        asked: The questions.
        recipe: With the prompt of this base model.
        words: How answers are measured.
        base: The adapter's base model.
        adapter: Folder of its weights.
        target: Folder of the artifact; replaced only by a complete one.
        parts: Folder of answers so far.
        made_from: `word_evaluation_fingerprint`.
        answers_from: `word_answers_fingerprint`.
        beside: Artifact of each other model, whose answers are to the same questions.
        facts_of: What the artifact's seal tells besides.
        evaluation: How many questions go together.
        decoding: The adapter's limits.
        device: auto, cpu, cuda or mps.
        encoder: What BERTScore compares with.
        earlier_answers: Fingerprint of the answers that the artifact holds; taken over if they are the same.
    """
    with making(target, made_from) as (folder, facts):
        file = answers_file(folder, TUNED)
        if earlier_answers == answers_from:
            file.parent.mkdir(parents=True)
            link_or_copy(answers_file(target, TUNED), file)
        else:
            keep_answers(asked, TUNED, recipe, base, adapter, decoding, evaluation, file, parts, device)
        for name, artifact in beside.items():
            link_or_copy(answers_file(artifact, name), answers_file(folder, name))
        answers = {name: read_word_answers(answers_file(folder, name))[1] for name in (*beside, TUNED)}
        report = word_report(asked, answers, words, bertscore=encoder)
        write_word_report(report, folder)
        _draw(report, folder / PICTURES)
        facts.update(facts_of, answers=answers_from, decoding=decoding.model_dump(), asked=len(asked))
    discard_parts(parts)
    return report


def _draw(report: WordReport, folder: Path) -> None:
    folder.mkdir()
    (folder / "measures.png").write_bytes(word_bars(report))
    subjects = subject_bars(report)
    if subjects:
        (folder / "subjects.png").write_bytes(subjects)
