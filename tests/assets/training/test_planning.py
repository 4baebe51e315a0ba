"""What a plan says against what torch itself says, on models of a few layers."""

import sys

import numpy as np
import pytest
from transformers import Qwen2Config

from benchmarks.planning import Shape, measured_apart, planned
from medcode_assets.training.cost import flops_per_example, read_gpus
from medcode_assets.training.models import Precision
from medcode_assets.training.planning import MARGIN, Growth, MemoryPlan, Reach, advice, fullest_row, plan
from medcode_assets.training.rehearsal import Stage, _rehearse, rehearse
from medcode_assets.training.settings import LoraSettings, TrainingSettings

ROW = [(180, 20), (90, 10)]


def stage(mode="lora", layers=4, checkpointing=False, device="cpu", precision="fp32", **more) -> Stage:
    config = Qwen2Config(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    training = TrainingSettings(mode=mode, gradient_checkpointing=checkpointing)
    return Stage(config, mode, LoraSettings(), training, Precision(precision), device, **more)


def parameters(layers: int) -> int:
    layer = 64 * (64 + 32 + 32 + 64) + (64 + 32 + 32) + 3 * 64 * 128 + 2 * 64
    return 2 * 1000 * 64 + layers * layer + 64


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("shape", [Shape(checkpointing=True, layers=3), Shape(mode="full", layers=3, tokens=2_000)])
def test_plans_are_within_a_fifth_of_the_measured_peak(shape):
    found = measured_apart(shape)
    risen = found["peak"] - found["before"]
    assert planned(shape) == pytest.approx(risen, rel=0.2)
    assert planned(shape) + found["before"] == pytest.approx(found["peak"], rel=0.2)


def test_full_fine_tuning_holds_weights_and_moments_in_fp32():
    found = plan(stage("full", precision="bf16", device="cuda"), ROW)
    assert found.weights == pytest.approx(4 * parameters(4), rel=0.01)  # and the rotary buffers
    assert found.optimizer == pytest.approx(8 * parameters(4), rel=0.01)


def test_an_adapter_leaves_the_base_in_half_precision():
    adapter = 8 * 4 * sum((64 + 64, 64 + 32, 64 + 32, 64 + 64, 64 + 128, 64 + 128, 128 + 64))
    found = plan(stage(precision="bf16", device="cuda"), ROW)
    assert found.weights == pytest.approx(2 * parameters(4) + 4 * adapter, rel=0.01)
    assert found.optimizer == pytest.approx(8 * adapter, rel=0.02)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_few_layers_tell_of_many(mode):
    many = stage(mode, layers=6, checkpointing=True)
    extrapolated, exact = rehearse(many, ROW), _rehearse(many, ROW)
    for phase in ("forward", "last layer", "first layer", "step"):
        assert extrapolated[phase] == exact[phase]


def test_two_examples_tell_of_many():
    growth = Growth(stage(layers=2), (180, 20), (90, 10))
    row = [(180, 20), *[(90, 10)] * 4]
    assert growth.plan(5).tensors == pytest.approx(plan(stage(layers=2), row).tensors, rel=0.02)


def test_another_longest_example_is_one_more_rehearsal():
    growth = Growth(stage(layers=2), (180, 20), (90, 10))
    longer = growth.with_longest((380, 20))
    assert longer.plan(1).tensors == Growth(stage(layers=2), (380, 20), (90, 10)).plan(1).tensors
    assert longer.plan(4).tensors == pytest.approx(
        plan(stage(layers=2), [(380, 20), *[(90, 10)] * 3]).tensors, rel=0.02
    )


def test_the_longest_example_that_fits_does_fit():
    growth = Growth(stage(layers=2, device="cuda"), (180, 20), (90, 10))
    memory = growth.with_longest((1980, 20)).plan(4).peak / (1 - MARGIN)
    reach = Reach(growth, 4, 8192)
    found = reach.longest(int(memory))
    assert 1500 < found <= 2000
    assert growth.with_longest((found - 20, 20)).plan(4).peak <= memory * (1 - MARGIN)
    assert reach.longest(10**12) == 8192
    assert reach.longest(growth.plan(1).weights) == 0
    shorter = reach.longest(int(growth.with_longest((80, 20)).plan(4).peak / (1 - MARGIN)) + 1)
    assert 50 < shorter <= 101


def test_less_memory_by_checkpointing_and_by_four_bits():
    long = [(1900, 100)]
    plain, saving = plan(stage(), long), plan(stage(checkpointing=True), long)
    assert saving.activations < 0.6 * plain.activations
    assert plan(stage("qlora"), ROW).weights < plan(stage("lora"), ROW).weights


def test_sharding_divides_what_is_kept():
    alone, shared = (plan(stage("full", sharded=sharded), ROW, processes=2) for sharded in (False, True))
    assert shared.weights == pytest.approx(alone.weights / 2, rel=0.01)
    assert shared.optimizer == pytest.approx(alone.optimizer / 2, rel=0.01)


def test_advice_names_the_setting_that_makes_it_fit():
    wanted = stage(layers=2)
    need = Growth(wanted, (1900, 100), (900, 100)).plan(wanted.training.batch_size).peak
    assert "training.batch_size=" in advice(wanted, (1900, 100), (900, 100), 2 * need)
    assert "choose a smaller base model" in advice(wanted, (1900, 100), (900, 100), 1000)


def test_the_fullest_row_is_the_one_with_most_tokens():
    lengths = np.array([10, 500, 20, 30])
    training = TrainingSettings(batch_size=2, gradient_accumulation=2)
    assert fullest_row(lengths, training, 1, packed=True) == [1]


def test_planning_leaves_random_numbers_alone():
    import torch

    torch.manual_seed(1)
    wanted = torch.rand(1)
    torch.manual_seed(1)
    plan(stage(layers=2), ROW)
    assert torch.equal(torch.rand(1), wanted)


def test_operations_of_an_adapter_are_two_thirds_of_full_fine_tuning():
    ratio = flops_per_example(stage("lora"), 10) / flops_per_example(stage("full"), 10)
    assert ratio == pytest.approx(2 / 3, rel=0.35)  # the adapter's own products, on a model this narrow
    assert [gpu.memory_gb for gpu in read_gpus()[0]] == [24, 40, 80, 141]


def test_a_plan_adds_up():
    assert MemoryPlan(1, 2, 3, 4, 5, 6).peak == 21
    assert MemoryPlan(1, 2, 3, 4, 5, 6).tensors == 15
