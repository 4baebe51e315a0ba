"""`medcode predict` and `medcode keys`, on the tiny bundle."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medcode_assets.cli import app
from medcode_assets.predict_command import predict_once, prediction_options, table
from medcode_assets.predict_lines import predict_lines
from medcode_serving.answers import (
    Evidence,
    ModelIdentity,
    PredictedCode,
    PredictionOptions,
    PredictionResponse,
)
from medcode_serving.bundle import publish
from medcode_serving.errors import MedcodeError
from medcode_serving.loading import load_predictor
from medcode_serving.settings import InferenceSettings, load_inference_settings

NOTES = ["Type 2 diabetes.", "HTN, DM2 with hyperglycaemia.", "Pneumonia.", "Acute kidney injury.", "Appendectomy."]
TOP = PredictionOptions(threshold=0, top_k=2)


@pytest.fixture(scope="module")
def settings(home: Path) -> InferenceSettings:
    # One note a batch, four a portion: several portions of few notes.
    flags = {"model.home": str(home), "device": "cpu", "generation.batch_size": 1}
    return load_inference_settings(**flags)


def write_lines(path: Path, *lines: object) -> Path:
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    results = [json.loads(line) for line in path.read_bytes().splitlines()]
    for result in results:
        result.get("prediction", {}).pop("processing_time_ms", None)
    return results


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [{"id": f"note-{number}", "text": text} for number, text in enumerate(NOTES)]
    return write_lines(tmp_path_factory.mktemp("notes") / "notes.jsonl", *lines)


@pytest.fixture(scope="module")
def answers(settings: InferenceSettings, notes: Path) -> Path:
    """The whole answer to `notes`; not to be changed."""
    output = notes.with_name("answers.jsonl")
    predict_lines(settings, TOP, jsonl=notes, output=output)
    return output


def test_lines_are_answered_in_order(settings: InferenceSettings, answers: Path) -> None:
    results = read_lines(answers)
    assert [result["id"] for result in results] == [f"note-{number}" for number in range(len(NOTES))]
    expected = load_predictor(settings).predict_batch(NOTES, TOP)
    for result, answer in zip(results, expected, strict=True):
        found = result["prediction"]
        assert [code["code"] for code in found["codes"]] == [code.code for code in answer.codes]
        assert len(found["codes"]) <= 2
        assert found["model"]["version"] == "v1"


def test_a_bad_line_is_a_problem_of_its_own(
    settings: InferenceSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = write_lines(
        tmp_path / "notes.jsonl",
        b'{"id": 1, "text": "cut',
        b'{"id": 2, "text": "\xff"}',
        {"id": 3, "text": " \n"},
        {"id": 4, "text": "\ud800"},
        {"id": 5, "text": ["Pneumonia."]},
        ["Pneumonia."],
        {"id": [6], "text": "Pneumonia."},
        b"[" * 100_000,
        b"",
        b"\xef\xbb\xbf" + json.dumps({"id": 7, "text": "Pneumonia."}).encode(),
        {"text": "Pneumonia."},
        {"id": 9, "text": "Pneumonia. " * 500},
        {"id": 10, "text": "Pneumonia.", "threshold": 0.1},
    )
    output = tmp_path / "answers.jsonl"
    predict_lines(settings, PredictionOptions(long_notes="refuse"), jsonl=lines, output=output)
    results = read_lines(output)
    outcomes = [
        (result["id"], result.get("problem", {}).get("type", "answered").removeprefix("urn:medcode:problem:"))
        for result in results
    ]
    assert outcomes == [
        (None, "invalid_json"),
        (None, "invalid_json"),
        (3, "empty"),
        (4, "not_unicode"),
        (5, "invalid_request"),
        (None, "invalid_request"),
        (None, "invalid_request"),
        (None, "invalid_json"),
        (7, "answered"),
        (None, "answered"),
        (9, "too_long"),
        (10, "invalid_request"),
    ]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == "12 notes: 2 answered, 10 with a problem"


@pytest.mark.parametrize("kept", ["nothing", "half a line", "three lines", "three and a half", "all"])
def test_a_second_run_goes_on_where_the_first_was_killed(
    settings: InferenceSettings, notes: Path, answers: Path, tmp_path: Path, kept: str
) -> None:
    whole = answers.read_bytes()
    lines = whole.splitlines(keepends=True)
    three = b"".join(lines[:3])
    bytes_kept = {
        "nothing": b"",
        "half a line": whole[:3],
        "three lines": three,
        "three and a half": three + lines[3][:-1],
        "all": whole,
    }[kept]
    output = tmp_path / "answers.jsonl"
    output.write_bytes(bytes_kept)
    predict_lines(settings, TOP, jsonl=notes, output=output)
    assert read_lines(output) == read_lines(answers)
    done = bytes_kept.rfind(b"\n") + 1
    assert output.read_bytes()[:done] == bytes_kept[:done], "what was there is not predicted again"


def test_answers_to_something_else_stay_as_they_are(
    settings: InferenceSettings, notes: Path, answers: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    lines = answers.read_bytes().splitlines(keepends=True)

    def refused(content: bytes) -> str:
        output.write_bytes(content)
        with pytest.raises(MedcodeError) as error:
            predict_lines(settings, TOP, jsonl=notes, output=output)
        assert output.read_bytes() == content
        return str(error.value)

    assert "line 2: answers another note" in refused(lines[0] + lines[2])
    assert "more answers than there are notes" in refused(b"".join(lines) + lines[0])
    assert "line 1: no answer of" in refused(b"a file of notes, without a line's end")
    assert "line 2: no answer of" in refused(lines[0] + b'{"id": "note-1"}\n')
    output.write_bytes(notes.read_bytes())
    with pytest.raises(MedcodeError, match="holds the notes"):
        predict_lines(settings, TOP, jsonl=output, output=output)
    predict_lines(settings, TOP, jsonl=notes, output=output, overwrite=True)
    assert read_lines(output) == read_lines(answers)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_line_of_its_own(settings: InferenceSettings, notes: Path) -> None:
    with pytest.raises(MedcodeError, match="^/dev/full: No space left on device; the same command goes on"):
        predict_lines(settings, TOP, jsonl=notes, output=Path("/dev/full"))


def test_answers_of_two_bundles_do_not_mix(
    make_bundle, settings: InferenceSettings, notes: Path, answers: Path, tmp_path: Path
) -> None:
    publish(make_bundle(tmp_path / "bundles", "v2"))
    newer = settings.model_copy(update={"model": settings.model.model_copy(update={"home": tmp_path})})
    output = tmp_path / "answers.jsonl"
    output.write_bytes(answers.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(MedcodeError, match="are of bundle v1, and now v2 is published"):
        predict_lines(newer, TOP, jsonl=notes, output=output)
    shutil.copy(answers, output)
    predict_lines(newer, TOP, jsonl=notes, output=output)  # nothing is left to predict


@pytest.mark.parametrize(
    ("flags", "options", "told"),
    [
        ({"model.engine": "linear"}, {}, "engine transformers, and this run has engine linear"),
        ({}, {"threshold": 0.5}, "threshold 0.0, and this run has threshold 0.5"),
        ({"generation.threshold": 0.5}, {"threshold": None}, "threshold 0.0, and this run has threshold 0.5"),
        ({}, {"constrained": False}, "constrained True, and this run has constrained False"),
        ({}, {"evidence": "lexical"}, "evidence none, and this run has evidence lexical"),
    ],
)
def test_answers_of_two_ways_do_not_mix(
    home: Path, notes: Path, answers: Path, tmp_path: Path, flags: dict, options: dict, told: str
) -> None:
    output = tmp_path / "answers.jsonl"
    output.write_bytes(answers.read_bytes().splitlines(keepends=True)[0])
    other = load_inference_settings(**{"model.home": str(home), "device": "cpu", **flags})
    with pytest.raises(MedcodeError) as error:
        predict_lines(other, TOP.model_copy(update=options), jsonl=notes, output=output)
    assert told in str(error.value) and "--overwrite" in str(error.value)
    assert len(read_lines(output)) == 1


def test_a_fallback_tells_nothing_of_the_engine(
    settings: InferenceSettings, notes: Path, answers: Path, tmp_path: Path
) -> None:
    first = json.loads(answers.read_bytes().splitlines()[0])
    first["prediction"] |= {"engine": "linear", "threshold": 0.9}
    output = write_lines(tmp_path / "answers.jsonl", first)
    the_bundles_own = load_inference_settings(**{"model.home": settings.model.home, "device": "cpu"})
    with pytest.raises(MedcodeError, match="engine linear, and"):
        predict_lines(the_bundles_own, PredictionOptions(), jsonl=notes, output=output)
    first["prediction"]["engine"] = "transformers"
    write_lines(output, first)
    with pytest.raises(MedcodeError, match="threshold 0.9, and"):
        predict_lines(the_bundles_own, PredictionOptions(), jsonl=notes, output=output)
    first["prediction"]["fallback"] = {"engine": "transformers", "reason": "failed"}
    write_lines(output, first)
    assert predict_lines(the_bundles_own, PredictionOptions(), jsonl=notes, output=output) == 0
    assert len(read_lines(output)) == len(NOTES)


def test_evidence_that_an_engine_cannot_give_is_refused_before_it_predicts(home: Path, notes: Path) -> None:
    # Nobody listens there, and nobody has to be asked.
    remote = {"remote.model": "any", "remote.api_base": "http://127.0.0.1:9/v1", "remote.constraint": "none"}
    settings = load_inference_settings(**{"model.home": str(home), "model.engine": "litellm", **remote})
    options = PredictionOptions(evidence="occlusion")
    with pytest.raises(MedcodeError, match="evidence by occlusion needs engine transformers"):
        predict_lines(settings, options, jsonl=notes)
    with pytest.raises(MedcodeError, match="evidence by occlusion needs engine transformers"):
        predict_once(settings, options, text="Pneumonia.")


def answer(**more: Any) -> PredictionResponse:
    evidence = [Evidence(start=0, end=9, text="sugar\x1b[2J\n high", score=1.0, page=2)]
    codes = [
        PredictedCode(
            system="icd10cm", code="E11.9", description="Type 2 diabetes", probability=0.93, evidence=evidence
        ),
        PredictedCode(system="icd10pcs", code="0DTJ4ZZ", description=None, probability=None),
    ]
    model = ModelIdentity(recipe="icd", version="v1", base_model="embedded")
    fields = {"codes": codes, "model": model, "engine": "transformers", "threshold": 0.4, "truncated": False}
    return PredictionResponse(**{**fields, "dropped": 0, "processing_time_ms": 1.0, **more})


def test_a_table_can_be_read() -> None:
    assert table(answer(truncated=True)).splitlines() == [
        "icd v1 over embedded, engine transformers, threshold 0.4",
        "the note was too long: its least telling sections were not read",
        "",
        "system    code     probability  description",
        "icd10cm   E11.9          0.930  Type 2 diabetes",
        '    "sugar [2J high" (page 2)',
        "icd10pcs  0DTJ4ZZ            -",
    ]
    assert table(answer(codes=[])).splitlines()[-1] == "no code is as probable as the threshold"


def run(*arguments: str | Path, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)), input=stdin)


def test_one_note_from_the_command_line(home: Path, tmp_path: Path) -> None:
    result = run("predict", "--file", "-", "--output-dir", home, "--top-k", 1, "--threshold", 0, stdin="Pneumonia.")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["codes"]) == 1
    for flags, message in [
        ((), "exactly one of"),
        (("--text", "a", "--jsonl", "b"), "exactly one of"),
        (("--text", "a", "--top-k", "0"), "--top-k: Input should be greater than or equal to 1"),
        (("--text", "a", "--threshold", "nan"), "--threshold: "),
        (("--text", "a", "--engine", "linear", "--use-litellm"), "give one of them"),
        (("--text", "a", "--overwrite"), "goes with --jsonl"),
        (("--text", "a", "--strict"), "goes with --jsonl"),
        (("--jsonl", tmp_path / "none.jsonl"), "none.jsonl: No such file"),
        (("--file", tmp_path), "Is a directory"),
        (("--text", "a", "--output", tmp_path / "none" / "out.json"), "there is no folder"),
    ]:
        error = run("predict", "--output-dir", home, *flags).exception
        assert isinstance(error, MedcodeError), (flags, error)
        assert message in str(error)
    with pytest.raises(MedcodeError, match="--max-codes: "):
        prediction_options(max_codes=0)


def test_notes_with_a_problem_end_a_strict_run_with_1(home: Path, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "notes.jsonl", {"id": 1, "text": "Pneumonia."}, {"id": 2, "text": " "})
    flags = ["--jsonl", lines, "--output", tmp_path / "answers.jsonl", "--output-dir", home]
    made = run("predict", *flags)
    assert made.exit_code == 0, made.exception
    assert "loading the model ...\n" in made.stderr
    strict = run("predict", *flags, "--strict")
    assert strict.exit_code == 1
    assert strict.stderr == "2 notes: 1 answered, 1 with a problem; 2 of them by an earlier run\n"
    assert run("predict", *flags[:1], write_lines(lines, {"text": "Pneumonia."}), *flags[4:], "--strict").exit_code == 0


def test_a_key_is_shown_once_and_opens_the_server(tmp_path: Path) -> None:
    from medcode_serving.api.keys import KeyRing

    file = tmp_path / "keys.yaml"
    flags = ["--name", "coding-desk", "--scope", "predict", "--scope", "metrics", "--expires", "2999-01-31"]
    made = run("keys", "new", *flags, "--file", file)
    assert made.exit_code == 0, made.exception
    secret = made.stdout.strip()
    assert "\n" not in secret
    assert secret not in made.stderr + file.read_text()
    found = KeyRing.load(file).find(secret)
    assert found is not None
    assert (found.name, found.scopes) == ("coding-desk", ("predict", "metrics"))
    shown = run("keys", "list", "--file", file).stdout.splitlines()
    assert shown[1].split() == ["coding-desk", "predict,", "metrics", "-", "2999-01-31"]
    for wrong, message in [
        (["--name", "coding-desk", "--scope", "admin"], "another key is called"),
        (["--name", "b", "--scope", "everything"], "scopes"),
        (["--name", "b", "--scope", "admin", "--expires", "tomorrow"], "--expires: not a day"),
    ]:
        error = run("keys", "new", *wrong, "--file", file).exception
        assert isinstance(error, MedcodeError)
        assert message in str(error)
    assert isinstance(run("keys", "list").exception, MedcodeError)
