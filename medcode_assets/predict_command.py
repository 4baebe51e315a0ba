"""`medcode predict`: the codes of one note, without a server."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from pydantic import ValidationError

from medcode_serving.answers import PredictedCode, PredictionOptions, PredictionResponse
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from medcode_serving.settings import InferenceSettings

Format = Literal["json", "table"]

STANDARD_STREAM = Path("-")
"""Standard input as a source, standard output as a goal."""
EVIDENCE_WIDTH = 100
"""Characters of a span in a table."""


def prediction_options(**flags: Any) -> PredictionOptions:
    """Return the options that flags ask for; None is a flag that was not given.

    Raises:
        MedcodeError: a value is out of range.
    """
    try:
        return PredictionOptions(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        flag = "--" + str(problem["loc"][0]).replace("_", "-")
        raise MedcodeError(f"{flag}: {problem['msg']}") from None


def predict_once(
    settings: "InferenceSettings",
    options: PredictionOptions,
    *,
    text: str | None = None,
    pdf: Path | None = None,
    file: Path | None = None,
    output: Path | None = None,
    format_: Format = "json",
) -> None:
    """Predict one note and print the answer, or write it to a file.

    Args:
        settings: What predicts.
        options: How; their recipe answers.
        text: The note; exactly one of `text`, `pdf` and `file` is given.
        pdf: A PDF with a text layer.
        file: A text file; `-` is standard input.
        output: File for the answer; None: standard output.
        format_: How the answer is written.

    Raises:
        MedcodeError: the note cannot be read, no bundle is published, or the engine cannot answer.
    """
    from medcode_serving.loading import load_predictor

    refuse_missing_folder(output)
    note, pages = _read_note(settings, text, pdf, file)
    predictor = load_predictor(settings, options.recipe)
    if options.evidence == "occlusion":
        predictor.occludable()
    answer = predictor.predict(note, options, pages=pages)
    rendered = table(answer) if format_ == "table" else json.dumps(answer.model_dump(mode="json"), indent=2)
    if output is None:
        typer.echo(rendered)
        return
    aside = output.with_name(f".{output.name}.new")
    aside.write_text(rendered + "\n", encoding="utf-8")
    aside.replace(output)


def refuse_missing_folder(output: Path | None) -> None:
    """Raise MedcodeError if the folder of a file to be written is not there."""
    if output is not None and not output.parent.is_dir():
        raise MedcodeError(f"--output {output}: there is no folder {output.parent}")


def _read_note(
    settings: "InferenceSettings", text: str | None, pdf: Path | None, file: Path | None
) -> tuple[str, Sequence[int] | None]:
    """Return the note and, of a PDF, where its pages begin."""
    from medcode_serving.documents import pdf_to_document

    pages = None
    try:
        if text is not None:
            note = text
        elif pdf is not None:
            document = pdf_to_document(pdf.read_bytes(), settings.documents)
            note, pages = document.text, document.pages
        else:
            assert file is not None
            note = (sys.stdin.buffer.read() if file == STANDARD_STREAM else file.read_bytes()).decode()
    except OSError as error:
        raise MedcodeError(f"{pdf or file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise MedcodeError(f"{file}: not a text file in UTF-8; for a PDF use --pdf") from None
    if not note.strip():
        raise MedcodeError(f"{'--text' if text is not None else file or pdf}: no text in it")
    return note, pages


def table(answer: PredictionResponse) -> str:
    """Return an answer in aligned columns, for reading."""
    model = answer.model
    lines = [
        f"{model.recipe} {model.version} over {model.base_model}, engine {answer.engine}, "
        f"threshold {answer.threshold:.3g}"
    ]
    if answer.fallback is not None:
        lines.append(f"engine {answer.fallback.engine} did not answer ({answer.fallback.reason})")
    if answer.truncated:
        lines.append("the note was too long: its least telling sections were not read")
    lines.append("")
    if not answer.codes:
        return "\n".join([*lines, "no code is as probable as the threshold"])
    systems = max(len("system"), *(len(code.system) for code in answer.codes))
    codes = max(len("code"), *(len(code.code) for code in answer.codes))
    lines.append(f"{'system':<{systems}}  {'code':<{codes}}  probability  description")
    for code in answer.codes:
        told = "-" if code.probability is None else f"{code.probability:.3f}"
        lines.append(f"{code.system:<{systems}}  {code.code:<{codes}}  {told:>11}  {code.description or ''}".rstrip())
        lines += _evidence_lines(code)
    return "\n".join(lines)


def _evidence_lines(code: PredictedCode) -> Iterator[str]:
    for evidence in code.evidence or []:
        # A note's control characters could move a terminal's cursor about, or worse.
        shown = " ".join("".join(char if char.isprintable() else " " for char in evidence.text).split())
        cut = shown if len(shown) <= EVIDENCE_WIDTH else shown[: EVIDENCE_WIDTH - 1] + "…"
        yield f'    "{cut}"' + (f" (page {evidence.page})" if evidence.page else "")
