"""The recipes that answer in words as a user runs them: little made data, a bundle that is not good but serves."""

import json
from pathlib import Path

from fastapi.testclient import TestClient

from medcode_assets.recipes.words.answers import TUNED, answers_file, read_word_answers
from medcode_assets.recipes.words.measuring import read_word_report
from medcode_serving.api.app import create_app
from medcode_serving.bundle import bundle_versions, open_bundle
from medcode_serving.settings import load_inference_settings

from .background import in_background
from .conftest import Job, medcode

RECIPES = Path(__file__).parents[2] / "medcode_assets" / "recipes"
FEW = [
    "--set=training.epochs=0.25",
    "--set=training.batch_size=16",
    "--set=evaluation.max_documents=6",
    "--set=export.quantizations=[q8_0]",
    "--set=export.prompts=3",
    # A few steps make no good adapter.
    "--set=gates.relax=[above_untuned_base, not_collapsed, readable]",
]
MADE = {
    "consult": ["--set=consult.count=120"],
    "medqa": ["--set=medqa.synthetic_questions=160", "--set=brevity.questions=4"],
    "specialty": ["--set=specialty.synthetic_per_specialty=40"],
}
PARTITION = {"consult": "few", "medqa": "few", "specialty": "few-01"}
OWN = {
    "consult": ("converted/dataset/dataset_info.json", "rating_sheet/rating_sheet.csv", "comparison/words.json"),
    "medqa": ("errors", "confidence", "brevity"),
    "specialty": (
        "results/base_model_results.csv",
        "results/finetuned_model_results.csv",
        "results/model_comparison.csv",
        "results/specialty_performance.csv",
        "recommendations/training_recommendations.json",
    ),
}


def run(recipe: str, folder: Path) -> Job:
    config = RECIPES / recipe / "demo" / f"{recipe}.yaml"
    arguments = ["run", "--name", "few", f"--config={config}", *MADE[recipe], *FEW]
    return Job(folder, folder, medcode(recipe, *arguments, home=folder))


@in_background
def consult_job(folder: Path) -> Job:
    return run("consult", folder)


@in_background
def medqa_job(folder: Path) -> Job:
    return run("medqa", folder)


@in_background
def specialty_job(folder: Path) -> Job:
    return run("specialty", folder)


def test_consult_ends_in_a_bundle_that_answers(consult_job: Job) -> None:
    assert_bundle_answers("consult", consult_job)


def test_medqa_ends_in_a_bundle_that_answers(medqa_job: Job) -> None:
    assert_bundle_answers("medqa", medqa_job)


def test_specialty_ends_in_a_bundle_that_answers(specialty_job: Job) -> None:
    assert_bundle_answers("specialty", specialty_job)


def assert_bundle_answers(recipe: str, job: Job) -> None:
    assert job.result.returncode == 0, job.result.stderr
    artifacts = job.home / "artifacts" / recipe / PARTITION[recipe]
    for name in OWN[recipe]:
        assert (artifacts / name).exists(), name
    report = read_word_report(artifacts / "evaluation")
    assert set(report.models) == {"untuned_base", "adapter"}
    assert report.gain(report.headline) is not None
    asked, answers = read_word_answers(answers_file(artifacts / "evaluation", TUNED))
    assert len(asked) == 6
    events = "".join(file.read_text(errors="ignore") for file in (job.home / "dagster").rglob("*.log"))
    assert asked[0].question not in events + job.result.stderr

    (version,) = bundle_versions(job.home / "bundles", recipe)
    bundle = open_bundle(job.home / "bundles" / recipe / version)
    assert bundle.manifest.answers_in_words
    assert json.loads((bundle.path / "gguf" / "manifest.json").read_text())["version"] == version
    settings = load_inference_settings(**{"model.home": str(job.home), "model.recipes": [recipe]})
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        answer = client.post("/generate", json={"question": asked[0].question}).json()
        assert answer["response"] == answers[0].text
        assert answer["safety_report"]["risk_level"]
        assert client.post("/predict", json={"text": "fever"}).status_code == 422


def test_the_next_iteration_adds_samples_and_keeps_the_holdout(specialty_job: Job) -> None:
    home = specialty_job.home
    config = RECIPES / "specialty" / "demo" / "specialty.yaml"
    more = "--set=specialty.adjustments={cardiology: 1.5}"
    made = medcode(
        "specialty", "next", "--name", "few", f"--config={config}", *MADE["specialty"], *FEW, more, home=home
    )
    assert made.returncode == 0, made.stderr
    assert "few-02" in made.stdout
    first, second = (home / "artifacts" / "specialty" / f"few-0{number}" for number in (1, 2))
    asked = [read_word_answers(answers_file(folder / "evaluation", TUNED))[0] for folder in (first, second)]
    assert [one.question for one in asked[0]] == [one.question for one in asked[1]]
    counts = [
        json.loads((folder / "samples" / "statistics.json").read_text())["all"]["train"] for folder in (first, second)
    ]
    assert counts[1] > counts[0]
