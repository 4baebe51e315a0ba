"""Examples to token ids, batch by batch through Arrow, and back into DuckDB."""

import os
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from medcode_assets.warehouse import (
    Built,
    Source,
    built,
    count_rows,
    fingerprint,
    inputs,
    one_value,
    second_cursor,
    write_table,
)
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate, encode_completions, encode_prompts
from medcode_serving.sections import sections_hash

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

BATCH = 256
"""Notes tokenized together: enough to keep the tokenizer's threads busy, few enough to stay small in memory."""
BATCH_BYTES = 4_000_000
"""Bytes of note text tokenized together, unless one note alone has more: a token takes about 100 bytes meanwhile."""
AHEAD = 2
"""Batches in work at once: while one becomes Arrow, which takes one thread, the next is tokenized on all."""


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
    unshortened prompt), truncated, cut_sections (names of the note's sections that were shortened or dropped).

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
        sections=sections_hash(),
        version=2,
    )
    earlier = built(con, table)
    if earlier and earlier.fingerprint == made_from and not rebuild:
        return earlier

    part = f"{recipe}.tokens_part_{made_from[:12]}"
    _drop_parts(con, recipe, all_but=None if rebuild else part)
    # Batch by batch into a table of its own: one transaction over all would keep all tokens in memory, and a run that
    # is killed goes on from here.
    con.execute("SET force_compression = 'auto'")
    con.execute(
        f"CREATE TABLE IF NOT EXISTS {part} (example_id BIGINT, split VARCHAR, prompt_ids INTEGER[], "
        "completion_ids INTEGER[], whole_length INTEGER, truncated BOOLEAN, cut_sections VARCHAR[])"
    )
    total = int(one_value(con, f"SELECT count(*) FROM {recipe}.examples WHERE len(answer) > 0"))
    done = count_rows(con, part)
    with second_cursor(con) as reader:
        for tokens in _tokenized(_batches(reader, recipe, part), tokenizer, template, max_prompt_tokens):
            con.register("tokenized", tokens)
            con.execute(f"INSERT INTO {part} SELECT * FROM tokenized")
            con.unregister("tokenized")
            done += tokens.num_rows
            if on_progress:
                on_progress(done, total)

    def create() -> None:
        con.execute(f"DROP TABLE IF EXISTS {table}")
        con.execute(f"ALTER TABLE {part} RENAME TO tokens")
        # Kept beside the tokens: evaluation and serving must cut where training did.
        con.execute(
            f"CREATE OR REPLACE TABLE {recipe}.token_limits AS SELECT ? AS max_prompt_tokens", [max_prompt_tokens]
        )

    return write_table(con, table, Source(made_from), create)


def _drop_parts(con: "duckdb.DuckDBPyConnection", recipe: str, all_but: str | None) -> None:
    """Drop what killed runs left behind, but for the part that this run goes on with."""
    parts = con.execute(
        "SELECT table_name FROM duckdb_tables() WHERE schema_name = ? AND starts_with(table_name, 'tokens_part_')",
        [recipe],
    ).fetchall()
    for (name,) in parts:
        if f"{recipe}.{name}" != all_but:
            con.execute(f"DROP TABLE {recipe}.{name}")


def _batches(reader: "duckdb.DuckDBPyConnection", recipe: str, part: str) -> "Iterator[pa.RecordBatch]":
    """Yield examples that have an answer and are not in `part` yet, `BATCH` rows or about `BATCH_BYTES` at a time."""
    import pyarrow.compute as pc

    query = (
        f"SELECT example_id, split, note, answer FROM {recipe}.examples JOIN {recipe}.notes USING (example_id) "
        f"WHERE len(answer) > 0 AND example_id NOT IN (SELECT example_id FROM {part})"
    )
    for batch in reader.sql(query).to_arrow_reader(BATCH):
        # Which slice each note falls into, by the bytes up to its end.
        slices = pc.divide(pc.cumulative_sum(pc.binary_length(batch["note"]).cast("int64")), BATCH_BYTES).to_pylist()
        starts = [row for row in range(len(slices)) if row == 0 or slices[row] != slices[row - 1]]
        for start, end in zip(starts, [*starts[1:], len(slices)], strict=True):
            yield batch.slice(start, end - start)


def _tokenized(
    batches: "Iterator[pa.RecordBatch]",
    tokenizer: "PreTrainedTokenizerBase",
    template: PromptTemplate,
    max_prompt_tokens: int,
) -> "Iterator[pa.Table]":
    """Yield the tokens of each batch in turn, with `AHEAD` batches in work."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # or one fork would turn the tokenizer's threads off
    pending: deque[Future[pa.Table]] = deque()
    with ThreadPoolExecutor(AHEAD, thread_name_prefix="tokenize") as threads:
        try:
            for batch in batches:
                pending.append(threads.submit(_tokenize, batch, tokenizer, template, max_prompt_tokens))
                if len(pending) > AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _tokenize(
    batch: "pa.RecordBatch",
    tokenizer: "PreTrainedTokenizerBase",
    template: PromptTemplate,
    max_prompt_tokens: int,
) -> "pa.Table":
    import pyarrow as pa

    columns: dict[str, list[Any]] = batch.to_pydict()
    prompts = encode_prompts(tokenizer, template, columns["note"], max_prompt_tokens)
    completions = encode_completions(tokenizer, [template.completion(answer) for answer in columns["answer"]])
    return pa.table(
        {
            "example_id": batch["example_id"],
            "split": batch["split"],
            "prompt_ids": int_lists([prompt.input_ids for prompt in prompts]),
            "completion_ids": int_lists(completions),
            "whole_length": pa.array([prompt.whole_length for prompt in prompts], pa.int32()),
            "truncated": [prompt.truncated for prompt in prompts],
            "cut_sections": pa.array([prompt.cut for prompt in prompts], pa.list_(pa.string())),
        }
    )


def int_lists(rows: list[list[int]]) -> "pa.ListArray":
    """Return token ids as an Arrow column, over one flat buffer: twice as fast as from nested lists."""
    import numpy as np
    import pyarrow as pa

    values, ends = array("i"), [0]
    for row in rows:
        values.fromlist(row)
        ends.append(len(values))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(np.frombuffer(values, np.int32)))


def longest_completion(con: "duckdb.DuckDBPyConnection", recipe: str) -> int:
    """Return the number of tokens of the longest completion."""
    return int(one_value(con, f"SELECT coalesce(max(len(completion_ids)), 0) FROM {recipe}.tokens"))


def length_bars(
    con: "duckdb.DuckDBPyConnection", recipe: str, max_prompt_tokens: int, bars_to_limit: int
) -> tuple[dict[int, int], dict[int, float]]:
    """Return a histogram of the prompts' lengths before shortening, and their percentiles 50, 90 and 99.

    Bar 0 counts prompts of up to `max_prompt_tokens / bars_to_limit` tokens, bar 1 those of up to twice as much, and
    so on: the limit is an edge.
    """
    bars = con.execute(
        "SELECT ((whole_length * $bars + $limit - 1) // $limit - 1)::INTEGER AS bar, count(*) "
        f"FROM {recipe}.tokens GROUP BY bar ORDER BY bar",
        {"bars": bars_to_limit, "limit": max_prompt_tokens},
    ).fetchall()
    values = one_value(con, f"SELECT quantile_cont(whole_length, [0.5, 0.9, 0.99]) FROM {recipe}.tokens")
    return dict(bars), dict(zip((50, 90, 99), values, strict=True)) if values else {}


def refuse_no_room(max_prompt_tokens: int, longest_completion: int, positions: int, model_id: str) -> None:
    """Raise MedcodeError if a full prompt and the longest completion are more than a model's positions.

    Evaluation and serving give every prompt that much room, so it must be there before hours of training.
    """
    if max_prompt_tokens + longest_completion > positions:
        raise MedcodeError(
            f"base model {model_id!r} has {positions} positions: data.max_prompt_tokens {max_prompt_tokens} leaves no "
            f"room for an answer of {longest_completion} tokens; set it to {positions - longest_completion} or less"
        )
