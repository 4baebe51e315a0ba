"""Token files: written by DuckDB in any order, read by place."""

from pathlib import Path

import duckdb
import pytest

from medcode_assets.training.token_file import BATCH, TokenFile, write_tokens
from medcode_serving.errors import MedcodeError


def test_rows_come_back_in_the_order_of_their_ids(tmp_path: Path) -> None:
    rows = 2 * BATCH + 5
    with duckdb.connect() as con:
        query = (
            "SELECT i AS example_id, list_transform(range(i % 4), lambda x: (i + x)::INTEGER) AS prompt_ids, "
            "[i]::INTEGER[] AS completion_ids FROM range(?) t(i) ORDER BY hash(i)"
        )
        assert write_tokens(con, query, tmp_path / "t.arrow", [rows]) == rows
    tokens = TokenFile(tmp_path / "t.arrow")
    assert len(tokens) == rows
    assert tokens.example_ids.tolist() == list(range(rows))
    assert tokens.lengths["prompt_ids"].tolist() == [i % 4 for i in range(rows)]
    for place in (0, 3, BATCH, 2 * BATCH + 4, 1):
        row = tokens[place]
        assert row["prompt_ids"].tolist() == [place + x for x in range(place % 4)]
        assert row["completion_ids"].tolist() == [place]
    assert not list(tmp_path.glob("*.part"))


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    with duckdb.connect() as con:
        write_tokens(con, "SELECT 1 AS example_id, [1]::INTEGER[] AS prompt_ids", tmp_path / "t.arrow")
    whole = (tmp_path / "t.arrow").read_bytes()
    (tmp_path / "t.arrow").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MedcodeError, match=r"t\.arrow: no token file"):
        TokenFile(tmp_path / "t.arrow")
