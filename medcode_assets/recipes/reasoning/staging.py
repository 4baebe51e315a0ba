"""One stage's training: its lines as token files, its job, and what its adapter comes from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.recipes.fitting import NOT_IN_FINGERPRINT, VALIDATION_EXAMPLES, training_job
from medcode_assets.recipes.reasoning.settings import StageSettings
from medcode_assets.recipes.recipe import Stage
from medcode_assets.training.job import TRAIN, VALIDATION, TrainingJob
from medcode_assets.training.models import effective_mode
from medcode_assets.training.token_file import TokenFile, write_batches
from medcode_assets.training.tokens import int_lists
from medcode_assets.warehouse import fingerprint, inputs
from medcode_assets.writing import refusing_unwritable
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import DecodingSettings
from medcode_serving.chat import chat_prompt
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate, encode_completions, encode_prompts
from medcode_serving.sections import sections_hash

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

BATCH = 512
"""Lines that are tokenized together."""
ANSWERS = {"sft": {"completion_ids": "completion"}, "dpo": {"chosen_ids": "completion", "rejected_ids": "worse"}}
"""Columns of a token file, and of the table whose texts they are."""


def stage_prompt(stage: Stage, base: LocalModel) -> PromptTemplate:
    """Return what a stage asks a base model."""
    return chat_prompt(base.path, stage.chat.system, stage.chat.answer)


def stage_fingerprint(
    con: "duckdb.DuckDBPyConnection",
    stage: Stage,
    base: LocalModel,
    settings: StageSettings,
    before: str | None,
) -> str:
    """Return the fingerprint of all that a stage's adapter comes from; `before` is the seal of the earlier stage's."""
    training = settings.training
    return fingerprint(
        examples=inputs(con, f"reasoning.{stage.name}"),
        prompt=stage_prompt(stage, base).model_dump(),
        base=base.revision,
        lora=settings.lora.model_dump(),
        training={**training.model_dump(exclude=NOT_IN_FINGERPRINT), "mode": effective_mode(training)},
        preference=settings.preference.model_dump() if stage.objective == "dpo" else None,
        max_prompt_tokens=settings.data.max_prompt_tokens,
        sections=sections_hash(),
        before=before,
        version=2,
    )


def stage_job(
    stage: Stage, base: LocalModel, made_from: str, settings: StageSettings, before: Path | None
) -> TrainingJob:
    """Return the job of a stage's training; `before` is the folder of the earlier stage's weights."""
    training = settings.training.model_copy(update={"start_from": str(before) if before else None})
    job = training_job("reasoning", base, made_from, settings.compute, settings.lora, training, settings.logging)
    return job.model_copy(update={"objective": stage.objective, "preference": settings.preference})


@dataclass(frozen=True)
class StageLengths:
    """Tokens of a stage's training examples."""

    prompts: Sequence[int]
    answers: Sequence[int]
    """The longer one of a pair."""
    shortened: int
    """Narratives that did not fit."""

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest answer."""
        return max(self.answers, default=0)


def write_stage_tokens(
    con: "duckdb.DuckDBPyConnection",
    stage: Stage,
    base: LocalModel,
    max_prompt_tokens: int,
    folder: Path,
) -> StageLengths:
    """Write a stage's token files into a training's folder, unless they are there; return the training lengths.

    Raises:
        MedcodeError: a full prompt and the longest answer are more than the model's positions; the disk is full.
    """
    from transformers import AutoConfig

    from medcode_serving.engines.transformers import load_tokenizer

    with refusing_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    tokenizer, prompt = load_tokenizer(base.path), stage_prompt(stage, base)
    shortened = 0
    for name, split, most in ((TRAIN, "train", -1), (VALIDATION, "validation", VALIDATION_EXAMPLES)):
        if not (folder / name).exists():
            batches = _Batches(con, stage, split, most, tokenizer, prompt, max_prompt_tokens)
            write_batches(batches, batches.schema, folder / name)
            shortened += batches.shortened
    lengths = TokenFile(folder / TRAIN).lengths
    answers = [lengths[column] for column in ANSWERS[stage.objective]]
    found = StageLengths(
        lengths["prompt_ids"].tolist(),
        [max(row) for row in zip(*(a.tolist() for a in answers), strict=True)],
        shortened,
    )
    positions = AutoConfig.from_pretrained(base.path, local_files_only=True).max_position_embeddings
    longest = max(map(sum, zip(found.prompts, found.answers, strict=True)), default=0)
    if longest > positions:
        raise MedcodeError(
            f"base model {base.id!r} has {positions} positions and the longest example of {stage.name} {longest} "
            f"tokens; set data.max_prompt_tokens to {max(64, positions - found.longest_answer)} or less"
        )
    return found


class _Batches:
    """A split's lines as record batches of token ids."""

    def __init__(
        self,
        con: "duckdb.DuckDBPyConnection",
        stage: Stage,
        split: str,
        most: int,
        tokenizer: "PreTrainedTokenizerBase",
        prompt: PromptTemplate,
        max_prompt_tokens: int,
    ) -> None:
        import pyarrow as pa

        self._answers = ANSWERS[stage.objective]
        self._reader: Any = con.sql(
            f"SELECT example_id, narrative, {', '.join(self._answers.values())} FROM reasoning.{stage.name} "
            "WHERE split = ? ORDER BY md5(CAST(example_id AS VARCHAR)), example_id "
            "LIMIT CASE WHEN ? < 0 THEN 9223372036854775807 ELSE ? END",
            params=[split, most, most],
        ).to_arrow_reader(BATCH)
        self._tokenizer, self._prompt, self._max_prompt_tokens = tokenizer, prompt, max_prompt_tokens
        tokens = pa.list_(pa.int32())
        columns = [("prompt_ids", tokens), *((name, tokens) for name in self._answers)]
        self.schema = pa.schema([("example_id", pa.int64()), *columns])
        self.shortened = 0

    def __iter__(self) -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa

        for batch in self._reader:
            texts: dict[str, list[Any]] = batch.to_pydict()
            prompts = encode_prompts(self._tokenizer, self._prompt, texts["narrative"], self._max_prompt_tokens)
            self.shortened += sum(prompt.truncated for prompt in prompts)
            answers = [
                int_lists(encode_completions(self._tokenizer, texts[column])) for column in self._answers.values()
            ]
            columns = [batch["example_id"], int_lists([prompt.input_ids for prompt in prompts]), *answers]
            yield pa.RecordBatch.from_arrays(columns, schema=self.schema)


def stage_limits(stage: Stage, max_prompt_tokens: int, lengths: StageLengths) -> DecodingSettings:
    """Return the limits of a stage's answers."""
    return DecodingSettings(
        max_prompt_tokens=max_prompt_tokens,
        max_codes=1,
        max_reasoning_tokens=lengths.longest_answer if stage.chat.answer == "reasoned" else 0,
        sections=sections_hash(),
    )
