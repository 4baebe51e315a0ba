"""The chain of a recipe that answers in words, on a recipe of a few made-up questions, to a bundle that answers."""

import json
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import pytest

from medcode_assets.config import Settings
from medcode_assets.recipes.factory import recipe_assets
from medcode_assets.recipes.recipe import Chat, Recipe, Words
from medcode_assets.recipes.words.answers import TUNED, UNTUNED, answers_file, read_word_answers
from medcode_assets.recipes.words.gates import served_headline
from medcode_assets.recipes.words.measuring import read_word_report
from medcode_assets.recipes.words.questions import Asked, Question, load_questions, word_data_version, word_examples
from medcode_assets.resources.compute import Compute
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_serving.bundle import latest_bundle
from medcode_serving.engines.loading import load_engine
from medcode_serving.engines.protocol import NoteOptions, Writing
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate
from medcode_serving.settings import load_inference_settings

DRUGS = {"gout": "colchicine", "asthma": "salbutamol", "epilepsy": "valproate", "angina": "nitroglycerin"}
SPLIT = {"train": 48, "validation": 8, "test": 12}
PARTITION = "few"


def score(asked: Sequence[Asked], answers: Sequence) -> dict[str, list[float]]:
    right = [one.references[0] in answer.text for one, answer in zip(asked, answers, strict=True)]
    return {"names_the_drug": [float(found) for found in right]}


RIDDLES = Recipe(
    name="riddles",
    learns="riddles",
    prompt=PromptTemplate(answer="words"),
    partitions=dg.StaticPartitionsDefinition([PARTITION]),
    sources=[dg.AssetKey(["riddles", "source"])],
    build_examples=word_examples("riddles"),
    data_version=word_data_version("riddles"),
    chat=Chat("Name the drug.", "words"),
    words=Words(score, {"names_the_drug": "The answer names the drug."}, headline="names_the_drug"),
)


def questions() -> list[Question]:
    found = []
    for split, count in SPLIT.items():
        for number in range(count):
            illness = list(DRUGS)[number % len(DRUGS)]
            found.append(
                Question(
                    f"Patient {split} {number} has {illness}. Which drug?",
                    f"{DRUGS[illness]}.",
                    split,
                    group=f"{split}-{number}",
                    subject=illness,
                    references=(DRUGS[illness],),
                    options=tuple(f"{drug}." for drug in DRUGS.values()),
                    correct=number % len(DRUGS),
                )
            )
    return found


@dg.asset(key=["riddles", "source"], partitions_def=RIDDLES.partitions)
def source(context: dg.AssetExecutionContext, warehouse: Warehouse) -> None:
    with warehouse.connect(context) as con:
        load_questions(con, "riddles", questions(), "1", {"release": "riddles", "sources": {"riddles": "0" * 64}})


def settings() -> Settings:
    return Settings(
        model={"base": "embedded"},
        data={"max_prompt_tokens": 128},
        lora={"r": 16, "alpha": 16, "dropout": 0.0},
        training={
            "epochs": 16,
            "learning_rate": 3e-3,
            "batch_size": 4,
            "gradient_accumulation": 1,
            "gradient_checkpointing": False,
        },
        export={"quantizations": ["q8_0"], "prompts": 3},
        gates={"relax": []},
    )


def run(home: Path, instance: dg.DagsterInstance, assets: list[dg.AssetsDefinition]) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        assets,
        instance=instance,
        partition_key=PARTITION,
        resources={
            "home": Home(folder=str(home)),
            "warehouse": Warehouse(database=str(home / "warehouse")),
            "compute": Compute(device="cpu"),
        },
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("riddles")
    chain = [asset for asset in recipe_assets(RIDDLES, settings()) if asset.key.path[-1] != "search"]
    with dg.DagsterInstance.ephemeral() as instance:
        first = run(home, instance, [source, *chain])
        assert first.success
        again = run(home, instance, [source, *chain])
        for asset in chain:
            (event,) = [e for e in again.get_asset_materialization_events() if e.asset_key == asset.key]
            assert event.materialization.metadata["unchanged"].value, asset.key
        told = str([e.materialization.metadata for e in first.get_asset_materialization_events()])
        assert "has gout" not in told
    return home


def test_the_adapter_beats_its_base_and_is_published(made: Path) -> None:
    evaluation = made / "artifacts" / "riddles" / PARTITION / "evaluation"
    report = read_word_report(evaluation)
    assert report.models[TUNED].value("names_the_drug") > report.models[UNTUNED].value("names_the_drug") + 0.4
    gain = report.gain("names_the_drug")
    assert gain.low > 0
    assert report.models[TUNED].perplexity < report.models[UNTUNED].perplexity
    assert [one.subject for one in report.models[TUNED].subjects] == sorted(DRUGS)
    asked, answers = read_word_answers(answers_file(evaluation, TUNED))
    assert len(asked) == SPLIT["test"]
    chosen = [max(range(4), key=answer.option_log_probabilities.__getitem__) for answer in answers]
    assert sum(place == one.correct for place, one in zip(chosen, asked, strict=True)) >= 9
    bundle = latest_bundle(made / "bundles", "riddles")
    assert bundle.manifest.answers_in_words
    assert {metric.name for metric in bundle.manifest.metrics} >= {"names_the_drug", "token_f1"}
    manifest = json.loads((bundle.path / "gguf" / "manifest.json").read_text())
    assert manifest["recipe"] == "riddles"


def test_the_bundle_answers_as_the_evaluation_did(made: Path) -> None:
    asked, answers = read_word_answers(answers_file(made / "artifacts" / "riddles" / PARTITION / "evaluation", TUNED))
    inference = load_inference_settings(**{"model.home": str(made), "model.recipes": ["riddles"], "device": "cpu"})
    bundle = latest_bundle(made / "bundles", "riddles")
    engine = load_engine(bundle, inference, made / "base_models")
    found = engine.predict([one.question for one in asked])
    assert [one.written.text for one in found] == [answer.text for answer in answers]
    assert [one.written.confidence for one in found] == pytest.approx(
        [answer.confidence for answer in answers], rel=1e-3
    )
    short = engine.predict([asked[0].question], options=[NoteOptions(writing=Writing(max_tokens=1))])[0].written
    assert (short.tokens, short.cut) == (1, True)
    drawn = [
        engine.predict([asked[0].question], options=[NoteOptions(writing=Writing(temperature=2.0, seed=seed))])[0]
        for seed in (1, 1, 2, 3, 4, 5)
    ]
    texts = [one.written.text for one in drawn]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1
    at_once = Writing(length_penalty=1000.0)  # the first step has no penalty: nothing is written yet
    assert engine.predict([asked[0].question], options=[NoteOptions(writing=at_once)])[0].written.tokens == 1
    engine.close()


def test_a_served_bundle_is_a_bar_where_the_questions_are_the_same(made: Path) -> None:
    bundles, manifest = made / "bundles", latest_bundle(made / "bundles", "riddles").manifest
    asked = manifest.provenance.settings["test_questions"]
    bar = next(one.value for one in manifest.metrics if (one.name, one.engine) == ("names_the_drug", TUNED))
    assert served_headline(bundles, "riddles", "another", asked, "names_the_drug") == bar
    assert (
        served_headline(bundles, "riddles", manifest.version, asked, "names_the_drug")
        == "this bundle is the served one"
    )
    assert "other questions" in str(served_headline(bundles, "riddles", "another", "0" * 64, "names_the_drug"))
    assert "no nonsense" in str(served_headline(bundles, "riddles", "another", asked, "nonsense"))
    assert served_headline(made / "none", "riddles", "another", asked, "names_the_drug") == "nothing is published yet"


def test_an_engine_that_knows_codes_only_is_refused(made: Path) -> None:
    inference = load_inference_settings(
        **{"model.home": str(made), "model.recipes": ["riddles"], "model.engine": "linear"}
    )
    with pytest.raises(MedcodeError, match="answers in words"):
        load_engine(latest_bundle(made / "bundles", "riddles"), inference, made / "base_models")


def test_a_length_penalty_by_default_is_refused_before_a_server_is_asked(made: Path) -> None:
    inference = load_inference_settings(
        **{"model.home": str(made), "model.engine": "litellm", "writing.length_penalty": 0.5}
    )
    with pytest.raises(MedcodeError, match=r"writing\.length_penalty: engine litellm has no length penalty"):
        load_engine(latest_bundle(made / "bundles", "riddles"), inference, made / "base_models")
