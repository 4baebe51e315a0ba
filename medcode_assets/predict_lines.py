"""`medcode predict --jsonl`: the codes of a file of notes, in portions; a killed run goes on where it was."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import typer

from medcode_assets.predict_command import STANDARD_STREAM, refuse_missing_folder
from medcode_serving.answers import PredictionOptions
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from medcode_serving.predictor import Predictor
    from medcode_serving.settings import InferenceSettings

PORTION = 4
"""Batches that are predicted together before their answers are written: notes of like length can share a batch, and
what is in memory stays small."""


@dataclass(frozen=True)
class _Note:
    """A line of the input."""

    id: str | int | None
    text: str = ""
    problem: dict[str, str] | None = None
    """Why the line cannot be answered."""


@dataclass
class _Tally:
    """What became of the notes so far, in this run and in those that it goes on from."""

    answered: int = 0
    problems: int = 0
    version: str | None = None
    """Bundle of the last answer."""

    def add(self, result: dict[str, Any]) -> None:
        if "problem" in result:
            self.problems += 1
        else:
            self.answered += 1
            self.version = result["prediction"]["model"]["version"]

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
) -> None:
    """Predict the notes of a file of JSON lines, `{"id": ..., "text": ...}`, into another one, in order.

    A result is `{"id": ..., "prediction": {...}}` or `{"id": ..., "problem": {"type": ..., "detail": ...}}`. If
    `output` holds the results of the first notes already, only the others are predicted.

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
        before = tally.notes
        results = sys.stdout.buffer if output is None else _opened(files, output, "ab" if goes_on else "wb")
        try:
            _predict_rest(settings, options, notes, results, tally, _count(jsonl))
        except BrokenPipeError:  # `medcode predict --jsonl … | head`
            # What is left in the buffer is flushed at the end, and has to go somewhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
    earlier = f"; {before:,} of them by an earlier run" if before else ""
    typer.echo(
        f"{tally.notes:,} notes: {tally.answered:,} answered, {tally.problems:,} with a problem{earlier}", err=True
    )


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


def _notes(lines: IO[bytes]) -> Iterator[_Note]:
    """Read the notes; blank lines count for nothing."""
    return (_parse(line) for line in lines if line.strip())


def _parse(line: bytes) -> _Note:
    from medcode_serving.predictor import is_unicode

    def refused(kind: str, detail: str) -> _Note:
        return _Note(id_, problem=_problem(kind, detail))

    id_: str | int | None = None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):  # ValueError is also what JSON and UTF-8 raise
        return refused("invalid_json", "the line is no JSON in UTF-8")
    if not isinstance(content, dict):
        return refused("invalid_request", 'the line is not of the form {"id": ..., "text": ...}')
    name = content.get("id")
    if isinstance(name, str | int) and not isinstance(name, bool):
        id_ = name
    elif name is not None:
        return refused("invalid_request", "the id is neither a string nor a whole number")
    text = content.get("text")
    if not isinstance(text, str):
        return refused("invalid_request", "the line has no text")
    if not text.strip():
        return refused("empty", "the text is empty")
    if not is_unicode(text):
        return refused("not_unicode", "the text holds half of a surrogate pair")
    return _Note(id_, text)


def _problem(kind: str, detail: str) -> dict[str, str]:
    """Return what a line says instead of a prediction; kinds as in the API's problem documents."""
    return {"type": f"urn:medcode:problem:{kind}", "detail": detail}


def _skip_answered(path: Path, notes: Iterator[_Note]) -> _Tally:
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
    notes: Iterator[_Note],
    results: IO[bytes],
    tally: _Tally,
    total: int | None,
) -> None:
    """Predict portion by portion; a portion's results are in the file before the next one begins."""
    from tqdm import tqdm

    from medcode_serving.predictor import load_predictor

    size = PORTION * settings.generation.batch_size
    portion = list(islice(notes, size))
    if not portion:
        return  # without loading a model first
    predictor = load_predictor(settings, options.recipe)
    _refuse_other_bundle(tally, predictor)
    with tqdm(total=total, initial=tally.notes, desc="predicting", unit="note", mininterval=1) as bar:

        def on_progress(more: int) -> None:
            bar.update(more)

        while portion:
            readable = [note.text for note in portion if note.problem is None]
            on_progress(len(portion) - len(readable))
            outcomes = _outcomes(predictor, readable, options, on_progress)
            lines = bytearray()
            for note in portion:
                result = {"id": note.id} | ({"problem": note.problem} if note.problem else next(outcomes))
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


def _refuse_other_bundle(tally: _Tally, predictor: "Predictor") -> None:
    served = predictor.identity.version
    if tally.version is not None and tally.version != served:
        raise MedcodeError(
            f"the answers so far are of bundle {tally.version}, and now {served} is published: start anew with "
            f"--overwrite, or go on with MEDCODE_SERVE_MODEL__BUNDLE={predictor.bundle.path.parent / tally.version}"
        )


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
