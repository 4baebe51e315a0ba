import multiprocessing
import time
from pathlib import Path

import pytest

from medcode_assets.warehouse import build_table, built, fingerprint, inputs, open_warehouse
from medcode_serving.errors import MedcodeError


def test_fingerprints_depend_on_content_not_on_order() -> None:
    assert fingerprint(a=1, b=[2]) == fingerprint(b=[2], a=1) != fingerprint(a=1, b=[3])


def test_a_failing_step_leaves_the_earlier_table_and_its_record(tmp_path: Path) -> None:
    with open_warehouse(tmp_path / "w.duckdb") as con:
        build_table(con, "t", "SELECT 1 AS x", "first")

        def refuse(rows: int) -> None:
            raise MedcodeError("no")

        with pytest.raises(MedcodeError):
            build_table(con, "t", "SELECT 2 AS x", "second", check=refuse)
        made = built(con, "t")
        assert made and made.fingerprint == "first"
        assert con.execute("SELECT x FROM t").fetchall() == [(1,)]


def test_a_table_that_was_not_made_is_named(tmp_path: Path) -> None:
    with open_warehouse(tmp_path / "w.duckdb") as con, pytest.raises(MedcodeError, match="table facts is not in"):
        inputs(con, "facts")


def test_reading_what_does_not_exist_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match="medcode prepare"), open_warehouse(tmp_path / "w.duckdb", read_only=True):
        pass
    assert list(tmp_path.iterdir()) == []


def _write_slowly(file: Path) -> None:
    with open_warehouse(file) as con:
        rows = con.execute("SELECT count(*) FROM log").fetchall()[0][0]
        time.sleep(0.3)
        con.execute("INSERT INTO log VALUES (?)", [rows])


def test_a_second_process_waits_its_turn(tmp_path: Path) -> None:
    file = tmp_path / "w.duckdb"
    with open_warehouse(file) as con:
        con.execute("CREATE TABLE log (seen INTEGER)")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_slowly, args=(file,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    with open_warehouse(file, read_only=True) as con:
        assert con.execute("SELECT seen FROM log ORDER BY seen").fetchall() == [(0,), (1,)]
