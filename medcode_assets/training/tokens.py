"""Examples to token ids, batch by batch through Arrow, and back into DuckDB."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from medcode_assets.warehouse import Built, built, count_rows, fingerprint, inputs, one_value, write_table
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate, encode_completion, encode_prompts

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

BATCH = 512
"""Notes tokenized together: enough to keep the tokenizer's threads busy, few enough to stay small in memory."""


def build_tokens(
    con: "duckdb.DuckDBPyConnection",
    recipe: str,
    tokenizer: "PreTrainedTokenizerBase",
    template: PromptTemplate,
    *,
    max_prompt_tokens: int,
    base_revision: str,
    rebuild: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Make `<recipe>.tokens`: example_id, split, prompt_ids, completion_ids, whole_length (tokens of the
    unshortened prompt), truncated.

    `<recipe>.token_limits` keeps `max_prompt_tokens`.
    Examples without an answer (all their codes are unknown to training) have no tokens.

    Args:
        con: Writing connection of the warehouse.
        recipe: Name of the recipe, which is its schema.
        tokenizer: The base model's tokenizer.
        template: The recipe's prompt.
        max_prompt_tokens: Longer prompts have their note shortened; `truncated` says so.
        base_revision: Which tokenizer it is, for the fingerprint.
        rebuild: Tokenize even if nothing changed.
        on_progress: Told (rows done, rows in all) after each batch.
    """
    table = f"{recipe}.tokens"
    made_from = fingerprint(
        template=template.model_dump(),
        max_prompt_tokens=max_prompt_tokens,
        tokenizer=base_revision,
        inputs=inputs(con, f"{recipe}.examples"),
        version=1,
    )
    earlier = built(con, table)
    if earlier and earlier.fingerprint == made_from and not rebuild:
        return earlier

    def create() -> None:
        con.execute(
            f"CREATE OR REPLACE TABLE {table} (example_id BIGINT, split VARCHAR, "
            "prompt_ids INTEGER[], completion_ids INTEGER[], whole_length INTEGER, truncated BOOLEAN)"
        )
        # Kept beside the tokens: evaluation and serving must cut where training did.
        con.execute(
            f"CREATE OR REPLACE TABLE {recipe}.token_limits AS SELECT ? AS max_prompt_tokens", [max_prompt_tokens]
        )
        total, done = count_rows(con, f"{recipe}.examples"), 0
        # A second cursor reads while this connection writes, so no more than a batch is ever in memory.
        with con.cursor() as reader:
            for notes in _batches(reader, recipe):
                tokens = _tokenize(notes, tokenizer, template, max_prompt_tokens)
                con.register("tokenized", tokens)
                con.execute(f"INSERT INTO {table} SELECT * FROM tokenized")
                con.unregister("tokenized")
                done += notes.num_rows
                if on_progress:
                    on_progress(done, total)

    return write_table(con, table, made_from, create)


def _batches(reader: "duckdb.DuckDBPyConnection", recipe: str) -> "Iterator[pa.RecordBatch]":
    query = (
        f"SELECT example_id, split, note, answer FROM {recipe}.examples JOIN {recipe}.notes USING (example_id) "
        "WHERE len(answer) > 0"
    )
    yield from reader.sql(query).to_arrow_reader(BATCH)


def _tokenize(
    batch: "pa.RecordBatch",
    tokenizer: "PreTrainedTokenizerBase",
    template: PromptTemplate,
    max_prompt_tokens: int,
) -> "pa.Table":
    import pyarrow as pa

    columns: dict[str, list[Any]] = batch.to_pydict()
    prompts = encode_prompts(tokenizer, template, columns["note"], max_prompt_tokens)
    completions = [encode_completion(tokenizer, template.completion(answer)) for answer in columns["answer"]]
    return pa.table(
        {
            "example_id": columns["example_id"],
            "split": columns["split"],
            "prompt_ids": pa.array([prompt.input_ids for prompt in prompts], pa.list_(pa.int32())),
            "completion_ids": pa.array(completions, pa.list_(pa.int32())),
            "whole_length": pa.array([prompt.whole_length for prompt in prompts], pa.int32()),
            "truncated": [prompt.truncated for prompt in prompts],
        }
    )


def longest_completion(con: "duckdb.DuckDBPyConnection", recipe: str) -> int:
    """Return the number of tokens of the longest completion."""
    return int(one_value(con, f"SELECT coalesce(max(len(completion_ids)), 0) FROM {recipe}.tokens"))


def refuse_no_room(max_prompt_tokens: int, longest_completion: int, positions: int, model_id: str) -> None:
    """Raise MedcodeError if a full prompt and the longest completion are more than a model's positions.

    Evaluation and serving give every prompt that much room, so it must be there before hours of training.
    """
    if max_prompt_tokens + longest_completion > positions:
        raise MedcodeError(
            f"base model {model_id!r} has {positions} positions: data.max_prompt_tokens {max_prompt_tokens} leaves no "
            f"room for an answer of {longest_completion} tokens; set it to {positions - longest_completion} or less"
        )
