"""The recipe's own assets through Dagster, the models' answers written by the test."""

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from medcode_assets.artifacts import making
from medcode_assets.recipes.specialty.assets import own_assets, own_sections
from medcode_assets.recipes.specialty.recipe import SPECIALTY
from medcode_assets.recipes.specialty.results import safe_cell, write_results
from medcode_assets.recipes.specialty.settings import SpecialtySection, SpecialtySettings
from medcode_assets.recipes.words.answers import TUNED, UNTUNED, Answered, answers_file, write_word_answers
from medcode_assets.recipes.words.questions import asked_questions
from medcode_assets.resources.compute import Compute
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_assets.warehouse import open_warehouse, record_of
from medcode_serving.errors import MedcodeError

WEAK = "neurology"
WRONG = "=1+1 nonsense"
ADVICE = ("results", "recommendations", "progress")


@dataclass
class Project:
    """A home with a source, and what makes its assets."""

    home: Path
    source: Path
    instance: dg.DagsterInstance

    def folder(self, partition: str, name: str) -> Path:
        return self.home / "artifacts" / "specialty" / partition / name

    def make(self, partition: str, *names: str, **section: Any) -> dg.ExecuteInProcessResult:
        settings = SpecialtySettings(specialty=SpecialtySection(bertscore_model=None, **section))
        self.instance.add_dynamic_partitions(str(SPECIALTY.partitions.name), [partition])
        return dg.materialize(
            [asset for asset in own_assets(settings) if asset.key.path[-1] in names],
            instance=self.instance,
            partition_key=partition,
            resources={
                "home": Home(folder=str(self.home)),
                "warehouse": Warehouse(database=str(self.home / "warehouse")),
                "compute": Compute(device="cpu"),
            },
        )

    def evaluate(self, partition: str) -> None:
        """Answer as a base that knows nothing and an adapter that is right but for one specialty."""
        with open_warehouse(self.home / "warehouse" / f"{partition}.duckdb", read_only=True) as con:
            asked = asked_questions(con, "specialty", "test", 0)
        tuned = [Answered(WRONG if one.subject == WEAK else one.references[0], 3, 0.5, cut=False) for one in asked]
        with making(self.folder(partition, "evaluation"), "evaluated") as (aside, _):
            write_word_answers(answers_file(aside, UNTUNED), asked, [Answered("", 0, 0.5, cut=False) for _ in asked])
            write_word_answers(answers_file(aside, TUNED), asked, tuned)
        with making(self.folder(partition, "base_model"), "base") as (_, facts):
            facts.update(id="tiny", path="tiny", revision="1")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("specialty")
    (folder / "source").mkdir()
    for specialty, number in (("cardiology", 60), (WEAK, 40)):
        rows = [
            {"question": f"{specialty} number {place}?", "answer": f"{specialty} is {place}"} for place in range(number)
        ]
        (folder / "source" / f"dataset_with_answers_{specialty}.json").write_text(json.dumps(rows))
    with dg.instance_for_test() as instance:
        found = Project(folder / "home", folder / "source", instance)
        found.make("p-01", "samples", source=str(found.source))
        found.evaluate("p-01")
        found.make("p-01", *ADVICE)
        yield found


def unchanged(result: dg.ExecuteInProcessResult, name: str) -> bool:
    (made,) = result.asset_materializations_for_node(f"specialty__{name}")
    return bool(made.metadata["unchanged"].value)


def test_the_questions_of_the_warehouse_are_the_samples(project: Project) -> None:
    with open_warehouse(project.home / "warehouse" / "p-01.duckdb", read_only=True) as con:
        counted = con.execute("SELECT split, count(*) FROM specialty.questions GROUP BY split").fetchall()
        assert dict(counted) == {"test": 20, "validation": 8, "train": 32}
        assert record_of(con, "specialty.questions")["release"] == "specialty p-01"


def test_all_is_unchanged_the_second_time_and_the_next_iteration_passes_its_checks(project: Project) -> None:
    again = project.make("p-01", "samples", *ADVICE)
    assert all(unchanged(again, name) for name in ("samples", *ADVICE))
    following = project.make("p-02", "samples")
    assert not unchanged(following, "samples")
    assert {check.check_name: check.passed for check in following.get_asset_check_evaluations()} == {
        "holdout_unchanged": True,
        "eval_unchanged": True,
        "no_overlap": True,
    }
    with open_warehouse(project.home / "warehouse" / "p-02.duckdb", read_only=True) as con:
        asked = asked_questions(con, "specialty", "test", 0)
        assert con.execute("SELECT count(*) FROM specialty.questions WHERE split = 'train'").fetchall() == [(38,)]
    with open_warehouse(project.home / "warehouse" / "p-01.duckdb", read_only=True) as con:
        assert asked_questions(con, "specialty", "test", 0) == asked


def test_the_files_of_the_results(project: Project) -> None:
    folder = project.folder("p-01", "results")
    assert {file.name for file in folder.iterdir()} == {
        "base_model_results.csv",
        "finetuned_model_results.csv",
        "model_comparison.csv",
        "specialty_performance.csv",
        "model_comparison.png",
        "specialty_performance.png",
        "results.json",
        "made.json",
    }
    with (folder / "finetuned_model_results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert {(row["answer"], row["exact_match"]) for row in rows if row["specialty"] == WEAK} == {(f"'{WRONG}", "0")}
    assert {row["exact_match"] for row in rows if row["specialty"] == "cardiology"} == {"1"}
    with (folder / "model_comparison.csv").open(newline="") as file:
        compared = {row["metric"]: row for row in csv.DictReader(file)}
    shown = {"bleu_1", "bleu_4", "rouge_l", "meteor_exact_stem", "exact_match", "token_f1", "bertscore_f1"}
    assert shown <= compared.keys()
    assert (compared["exact_match"]["base"], compared["exact_match"]["finetuned"]) == ("0", "0.5")
    assert compared["bertscore_f1"]["how"].startswith("not measured")
    with (folder / "specialty_performance.csv").open(newline="") as file:
        assert {row["specialty"] for row in csv.DictReader(file)} == {"cardiology", WEAK, "overall"}
    for name in ("model_comparison.png", "specialty_performance.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_no_text_of_the_data_is_in_the_event_log(project: Project) -> None:
    entries = [str(entry) for run in project.instance.get_runs() for entry in project.instance.all_logs(run.run_id)]
    told = "".join(entries)
    assert "cardiology" in told  # names of specialties are told
    for text in ("cardiology number", "cardiology is", WRONG):
        assert text not in told


def test_results_need_both_models_on_the_same_questions(project: Project, tmp_path: Path) -> None:
    copied = tmp_path / "evaluation"
    shutil.copytree(project.folder("p-01", "evaluation"), copied)

    def refusal() -> str:
        with pytest.raises(MedcodeError) as raised:
            write_results(
                tmp_path,
                copied,
                SpecialtySection(bertscore_model=None),
                base_model="tiny",
                cache=tmp_path,
                device="cpu",
            )
        return str(raised.value)

    write_word_answers(answers_file(copied, UNTUNED), [], [])
    assert "answered different questions" in refusal()
    answers_file(copied, UNTUNED).unlink()
    assert "set evaluation.untuned_base: true" in refusal()


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "＝1"])
def test_a_spreadsheet_takes_no_text_for_a_formula(text: str) -> None:
    assert safe_cell(text) == f"'{text}"
    assert safe_cell("5 - 3") == "5 - 3"
    assert safe_cell(-0.5) == "-0.5"


def test_every_own_asset_has_its_sections() -> None:
    settings = SpecialtySettings()
    assert own_sections(settings).keys() == {asset.key for asset in own_assets(settings)}
