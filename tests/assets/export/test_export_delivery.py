import errno
import json
import os
import re
import shutil
import unicodedata
from collections import namedtuple
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from medcode_assets.export.card import fallen_back
from medcode_assets.export.chat_template import chat_template
from medcode_assets.export.delivery import file_name, seal, write_companions
from medcode_assets.export.license import UNKNOWN, read_license
from medcode_assets.export.lm_studio import install_in_lm_studio
from medcode_assets.export.metadata import ModelMetadata
from medcode_assets.export.ollama import ollama_modelfile
from medcode_assets.export.quantizations import quantization
from medcode_assets.export.report import F1Comparison, GgufReport
from medcode_serving.bundle import (
    BaseModelRef,
    Bundle,
    BundleManifest,
    DataVersion,
    DecodingSettings,
    Metric,
    Provenance,
    file_sha256,
    write_bundle,
)
from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from medcode_serving.errors import MedcodeError
from medcode_serving.gguf_folder import GGUF_MANIFEST, TOKENIZER, verify_folder
from medcode_serving.prompts import PromptTemplate
from tests import tiny

CODES = ["I10", "J18.9", "E11.9", "E11.65"]
HOSTILE = PromptTemplate(
    instruction="It's \"x\" \\n \\ {{ y }} {% if %} {# c #}}}\r\n\t<|endoftext|> é😀\u00a0'{note}', {note}\n-%}\n",
    answer_header="\n\nCodes\\",
)


def rendered(prompt: PromptTemplate, *messages: dict) -> str:
    """Render as transformers does."""
    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return jinja.from_string(chat_template(prompt)).render(messages=messages, add_generation_prompt=True)


def user(content: object) -> dict:
    return {"role": "user", "content": content}


CHATS = [
    [user("\n fever {note} {{ x }} <|endoftext|>\t")],
    [{"role": "system", "content": "You are helpful."}, user("fever")],
    [user("first"), {"role": "assistant", "content": " I10"}, user("fever")],
    [user([{"type": "text", "text": "fe"}, {"type": "text", "text": "ver "}])],
    [user("")],
]
NOTES = ["fever {note} {{ x }} <|endoftext|>", "fever", "fever", "fever", ""]


@given(st.builds(PromptTemplate, instruction=st.text(), answer_header=st.text()), st.text(), st.text())
@settings(deadline=None, max_examples=50)
def test_the_chat_template_renders_the_prompt_of_training_whatever_its_words(prompt, after, note):
    note = unicodedata.normalize("NFC", note)
    prompt = prompt.model_copy(update={"instruction": prompt.instruction + "{note}" + after})
    assert rendered(prompt, user(note)) == prompt.render(note)


@pytest.mark.parametrize(("chat", "note"), zip(CHATS, NOTES, strict=True))
def test_only_the_last_user_message_counts(chat, note):
    assert rendered(HOSTILE, *chat) == HOSTILE.render(note)


@pytest.mark.parametrize("prompt", [PromptTemplate(), HOSTILE])
def test_llamacpp_renders_the_same_prompt_and_takes_the_grammar(merged, tmp_path, prompt):
    from medcode_assets.export.gguf import write_gguf
    from medcode_serving.engines.constraints import CodeLanguage
    from medcode_serving.engines.llamacpp_server import LlamaCppServer

    metadata = ModelMetadata(name="tiny", version="1", chat_template=chat_template(prompt))
    file = write_gguf(merged, tmp_path / "m.gguf", file_type="f16", metadata=metadata)
    with LlamaCppServer(file, context_length=256) as server:
        found = [server.post("/apply-template", messages=chat)["prompt"] for chat in CHATS]
        answer = server.complete("fever", 40, grammar=CodeLanguage(CODES).grammar(2))["content"]
    assert found == [prompt.render(note) for note in NOTES]
    assert re.fullmatch(r" (I10|J18\.9|E11\.9|E11\.65)(, (I10|J18\.9|E11\.9|E11\.65))?", answer)


def modelfile(prompt: PromptTemplate, **changes: object) -> str:
    values = {"recipe": "icd", "version": "v1", "prompt_tokens": 512, "answer_tokens": 63, "end": "<|end|>"}
    return ollama_modelfile(["m-Q4_K_M.gguf", "m-F16.gguf"], prompt, **(values | {"license": "mit"} | changes))


def test_ollama_gets_prompt_and_settings_in_its_own_words():
    lines = modelfile(PromptTemplate()).splitlines()
    # Written by hand; that Ollama's parser and Go's text/template read it so was tried once, with 400 hostile prompts.
    last = '{{ $note := "" }}{{ range .Messages }}{{ if eq .Role "user" }}{{ $note = .Content }}{{ end }}{{ end }}'
    start = lines.index(f'TEMPLATE """{last}Predict the medical codes for the following text: {{{{ $note }}}}')
    assert lines[start + 1 : start + 3] == ["", 'Codes:"""']
    assert [line for line in lines if line.startswith(("FROM", "PARAMETER"))] == [
        "FROM ./m-Q4_K_M.gguf",
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1.0",
        "PARAMETER num_ctx 575",
        "PARAMETER num_predict 63",
        'PARAMETER stop "<|end|>"',
    ]
    assert any(line.startswith("#") and "m-F16.gguf" in line for line in lines)


def test_ollama_gets_what_its_template_would_stumble_over_as_a_go_string():
    text = modelfile(PromptTemplate(instruction='"""{{ \\ \u00a0{note}', answer_header="\n\nCodes:"))
    assert '{{ "\\"\\"\\"{{ \\\\ \\U000000a0" }}{{ $note }}\n\nCodes:"""' in text
    with pytest.raises(MedcodeError, match="Modelfile cannot hold it"):
        modelfile(PromptTemplate(), end='a"b')


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"README.md": "---\nlicense: apache-2.0\n---\n# X\n"}, "apache-2.0"),
        ({"README.md": "---\nlicense: other\nlicense_name: llama3.1\n---\n"}, "llama3.1"),
        ({"README.md": "---\nlicense:\n- mit\n- apache-2.0\n---\n"}, "mit apache-2.0"),
        ({"README.md": "---\nlicense: other\n---\n", "LICENSE": "  Apache License\n  Version 2.0, Jan"}, "apache-2.0"),
        ({"README.md": "---\n- [broken\n---\n", "LICENSE.md": "# MIT License\n\nCopyright"}, "mit"),
        ({"LICENSE": "LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\n"}, "llama3.2"),
        ({"README.md": "# X\n\n## Licence\n\nApache-2.0, as medcode.\n"}, "apache-2.0"),
        ({"LICENSE": "All rights reserved", "NOTICE": "MIT License"}, UNKNOWN),
        ({}, UNKNOWN),
    ],
)
def test_the_licence_is_what_the_base_models_folder_says(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert read_license(tmp_path) == expected


# Each list is nine of the one before.
BOMB = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefg"))
MERGING_BOMB = BOMB.replace("[x]", "{x: y}").replace("[", "{<<: [").replace("]", "]}")


@pytest.mark.parametrize(
    "card",
    [
        "license: 2024-99-99",
        "license: " + "a" * 101,
        f"license: [{'mit, ' * 30}]",
        "license: [mit, {a: b}]",
        f"{BOMB}license: *g",
        f"{MERGING_BOMB}license: *g",
        'license: "\\UFFFFFFFF"',
        "license:\n" + "- " * 600,
        None,
    ],
)
def test_a_card_that_names_no_licence_in_plain_words_says_nothing(tmp_path, card):
    file = tmp_path / "README.md"
    file.mkdir() if card is None else file.write_text(f"---\n{card}\n---\n")
    assert read_license(tmp_path) == UNKNOWN
    (tmp_path / "LICENSE").write_text("MIT License")
    assert read_license(tmp_path) == "mit"


def report(name: str, file: Path, **changes: object) -> GgufReport:
    values = {
        "file": file.name,
        "quantization": name,
        "size_bytes": file.stat().st_size,
        "verifier": "llama.cpp (xllamacpp 1)",
        "tensors": 26,
        "changed_tensors": 0,
        "tensor_types": {"F32": 12, "F16": 14},
        "fine_tune_kept": 0.987,
        "texts": 18,
        "token_mismatches": 0,
        "positions": 377,
        "kl_mean": 0.00123,
        "kl_max": 0.01,
        "top1_agreement": 0.985,
        "max_log_probability_difference": 0.1,
        "greedy_equal": 9,
        "greedy_total": 10,
        "f1": F1Comparison(notes=100, merged=0.891, file=0.872, low=-0.002, high=0.031, equal_answers=90),
        "seconds": 1.0,
    }
    return GgufReport(**(values | changes))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, base, adapter) -> Bundle:
    root = tmp_path_factory.mktemp("bundles")
    codes = [VocabularyCode("icd10cm", code, code, None, 5) for code in CODES]
    metric = {"engine": "adapter", "split": "test", "label_space": "open", "low": 0.89, "high": 0.91}
    manifest = BundleManifest(
        recipe="icd",
        version="v1",
        base_model=BaseModelRef(id=str(base), revision="r1"),
        prompt=PromptTemplate(),
        decoding=DecodingSettings(max_prompt_tokens=200, max_codes=2),
        threshold=0.5604,
        metrics=(
            Metric(name="micro_f1", value=0.9004, **metric),
            Metric(name="micro_f1", value=0.1234, **(metric | {"split": "validation"})),
        ),
        data=DataVersion(partition="demo", release="mimic-iv", sources={}, split_hash="5" * 64, train_documents=3920),
        provenance=Provenance(
            code_version="c1", libraries={}, settings={"lora": {"r": 32}, "training": {"mode": "lora", "epochs": 2.0}}
        ),
    )
    return write_bundle(
        root, manifest, adapter=adapter, codes=tiny.write_codes(root / "codes.parquet", Vocabulary(codes))
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> tuple[Path, list[GgufReport]]:
    """A folder with what stands for two GGUF files, and what was found of them."""
    folder = tmp_path_factory.mktemp("files")
    files = {name: folder / file_name("icd", "v1", quantization(name)) for name in ("f16", "q4_k_m")}
    for name, file in files.items():
        file.write_bytes(name.encode() * {"f16": 400_000, "q4_k_m": 100_000}[name])
    mixed = {"Q4_K": 9, "Q6_K": 2, "Q5_0": 3, "F32": 12}
    return folder, [report("f16", files["f16"]), report("q4_k_m", files["q4_k_m"], tensor_types=mixed)]


@pytest.fixture(scope="module")
def delivered(tmp_path_factory, bundle, base, reports) -> Path:
    licensed = tmp_path_factory.mktemp("licensed") / "base"
    shutil.copytree(base, licensed)
    (licensed / "LICENSE").write_text("Apache License\nVersion 2.0")
    (licensed / "NOTICE.txt").write_text("Made by X")
    folder = tmp_path_factory.mktemp("delivered") / "gguf"
    shutil.copytree(reports[0], folder)
    write_companions(folder, bundle, licensed, reports[1])
    seal(folder, bundle, reports[1], made_from={}, verified_on={one.file: "" for one in reports[1]})
    return folder


def test_a_folder_holds_all_that_goes_with_its_files_and_is_sealed(delivered, base, reports):
    manifest = verify_folder(delivered)
    assert [file.file for file in manifest.files] == ["medcode-icd-v1-F16.gguf", "medcode-icd-v1-Q4_K_M.gguf"]
    assert manifest.files[1].verification == json.loads(reports[1][1].model_dump_json())
    names = set(manifest.others)
    assert {"README.md", "Modelfile", "codes.gbnf", "LICENSE", "NOTICE.txt", "tokenizer/config.json"} <= names
    assert not list(delivered.glob(".*"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (delivered / TOKENIZER / name).read_bytes() == (base / name).read_bytes()


def test_the_delivered_tokenizer_is_the_bases(delivered, base, prompts):
    from medcode_serving.decoding.trie_cache import trie_key
    from medcode_serving.engines.transformers import load_tokenizer

    own, others = load_tokenizer(base), load_tokenizer(delivered / TOKENIZER)
    assert others(prompts)["input_ids"] == own(prompts)["input_ids"]
    assert trie_key(others, CODES) == trie_key(own, CODES)


def test_the_card_says_what_the_files_are_and_nothing_of_this_machine(delivered, base):
    card = (delivered / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "gguf"
    assert front["license_name"].startswith("apache-2.0, and the data use agreement")
    assert front["base_model"] == base.name
    assert str(base.parent) not in card
    row = next(line for line in card.splitlines() if "](medcode-icd-v1-Q4_K_M.gguf)" in line)
    cells = ["0.6 MB", "1.2e-03", "98.5 %", "9 of 10", "98.7 %", "0.872", "0.019 (-0.002 to 0.031)"]
    assert row == f"| [Q4_K_M](medcode-icd-v1-Q4_K_M.gguf) | {' | '.join(cells)} |"
    assert (
        "In Q4_K_M, some matrices have another type, because their rows do not divide into its blocks: 3 Q5_0." in card
    )
    assert "| This model | Micro F1 | 0.900 (0.890–0.910) | – |" in card
    assert "0.123" not in card  # validation is no test
    assert "LoRA rank | 32 |" in card
    assert "3,920 training documents" in card
    assert f"{file_sha256(delivered / 'medcode-icd-v1-F16.gguf')}  medcode-icd-v1-F16.gguf" in card
    assert "\n\n\n" not in card
    assert "*Micro F1* is over 100 validation notes, where the merged model has 0.891;" in card
    assert "F16 at most 1e-05 and at least 99.5 %, Q4_K_M at most 5e-02 and at least 85.0 %; its micro F1" in card
    assert "not measured" not in card
    assert "LoRA-F32" not in card
    assert "medcode does not.\n  Count it once." in card
    assert "medcode reads it as text" in card
    assert "the bundle's own folder `gguf/`, and none that lie elsewhere" in card


def test_files_that_were_scored_on_other_notes_say_on_which(tmp_path, bundle, base, reports):
    shutil.copytree(reports[0], tmp_path / "gguf")
    few = F1Comparison(notes=8, merged=0.923, file=0.923, low=0, high=0, equal_answers=8)
    others = reports[1][1].model_copy(update={"f1": few, "positions": 41})
    write_companions(tmp_path / "gguf", bundle, base, [reports[1][0], others])
    card = (tmp_path / "gguf" / "README.md").read_text()
    rows = card[card.index("| File") :].splitlines()[:4]
    assert [row.count("|") for row in rows] == [11] * 4
    assert "| Micro F1 | Lost (95 % interval) | Validation notes | Merged model's micro F1 |" in rows[0]
    assert rows[2].endswith("| 0.872 | 0.019 (-0.002 to 0.031) | 100 | 0.891 |")
    assert rows[3].endswith("| 0.923 | 0.000 (0.000 to 0.000) | 8 | 0.923 |")
    assert "over 100 validation notes" not in card
    assert "mean over 41 to 377 positions" in card


def test_card_and_modelfile_recommend_the_same_file(tmp_path, bundle, base):
    files = {name: tmp_path / file_name("icd", "v1", quantization(name)) for name in ("f16", "q8_0", "q4_k_m")}
    for size, file in zip((3000, 2000, 1000), files.values(), strict=True):
        file.write_bytes(bytes(size))
    write_companions(tmp_path, bundle, base, [report(name, file, f1=None) for name, file in files.items()])
    card, lines = (tmp_path / "README.md").read_text(), (tmp_path / "Modelfile").read_text().splitlines()
    assert "Take **Q8_0** unless memory is short" in card
    assert "the Modelfile has all settings and names Q8_0" in card
    assert "FROM ./medcode-icd-v1-Q8_0.gguf" in lines
    comment = next(line for line in lines if line.startswith("# For another"))
    assert comment.endswith(": medcode-icd-v1-F16.gguf, medcode-icd-v1-Q4_K_M.gguf")


def test_the_card_tells_how_the_adapter_alone_is_used_if_it_is_there(tmp_path, bundle, base, reports):
    folder = tmp_path / "gguf"
    shutil.copytree(reports[0], folder)
    lora = folder / "medcode-icd-v1-LoRA-F32.gguf"
    lora.write_bytes(b"adapter")
    write_companions(folder, bundle, base, reports[1])
    card = (folder / "README.md").read_text()
    assert f"### The adapter alone\n\n[`{lora.name}`]({lora.name})" in card
    assert f"--lora {lora.name}" in card
    assert f"`{base.name}`, revision `r1`" in card[card.index("### The adapter alone") :]
    assert f"{file_sha256(lora)}  {lora.name}" in card
    assert "\n\n\n" not in card


def test_a_card_without_f1_has_no_column_of_it(tmp_path, bundle, base, reports):
    shutil.copytree(reports[0], tmp_path / "gguf")
    unjudged = [one.model_copy(update={"f1": None, "fine_tune_kept": None}) for one in reports[1]]
    write_companions(tmp_path / "gguf", bundle, base, unjudged[:1])
    card = (tmp_path / "gguf" / "README.md").read_text()
    assert "| [F16](medcode-icd-v1-F16.gguf) | 1.2 MB | 1.2e-03 | 98.5 % | 9 of 10 | – |\n" in card
    assert "Lost (95" not in card
    assert "Micro F1 was not measured" in card
    assert "its micro F1 within" not in card
    assert f"licence: **{UNKNOWN}**" in card


def test_what_fell_back_is_told_from_what_is_mixed_on_purpose(tmp_path):
    def types(name: str, kinds: dict[str, int]) -> dict[str, int]:
        return fallen_back(report(name, tmp_path, tensor_types=kinds))

    assert types("q4_k_m", {"Q4_K": 9, "Q6_K": 2, "Q8_0": 1, "F32": 12}) == {"Q8_0": 1}
    assert types("q8_0", {"Q8_0": 9, "F16": 2, "F32": 12}) == {"F16": 2}
    assert types("f16", {"F16": 9, "F32": 12}) == {}


def test_lm_studio_gets_links_in_its_own_layout_and_what_is_there_is_left(delivered, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    files = install_in_lm_studio(delivered, Path())
    folder = tmp_path / "models" / "medcode" / "medcode-icd-v1"
    assert [file.name for file in files] == ["medcode-icd-v1-F16.gguf", "medcode-icd-v1-Q4_K_M.gguf"]
    assert all(file.parent == folder and file.samefile(delivered / file.name) for file in files)
    card = folder / "README.md"
    assert card.read_bytes() == (delivered / "README.md").read_bytes()
    assert not card.samefile(delivered / "README.md")
    before = card.stat().st_mtime_ns
    assert install_in_lm_studio(delivered, tmp_path / "models") == files
    assert card.stat().st_mtime_ns == before
    files[0].unlink()
    files[0].write_bytes(b"another model")
    install_in_lm_studio(delivered, tmp_path)
    assert files[0].read_bytes() == (delivered / files[0].name).read_bytes()


def test_lm_studio_gets_a_complete_export(delivered, tmp_path):
    folder = install_in_lm_studio(delivered, tmp_path)[0].parent
    assert verify_folder(folder) == verify_folder(delivered)
    names = {path.relative_to(delivered) for path in delivered.rglob("*")}
    assert {path.relative_to(folder) for path in folder.rglob("*")} == names
    (folder / GGUF_MANIFEST).write_text("{}")
    (folder / TOKENIZER / "config.json").write_text("{}")
    install_in_lm_studio(delivered, tmp_path)
    assert verify_folder(folder) == verify_folder(delivered)


def test_lm_studio_gets_only_what_lies_in_the_folder(delivered, tmp_path):
    folder, models = tmp_path / "gguf", tmp_path / "models"
    shutil.copytree(delivered, folder)
    models.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    manifest = json.loads((folder / GGUF_MANIFEST).read_text())
    for name in ("../secret", str(secret)):
        others = manifest["others"] | {name: file_sha256(secret)}
        (folder / GGUF_MANIFEST).write_text(json.dumps(manifest | {"others": others}))
        with pytest.raises(MedcodeError, match="secret: missing"):
            install_in_lm_studio(folder, models)
    assert not [path for path in models.rglob("*") if path.is_file()]


def test_lm_studio_on_another_disk_gets_copies_if_they_fit(delivered, tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    usage = namedtuple("usage", "total used free")(10, 10, 1000)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(MedcodeError, match=r"GB needed for medcode-icd-v1-F16\.gguf, 0\.\d+ GB free"):
            install_in_lm_studio(delivered, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    for file in install_in_lm_studio(delivered, tmp_path, publisher="clinic"):
        assert file.parent == tmp_path / "clinic" / "medcode-icd-v1"
        assert not file.samefile(delivered / file.name)
        assert file.read_bytes() == (delivered / file.name).read_bytes()


def test_a_folder_that_is_not_there_is_named(delivered, tmp_path):
    with pytest.raises(MedcodeError, match="nowhere: no such folder"):
        install_in_lm_studio(delivered, tmp_path / "nowhere")
    with pytest.raises(MedcodeError, match=GGUF_MANIFEST):
        install_in_lm_studio(tmp_path, tmp_path)
