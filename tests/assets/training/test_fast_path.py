"""Packed rows against the plain Hugging Face Trainer: loss, gradients, five optimizer steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medcode_assets.training.attention import PACKED, VERIFIED, can_pack, register_packed_attention
from medcode_assets.training.loop import train
from medcode_assets.training.objectives.objective import label_logits
from medcode_assets.training.objectives.rows import packed_row, padded_row
from medcode_assets.training.order import step_examples
from medcode_serving.errors import MedcodeError

from .jobs import make_job, tiny_base

SEED = 3


def random_examples(count: int, longest: int = 40) -> list[dict[str, list[int]]]:
    generator = np.random.default_rng(0)
    return [
        {
            "prompt_ids": generator.integers(2, 64, generator.integers(3, longest)).tolist(),
            "completion_ids": [*generator.integers(2, 64, generator.integers(1, 9)).tolist(), 1],
        }
        for _ in range(count)
    ]


def tiny_model(model_type: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        model_type,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    if model_type == "qwen3":
        config.head_dim = 8
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def padded_batch(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    rows = [[*example["prompt_ids"], *example["completion_ids"]] for example in examples]
    width = max(map(len, rows))
    batch = {
        "input_ids": [row + [0] * (width - len(row)) for row in rows],
        "attention_mask": [[1] * len(row) + [0] * (width - len(row)) for row in rows],
        "labels": [
            [-100] * len(example["prompt_ids"]) + example["completion_ids"] + [-100] * (width - len(row))
            for example, row in zip(examples, rows, strict=True)
        ],
    }
    return {name: torch.tensor(value) for name, value in batch.items()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("model_type", VERIFIED)
def test_a_packed_row_has_the_loss_and_gradients_of_separate_notes(model_type: str, checkpointing: bool) -> None:
    examples = random_examples(5)
    model = tiny_model(model_type).train()
    assert can_pack(model.config)
    if checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model.set_attn_implementation("eager")
    expected = model(**padded_batch(examples)).loss
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    register_packed_attention()
    model.set_attn_implementation(PACKED)
    arrays = [(np.array(e["prompt_ids"]), [np.array(e["completion_ids"])]) for e in examples]
    row = packed_row(arrays)
    assert row.padding == 0
    loss = torch.nn.functional.cross_entropy(label_logits(model, row), row.labels)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("model_type", VERIFIED)
def test_five_steps_equal_the_plain_trainers(model_type: str, tmp_path: Path) -> None:
    from peft import get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from medcode_assets.training.models import lora_config
    from medcode_assets.training.settings import LoraSettings

    base = tiny_base(tmp_path / "base", tiny_model(model_type))
    examples = random_examples(20)
    lora = LoraSettings(r=4, alpha=8, dropout=0.0)
    settings = {
        "epochs": 1,
        "batch_size": 2,
        "gradient_accumulation": 2,
        "seed": SEED,
        "warmup_ratio": 0.2,
        "max_grad_norm": 0.3,
        "weight_decay": 0.1,
    }
    folder = make_job(tmp_path / "job", base, examples, lora=lora.model_dump(), training=settings)
    result = train(folder)
    assert (result.steps, result.attention) == (5, "packed")

    order = [place for step in range(5) for place in step_examples(20, 4, SEED, step)]
    plain = AutoModelForCausalLM.from_pretrained(base.path)
    torch.manual_seed(SEED)
    plain = get_peft_model(plain, lora_config(lora))
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "hf"),
        num_train_epochs=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        warmup_steps=1,
        max_grad_norm=0.3,
        weight_decay=0.1,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=plain,
        args=arguments,
        train_dataset=[examples[place] for place in order],
        data_collator=padded_batch,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [loss for _, loss in result.losses] == pytest.approx(losses, abs=1e-4)  # the Trainer rounds what it logs
    trained = load_file(folder / "weights" / "adapter_model.safetensors")
    expected = {name.replace(".default", ""): p for name, p in plain.named_parameters() if p.requires_grad}
    assert trained.keys() == expected.keys()
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, expected[name].detach(), atol=2e-5, rtol=1e-3)


def test_branches_share_a_prompt_and_do_not_see_each_other() -> None:
    generator = np.random.default_rng(1)
    prompt, left, right = (generator.integers(2, 64, length) for length in (11, 4, 6))
    model = tiny_model("qwen2").train()
    separate = padded_row([(prompt, [left, right])], pad=0)
    model.set_attn_implementation("eager")
    expected = label_logits(model, separate)
    register_packed_attention()
    model.set_attn_implementation(PACKED)
    shared = packed_row([(prompt, [left, right])])
    assert shared.real_tokens == 21 < separate.real_tokens
    torch.testing.assert_close(label_logits(model, shared), expected, atol=1e-5, rtol=1e-4)
    assert (shared.labels == separate.labels).all() and (shared.sequence == separate.sequence).all()


def test_other_architectures_take_the_plain_path_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "gpt2", vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=256, eos_token_id=1, bos_token_id=1
    )
    base = tiny_base(tmp_path / "base", AutoModelForCausalLM.from_config(config))
    result = train(make_job(tmp_path / "job", base))
    assert result.attention == "sdpa"
    assert "packed rows have not been shown right for models of type 'gpt2'" in caplog.text
    assert result.losses[-1][1] < result.losses[0][1]
    with pytest.raises(MedcodeError, match=r"training\.attention packed: not shown"):
        train(make_job(tmp_path / "packed", base, training={"attention": "packed"}))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_plain_path_learns_the_same(tmp_path: Path, attention: str) -> None:
    base = tiny_base(tmp_path / "base")
    settings = {"epochs": 1, "batch_size": 4, "gradient_accumulation": 2}
    examples = random_examples(16)
    packed = train(make_job(tmp_path / "packed", base, examples, lora={"dropout": 0.0}, training=settings))
    plain = train(
        make_job(
            tmp_path / "plain", base, examples, lora={"dropout": 0.0}, training={**settings, "attention": attention}
        )
    )
    assert plain.padding_share > 0 == packed.padding_share
    assert [loss for _, loss in plain.losses] == pytest.approx([loss for _, loss in packed.losses], abs=1e-5)


def test_packed_attention_is_for_training_only() -> None:
    register_packed_attention()
    model = tiny_model("qwen2").eval()
    model.set_attn_implementation(PACKED)
    with pytest.raises(MedcodeError, match="for training rows only"):
        model(input_ids=torch.tensor([[3, 4]]))
    with pytest.raises(MedcodeError, match="padding mask"):
        model(input_ids=torch.tensor([[3, 4]]), attention_mask=torch.tensor([[1, 0]]))
