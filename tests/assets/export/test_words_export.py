"""GGUF files of a bundle that answers in words: exported, verified, and what goes with them."""

import re
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from medcode_assets.cli import app
from medcode_assets.export import verify
from medcode_assets.export.chat_template import chat_template
from medcode_assets.export.distributions import Comparison, compare_likeliest
from medcode_assets.export.exporting import WORDS_INTENDED_USE, Export, bundle_folder, export_gguf
from medcode_assets.export.gguf import write_gguf
from medcode_assets.export.metadata import ModelMetadata
from medcode_assets.export.prompting import joined_tokens, opening_token, training_tokens
from medcode_assets.export.quantizations import QUANTIZATIONS
from medcode_assets.export.table import report_rows
from medcode_assets.export.validation import ValidationSample, invented_sample
from medcode_assets.export.verify import verify_gguf
from medcode_serving import base_models
from medcode_serving.base_models import resolve_base_model
from medcode_serving.bundle import (
    BaseModelRef,
    Bundle,
    BundleManifest,
    DataVersion,
    DecodingSettings,
    Gate,
    Metric,
    Provenance,
    publish,
    write_bundle,
    write_gates,
)
from medcode_serving.chat import chat_prompt
from medcode_serving.engines.loading import load_engine
from medcode_serving.engines.protocol import NoteOptions, Writing, WrittenAnswer
from medcode_serving.engines.transformers import load_tokenizer
from medcode_serving.errors import MedcodeError
from medcode_serving.gguf_folder import TOKENIZER, verify_folder
from medcode_serving.prompts import PromptTemplate, encode_prompts
from medcode_serving.settings import load_inference_settings
from tests.assets.export.conftest import edit_json
from tests.assets.export.test_export_delivery import rendered, report, user

EMBEDDED = Path(base_models.__file__).parent / "embedded"
SYSTEM = "Answer briefly."
QUESTIONS = ("Which drug ends an attack of gout?", "naïve: what is BP 150/90?")
CHATML = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>"
    "\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OF_CODES = re.compile(r"\b(codes?|coders?|coding|codes\.gbnf|micro f1|threshold|calibrat\w+|notes?)\b", re.IGNORECASE)


def with_markup(base: Path, folder: Path) -> Path:
    """A base model with a chat template, whose tokenizer begins each text with a token, as Llama 3's and R1's do."""
    from tokenizers import AddedToken, Tokenizer

    shutil.copytree(base, folder)
    file = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    markup = ("<|begin|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in markup])
    tokenizer.save(str(file))
    begin, text = {"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    ids = [tokenizer.token_to_id("<|begin|>")]
    processor = {
        "type": "TemplateProcessing",
        "single": [begin, text],
        "pair": [begin, text, begin, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": ids, "tokens": ["<|begin|>"]}},
    }
    edit_json(file, post_processor=processor)
    edit_json(folder / "tokenizer_config.json", bos_token="<|begin|>", add_bos_token=True)
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, base: Path) -> dict[str, Path]:
    """The embedded model, which has no chat template, and a random one that has."""
    return {"plain": EMBEDDED, "markup": with_markup(base, tmp_path_factory.mktemp("words") / "markup")}


def measured(name: str, engine: str, value: float) -> Metric:
    return Metric(
        name=name,
        value=value,
        engine=engine,
        split="test",
        label_space="words",
        level="answer",
        low=value - 0.01,
        high=value + 0.01,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def bundles(
    home: Path, bases: dict[str, Path], adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Bundle]:
    slight = tmp_path_factory.mktemp("slight")
    adapters = {"plain": write_slight_adapter(slight), "markup": adapter}
    return {version: words_bundle(home, base, adapters[version], version) for version, base in bases.items()}


def write_slight_adapter(folder: Path) -> Path:
    """Write an adapter of the embedded model that leaves it a model: of a random one, rounding turns over too much."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(EMBEDDED), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    model.save_pretrained(folder)
    return folder


def words_bundle(home: Path, base: Path, adapter: Path, version: str, *, answer_tokens: int = 40) -> Bundle:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = {name: pa.array([], pa.string()) for name in ("system", "code", "text", "description")}
    codes = home / f"{version}.parquet"
    pq.write_table(pa.table({**texts, "frequency": pa.array([], pa.int64())}), codes)
    manifest = BundleManifest(
        recipe="medqa",
        version=version,
        base_model=BaseModelRef(id=str(base), revision=resolve_base_model(str(base), home).revision),
        prompt=chat_prompt(base, SYSTEM, "words"),
        decoding=DecodingSettings(max_prompt_tokens=190, max_answer_tokens=answer_tokens),
        threshold=0.0,
        metrics=(
            measured("rouge_l", "untuned_base", 0.1204),
            measured("rouge_l", "adapter", 0.7104),
            measured("right_option", "untuned_base", 0.25),
            measured("right_option", "adapter", 0.8125),
            measured("bertscore_f1", "adapter", 0.9),
        ),
        data=DataVersion(partition="exam", release="exam-1", sources={}, split_hash="5" * 64, train_documents=1200),
        provenance=Provenance(code_version="c1", libraries={}, settings={"lora": {"r": 4}}),
    )
    bundle = write_bundle(home / "bundles", manifest, adapter=adapter, codes=codes)
    write_gates(bundle, [Gate(name="above_untuned_base", passed=True, reason="right_option on test: adapter 0.8125")])
    publish(bundle)
    return bundle


@pytest.fixture(scope="module")
def exported(home: Path, bundles: dict[str, Bundle], bases: dict[str, Path]) -> Export:
    """The bundle with markup as f16, with the adapter alone."""
    bundle = bundles["markup"]
    base = resolve_base_model(str(bases["markup"]), home)
    sample = ValidationSample(tuple(map(bundle.manifest.prompt.render, QUESTIONS)))
    return export_gguf(bundle, base, ["f16"], target=bundle_folder(bundle), sample=sample, lora=True)


def test_files_are_verified_on_the_tokens_of_training_and_delivered(exported: Export) -> None:
    assert exported.problems == ()
    manifest = verify_folder(exported.folder)
    assert [file.file for file in manifest.files] == ["medcode-medqa-markup-F16.gguf"]
    assert {"README.md", "Modelfile", f"{TOKENIZER}/tokenizer.json"} <= manifest.others.keys()
    assert "codes.gbnf" not in manifest.others
    for found in exported.reports:
        assert found.template_equal
        assert found.token_mismatches == 0
        assert found.f1 is None
        assert found.kl_mean < QUANTIZATIONS[found.quantization].gate.kl
    description = gguf.GGUFReader(exported.folder / manifest.files[0].file).get_field("general.description")
    assert description.contents() == WORDS_INTENDED_USE
    assert "code" not in WORDS_INTENDED_USE


def test_export_and_verify_export_speak_of_no_micro_f1(
    exported: Export, bundles: dict[str, Bundle], home: Path
) -> None:
    options = ("--output-dir", str(home), "--set", "export.prompts=3")
    formats = ("--quantization", "f16", "--quantization", "q8_0")
    folder = bundle_folder(bundles["plain"])
    for command in (
        ("export", "--recipe", "medqa", "--version", "plain", *formats),
        ("verify-export", str(exported.folder)),
    ):
        done = CliRunner().invoke(app, [*command, *options])
        assert done.exit_code == 0, done.output
        assert "KL divergence" in done.stdout
        assert "verified on invented text\n" in done.stderr
        assert "micro F1" not in done.output
    assert {file.quantization for file in verify_folder(folder).files} == {"f16", "q8_0"}
    card = (folder / "README.md").read_text()
    assert "- **Not for real questions at all**: `embedded`" in card
    assert "Take **Q8_0** unless memory is short." in card
    assert "The edges of a question" not in card  # nothing but text is around it, and training splits it with that
    assert OF_CODES.findall(card) == []
    assert "\n\n\n" not in card


def test_a_chat_has_the_tokens_of_training_special_ones_among_them(
    exported: Export, bundles: dict[str, Bundle], bases: dict[str, Path]
) -> None:
    from medcode_serving.engines.llamacpp_server import LlamaCppServer

    prompt, tokenizer = bundles["markup"].manifest.prompt, load_tokenizer(bases["markup"])
    wanted = encode_prompts(tokenizer, prompt, [QUESTIONS[0]], 190)[0].input_ids
    assert opening_token(tokenizer) == "<|begin|>"
    assert wanted.count(tokenizer.convert_tokens_to_ids("<|begin|>")) == 1
    assert rendered(prompt, user(QUESTIONS[0])) == prompt.render(QUESTIONS[0])
    chat = [{"role": "user", "content": QUESTIONS[0]}]
    with LlamaCppServer(exported.folder / exported.reports[0].file, context_length=256) as server:
        text = server.post("/apply-template", messages=chat)["prompt"]
        found = server.post("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]
        asked = server.post("/v1/chat/completions", messages=chat, max_tokens=1)["usage"]["prompt_tokens"]
    assert found == wanted
    assert asked == len(wanted)
    assert text == prompt.render(QUESTIONS[0]).removeprefix("<|begin|>")  # llama.cpp adds it itself


def test_a_bundle_is_served_by_llama_cpp_as_by_transformers(
    exported: Export, bundles: dict[str, Bundle], home: Path
) -> None:
    assert exported.folder == bundle_folder(bundles["markup"])
    found: dict[str, WrittenAnswer | None] = {}
    for name in ("llamacpp", "transformers"):
        settings = load_inference_settings(
            **{"model.home": str(home), "model.engine": name, "device": "cpu", "llamacpp.threads": 1}
        )
        engine = load_engine(bundles["markup"], settings, home)
        first_word = [NoteOptions(writing=Writing(max_tokens=1))]
        (found[name],) = (prediction.written for prediction in engine.predict(QUESTIONS[:1], options=first_word))
        engine.close()
    served, wanted = found["llamacpp"], found["transformers"]
    assert served is not None and wanted is not None
    assert served.text == wanted.text
    assert served.confidence == pytest.approx(wanted.confidence, rel=0.02)  # f16 beside fp32


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("<|im_end|>", "<|im_start|>"), "the chat template does not render"),
        (("<|begin|>", "<|begin|><|begin|>"), "the chat template does not render"),
        (("", ""), None),
    ],
)
def test_a_chat_template_that_sends_anything_else_fails(
    bundles: dict[str, Bundle], bases: dict[str, Path], tmp_path: Path, change: tuple[str, str], problem: str | None
) -> None:
    prompt, base = bundles["markup"].manifest.prompt, bases["markup"]
    template = chat_template(prompt).replace(*change) if change[0] else chat_template(prompt)
    file = write_gguf(base, tmp_path / "m.gguf", metadata=ModelMetadata("tiny", "1", chat_template=template))
    found = verify_gguf(file, base, [prompt.render(QUESTIONS[0])], prompt=prompt)
    assert (problem in " ".join(found.problems)) if problem else not found.problems, found.problems
    assert bool(found.token_mismatches) == (problem is not None)


@given(note=st.text(max_size=30))
@settings(deadline=None, max_examples=40)
def test_a_rendered_prompt_has_the_tokens_of_training(bases: dict[str, Path], note: str) -> None:
    for base in bases.values():
        tokenizer, prompt = load_tokenizer(base), chat_prompt(base, SYSTEM, "words")
        (wanted,) = encode_prompts(tokenizer, prompt, [note], 1000)
        assert training_tokens(tokenizer, prompt.render(note), prompt) == wanted.input_ids
    plain = PromptTemplate()
    assert training_tokens(tokenizer, "a<|im_end|>", plain) == training_tokens(tokenizer, "a<|im_end|>", None)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in training_tokens(tokenizer, "a<|im_end|>", None)


def test_where_special_tokens_close_a_question_other_programs_split_it_alike(bases: dict[str, Path]) -> None:
    def alike(name: str, question: str, prompt: PromptTemplate | None = None) -> bool:
        tokenizer = load_tokenizer(bases[name])
        prompt = prompt or chat_prompt(bases[name], SYSTEM, "words")
        return encode_prompts(tokenizer, prompt, [question], 200)[0].input_ids == joined_tokens(
            tokenizer, prompt, question
        )

    assert alike("markup", "patient with pneumonia")
    assert alike("markup", "text: pneumonia (J18.9).")
    assert alike("plain", "Which drug?")
    apart = PromptTemplate(instruction="Question: {note}", answer_header="\n\nAnswer:\n", markup=True, answer="words")
    assert not alike("plain", "Which drug?", apart)  # ": " and "W" in training, ":" and " W" there


def test_the_card_tells_of_answers_and_of_no_codes(exported: Export, bundles: dict[str, Bundle]) -> None:
    card = (exported.folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license_name"].endswith("and the terms of its training data")
    assert front["tags"] == ["medical-question-answering", "gguf", "llama.cpp", "medcode"]
    assert OF_CODES.findall(card) == []
    assert "\n\n\n" not in card
    assert "**Not for clinical use.**" in card
    assert "`medcode serve` (`POST /generate`) alone" in card
    assert f"What it was told in training: *{SYSTEM}*" in card
    assert bundles["markup"].manifest.prompt.render("What are the usual symptoms of gout?") in card
    assert "a context of at least 230 tokens" in card
    assert "-c 230 -n 40 --parallel 1 \\\n  --temp 0 --repeat-penalty 1.0 --jinja" in card
    table = card[card.index("| Measure |") :].splitlines()[:5]
    assert table == [
        "| Measure | This model | Base model, not fine-tuned |",
        "|---|---|---|",
        "| `right_option` | 0.812 (0.802–0.823) | 0.250 (0.240–0.260) |",
        "| ROUGE-L | 0.710 (0.700–0.720) | 0.120 (0.110–0.130) |",
        "| BERTScore, F1 | 0.900 (0.890–0.910) | – |",
    ]
    assert "may be served: right_option on test: adapter 0.8125." in card
    assert "1,200 training questions" in card
    assert "None of these columns tells how good an answer is" in card
    assert "to `/completion`, but for `<|begin|>`, which llama.cpp adds:" in card
    assert "edges of a question" not in card
    assert re.search(r"^[0-9a-f]{64}  medcode-medqa-markup-F16\.gguf$", card, re.MULTILINE)


def test_the_modelfile_leaves_out_the_token_that_ollama_adds(exported: Export) -> None:
    modelfile = (exported.folder / "Modelfile").read_text()
    assert OF_CODES.findall(modelfile.replace("$note", "")) == []
    assert "<|begin|>" not in modelfile
    assert "<|im_start|>user\n{{ $note }}<|im_end|>\n<|im_start|>assistant" in modelfile
    assert "PARAMETER num_ctx 230\nPARAMETER num_predict 40" in modelfile


def test_a_bundle_without_room_for_an_answer_is_refused(
    home: Path, bases: dict[str, Path], adapter: Path, tmp_path: Path
) -> None:
    from medcode_assets.export.delivery import write_companions

    bundle = words_bundle(home, bases["plain"], adapter, "mute", answer_tokens=0)
    file = tmp_path / "m.gguf"
    file.touch()
    with pytest.raises(MedcodeError, match="leave no room for an answer"):
        write_companions(tmp_path, bundle, bases["plain"], [report("f16", file, f1=None)])


def test_invented_text_stands_in_for_questions(bundles: dict[str, Bundle]) -> None:
    prompts = invented_sample(bundles["markup"], 3).prompts
    assert all(prompt.endswith("<|im_start|>assistant\n") and SYSTEM in prompt for prompt in prompts)


def test_micro_f1_has_rows_only_where_it_was_measured(tmp_path: Path) -> None:
    blind = report("f16", tmp_path, f1=None)
    assert [row[0] for row in report_rows([blind])][-2:] == ["fine-tune kept", "passed"]
    assert "micro F1 lost" in [row[0] for row in report_rows([blind, report("q8_0", tmp_path)])]


@pytest.mark.parametrize(
    ("positions", "overturned", "problems"),
    [
        (31, [], 0),
        (31, [0.4], 0),  # one position of 31 is 3.2 %: less than a share can bound
        (31, [0.6], 1),  # but only where the model was undecided: q8_0 may turn over 0.5 nats
        (31, [float("inf")], 1),
        (31, [0.1] * 3, 0),  # 3 or more of 31: 2.4 % of all samples, if the share is 2 %
        (31, [0.1] * 4, 1),  # 4 or more: 0.3 %
        (400, [0.6] * 8, 0),  # 2 %: the share alone decides
        (400, [0.1] * 30, 1),
    ],
)
def test_a_few_positions_may_differ_by_chance_where_the_model_was_undecided(
    tmp_path: Path, positions: int, overturned: list[float], problems: int
) -> None:
    share = 1 - len(overturned) / positions
    found = report("q8_0", tmp_path, positions=positions, top1_agreement=share, kl_mean=1e-5)
    comparison = Comparison(overturned=overturned)
    assert len(verify._answer_problems(found, QUANTIZATIONS["q8_0"].gate, comparison)) == problems


def test_by_how_much_a_likeliest_token_was_preferred() -> None:
    expected = np.log([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4]])
    found = np.array([np.log([0.7, 0.3]), np.log([0.49, 0.51]), [np.nan, np.nan]])
    same, overturned = compare_likeliest(expected, found)
    assert same == [True, False, False]
    assert overturned == pytest.approx([np.log(0.6 / 0.4), np.inf])


def test_a_card_says_where_fewer_are_the_same_by_chance(
    exported: Export, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    from medcode_assets.export.delivery import write_companions

    (tmp_path / exported.reports[0].file).touch()
    reports = [exported.reports[0].model_copy(update={"top1_agreement": 30 / 31})]
    write_companions(tmp_path, bundles["markup"], Path(bundles["markup"].manifest.base_model.id), reports)
    sentence = "and at least 99.5 %. In F16, fewer\nare the same, but no fewer than chance makes of that share"
    assert sentence in (tmp_path / "README.md").read_text()
