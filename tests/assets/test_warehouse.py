import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medcode_assets.config import WarehouseSettings
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


def test_a_program_that_knows_nothing_of_the_lock_is_named(tmp_path: Path) -> None:
    file = tmp_path / "w.duckdb"
    with open_warehouse(file):
        pass
    script = f"import duckdb, sys; con = duckdb.connect({str(file)!r}); print('open', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "open\n"
    with (
        pytest.raises(MedcodeError, match=rf"w\.duckdb: open in process {other.pid}; close it there"),
        open_warehouse(file, settings=WarehouseSettings(wait_minutes=0.005)),
    ):
        pass
    other.communicate()
    with open_warehouse(file):
        pass


def test_too_little_memory_is_one_line(tmp_path: Path) -> None:
    settings = WarehouseSettings(memory_limit="20MB", threads=2)
    with (
        pytest.raises(MedcodeError, match="warehouse.memory_limit is too low"),
        open_warehouse(tmp_path / "w.duckdb", settings=settings) as con,
    ):
        con.execute("SELECT list(i ORDER BY hash(i)) FROM range(20_000_000) AS t(i)").fetchall()


def test_a_file_that_is_no_warehouse_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "w.duckdb").write_text("no database " * 1000)
    with pytest.raises(MedcodeError, match="cannot be opened as a DuckDB file"), open_warehouse(tmp_path / "w.duckdb"):
        pass


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
        writer.join(300)
    with open_warehouse(file, read_only=True) as con:
        assert con.execute("SELECT seen FROM log ORDER BY seen").fetchall() == [(0,), (1,)]
