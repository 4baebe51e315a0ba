"""MIMIC's files in, a served prediction out, through the command line and the persistent instance."""

import json
import re
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from medcode_assets.corpora.synthetic_mimic import write_synthetic_mimic
from medcode_serving.bundle import is_published, latest_bundle, read_gates
from medcode_serving.errors import MedcodeError
from medcode_serving.gguf_folder import verify_folder

from .background import in_background
from .conftest import SMALL, WHOLE, Job, medcode


def test_the_run_publishes_a_bundle_with_its_whole_history(mimic_iv_job: Job) -> None:
    assert mimic_iv_job.result.returncode == 0, mimic_iv_job.result.stderr
    manifest = latest_bundle(mimic_iv_job.home / "bundles", "icd").manifest
    assert manifest.data.partition == "small"
    assert set(manifest.data.sources) >= {"notes", "diagnoses_icd"}
    assert len(manifest.data.split_hash) == 64
    engines = {"adapter", "linear", "untuned_base", "frequency_prior"}
    assert {metric.engine for metric in manifest.metrics} == engines
    assert set(manifest.baselines) == engines - {"adapter"}
    assert all(metric.low <= metric.value <= metric.high for metric in manifest.metrics)
    assert {"micro_f1", "macro_f1"} <= {metric.name for metric in manifest.metrics}
    assert manifest.provenance.mlflow_run
    assert "adapter/adapter_model.safetensors" in manifest.files
    (gguf,) = verify_folder(mimic_iv_job.home / "bundles/icd" / manifest.version / "gguf").files
    assert gguf.quantization == "q4_k_m"
    assert gguf.verification["problems"] == []
    assert gguf.verification["f1"]["notes"] == 8


def test_running_again_makes_nothing_anew(mimic_iv_job: Job) -> None:
    again = medcode(
        "run", "--mimic-dir", mimic_iv_job.mimic_dir, "--dataset-version", "mimic-iv", *WHOLE, home=mimic_iv_job.home
    )
    assert again.returncode == 0, again.stderr
    lines = [line for line in again.stderr.splitlines() if re.match(r"  \w+/", line)]
    assert len(lines) == 24
    assert all("unchanged" in line for line in lines), again.stderr


def test_no_note_text_in_what_dagster_and_mlflow_keep(mimic_iv_job: Job) -> None:
    import gzip

    with gzip.open(mimic_iv_job.mimic_dir / "note" / "discharge.csv.gz", "rt") as stream:
        words = next(line for line in list(stream)[2:] if len(line) > 60).strip()[-50:]
    kept = [*mimic_iv_job.home.glob("dagster/**/*.db"), *mimic_iv_job.home.glob("mlruns/**/*")]
    assert kept
    for file in (file for file in kept if file.is_file()):
        assert words.encode() not in file.read_bytes(), file


def test_the_instance_remembers_runs_and_materializations(mimic_iv_job: Job) -> None:
    runs = sqlite3.connect(mimic_iv_job.home / "dagster" / "history" / "runs.db")
    assert runs.execute("SELECT status FROM runs LIMIT 1").fetchone() == ("SUCCESS",)


def test_predict_answers_without_a_server(mimic_iv_job: Job, tmp_path: Path) -> None:
    output = tmp_path / "answer.json"
    result = medcode("predict", "--text", "HTN and T2DM.", "--output", output, home=mimic_iv_job.home)
    assert result.returncode == 0, result.stderr
    answer = json.loads(output.read_text())
    assert answer["model"]["version"] == latest_bundle(mimic_iv_job.home / "bundles", "icd").manifest.version
    assert all(0 <= code["probability"] <= 1 for code in answer["codes"])


@dataclass(frozen=True)
class HeldBack:
    home: Path
    mimic_dir: Path
    blocked: "subprocess.CompletedProcess[str]"
    published_when_blocked: bool
    relaxed: "subprocess.CompletedProcess[str]"


@in_background
def mimic_iii_job(folder: Path) -> HeldBack:
    """Train so little that the adapter is the untuned base, and publish it only when the gates are relaxed."""
    mimic_dir = write_synthetic_mimic(folder / "iii", release="mimic-iii", admissions=200, seed=2)
    home = folder / "home"
    arguments = ["run", "--mimic-dir", mimic_dir, "--dataset-version", "mimic-iii", *SMALL]
    arguments += ["--set=training.epochs=0.01", "--set=training.learning_rate=1e-9"]
    blocked = medcode(*arguments, "--set=gates.relax=[]", home=home)
    published = is_published(home / "bundles", "icd")
    return HeldBack(home, mimic_dir, blocked, published, medcode(*arguments, home=home))


def test_a_bundle_that_does_not_pass_the_gates_stays_with_the_reason(mimic_iii_job: HeldBack) -> None:
    blocked = mimic_iii_job.blocked
    assert blocked.returncode == 2, blocked.stderr
    (line,) = [line for line in blocked.stderr.splitlines() if line.startswith("medcode: ")]
    assert "icd/bundle: above_untuned_base: micro F1 (open) on test: adapter" in line
    assert not mimic_iii_job.published_when_blocked
    assert mimic_iii_job.relaxed.returncode == 0, mimic_iii_job.relaxed.stderr
    bundle = latest_bundle(mimic_iii_job.home / "bundles", "icd")
    gates = {gate.name: gate for gate in read_gates(bundle)}
    assert gates["above_untuned_base"].relaxed
    (report,) = mimic_iii_job.home.glob("artifacts/icd/iii/report/report.html")
    assert bundle.manifest.version in report.read_text()


def test_mimic_iii_in_upper_case(mimic_iii_job: HeldBack) -> None:
    assert (mimic_iii_job.mimic_dir / "NOTEEVENTS.csv.gz").exists()
    bundle = latest_bundle(mimic_iii_job.home / "bundles", "icd")
    assert bundle.manifest.data.release == "mimic-iii"


def test_two_engines_of_an_evaluation_are_compared_on_the_command_line(mimic_iv_job: Job) -> None:
    compared = medcode("evaluate", "--compare", "latest", "latest:linear", home=mimic_iv_job.home)
    assert compared.returncode == 0, compared.stderr
    assert "paired bootstrap over the same 8 test documents" in compared.stdout
    assert re.search(r"\| micro_f1 +\| open +\| [+-]0\.\d{4} ", compared.stdout)
    wrong = medcode("evaluate", "--compare", "latest", "nowhere", home=mimic_iv_job.home)
    assert wrong.returncode == 2
    assert "nowhere: no such evaluation of recipe icd" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset-version", "mimic-v"], "--dataset-version mimic-v: unknown"),
        (["--dataset-version", "mimic-iii"], "not a complete mimic-iii folder: expected"),
        (["--dataset-version", "mimic-iv", "--set", "lora.rank=3"], "lora.rank: no such setting"),
        (["--dataset-version", "mimic-iv", "--config", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["--dataset-version", "mimic-iv", "--device", "tpu"], "device"),
        (["--dataset-version", "mimic-iv", "--base-model", "owner/absent"], "owner/absent"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    mimic_iv_job: Job, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = medcode("run", "--mimic-dir", mimic_iv_job.mimic_dir, *arguments, home=tmp_path / "home")
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("medcode: ")]
    assert len(errors) == 1, result.stderr
    assert message in errors[0]
    assert "Traceback" not in result.stderr


def test_nothing_published_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    result = medcode("predict", "--text", "HTN.", home=tmp_path / "home")
    assert result.returncode == 2
    assert "no bundle of recipe 'icd' is published yet" in result.stderr
    with pytest.raises(MedcodeError):
        latest_bundle(tmp_path / "home" / "bundles", "icd")
