"""A real, tiny world: a tokenizer, a random Qwen2, an adapter, and a published bundle of them."""

from pathlib import Path

import pytest

from medcode_serving.bundle import (
    BaseModelRef,
    Bundle,
    BundleManifest,
    DataVersion,
    DecodingSettings,
    Metric,
    Provenance,
    publish,
    write_bundle,
)
from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from tests import tiny
from tests.tiny import write_codes

CODES = [
    ("icd10cm", "E11", "Type 2 diabetes mellitus"),
    ("icd10cm", "E11.9", "Type 2 diabetes mellitus without complications"),
    ("icd10cm", "E11.65", "Type 2 diabetes mellitus with hyperglycemia"),
    ("icd10cm", "I10", "Essential (primary) hypertension"),
    ("icd10cm", "J18.9", "Pneumonia, unspecified organism"),
    ("icd10cm", "N17.9", "Acute kidney failure, unspecified"),
    ("icd10pcs", "0DTJ4ZZ", None),
    ("icd9cm", "401.9", "Unspecified essential hypertension"),
]
NOTES = [
    "Type 2 diabetes, well controlled. No chest pain.",
    "Long-standing hypertension. Admitted with community-acquired pneumonia and acute kidney injury after diarrhoea.",
    "Appendectomy.",
    "Mother has diabetes. The patient denies fever. Blood pressure 180/110, started on amlodipine 5 mg daily.",
    "HTN, DM2 with hyperglycaemia.",
]


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary(
        [
            VocabularyCode(system, code, code, description, 10 - place)
            for place, (system, code, description) in enumerate(CODES)
        ]
    )


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 of a few thousand weights with a byte-level BPE tokenizer like Qwen2's."""
    path = tmp_path_factory.mktemp("base")
    vocabulary = tiny.write_tokenizer(path, NOTES, 400)
    # Far from zero, so that random weights prefer some tokens clearly.
    tiny.qwen2(vocabulary, seed=7, initializer_range=0.5).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def adapter(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter with random weights that change what the base says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(8)
    config = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    path = tmp_path_factory.mktemp("adapter")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base_model), config).save_pretrained(path)
    (path / "README.md").unlink(missing_ok=True)
    return path


def make_manifest(base_model: Path, version: str = "v1", threshold: float = 0.0) -> BundleManifest:
    from medcode_serving.base_models import folder_revision

    return BundleManifest(
        recipe="icd",
        version=version,
        base_model=BaseModelRef(id=str(base_model), revision=folder_revision(base_model)),
        prompt={},
        decoding=DecodingSettings(max_prompt_tokens=128, max_codes=4),
        threshold=threshold,
        metrics=(Metric(name="micro_f1", value=0.5, engine="adapter", split="test", label_space="closed"),),
        data=DataVersion(partition="tiny", release="mimic-iv", sources={"discharge": "0" * 64}, split_hash="1" * 64),
        provenance=Provenance(code_version="0", libraries={}, settings={}),
    )


@pytest.fixture(scope="session")
def make_bundle(base_model: Path, adapter: Path, vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory):
    """Write one more version of the tiny bundle below a root."""
    codes = write_codes(tmp_path_factory.mktemp("codes") / "codes.parquet", vocabulary)

    def make(root: Path, version: str = "v1", threshold: float = 0.0) -> Bundle:
        return write_bundle(root, make_manifest(base_model, version, threshold), adapter=adapter, codes=codes)

    return make


@pytest.fixture(scope="session")
def home(make_bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MEDCODE_HOME with one published bundle."""
    path = tmp_path_factory.mktemp("home")
    publish(make_bundle(path / "bundles"))
    return path
