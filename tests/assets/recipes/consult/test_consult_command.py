"""The commands `medcode consult ...`, their settings, and assets that bring the questions into the warehouse."""

import json
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from medcode_assets.artifacts import required
from medcode_assets.cli_consult import app
from medcode_assets.consult_command import print_published
from medcode_assets.launchpad import sections_config
from medcode_assets.recipes.consult.assets import CONVERSATIONS, CONVERTED, own_assets, own_sections
from medcode_assets.recipes.consult.recipe import CONSULT
from medcode_assets.recipes.consult.settings import CONFIG, ConsultSettings, load_consult_settings
from medcode_assets.recipes.words.questions import asked_questions
from medcode_assets.resources.compute import Compute
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_assets.warehouse import open_warehouse
from medcode_serving.errors import MedcodeError

DEMO = Path(__file__).parents[4] / "medcode_assets" / "recipes" / "consult" / "demo" / "consult.yaml"
GOOD = "You most likely have a cold.\n\n1. Cause\n   - A virus.\n2. Care\n   - Rest.\n"
runner = CliRunner()


def test_the_shipped_settings_are_the_defaults_and_the_demos_are_valid() -> None:
    assert load_consult_settings(CONFIG) == ConsultSettings()
    demo = load_consult_settings(DEMO, {"lora.r": 4})
    assert (demo.model.base, demo.consult.source, demo.consult.converter) == ("embedded", "synthetic", "outline")
    assert demo.consult.compare_models == []
    assert demo.lora.r == 4


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"consult.test_share": 0.45, "consult.validation_share": 0.48}, "leave less than a tenth"),
        ({"consult.compare_models": ["a/b", "a/b"]}, "named twice"),
        ({"consult.converter": "magic"}, "converter"),
        ({"consult.sources": "x"}, "no such setting"),
    ],
)
def test_what_cannot_be_meant_is_refused(flags: dict[str, object], told: str) -> None:
    with pytest.raises(MedcodeError, match=told):
        load_consult_settings(CONFIG, flags)


def test_assets_bring_the_questions_and_skip_what_is_unchanged(tmp_path: Path) -> None:
    settings = load_consult_settings(DEMO, {"consult.count": 120})
    instance = dg.DagsterInstance.ephemeral()
    assert isinstance(CONSULT.partitions, dg.DynamicPartitionsDefinition)
    instance.add_dynamic_partitions(str(CONSULT.partitions.name), ["x"])
    keys = [CONVERSATIONS, CONVERTED]
    sections = own_sections(settings)

    def materialize(*, drop_existing: bool = False) -> tuple[dict[str, object], dg.ExecuteInProcessResult]:
        found = dg.materialize(
            own_assets(settings),
            selection=keys,
            instance=instance,
            partition_key="x",
            resources={
                "home": Home(folder=str(tmp_path)),
                "warehouse": Warehouse(database=str(tmp_path / "warehouse")),
                "compute": Compute(),
            },
            run_config=sections_config({key: sections[key] for key in keys}, drop_existing=drop_existing),
        )
        events = found.get_asset_materialization_events()
        metadata = [event.step_materialization_data.materialization.metadata for event in events]
        return {name: value.value for one in metadata for name, value in one.items()}, found

    told, first = materialize()
    assert not told["unchanged"]
    assert all(check.passed for check in first.get_asset_check_evaluations())
    assert len(first.get_asset_check_evaluations()) == 4
    with open_warehouse(tmp_path / "warehouse" / "x.duckdb", read_only=True) as con:
        asked = asked_questions(con, "consult", "test", 0)
        counted = con.execute("SELECT split, count(*) FROM consult.questions GROUP BY split").fetchall()
    assert {split for split, _ in counted} == {"train", "validation", "test"}
    # No patient's words in what Dagster keeps.
    assert not any(one.question.splitlines()[-1] in str(told) for one in asked)
    seal = required(tmp_path / "artifacts" / "consult" / "x" / "converted", "")["seal"]
    assert materialize()[0]["unchanged"]
    assert required(tmp_path / "artifacts" / "consult" / "x" / "converted", "")["seal"] == seal
    assert not materialize(drop_existing=True)[0]["unchanged"]


def test_check_tells_what_is_wrong_and_where(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in (GOOD, "No list.", GOOD)))
    result = runner.invoke(app, ["check", str(file)])
    assert result.exit_code == 1
    assert "answers.jsonl, row 2 (line 2): The answer has 1 of at least 3 levels" in result.output
    assert "2 of 3 answers are valid hierarchical lists (66.7%)" in result.output
    (tmp_path / "one.md").write_text(GOOD)
    assert runner.invoke(app, ["check", str(tmp_path / "one.md")]).exit_code == 0
    refused = runner.invoke(app, ["check", str(file), "--column", "answers"])
    assert "no column answers" in str(refused.exception)
    assert "nothing there" in str(runner.invoke(app, ["check", str(tmp_path / "none.csv")]).exception)


def test_convert_writes_a_data_set_that_check_and_the_recipe_read(tmp_path: Path) -> None:
    output = tmp_path / "converted"
    given = [
        "convert",
        "--source",
        "synthetic",
        "--limit",
        "16",
        "--output",
        str(output),
        "--output-dir",
        str(tmp_path),
    ]
    done = runner.invoke(app, given)
    assert done.exit_code == 0, done.output
    assert "16 to convert by outline" in done.output
    checked = runner.invoke(app, ["check", str(output)])
    assert checked.exit_code == 0
    assert "16 of 16 answers are valid" in checked.output
    again = ["convert", "--source", str(output), "--limit", "3", "--output-dir", str(tmp_path), "--output"]
    done = runner.invoke(app, [*again, str(tmp_path / "again")])
    assert done.exit_code == 0, done.output
    refused = runner.invoke(app, [*again, str(output)])  # it would cut its own source to three rows
    assert "is the source itself" in str(refused.exception)
    assert "16 of 16" in runner.invoke(app, ["check", str(output)]).output
    fewer = [*given[:3], "--limit", "5", *given[5:]]
    refused = runner.invoke(app, fewer)
    assert "data set of 16 rows, and 11 of them are not among the 5 of synthetic" in str(refused.exception)
    refused = runner.invoke(app, [*given, "--set", "consult.seed=5"])
    assert "16 of them are not among the 16 of synthetic; name another --output, or" in str(refused.exception)
    assert "16 of 16" in runner.invoke(app, ["check", str(output)]).output
    more = runner.invoke(app, [*given[:3], "--limit", "20", *given[5:]])
    assert more.exit_code == 0, more.output
    assert runner.invoke(app, [*fewer, "--no-resume"]).exit_code == 0
    assert "5 of 5" in runner.invoke(app, ["check", str(output)]).output


def test_convert_counts_what_it_leaves_out(tmp_path: Path) -> None:
    row = {"Description": "Q", "Patient": "My head aches.", "Doctor": "This is a cold. Rest.", "Status": ""}
    rows = [row, row, row | {"Doctor": None}, row | {"Description": "", "Patient": ""}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    given = ["--source", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out"), "--output-dir", str(tmp_path)]
    done = runner.invoke(app, ["convert", *given])
    assert done.exit_code == 0, done.output
    assert "left out: 1 without an answer, 1 without a question, 1 repeated; 1 to convert" in done.output


def test_convert_asks_for_permission_before_anything_else(tmp_path: Path) -> None:
    given = ["convert", "--converter", "llm", "--output", str(tmp_path / "out"), "--output-dir", str(tmp_path)]
    given += ["--source", str(tmp_path / "not there.csv")]
    for more, host in (
        ([], "api.deepseek.com"),
        (["--api-base", "https://models.example.org/v1"], "models.example.org"),
    ):
        refused = runner.invoke(app, [*given, *more])
        assert f"--allow-host {host}" in str(refused.exception)
        assert "sent to" not in refused.output


def test_convert_tells_why_nothing_came(tmp_path: Path) -> None:
    given = ["convert", "--converter", "llm", "--model", "m", "--api-base", "http://127.0.0.1:9/v1", "--limit", "2"]
    given += ["--source", "synthetic", "--set", "consult.retries=0", "--output", str(tmp_path / "out")]
    done = runner.invoke(app, [*given, "--output-dir", str(tmp_path)])
    assert done.exit_code == 1, done.output
    assert "these conversations are sent to m at 127.0.0.1:9" in done.output
    assert "2 rows got no reply: connection refused by 127.0.0.1:9 (2)" in done.output
    assert "out, 2 rows, 0 of them converted; replies are kept in" in done.output


def test_a_run_ends_with_what_was_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bundles" / "consult" / "mine-0001"
    bundle.mkdir(parents=True)
    (bundle / "bundle.json").touch()
    print_published(tmp_path, "mine")
    published, files, serve = capsys.readouterr().out.splitlines()[1:]
    assert published == f"Published:  {bundle}"
    assert files.startswith(f"GGUF files: {bundle / 'gguf'} ")
    assert serve == f"Serve it:   medcode serve --recipe consult --output-dir {tmp_path}"


def test_ratings_need_a_sheet(tmp_path: Path) -> None:
    refused = runner.invoke(app, ["ratings", "a.csv", "b.csv", "--output-dir", str(tmp_path)])
    assert isinstance(refused.exception, MedcodeError)
    assert "materialize asset consult/rating_sheet first" in str(refused.exception)


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    refused = runner.invoke(app, ["run", "--name", "No Name", "--output-dir", str(tmp_path)])
    assert "use small letters" in str(refused.exception)


def test_a_source_that_is_not_there_is_told_before_anything_is_made(tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = ["run", "--source", str(tmp_path / "none.csv"), "--base-model", "embedded", "--output-dir", str(home)]
    done = CliRunner().invoke(app, command)
    assert "nothing there" in str(done.exception)
    assert not home.exists()
