import math
import shutil

import gguf
import numpy as np
import pytest

from medcode_assets.export import verify
from medcode_assets.export.gguf import write_gguf
from medcode_assets.export.llamacpp import llamacpp_available
from medcode_assets.export.verify import divergence, parting_preference, verify_gguf
from medcode_serving.errors import MedcodeError

needs_llamacpp = pytest.mark.skipif(not llamacpp_available(), reason="the extra llamacpp is not installed")


@pytest.fixture(params=["llama.cpp", "transformers"])
def verifier(request, monkeypatch):
    if request.param == "transformers":
        monkeypatch.setattr(verify, "llamacpp_available", lambda: False)
    elif not llamacpp_available():
        pytest.skip("the extra llamacpp is not installed")
    return request.param


def corrupted(file, target, name):
    """A copy of a GGUF file in which one value of one tensor has another sign and size."""
    shutil.copyfile(file, target)
    tensor = next(tensor for tensor in gguf.GGUFReader(target, "r+").tensors if tensor.name == name)
    tensor.data.flat[7] = 9.0
    return target


def test_the_export_passes(f16, merged, prompts, verifier):
    told = []
    report = verify_gguf(f16, merged, prompts, on_progress=lambda done, total: told.append((done, total)))
    assert report.problems == ()
    assert report.passed
    assert report.verifier.startswith(verifier)
    assert (report.changed_tensors, report.token_mismatches, report.tensors) == (0, 0, 26)
    assert 0 <= report.kl_mean < 1e-5
    assert report.positions > 60
    assert told == [(1, 2), (2, 2)]


def test_one_corrupted_value_fails(f16, merged, prompts, tmp_path, verifier):
    file = corrupted(f16, tmp_path / "c.gguf", "blk.1.attn_v.weight")
    report = verify_gguf(file, merged, prompts)
    assert not report.passed
    assert "1 of 26 tensors are not the merged model's, blk.1.attn_v.weight for one" in report.problems
    assert report.kl_mean > 1e-5  # the answers tell as well


@needs_llamacpp
def test_a_forgotten_lora_fails_on_every_count_but_tokens(base, merged, prompts, tmp_path):
    file = write_gguf(base, tmp_path / "base.gguf", name="tiny", version="1")
    report = verify_gguf(file, merged, prompts)
    assert not report.passed
    assert report.changed_tensors == 14  # two layers of seven linear modules
    assert report.kl_mean > 0.01
    assert report.token_mismatches == 0


@needs_llamacpp
def test_a_wrong_rope_base_shows_in_the_answers_although_every_weight_is_right(merged, prompts, tmp_path, f16):
    file = tmp_path / "rope.gguf"
    shutil.copyfile(f16, file)
    field = gguf.GGUFReader(file, "r+").fields["qwen2.rope.freq_base"]
    field.parts[field.data[0]][0] = 100.0
    report = verify_gguf(file, merged, prompts)
    assert report.changed_tensors == 0
    assert any("KL" in problem for problem in report.problems)


@needs_llamacpp
def test_a_wrong_pre_tokenizer_shows_in_the_tokens(merged, prompts, tmp_path, monkeypatch):
    from medcode_assets.export import tokenizer

    monkeypatch.setattr(tokenizer, "_pre_tokenizer_name", lambda file, spec: "gpt-2")
    file = write_gguf(merged, tmp_path / "pre.gguf", name="tiny", version="1")
    report = verify_gguf(file, merged, prompts)
    assert report.changed_tensors == 0
    assert any("tokenized otherwise" in problem for problem in report.problems)


@needs_llamacpp
@pytest.mark.parametrize("file_type", ["f32", "q8_0"])
def test_the_other_file_types(merged, prompts, tmp_path, file_type):
    file = write_gguf(merged, tmp_path / "m.gguf", file_type=file_type, name="tiny", version="1")
    report = verify_gguf(file, merged, prompts)
    assert report.file_type == file_type
    assert report.changed_tensors == 0
    assert report.token_mismatches == 0
    assert report.kl_mean < {"f32": 1e-8, "q8_0": 5e-2}[file_type]


def test_a_truncated_or_missing_file_and_missing_prompts_are_clear_errors(f16, merged, tmp_path):
    with pytest.raises(MedcodeError, match="no such file"):
        verify_gguf(tmp_path / "none.gguf", merged, ["a"])
    with pytest.raises(MedcodeError, match="prompts"):
        verify_gguf(f16, merged, [])
    for size in (10, 3000, f16.stat().st_size - 1000):
        file = tmp_path / "t.gguf"
        file.write_bytes(f16.read_bytes()[:size])
        with pytest.raises(MedcodeError, match="truncated"):
            verify_gguf(file, merged, ["a"])


@needs_llamacpp
def test_llamacpp_refuses_a_file_without_its_tensors(tmp_path):
    from medcode_assets.export.llamacpp import LlamaCppModel

    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(MedcodeError, match="does not load it"):
        LlamaCppModel(tmp_path / "x.gguf", 64)


def test_divergence_by_hand():
    expected = np.log([[0.5, 0.5], [0.5, 0.5]])
    found = np.log([[0.5, 0.5], [0.25, 0.75]])
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergence(expected, found) == pytest.approx([0.0, by_hand])


def test_a_divergence_over_some_tokens_is_a_lower_bound_that_still_sees_lost_mass():
    expected = np.log([[0.5, 0.3, 0.2]])
    lumped = np.array([[math.log(0.6), np.nan, np.nan]])
    assert divergence(expected, lumped) == pytest.approx([0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.4)])
    found = np.log([[0.45, 0.35, 0.2]])
    untold = np.where([[True, True, False]], found, np.nan)
    assert divergence(expected, untold) == pytest.approx(divergence(expected, found))  # the rest has equal mass
    rounded = untold - 1e-5
    assert divergence(expected, rounded) == pytest.approx(divergence(expected, untold), rel=1e-6)
    elsewhere = np.array([[np.nan, np.nan, math.log(0.99)]])
    assert divergence(expected, elsewhere)[0] > 1
    assert math.isnan(divergence(expected, np.full((1, 3), np.nan))[0])


def test_a_nan_is_a_problem_and_not_a_pass():
    problems = verify._problems(verify.GATES["f16"], (1, []), (1, 0), math.nan, math.nan, [(0, math.nan)])
    assert len(problems) == 3


def test_where_greedy_answers_part():
    rows = np.log([[0.6, 0.4], [0.51, 0.49]])
    assert parting_preference(rows, [0, 0], [0, 0]) is None
    assert parting_preference(rows, [0, 0], [0, 1]) == pytest.approx(math.log(0.51 / 0.49))
    assert parting_preference(rows, [0, 0], [0]) == math.inf
