"""`medcode predict --jsonl`: the codes of a file of notes, in portions; a killed run goes on where it was."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import typer

from medcode_assets.predict_command import STANDARD_STREAM, refuse_missing_folder
from medcode_serving.answers import PredictionOptions
from medcode_serving.errors import MedcodeError
from medcode_serving.note_lines import NoteLine, parse_note_line

if TYPE_CHECKING:
    from medcode_serving.predictor import Predictor
    from medcode_serving.settings import InferenceSettings

PORTION = 4
"""Batches that are predicted together before their answers are written: notes of like length can share a batch, and
what is in memory stays small."""


@dataclass
class _Tally:
    """What became of the notes so far, in this run and in those that it goes on from."""

    answered: int = 0
    problems: int = 0
    made_with: dict[str, set[str]] = field(default_factory=dict)
    """What the answers tell of the runs that gave them: see `_made_with`."""

    def add(self, result: dict[str, Any]) -> None:
        if "problem" in result:
            self.problems += 1
        else:
            self.answered += 1
            for name, value in _made_with(result["prediction"]).items():
                self.made_with.setdefault(name, set()).add(value)

    @property
    def notes(self) -> int:
        return self.answered + self.problems


def predict_lines(
    settings: "InferenceSettings",
    options: PredictionOptions,
    *,
    jsonl: Path,
    output: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Predict the notes of a file of JSON lines, `{"id": ..., "text": ...}`, into another one, in order.

    A result is `{"id": ..., "prediction": {...}}` or `{"id": ..., "problem": {"type": ..., "detail": ...}}`. If
    `output` holds the results of the first notes already, only the others are predicted, and only in the same way.
    Returns how many notes have a problem.

    Args:
        settings: What predicts.
        options: For all notes; their recipe answers.
        jsonl: The notes; `-` is standard input.
        output: File for the results; None: standard output.
        overwrite: Drop what `output` holds.

    Raises:
        MedcodeError: a file cannot be read or written, `output` holds something else, or the engine cannot answer.
    """
    refuse_missing_folder(output)
    output = None if output == STANDARD_STREAM else output
    if output is not None and output.exists() and jsonl.exists() and output.samefile(jsonl):
        raise MedcodeError(f"--output {output}: holds the notes; name another file for the answers")
    with ExitStack() as files:
        notes = _notes(_opened(files, jsonl, "rb") if jsonl != STANDARD_STREAM else sys.stdin.buffer)
        goes_on = output is not None and output.is_file() and not overwrite  # of /dev/full there is no end
        tally = _skip_answered(output, notes) if output is not None and goes_on else _Tally()
        _refuse_other_way(tally, _way(settings, options))
        before = tally.notes
        results = sys.stdout.buffer if output is None else _opened(files, output, "ab" if goes_on else "wb")
        try:
            _predict_rest(settings, options, notes, results, tally, _count(jsonl))
        except BrokenPipeError:  # `medcode predict --jsonl … | head`
            # What is left in the buffer is flushed at the end, and has to go somewhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return tally.problems
    earlier = f"; {before:,} of them by an earlier run" if before else ""
    typer.echo(
        f"{tally.notes:,} notes: {tally.answered:,} answered, {tally.problems:,} with a problem{earlier}", err=True
    )
    return tally.problems


def _opened(files: ExitStack, path: Path, mode: str) -> IO[bytes]:
    try:
        # Written without a buffer: what a full disk did not take would be in there, and fail again on closing.
        opened: IO[bytes] = files.enter_context(path.open(mode, buffering=-1 if mode == "rb" else 0))
    except OSError as error:
        raise MedcodeError(f"{path}: {error.strerror}") from None
    return opened


def _count(jsonl: Path) -> int | None:
    """Return the notes in a file, for the progress bar; None if it can be read only once."""
    if not jsonl.is_file():
        return None
    with jsonl.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _notes(lines: IO[bytes]) -> Iterator[NoteLine]:
    """Read the notes; blank lines count for nothing."""
    return (parse_note_line(line) for line in lines if line.strip())


def _problem(kind: str | None, detail: str | None) -> dict[str, str | None]:
    """Return what a line says instead of a prediction; kinds as in the API's problem documents."""
    return {"type": f"urn:medcode:problem:{kind}", "detail": detail}


def _skip_answered(path: Path, notes: Iterator[NoteLine]) -> _Tally:
    """Take the notes that have a result already, and cut off a result that a killed run left half-written.

    Raises:
        MedcodeError: the file holds something else, or results of other notes; it stays as it is.
    """
    tally, whole = _Tally(), 0
    anew = "name another file, or start anew with --overwrite"
    with ExitStack() as files:
        for number, line in enumerate(_opened(files, path, "rb"), start=1):
            torn = not line.endswith(b"\n")
            if torn and line.startswith(b'{"id": '[: len(line)]):
                break
            result = None if torn else _result(line)
            if result is None:
                raise MedcodeError(f"{path}, line {number}: no answer of `medcode predict --jsonl`; {anew}")
            note = next(notes, None)
            if note is None:
                raise MedcodeError(f"{path} has more answers than there are notes; {anew}")
            if note.id != result["id"]:
                raise MedcodeError(
                    f"{path}, line {number}: answers another note than the input's note {number}; {anew}"
                )
            tally.add(result)
            whole += len(line)
    os.truncate(path, whole)
    return tally


def _result(line: bytes) -> dict[str, Any] | None:
    """Return a line's result; None if it is something else."""
    try:
        result = json.loads(line)
        known = "problem" in result or isinstance(result["prediction"]["model"]["version"], str)
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return result if known and "id" in result else None


def _predict_rest(
    settings: "InferenceSettings",
    options: PredictionOptions,
    notes: Iterator[NoteLine],
    results: IO[bytes],
    tally: _Tally,
    total: int | None,
) -> None:
    """Predict portion by portion; a portion's results are in the file before the next one begins."""
    from tqdm import tqdm

    from medcode_serving.loading import load_predictor

    size = PORTION * settings.generation.batch_size
    portion = list(islice(notes, size))
    if not portion:
        return  # without loading a model first
    typer.echo("loading the model ...", err=True)
    predictor = load_predictor(settings, options.recipe)
    _refuse_other_bundle(tally, predictor, options)
    if options.evidence == "occlusion":
        predictor.occludable()  # which says so before anything is predicted if the engine cannot
    with tqdm(total=total, initial=tally.notes, desc="predicting", unit="note", mininterval=1) as bar:

        def on_progress(more: int) -> None:
            bar.update(more)

        while portion:
            readable = [note.text for note in portion if note.text is not None]
            on_progress(len(portion) - len(readable))
            outcomes = _outcomes(predictor, readable, options, on_progress)
            lines = bytearray()
            for note in portion:
                refused = {"problem": _problem(note.kind, note.detail)}
                result = {"id": note.id} | (refused if note.text is None else next(outcomes))
                lines += json.dumps(result).encode() + b"\n"
                tally.add(result)
            _write(results, lines)
            portion = list(islice(notes, size))


def _write(results: IO[bytes], lines: bytes | bytearray) -> None:
    rest = memoryview(lines)
    try:
        while rest:
            rest = rest[results.write(rest) :]
        results.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise MedcodeError(f"{results.name}: {error.strerror}; the same command goes on from here") from None


def _made_with(prediction: dict[str, Any]) -> dict[str, str]:
    """Return what an answer tells of the run that gave it; not of its engine if another one answered in its place."""
    model = prediction["model"]
    told = {"recipe": model.get("recipe"), "version": model["version"]}
    told |= {"constrained": prediction.get("constrained"), "evidence": prediction.get("evidence_method")}
    if prediction.get("fallback") is None:
        told |= {"engine": prediction.get("engine"), "threshold": prediction.get("threshold")}
    return {name: str(value) for name, value in told.items() if value is not None}


def _way(settings: "InferenceSettings", options: PredictionOptions) -> dict[str, object]:
    """Return what is known of this run's answers before a model is loaded, named as in `_made_with`."""
    threshold = settings.generation.threshold if options.threshold is None else options.threshold
    known: dict[str, object] = {
        "engine": settings.model.engine,
        "constrained": options.constrained,
        "evidence": options.evidence,
    }
    return known if threshold is None else {**known, "threshold": threshold}


def _refuse_other_way(tally: _Tally, way: dict[str, object]) -> None:
    for name, value in way.items():
        others = tally.made_with.get(name, set()) - {str(value)}
        if others:
            raise MedcodeError(
                f"the answers so far were made with {name} {min(others)}, and this run has {name} {value}: ask as "
                "before, name another file, or start anew with --overwrite"
            )


def _refuse_other_bundle(tally: _Tally, predictor: "Predictor", options: PredictionOptions) -> None:
    served = predictor.identity
    _refuse_other_way(tally, {"recipe": served.recipe})
    for version in tally.made_with.get("version", set()) - {served.version}:
        raise MedcodeError(
            f"the answers so far are of bundle {version}, and now {served.version} is published: start anew with "
            f"--overwrite, or go on with MEDCODE_SERVE_MODEL__BUNDLE={predictor.bundle.path.parent / version}"
        )
    threshold = predictor.threshold if options.threshold is None else options.threshold
    _refuse_other_way(tally, {"threshold": threshold})


def _outcomes(
    predictor: "Predictor", notes: Sequence[str], options: PredictionOptions, on_progress: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    """Predict notes, of which each may be too long by itself: `predict_batch` would refuse all of them."""
    if not notes:
        return
    start = time.perf_counter()
    asked = [predictor.note_options(options)] * len(notes)
    predictions = predictor.engine.predict(notes, options=asked, on_progress=on_progress)
    share = (time.perf_counter() - start) / len(notes)
    for note, prediction in zip(notes, predictions, strict=True):
        if prediction.outcome == "too_long":
            detail = "the note is longer than the model reads at once; allow `shorten` or `windows`"
            yield {"problem": _problem("too_long", detail)}
            continue
        start = time.perf_counter()
        codes = predictor.select(prediction, options)
        spans = predictor.find_evidence(note, codes, options)
        seconds = share + time.perf_counter() - start
        answer = predictor.respond(note, prediction, codes, options, seconds * 1000, spans=spans)
        yield {"prediction": answer.model_dump(mode="json")}
