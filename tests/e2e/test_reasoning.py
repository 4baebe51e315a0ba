"""Recipe `reasoning` as a user runs it: the whole chain on a few brief narratives, and what may go wrong before it."""

import json
from pathlib import Path

from fastapi.testclient import TestClient

from medcode_assets.recipes.reasoning.assets import GATES_OF
from medcode_assets.recipes.reasoning.comparison import read_comparison
from medcode_serving.api.app import create_app
from medcode_serving.bundle import bundle_versions, open_bundle
from medcode_serving.reasoned import SPECIAL_TOKENS
from medcode_serving.settings import load_inference_settings

from .background import in_background
from .conftest import Job, medcode

DEMO = Path(__file__).parents[2] / "medcode_assets" / "recipes" / "reasoning" / "demo"
FEW = [
    f"--config-dir={DEMO}",
    "--set=reasoning.examples=160",
    "--set=reasoning.test_share=0.2",
    "--set=reasoning.validation_share=0.15",
    "--set=training.batch_size=16",
    "--set=training.epochs=0.6",
    "--set=evaluation.max_documents=8",
    "--set=evaluation.resamples=100",
    "--set=export.quantizations=[q8_0]",
    "--set=export.prompts=3",
    "--set=export.f1_notes=0",
    # A few steps make no good adapter.
    "--set=gates.relax=[above_frequency_prior, above_untuned_base, not_collapsed]",
]
STAGES = ("stage_1", "stage_2", "stage_3")


@in_background
def reasoning_job(folder: Path) -> Job:
    return Job(folder, folder, medcode("reasoning", "run", "--name", "few", *FEW, home=folder))


def test_three_stages_end_in_a_bundle_that_serves_reasoning_apart_from_codes(reasoning_job: Job) -> None:
    assert reasoning_job.result.returncode == 0, reasoning_job.result.stderr
    assert "untuned base" in reasoning_job.result.stdout
    home = reasoning_job.home
    artifacts = home / "artifacts" / "reasoning" / "few"
    facts = {name: json.loads((artifacts / name / "made.json").read_text()) for name in STAGES}
    assert facts["stage_2"]["settings"]["training"]["start_from"].endswith("stage_1/weights")
    assert facts["stage_3"]["settings"]["training"]["start_from"].endswith("stage_2/weights")
    assert facts["stage_3"]["losses"][0][1] < 0.75  # -log(1/2) where it begins
    found = read_comparison(artifacts / "stages" / "comparison.json")
    assert [stage.name for stage in found.stages] == ["untuned_base", "frequency_prior", *STAGES]
    assert found.preferences is not None
    assert {gate.name for gate in found.gates} == {gate for gates in GATES_OF.values() for gate in gates}
    narrative = json.loads((artifacts / "corpus" / "corpus" / "stage_2" / "test.jsonl").read_text().splitlines()[0])
    narrative = narrative["messages"][1]["content"]
    events = "".join(file.read_text(errors="ignore") for file in (home / "dagster").rglob("*.log"))
    assert narrative not in events + (artifacts / "stages" / "stages.html").read_text()

    (version,) = bundle_versions(home / "bundles", "reasoning")
    bundle = open_bundle(home / "bundles" / "reasoning" / version)
    assert bundle.manifest.base_model.added_tokens == SPECIAL_TOKENS
    assert bundle.manifest.prompt.answer == "reasoned"
    settings = load_inference_settings(**{"model.home": str(home), "model.recipes": ["reasoning"]})
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        answer = client.post("/predict", json={"text": narrative, "threshold": 0}).json()
        (code,) = answer["codes"]
        assert code["system"] in ("icd10cm", "cpt", "hcpcs")
        assert answer["reasoning"] is None or answer["reasoning"].startswith("- ") or answer["reasoning"].strip()
        linear = client.post("/predict", json={"text": narrative, "threshold": 0, "evidence": "occlusion"})
        assert linear.status_code == 422
        assert "reasoning" in linear.json()["detail"]


def test_what_is_unchanged_is_not_made_again(reasoning_job: Job) -> None:
    again = medcode("reasoning", "run", "--name", "few", *FEW, home=reasoning_job.home)
    assert again.returncode == 0, again.stderr
    for name in ("corpus", *STAGES, "stages", "evaluation", "bundle"):
        lines = [line for line in again.stderr.splitlines() if line.split()[:1] == [f"reasoning/{name}"]]
        assert lines
        assert all("unchanged" in line for line in lines), lines
