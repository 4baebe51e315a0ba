"""BERTScore and token log-probabilities: what needs a model."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_assets.evaluation.text_metrics.bertscore import BertScoreEncoder
from medcode_assets.evaluation.text_metrics.likelihood import completion_log_probabilities, perplexity
from medcode_assets.evaluation.text_metrics.measure import measure_text
from medcode_serving.errors import MedcodeError

WORDS = ["the", "patient", "takes", "metformin", "insulin", "daily", "fever", "no"]
SHAPE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
NAMES = ("bertscore_precision", "bertscore_recall", "bertscore_f1")


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A random BERT of three layers whose words are tokens; `t5` in its path must not make a T5 of it."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    pytest.importorskip("bert_score", reason="needs medcode[text-metrics]")
    folder = tmp_path_factory.mktemp("t5") / "bert"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=16, **SHAPE)
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def roberta(tmp_path_factory) -> Path:
    """A random RoBERTa with a byte-level tokenizer, in which a word with a space before it is another token."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    pytest.importorskip("bert_score", reason="needs medcode[text-metrics]")
    folder = tmp_path_factory.mktemp("roberta")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator([f"{word} {word}" for word in WORDS * 3], trainer)
    tokenizer.model.save(str(folder))
    torch.manual_seed(0)
    size = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 18, "type_vocab_size": 1}
    RobertaModel(RobertaConfig(**size, **SHAPE)).save_pretrained(folder)
    files = {"vocab": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}
    RobertaTokenizer(**files, model_max_length=16).save_pretrained(folder)
    return folder


def bertscore(folder, answers, references, layer=2, **options):
    encoder = BertScoreEncoder(model=str(folder), cache=folder, layer=layer, device="cpu", **options)
    return measure_text(answers, references, bertscore=encoder)


def by_hand(folder, answer, reference, layer, prefix):
    """Zhang et al., equations 1 and 2, over the hidden states of one layer of the whole model."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def embeddings(text):
        with torch.no_grad():
            states = model(**tokenizer(prefix + text, return_tensors="pt"), output_hidden_states=True).hidden_states
        return torch.nn.functional.normalize(states[layer][0], dim=-1)

    likeness = embeddings(answer) @ embeddings(reference).T
    # The tokens that frame a text may be matched, but weigh nothing.
    precision = likeness.max(dim=1).values[1:-1].mean().item()
    recall = likeness.max(dim=0).values[1:-1].mean().item()
    return precision, recall, 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(("model", "prefix"), [("bert", ""), ("roberta", " ")])
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_bertscore_by_the_paper(model, prefix, layer, request):
    # RoBERTa's first word has a space before it, as in the numbers that are published.
    folder = request.getfixturevalue(model)
    answer, reference = "the patient takes metformin", "no patient takes insulin daily"
    measured = bertscore(folder, [answer], [[reference]], layer)
    expected = by_hand(folder, answer, reference, layer, prefix)
    assert [measured.metric(name).value for name in NAMES] == pytest.approx(expected, abs=1e-5)
    assert f"_L{layer}_no-idf" in measured.metric("bertscore_f1").how


def test_bertscore_takes_the_best_reference_and_gives_blank_answers_zero(bert):
    answers = ["takes metformin", " ", "fever", "no insulin"]
    references = [["fever", "takes metformin"], ["fever"], ["", "fever"], [""]]
    measured = bertscore(bert, answers, references)
    for name in NAMES:
        assert measured.metric(name).value == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert bertscore(bert, [""], [["fever"]]).metric("bertscore_f1").value == 0.0


def test_bertscore_does_not_depend_on_batches_or_order(bert):
    answers = [" ".join(WORDS[start : start + 1 + start % 3]) for start in range(6)]
    references = [[" ".join(WORDS[1 : 3 + start])] for start in range(6)]
    at_once, one_by_one = bertscore(bert, answers, references), bertscore(bert, answers, references, batch_size=1)
    backwards = bertscore(bert, answers[::-1], references[::-1])
    for name in NAMES:
        assert at_once.metric(name).value == pytest.approx(one_by_one.metric(name).value, abs=1e-6)
        assert at_once.metric(name) == backwards.metric(name)


def test_bertscore_cuts_texts_that_are_too_long_and_says_where(bert):
    # 16 positions, and the tokenizer names no limit: 14 tokens, 12 of them words. What follows is not seen.
    measured = bertscore(bert, ["fever " * 12 + "insulin " * 20], [["fever " * 12]])
    assert measured.metric("bertscore_f1").value == pytest.approx(1.0)
    assert "texts cut at 14 tokens" in measured.metric("bertscore_f1").how


def test_an_encoder_that_does_not_fit_is_skipped_with_the_reason(bert, tmp_path):
    def reason(folder, layer):
        return bertscore(folder, ["fever"], [["fever"]], layer).skipped["bertscore_f1"]

    assert "3 layers, asked for layer 4" in reason(bert, 4)
    assert "set `layer`" in reason(bert, None)
    assert "no such folder" in reason(tmp_path / "nowhere", 2)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    assert "safetensors" in reason(tmp_path, 2)


def test_an_encoder_that_is_not_here_is_named_with_the_way_out(tmp_path, monkeypatch):
    pytest.importorskip("bert_score", reason="needs medcode[text-metrics]")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder = BertScoreEncoder(model="nobody/no-such-encoder", cache=tmp_path)
    reason = measure_text(["fever"], [["fever"]], bertscore=encoder).skipped["bertscore_recall"]
    for part in ("'nobody/no-such-encoder'", str(tmp_path), "hf download"):
        assert part in reason
    assert "embedded" not in reason
    assert "\n" not in reason


def test_perplexity_by_hand():
    # Tokens of probability 1/2, 1/4 and 1/8: the geometric mean is 1/4, over all tokens and not over completions.
    assert perplexity([[math.log(1 / 2), math.log(1 / 4)], [], [math.log(1 / 8)]]) == pytest.approx(4)
    assert perplexity([[0.0]]) == 1.0
    assert perplexity([[-math.inf]]) == perplexity([[-1e6]]) == math.inf


@settings(deadline=None, max_examples=50)
@given(st.floats(-20, 0), st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(any))
def test_perplexity_of_equally_likely_tokens_is_the_inverse_probability(value, lengths):
    assert perplexity([[value] * length for length in lengths]) == pytest.approx(math.exp(-value))


def test_perplexity_refuses_what_is_no_log_probability():
    for nothing in ([], [[]]):
        with pytest.raises(MedcodeError, match="no token"):
            perplexity(nothing)
    with pytest.raises(MedcodeError, match="diverged"):
        perplexity([[-1.0, math.nan]])
    with pytest.raises(ValueError, match="no log-probability"):
        perplexity([[0.5]])


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from medcode_serving.base_models import resolve_base_model

    path = resolve_base_model("embedded", tmp_path_factory.mktemp("cache")).path
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(path)


PROMPTS = ["Fever and cough for three days. Codes:", "Pain.", "No complaints since the last visit, takes metformin."]
COMPLETIONS = [" J18.9", " R52, R50.9, I10", " E11.9"]


def encoded(tokenizer):
    return tokenizer(PROMPTS)["input_ids"], tokenizer(COMPLETIONS, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_log_probabilities_are_those_of_the_models_own_loss(embedded, batch_size):
    import torch

    model, tokenizer = embedded
    prompts, completions = encoded(tokenizer)
    found = completion_log_probabilities(model, prompts, completions, batch_size=batch_size)
    for prompt, completion, scores in zip(prompts, completions, found, strict=True):
        labels = torch.tensor([[-100] * len(prompt) + completion])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([prompt + completion]), labels=labels).loss.item()
        assert len(scores) == len(completion)
        assert -sum(scores) / len(scores) == pytest.approx(loss, abs=1e-4)
        assert perplexity([scores]) == pytest.approx(math.exp(loss), rel=1e-4)


def test_log_probabilities_of_no_tokens(embedded):
    model, _ = embedded
    assert completion_log_probabilities(model, [], []) == []
    assert completion_log_probabilities(model, [[5], [5, 6]], [[], []]) == [[], []]
    mixed = completion_log_probabilities(model, [[5], [5, 6, 7]], [[8], []])
    assert [len(scores) for scores in mixed] == [1, 0]


def test_log_probabilities_refuse_bad_input(embedded):
    model, _ = embedded
    with pytest.raises(ValueError, match="1 prompts and 0"):
        completion_log_probabilities(model, [[1]], [])
    with pytest.raises(ValueError, match="prompt is empty"):
        completion_log_probabilities(model, [[]], [[1]])
    model.train()
    try:
        with pytest.raises(ValueError, match="eval"):
            completion_log_probabilities(model, [[1]], [[1]])
    finally:
        model.eval()
