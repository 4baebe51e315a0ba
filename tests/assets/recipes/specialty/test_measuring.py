"""Both models side by side: by hand, and as the metrics' own module has them."""

from pathlib import Path

import pytest

from medcode_assets.evaluation.text_metrics.bertscore import BertScoreEncoder
from medcode_assets.evaluation.text_metrics.measure import measure_text
from medcode_assets.recipes.specialty.measuring import compare, score
from medcode_assets.recipes.words.answers import Answered
from medcode_assets.recipes.words.questions import Asked
from medcode_serving.errors import MedcodeError

STEM_ONLY = "meteor_exact_stem"
ASKED = [
    Asked(0, "cardiology", "Which drug?", ("aspirin and heparin",)),
    Asked(1, "cardiology", "Which vessel?", ("the coronary artery", "coronary artery")),
    Asked(2, "dermatology", "Which cream?", ("a mild steroid cream",)),
    Asked(3, "dermatology", "Which skin?", ("dry skin",)),
]
BASE = ["heparin", "a vein", "no idea at all", "skin"]
TUNED = ["aspirin and heparin", "coronary artery", "a steroid cream", "oily skin"]


def answered(texts: list[str]) -> list[Answered]:
    return [Answered(text, 3, 0.5, cut=False) for text in texts]


def test_by_hand_over_all_and_by_specialty() -> None:
    found = compare(ASKED, score(ASKED, answered(BASE), answered(TUNED), None), "tiny")
    # token F1, articles left out: base 1/2, 0, 0, 2/3; tuned 1, 1, 4/5, 1/2.
    f1 = found.overall.metric("token_f1")
    assert f1.base.value == pytest.approx((1 / 2 + 2 / 3) / 4)
    assert f1.finetuned.value == pytest.approx((1 + 1 + 4 / 5 + 1 / 2) / 4)
    assert f1.difference.value == pytest.approx(f1.finetuned.value - f1.base.value)
    cardiology, dermatology = found.specialties
    assert (cardiology.name, cardiology.answers) == ("cardiology", 2)
    assert cardiology.metric("exact_match").finetuned.value == 1.0
    assert cardiology.metric("token_f1").base.value == pytest.approx(1 / 4)
    assert dermatology.metric("token_f1").difference.value == pytest.approx((4 / 5 + 1 / 2 - 2 / 3) / 2)
    for group in (found.overall, *found.specialties):
        for metric in group.metrics:
            for value in (metric.base, metric.finetuned, metric.difference):
                assert -1 <= value.low <= value.value <= value.high <= 1
    assert "bertscore_f1" in found.skipped


def test_every_metric_is_that_of_the_shared_module() -> None:
    scored = score(ASKED, answered(BASE), answered(TUNED), None)
    found = compare(ASKED, scored, "tiny")
    for side, texts in (("base", BASE), ("finetuned", TUNED)):
        shared = measure_text(texts, [one.references for one in ASKED])
        own = {metric.name: getattr(metric, side).value for metric in found.overall.metrics}
        own.pop(STEM_ONLY)  # of this recipe alone
        assert own == pytest.approx({metric.name: metric.value for metric in shared.metrics})
        assert found.skipped.keys() == shared.skipped.keys()
        alone = [measure_text([text], [one.references]) for text, one in zip(texts, ASKED, strict=True)]
        for name, values in scored.per_answer(side).items():
            if name != STEM_ONLY:
                assert list(values) == pytest.approx([one.metric(name).value for one in alone])


def test_meteor_without_synonyms_by_hand() -> None:
    asked = [Asked(place, "a", "?", ("one pill daily",)) for place in range(3)]
    said = answered(["one pills daily", "one drop daily", "tablet"])
    values = score(asked, said, said, None).per_answer("finetuned")[STEM_ONLY]
    # F = PR / (0.9 P + 0.1 R), penalty 0.5 (chunks / matches)³. By stem 3 of 3 in one chunk: 1 - 0.5 / 27. Without the
    # middle 2 of 3 in two chunks: 2/3, halved. A synonym counts for nothing.
    assert list(values) == pytest.approx([1 - 0.5 / 27, 1 / 3, 0])


def test_no_difference_has_no_interval() -> None:
    found = compare(ASKED, score(ASKED, answered(TUNED), answered(TUNED), None), "tiny")
    for metric in found.overall.metrics:
        assert (metric.difference.value, metric.difference.low, metric.difference.high, metric.p) == (0, 0, 0, 1)


def test_no_answers_are_told() -> None:
    with pytest.raises(MedcodeError, match="no answers"):
        score([], [], [], None)


def test_bertscore_is_measured_with_a_local_encoder(tmp_path: Path) -> None:
    pytest.importorskip("bert_score", reason="needs medcode[text-metrics]")
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = sorted({word for text in (*BASE, *TUNED, *(one.references[0] for one in ASKED)) for word in text.split()})
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"), model_max_length=32).save_pretrained(tmp_path)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words) + 5, max_position_embeddings=32, **shape)).save_pretrained(tmp_path)
    encoder = BertScoreEncoder(model=str(tmp_path), cache=tmp_path, layer=2, device="cpu")
    scored = score(ASKED, answered(BASE), answered(TUNED), encoder)
    right = [place for place, text in enumerate(TUNED) if text in ASKED[place].references]
    f1 = scored.per_answer("finetuned")["bertscore_f1"]
    assert right == [0, 1]
    assert [f1[place] for place in right] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert not {"bertscore_f1", "bertscore_recall"} & scored.skipped.keys()
    found = compare(ASKED, scored, "tiny").overall.metric("bertscore_f1")
    assert found.finetuned.value > found.base.value
