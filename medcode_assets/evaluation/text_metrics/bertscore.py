"""BERTScore: how alike answer and reference are to an encoder, token by token (Zhang et al., ICLR 2020)."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.evaluation.text_metrics.answer_statistics import AnswerStatistics, mean_statistics
from medcode_serving.base_models import LocalModel, resolve_base_model
from medcode_serving.device import resolve_device
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np

    from medcode_assets.evaluation.text_metrics.overlap import Pairs

METRICS = ("bertscore_precision", "bertscore_recall", "bertscore_f1")
PAIRS_AT_ONCE = 128
"""bert-score keeps the embeddings of all texts that it is given: of so many pairs about half a gigabyte at worst."""


class BertScoreEncoder(BaseModel):
    """Which encoder compares, and where it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="A local folder or a Hugging Face id, e.g. FacebookAI/roberta-large.")
    cache: Path = Field(description="Folder of downloaded models; asked before the hub.")
    layer: int | None = Field(
        default=None, ge=1, description="Layer whose embeddings are compared; of known models bert-score's own choice."
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or mps.")
    batch_size: int = Field(default=64, ge=1)


@dataclass(frozen=True)
class _LoadedEncoder:
    model: Any
    tokenizer: Any
    how: str


def bertscore_statistics(pairs: "Pairs", encoder: BertScoreEncoder) -> AnswerStatistics:
    """Return BERTScore's precision, recall and F1, each the best over references, as bert-score does.

    Raw cosines, neither rescaled by a baseline nor weighted by IDF: good answers lie close together below 1, so
    only numbers of one encoder and layer compare. A blank text scores 0. Longer texts than the encoder takes are
    cut; `how` says where.

    Raises:
        MedcodeError: the encoder is not to be had, or is none that bert-score can use.
    """
    import numpy as np

    loaded = _load(encoder)
    compared = [
        (place, answer, reference)
        for place, (answer, references) in enumerate(pairs)
        for reference in references
        if answer.strip() and reference.strip()  # bert-score cannot read a blank text with transformers 5
    ]
    scores = _similarities([(answer, reference) for _, answer, reference in compared], loaded, encoder.batch_size)
    rows = np.full((len(pairs), len(METRICS)), -np.inf)
    np.maximum.at(rows, np.array([place for place, _, _ in compared], dtype=np.int64), scores)
    rows[np.isneginf(rows)] = 0.0
    return mean_statistics(rows, METRICS, loaded.how)


def _similarities(pairs: list[tuple[str, str]], encoder: _LoadedEncoder, batch_size: int) -> "np.ndarray":
    """Return precision, recall and F1 of each (answer, reference), float64 [pairs, 3], in [-1, 1]."""
    from collections import defaultdict

    import numpy as np
    from bert_score.utils import bert_cos_score_idf

    tokenizer = encoder.tokenizer
    # What BERTScorer does without IDF: every token weighs 1, the two that frame a text 0.
    weights: dict[int, float] = defaultdict(lambda: 1.0)
    weights.update({tokenizer.sep_token_id: 0.0, tokenizer.cls_token_id: 0.0})
    parts = [np.empty((0, len(METRICS)))]
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        answers, references = zip(*pairs[start : start + PAIRS_AT_ONCE], strict=True)
        scores = bert_cos_score_idf(
            encoder.model,
            list(references),
            list(answers),
            tokenizer,
            weights,
            batch_size=batch_size,
            device=encoder.model.device,
        )
        parts.append(scores.double().numpy())
    return np.clip(np.concatenate(parts), -1.0, 1.0)  # a cosine of 1 may be a rounding error above


def _load(encoder: BertScoreEncoder) -> _LoadedEncoder:
    """Load an encoder up to its layer, in float32.

    Not by `BERTScorer`: it would take pickled weights, and any path with `t5` in it for a T5; and transformers 5
    ignores the prefix space that bert-score asks RoBERTa's and GPT-2's tokenizers for, which changes the first
    token of every text. Here the tokenizer is loaded with it.
    """
    import torch
    from bert_score.utils import get_hash
    from transformers import AutoConfig, AutoModel, AutoTokenizer, GPT2Tokenizer, RobertaTokenizer

    found = _find(encoder)
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(found.path, **local)
    layer = encoder.layer or _known_layer(encoder.model)
    _refuse_unfit(encoder.model, config, layer)
    config.num_hidden_layers = layer
    model = AutoModel.from_pretrained(found.path, config=config, dtype=torch.float32, use_safetensors=True, **local)
    tokenizer = AutoTokenizer.from_pretrained(found.path, **local)
    if isinstance(tokenizer, (GPT2Tokenizer, RobertaTokenizer)):
        tokenizer = AutoTokenizer.from_pretrained(found.path, add_prefix_space=True, **local)
    if tokenizer.pad_token_id is None:
        raise MedcodeError(f"BERTScore: {encoder.model!r} has no padding token; name an encoder such as roberta-large")
    positions = getattr(config, "max_position_embeddings", None) or 514
    if tokenizer.model_max_length > positions:
        tokenizer.model_max_length = positions - 2  # the tokenizer says nothing; RoBERTa counts positions from 2
    setting = get_hash(found.id, layer, False, False, False, False)
    how = f"{setting}, revision {found.revision[:12]}, texts cut at {tokenizer.model_max_length} tokens"
    return _LoadedEncoder(model.to(resolve_device(encoder.device)).eval(), tokenizer, how)


def _find(encoder: BertScoreEncoder) -> LocalModel:
    try:
        return resolve_base_model(encoder.model, encoder.cache)
    except MedcodeError as error:
        reason = str(error).partition("; ")[0]  # what follows is a way out for base models
        raise MedcodeError(
            f"BERTScore: {reason}; name a folder with config.json, *.safetensors and the tokenizer: "
            "`hf download ID --local-dir DIR` on a machine with network makes one"
        ) from None


def _known_layer(model: str) -> int:
    """Return the layer that bert-score found to agree best with people; by the id's last part if need be."""
    from bert_score.utils import model2layers

    layer = model2layers.get(model) or model2layers.get(Path(model).name)
    if layer is None:
        raise MedcodeError(f"BERTScore: bert-score knows no best layer of {model!r}; set `layer`")
    return int(layer)


def _refuse_unfit(model: str, config: Any, layer: int) -> None:
    if config.is_encoder_decoder:
        raise MedcodeError(f"BERTScore: {model!r} has encoder and decoder; name an encoder such as roberta-large")
    if layer > config.num_hidden_layers:
        raise MedcodeError(f"BERTScore: {model!r} has {config.num_hidden_layers} layers, asked for layer {layer}")
