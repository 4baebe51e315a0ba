"""The files of an iteration's results: CSVs for people, pictures, and `results.json` for what comes after."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcode_assets.recipes.specialty.measuring import Compared, Group, Scored, SpecialtyResults, compare, score
from medcode_assets.recipes.specialty.plots import overall_bars, specialty_bars
from medcode_assets.recipes.specialty.settings import SpecialtySection
from medcode_assets.recipes.words.answers import TUNED, UNTUNED, Answered, answers_file, read_word_answers
from medcode_assets.recipes.words.questions import Asked
from medcode_assets.warehouse import fingerprint
from medcode_serving.errors import MedcodeError

RESULTS = "results.json"
BASE_CSV = "base_model_results.csv"
FINETUNED_CSV = "finetuned_model_results.csv"
COMPARISON_CSV = "model_comparison.csv"
SPECIALTY_CSV = "specialty_performance.csv"
OVERALL_PNG = "model_comparison.png"
SPECIALTY_PNG = "specialty_performance.png"
VERSION = 2
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_VALUES = tuple(f"{side}{end}" for side in ("base", "finetuned", "difference") for end in ("", "_low", "_high"))


def results_fingerprint(evaluation_seal: str, section: SpecialtySection) -> str:
    """Return the fingerprint of all that results come from; `evaluation_seal` names that making of the evaluation."""
    return fingerprint(
        version=VERSION,
        evaluation=evaluation_seal,
        measure=section.measure,
        bertscore=[section.bertscore_model, section.bertscore_layer],
    )


def write_results(
    folder: Path, evaluation: Path, section: SpecialtySection, *, base_model: str, cache: Path, device: str
) -> SpecialtyResults:
    """Measure both models' answers to the holdout and write the files.

    Args:
        folder: To fill.
        evaluation: Artifact with the answers.
        section: With BERTScore's encoder and the measure that is drawn by specialty.
        base_model: Id of the base model.
        cache: Folder of downloaded models.
        device: For BERTScore.

    Raises:
        MedcodeError: a model's answers are not there, both do not answer the same, or the measure cannot be computed.
    """
    asked, base, finetuned = _answers(evaluation)
    scored = score(asked, base, finetuned, _encoder(section, cache, device))
    if section.measure in scored.skipped:
        raise MedcodeError(f"specialty.measure {section.measure}: {scored.skipped[section.measure]}")
    found = compare(asked, scored, base_model)
    _write_answers(folder / BASE_CSV, asked, base, scored, "base")
    _write_answers(folder / FINETUNED_CSV, asked, finetuned, scored, "finetuned")
    _write_rows(
        folder / COMPARISON_CSV,
        ["metric", "answers", *_VALUES, "p", "how"],
        [
            *(
                [metric.name, found.overall.answers, *_row(metric), found.how[metric.name]]
                for metric in _metrics(found)
            ),
            *([name, 0, *[""] * (len(_VALUES) + 1), f"not measured: {why}"] for name, why in found.skipped.items()),
        ],
    )
    _write_rows(
        folder / SPECIALTY_CSV,
        ["specialty", "answers", "metric", *_VALUES, "p"],
        (
            [group.name, group.answers, metric.name, *_row(metric)]
            for group in (*found.specialties, found.overall)
            for metric in group.metrics
        ),
    )
    (folder / OVERALL_PNG).write_bytes(overall_bars(found))
    (folder / SPECIALTY_PNG).write_bytes(specialty_bars(found, section.measure))
    (folder / RESULTS).write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return found


def read_results(folder: Path) -> SpecialtyResults:
    """Return the results of an artifact's folder."""
    return SpecialtyResults.model_validate_json((folder / RESULTS).read_text(encoding="utf-8"))


def results_rows(found: SpecialtyResults, measure: str) -> list[tuple[Any, ...]]:
    """Return a measure by specialty and over all, for people: name, answers, base, tuned, difference, interval."""
    return [
        (
            group.name,
            group.answers,
            metric.base.value,
            metric.finetuned.value,
            f"{metric.difference.value:+.3f} [{metric.difference.low:+.3f}, {metric.difference.high:+.3f}]",
        )
        for group in (*found.specialties, found.overall)
        for metric in [group.metric(measure)]
    ]


def comparison_rows(found: SpecialtyResults) -> list[tuple[Any, ...]]:
    """Return every metric over all answers, for people: name, base, tuned, difference with its interval, p."""
    return [
        (
            metric.name,
            metric.base.value,
            metric.finetuned.value,
            f"{metric.difference.value:+.3f} [{metric.difference.low:+.3f}, {metric.difference.high:+.3f}]",
            metric.p,
        )
        for metric in found.overall.metrics
    ]


def safe_cell(value: Any) -> Any:
    """Return what a spreadsheet shows as it is: before a text that it would take for a formula comes an apostrophe."""
    if isinstance(value, str) and (value.startswith(_FORMULA) or value.lstrip().startswith(_FORMULA)):
        return f"'{value}"
    return f"{value:.6g}" if isinstance(value, float) else value


def _answers(evaluation: Path) -> tuple[list[Asked], list[Answered], list[Answered]]:
    read = {}
    for engine in (UNTUNED, TUNED):
        file = answers_file(evaluation, engine)
        if not file.exists():
            way = "set evaluation.untuned_base: true" if engine == UNTUNED else "materialize specialty/evaluation"
            raise MedcodeError(f"{file}: no answers of {engine} to compare; {way}")
        read[engine] = read_word_answers(file)
    (asked, base), (also, finetuned) = read[UNTUNED], read[TUNED]
    if [one.example_id for one in asked] != [one.example_id for one in also]:
        raise MedcodeError(
            f"{evaluation}: {UNTUNED} and {TUNED} answered different questions; materialize specialty/evaluation again "
            "with drop_existing"
        )
    return asked, base, finetuned


def _encoder(section: SpecialtySection, cache: Path, device: str) -> Any:
    from medcode_assets.evaluation.text_metrics.bertscore import BertScoreEncoder

    if section.bertscore_model is None:
        return None
    return BertScoreEncoder(model=section.bertscore_model, cache=cache, layer=section.bertscore_layer, device=device)


def _write_answers(
    file: Path, asked: Sequence[Asked], answers: Sequence[Answered], scored: Scored, engine: str
) -> None:
    scores: Mapping[str, Any] = scored.per_answer(engine)
    _write_rows(
        file,
        ["example_id", "specialty", "question", "references", "answer", "tokens", "confidence", "cut", *scores],
        (
            [
                one.example_id,
                one.subject,
                one.question,
                " | ".join(one.references),
                answer.text,
                answer.tokens,
                answer.confidence,
                answer.cut,
                *(float(values[place]) for values in scores.values()),
            ]
            for place, (one, answer) in enumerate(zip(asked, answers, strict=True))
        ),
    )


def _write_rows(file: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(names)
        writer.writerows([safe_cell(value) for value in row] for row in rows)


def _metrics(found: SpecialtyResults) -> tuple[Compared, ...]:
    overall: Group = found.overall
    return overall.metrics


def _row(metric: Compared) -> list[float]:
    sides = (metric.base, metric.finetuned, metric.difference)
    return [*(end for side in sides for end in (side.value, side.low, side.high)), metric.p]
