"""Our GGUF files against those of llama.cpp's own converter, convert_hf_to_gguf.py: the same bytes, the same keys."""

import os
import subprocess
import sys
from pathlib import Path

import gguf
import pytest

from medcode_assets.export.gguf import write_gguf

from .conftest import FAMILY_MODELS, METADATA

CONVERTER = Path(os.environ.get("MEDCODE_LLAMACPP_CONVERTER", Path(__file__).parents[3] / ".venv/llama.cpp"))
FILE_TYPES = ("f32", "f16", "bf16", "q8_0")

pytestmark = pytest.mark.skipif(
    not (CONVERTER / "convert_hf_to_gguf.py").exists(),
    reason=f"llama.cpp's converter is not in {CONVERTER}; MEDCODE_LLAMACPP_CONVERTER names another folder",
)

# One process for all files, because the converter takes seconds to import.
DRIVER = """
import sys
from pathlib import Path

converter, *models = sys.argv[1:]
sys.path[:0] = [converter, str(Path(converter, "gguf-py"))]
import convert_hf_to_gguf
from conversion import TextModel


def no_tokenizer_model(self):
    raise FileNotFoundError


# It knows a splitting rule by the hash of how one text is tokenized, which no made-up vocabulary has: the one thing it
# cannot be asked. And it finds out that there is no SentencePiece file only after seconds of imports.
TextModel.get_vocab_base_pre = lambda self, tokenizer: "unasked"
TextModel._set_vocab_sentencepiece = TextModel._set_vocab_llama_hf = no_tokenizer_model
for model in models:
    for file_type in ("f32", "f16", "bf16", "q8_0"):
        sys.argv = ["", model, "--outtype", file_type, "--outfile", f"{model}-{file_type}.gguf"]
        convert_hf_to_gguf.main()
"""

OURS_ALONE = {"general.version", "general.tags", "medcode.bundle_version"} | {
    # llama.cpp would decide by the splitting rule's name
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "phi2.rope.freq_base",  # 10,000 if left out, whatever the model has
}
DIFFERENT = {
    "general.name",  # the folder's
    "tokenizer.ggml.pre",  # see DRIVER
}


@pytest.fixture(scope="session")
def converted(family_models) -> dict[str, Path]:
    """Models of which `<folder>-f16.gguf` and so on are the converter's."""
    command = [sys.executable, "-c", DRIVER, str(CONVERTER), *map(str, family_models.values())]
    environment = os.environ | {"NO_LOCAL_GGUF": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stderr[-2000:]
    return family_models


def contents(reader: gguf.GGUFReader) -> dict[str, object]:
    return {name: found.contents() for name, found in reader.fields.items() if not name.startswith("GGUF.")}


def tensors(reader: gguf.GGUFReader) -> dict[str, tuple[object, ...]]:
    return {
        tensor.name: (tensor.tensor_type, tensor.shape.tolist(), tensor.data.tobytes()) for tensor in reader.tensors
    }


@pytest.mark.parametrize("name", FAMILY_MODELS)
def test_every_tensor_and_key_is_the_converters(converted, tmp_path, name):
    for file_type in FILE_TYPES:
        theirs = gguf.GGUFReader(f"{converted[name]}-{file_type}.gguf")
        file = write_gguf(converted[name], tmp_path / f"{file_type}.gguf", file_type=file_type, metadata=METADATA)
        ours = gguf.GGUFReader(file)
        expected, found = tensors(theirs), tensors(ours)
        assert found.keys() == expected.keys()
        assert [tensor for tensor in expected if found[tensor] != expected[tensor]] == []
        expected_keys, keys = contents(theirs), contents(ours)
        assert expected_keys.keys() <= keys.keys()
        assert keys.keys() - expected_keys.keys() <= OURS_ALONE
        assert {key for key in expected_keys if keys[key] != expected_keys[key]} <= DIFFERENT
