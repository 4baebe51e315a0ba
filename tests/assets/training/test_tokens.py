"""Tokens with the embedded model's own tokenizer, over a warehouse of three notes."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medcode_assets.training.tokens import build_tokens, length_bars, longest_completion, refuse_no_room
from medcode_assets.warehouse import Built, build_table, open_warehouse
from medcode_serving.base_models import resolve_base_model
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate

if TYPE_CHECKING:
    import duckdb
    from transformers import PreTrainedTokenizerBase

LONG = "The patient was seen and examined. " * 100


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve_base_model("embedded", tmp_path_factory.mktemp("cache")).path)


@pytest.fixture
def con(tmp_path: Path) -> "Iterator[duckdb.DuckDBPyConnection]":
    with open_warehouse(tmp_path / "w.duckdb") as con:
        con.execute("CREATE SCHEMA r")
        rows = f"(1, 'train', 'HTN.', ['I10', 'E11.9']), (2, 'test', '{LONG}', ['I10']), (3, 'test', 'x', [])"
        build_table(
            con,
            "r.examples",
            f"SELECT id AS example_id, split, answer FROM (VALUES {rows}) v(id, split, note, answer)",
            "1",
        )
        con.execute(
            f"CREATE VIEW r.notes AS SELECT id AS example_id, note FROM (VALUES {rows}) v(id, split, note, answer)"
        )
        yield con


def tokenize(con: "duckdb.DuckDBPyConnection", tokenizer: "PreTrainedTokenizerBase", limit: int = 64) -> Built:
    return build_tokens(con, "r", tokenizer, PromptTemplate(), max_prompt_tokens=limit, base_revision="rev")


def test_tokens_are_the_prompt_and_its_completion(
    con: "duckdb.DuckDBPyConnection", tokenizer: "PreTrainedTokenizerBase"
) -> None:
    assert tokenize(con, tokenizer).rows == 2  # the example without an answer has none
    prompt, completion, truncated = con.execute(
        "SELECT prompt_ids, completion_ids, truncated FROM r.tokens WHERE example_id = 1"
    ).fetchall()[0]
    assert tokenizer.decode(prompt) == "Predict the medical codes for the following text: HTN.\n\nCodes:"
    assert tokenizer.decode(completion[:-1]) == " I10, E11.9"
    assert completion[-1] == tokenizer.eos_token_id
    assert not truncated


def test_a_long_note_keeps_instruction_and_header(
    con: "duckdb.DuckDBPyConnection", tokenizer: "PreTrainedTokenizerBase"
) -> None:
    tokenize(con, tokenizer)
    prompt, truncated, cut = con.execute(
        "SELECT prompt_ids, truncated, cut_sections FROM r.tokens WHERE example_id = 2"
    ).fetchall()[0]
    text = tokenizer.decode(prompt)
    assert truncated
    assert cut == ["text"]
    assert con.execute("SELECT cut_sections FROM r.tokens WHERE example_id = 1").fetchall() == [([],)]
    assert 60 <= len(prompt) <= 64
    assert text.startswith("Predict the medical codes for the following text: The patient")
    assert text.endswith("\n\nCodes:")


def test_unchanged_tokens_are_skipped(con: "duckdb.DuckDBPyConnection", tokenizer: "PreTrainedTokenizerBase") -> None:
    assert not tokenize(con, tokenizer).skipped
    assert tokenize(con, tokenizer).skipped
    assert not tokenize(con, tokenizer, limit=65).skipped


def test_a_prompt_that_leaves_no_room_for_the_answer_is_refused(
    con: "duckdb.DuckDBPyConnection", tokenizer: "PreTrainedTokenizerBase"
) -> None:
    tokenize(con, tokenizer)
    longest = longest_completion(con, "r")
    assert longest == len(tokenizer(" I10, E11.9")["input_ids"]) + 1
    refuse_no_room(64, longest, 64 + longest, "m")
    with pytest.raises(MedcodeError, match="set it to 63 or less"):
        refuse_no_room(64, longest, 63 + longest, "m")


def test_many_notes_keep_their_ids(tmp_path: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    with open_warehouse(tmp_path / "w.duckdb") as con:
        con.execute("CREATE SCHEMA r")
        select = "SELECT i AS example_id, 'train' AS split, ['I10'] AS answer FROM range(1000) t(i)"
        build_table(con, "r.examples", select, "1")
        con.execute("CREATE TABLE r.notes AS SELECT i AS example_id, 'HTN ' || i AS note FROM range(1000) t(i)")
        seen: list[tuple[int, int]] = []
        build_tokens(
            con,
            "r",
            tokenizer,
            PromptTemplate(),
            max_prompt_tokens=64,
            base_revision="rev",
            on_progress=lambda done, total: seen.append((done, total)),
        )
        rows = con.execute("SELECT example_id, prompt_ids FROM r.tokens ORDER BY example_id").fetchall()
    assert [row[0] for row in rows] == list(range(1000))
    expected = tokenizer([PromptTemplate().render(f"HTN {i}") for i in range(1000)])["input_ids"]
    assert [row[1] for row in rows] == expected
    assert seen[-1] == (1000, 1000)


def test_a_histogram_has_its_limit_at_an_edge(con: "duckdb.DuckDBPyConnection") -> None:
    con.execute("CREATE TABLE r.tokens AS SELECT unnest([1, 10, 11, 250, 251, 1000]) AS whole_length")
    bars, quantiles = length_bars(con, "r", 250, 25)  # bars of 10 tokens
    assert bars == {0: 2, 1: 1, 24: 1, 25: 1, 99: 1}
    assert quantiles[50] == 130.5
    con.execute("DELETE FROM r.tokens")
    assert length_bars(con, "r", 250, 25) == ({}, {})


class Killed(BaseException):
    """Stands for the signal that ends a process: nothing may catch it."""


def test_a_run_that_was_cut_off_goes_on_and_ends_with_the_same_tokens(
    con: "duckdb.DuckDBPyConnection", tokenizer: "PreTrainedTokenizerBase"
) -> None:
    con.execute(
        "CREATE OR REPLACE TABLE r.examples AS SELECT i AS example_id, 'train' AS split, ['I10'] AS answer "
        "FROM range(900) AS t(i)"
    )
    con.execute(
        "CREATE OR REPLACE VIEW r.notes AS SELECT i AS example_id, 'Note ' || i AS note FROM range(900) AS t(i)"
    )
    checksum = "SELECT count(*), sum(hash(t)::HUGEINT) FROM r.tokens AS t"
    tokenize(con, tokenizer)
    undisturbed = con.execute(checksum).fetchall()
    told: list[int] = []

    def cut_off(done: int, total: int) -> None:
        told.append(done)
        if done > 200 and len(told) < 3:
            raise Killed

    arguments = (con, "r", tokenizer, PromptTemplate(instruction="Code: {note}"))
    with pytest.raises(Killed):
        build_tokens(*arguments, max_prompt_tokens=64, base_revision="rev", on_progress=cut_off)
    assert con.execute(checksum).fetchall() == undisturbed  # the earlier table stands
    first = told[-1]
    told.clear()
    build_tokens(*arguments, max_prompt_tokens=64, base_revision="rev", on_progress=lambda done, _: told.append(done))
    assert told[0] > first  # what was tokenized is not tokenized again
    resumed = con.execute(checksum).fetchall()
    build_tokens(*arguments, max_prompt_tokens=64, base_revision="rev", rebuild=True)
    assert con.execute(checksum).fetchall() == resumed
    left = "SELECT count(*) FROM duckdb_tables() WHERE table_name LIKE 'tokens_part%'"
    assert con.execute(left).fetchall() == [(0,)]
