"""Iterations of a progressive training: what each takes over, and when it is refused."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medcode_assets.artifacts import made, making, required
from medcode_assets.cli_specialty import app
from medcode_assets.recipes.specialty.drawing import (
    check_samples,
    current_iteration,
    fill_samples,
    plan,
    refuse_undrawable,
)
from medcode_assets.recipes.specialty.iterations import Iteration, begin, end, finished, iteration_of
from medcode_assets.recipes.specialty.progress import collect_progress, write_progress
from medcode_assets.recipes.specialty.recommending import recommend, write_recommendations
from medcode_assets.recipes.specialty.results import RESULTS
from medcode_assets.recipes.specialty.sample_files import read_samples, read_statistics, write_samples
from medcode_assets.recipes.specialty.sampling import counts
from medcode_assets.recipes.specialty.settings import SpecialtySection
from medcode_serving.errors import MedcodeError
from tests.assets.recipes.specialty.advice import group, results

WEAK = "neurology"


@dataclass
class Training:
    """A home with a source, and what its assets do without Dagster."""

    home: Path
    source: Path

    def folder(self, partition: str, name: str) -> Path:
        return self.home / "artifacts" / "specialty" / partition / name

    def draw(self, partition: str, *, anew: bool = False, **section: Any) -> bool:
        """Make an iteration's samples as asset samples does; return whether they were unchanged."""
        planned = plan(iteration_of(partition), SpecialtySection(**section), self.folder)
        target = self.folder(partition, "samples")
        earlier = made(target)
        if earlier and earlier["fingerprint"] == planned.fingerprint and not anew:
            return True
        with making(target, planned.fingerprint) as (aside, facts):
            facts.update(fill_samples(planned, aside))
        return False

    def advise(self, partition: str, **section: Any) -> None:
        """Measure 0.8 for one specialty and 0.2 for the other, and recommend what follows from that."""
        found = results(group("cardiology", 0.1, 0.8), group(WEAK, 0.1, 0.2))
        facts = required(self.folder(partition, "samples"), "samples")
        with making(self.folder(partition, "results"), "results") as (aside, _):
            (aside / RESULTS).write_text(found.model_dump_json())
        with making(self.folder(partition, "recommendations"), "advice") as (aside, told):
            sizes = counts(read_samples(self.folder(partition, "samples")))
            write_recommendations(aside, recommend(found, sizes, SpecialtySection(**section)))
            told["samples"] = facts["contents"]

    def refusal(self, partition: str, **section: Any) -> str:
        with pytest.raises(MedcodeError) as raised:
            self.draw(partition, **section)
        return str(raised.value)

    def checks(self, partition: str) -> dict[str, bool]:
        folder = self.folder(partition, "samples")
        return {name: passed for name, passed, _ in check_samples(read_samples(folder), required(folder, "samples"))}

    def part(self, partition: str, name: str) -> list[str]:
        return [s.item.id for s in read_samples(self.folder(partition, "samples")) if s.part == name]


def write_source(folder: Path, specialty: str, number: int) -> None:
    rows = [
        {"question": f"{specialty} number {place}?", "answer": f"{specialty} is {place}"} for place in range(number)
    ]
    (folder / f"dataset_with_answers_{specialty}.json").write_text(json.dumps(rows))


@pytest.fixture
def training(tmp_path: Path) -> Training:
    source = tmp_path / "source"
    source.mkdir()
    for specialty, number in (("cardiology", 60), (WEAK, 40)):
        write_source(source, specialty, number)
    return Training(tmp_path / "home", source)


@pytest.fixture
def started(training: Training) -> Training:
    training.draw("p-01", source=str(training.source))
    training.advise("p-01")
    return training


def test_three_iterations_feed_the_weak_specialty_and_keep_holdout_and_eval(started: Training) -> None:
    # 60: holdout 10, half of 50 is 25, of it 5 eval; 40: holdout 10, half of 30 is 15, of it 3 eval.
    told = read_statistics(started.folder("p-01", "samples"))["specialties"]
    assert [[told[name][kind] for kind in ("holdout", "eval", "train", "pool")] for name in ("cardiology", WEAK)] == [
        [10, 5, 20, 25],
        [10, 3, 12, 15],
    ]
    advice = json.loads((started.folder("p-01", "recommendations") / "training_recommendations.json").read_text())
    assert advice["low_performance_specialties"] == [WEAK]
    assert advice["recommended_sample_increases"] == {WEAK: 1.5}
    assert advice["overall_improvement"] == pytest.approx(0.3)

    started.draw("p-02")  # the source is that of iteration 1
    assert started.checks("p-02") == {"holdout_unchanged": True, "eval_unchanged": True, "no_overlap": True}
    for name in ("holdout", "eval"):
        assert started.part("p-02", name) == started.part("p-01", name)
    assert started.part("p-02", "train") == [*started.part("p-01", "train"), *started.part("p-01", "pool")[25:31]]
    started.advise("p-02")

    started.draw("p-03", adjustments={"cardiology": 2.5, WEAK: 1.0})
    third = read_statistics(started.folder("p-03", "samples"))
    assert {name: own["added"] for name, own in third["specialties"].items()} == {"cardiology": 25, WEAK: 0}
    assert third["pool_exhausted"] == ["cardiology"]  # 30 were wanted
    started.advise("p-03")
    progress = collect_progress(Iteration("p", 3), "token_f1", started.folder)
    assert [step.train for step in progress.steps] == [32, 38, 63]
    assert progress.warnings == ()
    write_progress(started.folder("p-03", "samples"), progress)
    assert (started.folder("p-03", "samples") / "progress.png").read_bytes().startswith(b"\x89PNG")

    shown = CliRunner().invoke(app, ["status", "--name", "p", "--output-dir", str(started.home)])
    assert shown.exit_code == 0, shown.output
    assert "p-03" in shown.output
    assert f"weak: {WEAK}" in shown.output
    assert "cardiology: its pool had fewer samples than were wanted" in shown.output


def test_what_is_drawn_again_is_unchanged(started: Training) -> None:
    started.draw("p-02", adjustments={"cardiology": 1.5})
    # Neither the source nor the adjustments need be named again.
    assert started.draw("p-01")
    assert started.draw("p-02")
    assert not started.draw("p-01", anew=True)
    assert started.part("p-01", "train") == started.part("p-02", "train")[:32]
    assert started.draw("p-02")


def test_an_iteration_waits_for_the_one_before(training: Training) -> None:
    assert "p-01: no source; name a folder" in training.refusal("p-01")
    assert "p-01 has no samples yet" in training.refusal("p-02", source=str(training.source))
    training.draw("p-01", source=str(training.source))
    assert "p-01 has no recommendations yet" in training.refusal("p-02")
    training.advise("p-01")
    # Drawn anew with other shares, it has other samples than were evaluated.
    training.draw("p-01", train_share=0.6)
    assert "are of other samples than it has now" in training.refusal("p-02", train_share=0.6)


def test_changed_sources_and_settings_are_refused_by_later_iterations(started: Training) -> None:
    assert "specialty.holdout is 9, and was 10 in p-01" in started.refusal("p-02", holdout=9)
    write_source(started.source, "cardiology", 61)
    write_source(started.source, "oncology", 61)
    message = started.refusal("p-02")
    assert "(cardiology changed; oncology is new)" in message
    assert "number" not in message


def test_an_iteration_that_another_was_made_from_does_not_become_another_one(started: Training) -> None:
    started.draw("p-02")
    assert "p-02 was made from it as it was" in started.refusal("p-01", seed=1)
    write_source(started.source, "cardiology", 61)
    assert "p-02 was made from it as it was" in started.refusal("p-01")


@pytest.mark.parametrize(
    ("tamper", "failed"),
    [
        (lambda samples: samples[1:], "holdout_unchanged"),
        (lambda samples: [s for s in samples if s.part != "eval"], "eval_unchanged"),
        (lambda samples: [*samples, samples[-1]], "no_overlap"),
    ],
)
def test_the_checks_see_samples_that_changed(started: Training, tamper: Callable[[Any], Any], failed: str) -> None:
    folder = started.folder("p-01", "samples")
    write_samples(folder, tamper(read_samples(folder)))
    started.draw("p-02")
    assert [name for name, passed in started.checks("p-02").items() if not passed] == [failed]


def test_an_iteration_is_refused_if_it_would_add_nothing(training: Training) -> None:
    training.draw("p-01", source=str(training.source))
    following = Iteration("p", 2)
    with pytest.raises(MedcodeError, match="p-01 has no recommendations yet"):
        refuse_undrawable(following, SpecialtySection(), training.folder)
    training.advise("p-01", below_mean=0.0)
    with pytest.raises(MedcodeError, match="p-02: no specialty gets more samples, for p-01 recommends none"):
        refuse_undrawable(following, SpecialtySection(), training.folder)
    with pytest.raises(MedcodeError, match="no specialty oncology"):
        refuse_undrawable(following, SpecialtySection(adjustments={"oncology": 2.0}), training.folder)
    planned = refuse_undrawable(following, SpecialtySection(adjustments={WEAK: 2.0}), training.folder)
    assert (planned.iteration, planned.source) == (following, str(training.source))


def test_next_goes_on_with_what_is_not_finished(training: Training) -> None:
    first = Iteration("p", 1)
    training.draw("p-01", source=str(training.source))
    assert current_iteration([first], training.folder) == first  # nothing measured it
    training.advise("p-01")
    assert current_iteration([first], training.folder) == Iteration("p", 2)
    begin(first, training.folder)  # and was killed, perhaps while it wrote GGUF files
    assert current_iteration([first], training.folder) == first
    end(first, training.folder)
    training.draw("p-01", train_share=0.6)  # other samples than were measured
    assert not finished(first, training.folder)
    training.advise("p-01")
    assert finished(first, training.folder)
    last = Iteration("p", 99)
    training.folder("p-99", "x").parent.mkdir(parents=True)
    for name in ("samples", "recommendations"):
        training.folder("p-01", name).rename(training.folder("p-99", name))
    with pytest.raises(MedcodeError, match="the last of 99"):
        current_iteration([last], training.folder)


@pytest.mark.parametrize("key", ["p", "p-1", "p-00", "P-01", "p-001x"])
def test_a_partition_that_is_no_iteration_is_told(key: str) -> None:
    with pytest.raises(MedcodeError, match="no iteration; keys are NAME-01"):
        iteration_of(key)


def test_names_with_numbers_are_names() -> None:
    assert iteration_of("mix-02-07") == Iteration("mix-02", 7)
    assert Iteration("mix-02", 7).key == "mix-02-07"
