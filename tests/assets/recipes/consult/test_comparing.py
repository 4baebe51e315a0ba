"""Other models beside the adapter: the embedded base in another folder stands for an instruct model."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from medcode_assets.artifacts import made
from medcode_assets.recipes.consult.comparing import candidates, compare_models, compared_fingerprint, plain_name
from medcode_assets.recipes.consult.rating import SHEET, make_rating_sheet, read_key
from medcode_assets.recipes.consult.recipe import CONSULT
from medcode_assets.recipes.words.answers import (
    TUNED,
    UNTUNED,
    Answered,
    answers_file,
    read_word_answers,
    write_word_answers,
)
from medcode_assets.recipes.words.measuring import read_word_report
from medcode_assets.recipes.words.questions import Asked
from medcode_serving.base_models import resolve_base_model
from medcode_serving.bundle import DecodingSettings
from medcode_serving.errors import MedcodeError
from tests.tiny import qwen2, write_tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GOOD = "You most likely have a cold.\n\n1. Cause\n   - A virus.\n2. Care\n   - Rest.\n"
ASKED = [Asked(place, "", f"I cough. Number {place}?", ("A cold.",)) for place in range(3)]


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    folder = tmp_path / "evaluation"
    write_word_answers(answers_file(folder, TUNED), ASKED, [Answered(GOOD, 20, 0.9, False)] * 3)
    write_word_answers(answers_file(folder, UNTUNED), ASKED, [Answered("A cold.", 3, 0.5, False)] * 3)
    return folder


def test_every_model_answers_once_and_is_measured_beside_the_adapter(evaluation: Path, tmp_path: Path) -> None:
    base = resolve_base_model("embedded", tmp_path / "cache")
    other = tmp_path / "other"
    shutil.copytree(base.path, other)
    with (other / "config.json").open("a") as config:
        config.write("\n")
    found = candidates(["embedded", str(other)], base, tmp_path / "cache")
    assert [one.name for one in found] == [str(other)]  # the adapter's own base has answered already
    assert compared_fingerprint("a", found) != compared_fingerprint("b", found) != compared_fingerprint("b", [])
    assert CONSULT.words is not None
    report = compare_models(
        evaluation,
        found,
        CONSULT.words,
        tmp_path / "comparison",
        tmp_path / "parts",
        made_from="f" * 64,
        decoding=DecodingSettings(max_prompt_tokens=128, max_answer_tokens=8),
        batch_size=2,
        device="cpu",
    )
    assert list(report.models) == [UNTUNED, str(other), TUNED]
    assert report == read_word_report(tmp_path / "comparison")
    assert report.models[TUNED].value("structure") == 1.0
    assert report.models[UNTUNED].value("structure") == 0.0
    asked, answers = read_word_answers(answers_file(tmp_path / "comparison", plain_name(str(other))))
    assert asked == ASKED
    assert all(0 < answer.tokens <= 8 for answer in answers)
    gain = report.gain("structure")
    assert gain is not None and gain.value == 1.0


def chat_of(question: str) -> list[dict[str, str]]:
    assert CONSULT.chat is not None
    return [{"role": "system", "content": CONSULT.chat.system}, {"role": "user", "content": question}]


def write_thinking_model(folder: Path) -> tuple[Any, Any]:
    """Train a small model, in its own chat template, to think aloud before it answers; return it with its tokenizer."""
    import torch
    from transformers import AutoTokenizer

    assert CONSULT.chat is not None
    said = [f"<think>\nHe coughs. {place} days?\n</think>\n\nRest {place} days.<|im_end|>" for place in range(3)]
    texts = [CONSULT.chat.system, *(one.question for one in ASKED), *said]
    size = write_tokenizer(folder, texts * 3, 700)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token, tokenizer.chat_template = "<|im_end|>", CHATML
    tokenizer.save_pretrained(folder)
    end = tokenizer.eos_token_id
    model = qwen2(size + 2, seed=0, hidden_size=64, num_hidden_layers=1, eos_token_id=end)
    rows = []
    for one, answer in zip(ASKED, said, strict=True):
        prompt = tokenizer.apply_chat_template(chat_of(one.question), add_generation_prompt=True, tokenize=False)
        begin, whole = (tokenizer(text)["input_ids"] for text in (prompt, prompt + answer))
        rows.append((whole, [-100] * len(begin) + whole[len(begin) :]))
    assert len({len(whole) for whole, _ in rows}) == 1
    tokens, wanted = (torch.tensor([row[side] for row in rows]) for side in (0, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    for _ in range(1000):
        loss = model(input_ids=tokens, labels=wanted).loss
        if loss.item() < 0.001:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    return model, tokenizer


def test_an_instruct_model_is_asked_in_its_chat_template_and_its_thoughts_are_no_answer(
    evaluation: Path, tmp_path: Path
) -> None:
    import torch

    base, folder = resolve_base_model("embedded", tmp_path / "cache"), tmp_path / "instruct"
    model, tokenizer = write_thinking_model(folder)
    assert CONSULT.words is not None
    report = compare_models(
        evaluation,
        candidates([str(folder)], base, tmp_path / "cache"),
        CONSULT.words,
        tmp_path / "comparison",
        tmp_path / "parts",
        made_from="f" * 64,
        decoding=DecodingSettings(max_prompt_tokens=256, max_answer_tokens=40),
        batch_size=2,
        device="cpu",
    )
    _, answers = read_word_answers(answers_file(tmp_path / "comparison", plain_name(str(folder))))
    assert [answer.text for answer in answers] == [f"Rest {place} days." for place in range(3)]
    for one, answer in zip(ASKED, answers, strict=True):  # as transformers writes it, in its template
        prompt = tokenizer.apply_chat_template(
            chat_of(one.question), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            written = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        text = tokenizer.decode(written, skip_special_tokens=True)
        assert text == f"<think>\nHe coughs. {one.example_id} days?\n</think>\n\n{answer.text}"
        assert answer.tokens in (len(written), len(written) - 1)  # thoughts counted; whether its end is, is no matter
    measured = report.models[str(folder)]
    assert (measured.words, measured.verbosity) == (3.0, 1.5)  # of three words, for "A cold."
    assert report.models[UNTUNED].value("structure") == 0.0


def test_without_other_models_the_two_stand_alone(evaluation: Path, tmp_path: Path) -> None:
    assert CONSULT.words is not None
    report = compare_models(
        evaluation,
        [],
        CONSULT.words,
        tmp_path / "comparison",
        tmp_path / "parts",
        made_from="f" * 64,
        decoding=DecodingSettings(),
        batch_size=2,
        device="cpu",
    )
    assert list(report.models) == [UNTUNED, TUNED]
    facts = made(tmp_path / "comparison")
    assert facts is not None and facts["models"] == [UNTUNED, TUNED]


def test_the_rating_sheet_needs_both_models(evaluation: Path, tmp_path: Path) -> None:
    make_rating_sheet(evaluation, tmp_path / "sheet", made_from="abcdef" + "0" * 58, rated=50, seed=0)
    key = read_key(tmp_path / "sheet")
    assert (key.sheet, len(key.tuned)) == ("abcdef", 3)
    assert (tmp_path / "sheet" / SHEET).read_text(encoding="utf-8-sig").count("You most likely") == 3
    answers_file(evaluation, UNTUNED).unlink()
    with pytest.raises(MedcodeError, match="untuned_base: true"):
        make_rating_sheet(evaluation, tmp_path / "sheet", made_from="f" * 64, rated=50, seed=0)
