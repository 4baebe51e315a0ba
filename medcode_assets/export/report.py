"""What verification of a GGUF file found; holds no text of any prompt or note."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class F1Comparison(_Frozen):
    """The recipe's metric on the same validation notes, merged model against file."""

    notes: int
    merged: float = Field(description="Micro F1 of the merged model, fp32, in transformers.")
    file: float = Field(description="Micro F1 of the file, in llama.cpp.")
    low: float = Field(description="Lower end of the paired 95 % bootstrap interval of merged minus file.")
    high: float = Field(description="Upper end.")
    equal_answers: int = Field(description="Notes with the same set of codes above the threshold.")

    @property
    def loss(self) -> float:
        """Micro F1 that the file loses; negative where it gains."""
        return self.merged - self.file


class GgufReport(_Frozen):
    """What was compared and what came out."""

    file: str
    quantization: str
    size_bytes: int
    verifier: str = Field(description="Which program ran the file, with its version.")
    tensors: int
    changed_tensors: int = Field(description="Tensors that are not the merged model's weights in this number format.")
    changed_fields: tuple[str, ...] = Field(
        default=(), description="Fields of the header that an export of the merged model would have otherwise."
    )
    tensor_types: dict[str, int] = Field(description="Tensors by their own type: a K-quant mixes several.")
    fine_tune_kept: float | None = Field(
        description="Share of the fine-tune's change that is in the file, for the tensor where it is farthest from 1: "
        "1 all, 0 none. Null where the base model is not at hand."
    )
    texts: int = Field(description="Prompts and clinical samples that were tokenized.")
    token_mismatches: int = Field(description="Texts that the file's tokenizer splits otherwise.")
    template_equal: bool | None = Field(
        default=None, description="Whether the file's chat template renders the prompt of training; null: not compared."
    )
    positions: int = Field(description="Next-token distributions that were compared.")
    kl_mean: float = Field(description="Nats, merged model against file.")
    kl_max: float
    top1_agreement: float
    max_log_probability_difference: float = Field(description="Over tokens of at least 0.1 % probability, nats.")
    greedy_equal: int = Field(description="Prompts with equal greedy answers.")
    greedy_total: int
    f1: F1Comparison | None = Field(default=None, description="Null where no validation notes are at hand.")
    seconds: float
    problems: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON knows it: what is no number is null."""
        found: dict[str, Any] = json.loads(self.model_dump_json())
        return found

    @property
    def passed(self) -> bool:
        """Whether the file may be delivered."""
        return not self.problems
