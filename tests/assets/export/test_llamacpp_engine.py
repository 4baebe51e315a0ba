"""The engine `llamacpp` over an exported file, beside the same model in transformers."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medcode_assets.export.gguf import write_gguf
from medcode_assets.export.metadata import ModelMetadata
from medcode_serving.base_models.added_tokens import with_added_tokens
from medcode_serving.bundle import DecodingSettings
from medcode_serving.chat import chat_prompt
from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from medcode_serving.engines.llamacpp import LlamaCppEngine
from medcode_serving.engines.llamacpp_server import LlamaCppServer
from medcode_serving.engines.protocol import NoteOptions, Prediction
from medcode_serving.engines.transformers import TransformersEngine
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate
from medcode_serving.reasoned import SPECIAL_TOKENS, code_line
from tests import tiny

CODES = ["E11", "E11.9", "E11.65", "I10", "J18.9", "N17.9", "0DTJ4ZZ", "401.9"]
NOTES = [
    "Type 2 diabetes, well controlled.",
    "Hypertension; pneumonia after diarrhoea.",
    "Appendectomy.",
    "naïve; [** 2150-3-14 **] ___ <|endoftext|>",
    "67 y/o with pneumonia, HR 112. " * 12,
]
DECODING = DecodingSettings(max_prompt_tokens=160, max_codes=4)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary([VocabularyCode("icd10cm", code, code, None, 1) for code in CODES])


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose answers have several codes."""
    folder = tmp_path_factory.mktemp("merged")
    size = tiny.write_tokenizer(folder, [" ".join(NOTES)] * 2, 320, pad_token=tiny.END)
    tiny.qwen2(size, seed=3, hidden_size=64, initializer_range=0.2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def f32(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "m.gguf"
    return write_gguf(merged, file, file_type="f32", metadata=ModelMetadata("tiny", "1"))


@pytest.fixture(scope="module")
def engine(f32: Path, merged: Path, vocabulary: Vocabulary) -> Iterator[LlamaCppEngine]:
    found = LlamaCppEngine(f32, merged, vocabulary, PromptTemplate(), DECODING, slots=2, threads=1)
    yield found
    found.close()


@pytest.fixture(scope="module")
def transformers(merged: Path, vocabulary: Vocabulary) -> TransformersEngine:
    return TransformersEngine("merged", merged, None, vocabulary, PromptTemplate(), DECODING, device="cpu")


def codes(prediction: Prediction) -> list[str]:
    return [code.code for code in prediction.codes]


@pytest.mark.parametrize(
    "options",
    [
        NoteOptions(),
        NoteOptions(max_codes=2),
        NoteOptions(constrained=False),
        NoteOptions(long_notes="windows"),
        NoteOptions(long_notes="refuse"),
    ],
    ids=["constrained", "two codes", "free", "windows", "refuse"],
)
def test_it_answers_as_transformers_does(engine, transformers, options: NoteOptions) -> None:
    chosen = [options] * len(NOTES)
    done: list[int] = []
    found = engine.predict(NOTES, options=chosen, on_progress=done.append)
    wanted = transformers.predict(NOTES, options=chosen)
    for mine, other in zip(found, wanted, strict=True):
        assert codes(mine) == codes(other)
        assert (mine.truncated, mine.windows, mine.dropped, mine.outcome) == (
            other.truncated,
            other.windows,
            other.dropped,
            other.outcome,
        )
        for code, twin in zip(mine.codes, other.codes, strict=True):
            # Keys and values are kept in f16, as every llama.cpp server does.
            assert code.probability == pytest.approx(twin.probability, abs=0.01)
            assert code.support == (None if twin.support is None else pytest.approx(twin.support, abs=0.01))
    assert sum(done) == len(NOTES)
    if options.constrained:
        assert all(len(set(codes(prediction))) == len(prediction.codes) for prediction in found)
        assert any(len(prediction.codes) > 1 for prediction in found)


def test_a_note_that_ended_is_given_up_and_the_others_are_answered(engine) -> None:
    asked = []

    def ended() -> bool:
        asked.append(True)
        return len(asked) > 2

    gone, free, there = engine.predict(
        NOTES[:3],
        options=[NoteOptions(ended=ended), NoteOptions(ended=lambda: True, constrained=False), NoteOptions()],
    )
    assert (gone.outcome, gone.codes, len(asked)) == ("ended", (), 3)
    assert free.outcome == "ended"
    assert codes(there) == codes(engine.predict([NOTES[2]])[0])


def test_a_file_with_another_tokenizer_is_refused(f32: Path, merged: Path, vocabulary, tmp_path: Path) -> None:
    for file in merged.glob("tokenizer*"):
        shutil.copyfile(file, tmp_path / file.name)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["model"]["merges"] = spec["model"]["merges"][:1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(MedcodeError, match=r"m\.gguf: splits text otherwise than the tokenizer"):
        LlamaCppEngine(f32, tmp_path, vocabulary, PromptTemplate(), DECODING, threads=1)


def test_files_that_llamacpp_cannot_load(f32: Path, merged: Path, vocabulary, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(f32.read_bytes()[:100_000])
    for file, message in ((cut, "cut.gguf: llama.cpp does not load it"), (tmp_path / "none.gguf", "no such file")):
        with pytest.raises(MedcodeError, match=message):
            LlamaCppEngine(file, merged, vocabulary, PromptTemplate(), DECODING, threads=1)
    with pytest.raises(MedcodeError, match="lower it"):
        LlamaCppEngine(f32, merged, vocabulary, PromptTemplate(), DecodingSettings(max_prompt_tokens=511), threads=1)


def test_a_connection_that_the_server_closed_is_opened_anew(f32: Path) -> None:
    with LlamaCppServer(f32, context_length=64, threads=1) as server:
        ids = server.tokenize("Fever")
        server._connection().sock.shutdown(socket.SHUT_RDWR)
        assert server.tokenize("Fever") == ids


def test_closing_ends_what_waits_and_what_comes(f32: Path, merged: Path, vocabulary) -> None:
    closed = LlamaCppEngine(f32, merged, vocabulary, PromptTemplate(), DECODING, slots=1, threads=1)

    def close_from_elsewhere() -> bool:
        if closing.ident is None:
            closing.start()
            while not is_closed(closed):
                time.sleep(0.01)
        return False

    closing = threading.Thread(target=closed.close)
    with pytest.raises(MedcodeError, match="engine llamacpp was closed"):
        closed.predict(NOTES[:3], options=[NoteOptions(ended=close_from_elsewhere)] * 3)
    closing.join()
    with pytest.raises(MedcodeError, match="engine llamacpp was closed"):
        closed.predict(NOTES)


def is_closed(engine: LlamaCppEngine) -> bool:
    try:
        engine.predict([])
    except MedcodeError:
        return True
    return False


def test_closing_while_notes_are_handed_out_is_the_same_error(f32: Path, merged: Path, vocabulary) -> None:
    closed = LlamaCppEngine(f32, merged, vocabulary, PromptTemplate(), DECODING, slots=1, threads=1)

    # A note that is refused is told of first, before any other is handed out.
    with pytest.raises(MedcodeError, match="engine llamacpp was closed"):
        closed.predict(
            [NOTES[-1], NOTES[0]],
            options=[NoteOptions(long_notes="refuse")] * 2,
            on_progress=lambda _: closed.close(),
        )


def test_a_longrope_model_is_kept_within_its_short_context(f32: Path, merged: Path, vocabulary, tmp_path: Path) -> None:
    shutil.copytree(merged, tmp_path / "longrope")
    file = tmp_path / "longrope" / "config.json"
    factors = [1.0] * 8
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 165, "rope_theta": 10_000.0}
    rope |= {"short_factor": factors, "long_factor": factors}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rope_parameters": rope}))
    with pytest.raises(MedcodeError, match="leaves 5 of the model's 165 tokens"):
        LlamaCppEngine(f32, file.parent, vocabulary, PromptTemplate(), DECODING, threads=1)


def test_a_server_that_is_gone_is_an_error_that_says_so(f32: Path) -> None:
    server = LlamaCppServer(f32, context_length=64, threads=1)
    with pytest.raises(MedcodeError, match="status 400"):
        server.complete([5] * 2000, 1)
    server.close()
    with pytest.raises(MedcodeError, match="gave no answer"):
        server.get("/v1/models")


@pytest.fixture(scope="module")
def lines() -> Vocabulary:
    found = [("icd10cm", "E11.9", "Type 2 diabetes"), ("icd10cm", "I10", "Hypertension"), ("cpt", "99213", None)]
    return Vocabulary(
        [VocabularyCode(system, code, code_line(system, code, text), text, 1) for system, code, text in found]
    )


@pytest.fixture(scope="module")
def tagged(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with tokens for the tags and markers of reasoned answers."""
    return with_added_tokens(merged, SPECIAL_TOKENS, tmp_path_factory.mktemp("tagged") / "model")


@pytest.mark.parametrize("reasoning", [40, 1])
def test_it_reasons_as_transformers_does(tagged: Path, lines: Vocabulary, tmp_path: Path, reasoning: int) -> None:
    prompt = chat_prompt(tagged, "Give your reasoning, then the code.", "reasoned")
    decoding = DecodingSettings(max_prompt_tokens=160, max_codes=1, max_reasoning_tokens=reasoning)
    file = write_gguf(tagged, tmp_path / "m.gguf", file_type="f32", metadata=ModelMetadata("tiny", "1"))
    wanted = TransformersEngine("tagged", tagged, None, lines, prompt, decoding, device="cpu").predict(NOTES)
    found = LlamaCppEngine(file, tagged, lines, prompt, decoding, slots=2, threads=1)
    try:
        answers = found.predict(NOTES)
    finally:
        found.close()
    assert any(answer.reasoning for answer in wanted)
    for mine, other in zip(answers, wanted, strict=True):
        assert mine.reasoning == other.reasoning
        assert codes(mine) == codes(other)
        assert len(mine.codes) == 1
        assert mine.codes[0].probability == pytest.approx(other.codes[0].probability, abs=0.01)


def test_a_file_without_the_tags_is_refused(f32: Path, tagged: Path, lines: Vocabulary) -> None:
    prompt = chat_prompt(tagged, "Give your reasoning, then the code.", "reasoned")
    decoding = DecodingSettings(max_prompt_tokens=160, max_codes=1, max_reasoning_tokens=8)
    with pytest.raises(MedcodeError, match=r"m\.gguf: splits text otherwise than the tokenizer"):
        LlamaCppEngine(f32, tagged, lines, prompt, decoding, threads=1)


def test_a_server_that_is_closed_at_once_does_not_wait_for_ever(f32: Path) -> None:
    # In a process of its own: what hangs holds the interpreter, so that no timeout in it could end it. Other work on
    # the machine is what makes the server's loop begin late.
    code = (
        "import sys; from pathlib import Path; from medcode_serving.engines.llamacpp_server import LlamaCppServer\n"
        "for _ in range(12): LlamaCppServer(Path(sys.argv[1]), context_length=64, threads=1).close()"
    )
    others = min(os.cpu_count() or 2, 4)  # a container counts the cores of its machine, and may have two
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
    try:
        subprocess.run([sys.executable, "-c", code, str(f32)], check=True, timeout=240)
    finally:
        for process in busy:
            process.kill()
            process.wait()
