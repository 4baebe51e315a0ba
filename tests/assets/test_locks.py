"""Several processes and one warehouse: who waits, for how long, and what they are told."""

import multiprocessing
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medcode_assets.config import WarehouseSettings
from medcode_assets.locks import holders, waiting_lock
from medcode_assets.warehouse import open_warehouse
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

SPAWN = multiprocessing.get_context("spawn")


def _hold(file: Path, exclusive: bool, held: "Event", release: "Event") -> None:
    with waiting_lock(file, what="w", exclusive=exclusive, purpose="raw/notes of run 1234", wait_seconds=300):
        held.set()
        release.wait(300)


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_writer_that_waits_too_long_is_told_who_holds_it(tmp_path: Path, exclusive: bool) -> None:
    file = tmp_path / "mimic-iv-3.1.lock"
    held, release = SPAWN.Event(), SPAWN.Event()
    other = SPAWN.Process(target=_hold, args=(file, exclusive, held, release))
    other.start()
    assert held.wait(300)
    told: list[str] = []
    with (
        pytest.raises(
            MedcodeError, match=rf"mimic-iv-3\.1\.duckdb: in use by raw/notes of run 1234 \(process {other.pid}"
        ),
        waiting_lock(
            file, what="mimic-iv-3.1.duckdb", exclusive=True, purpose="me", wait_seconds=0.3, on_wait=told.append
        ),
    ):
        pass
    assert len(told) == 1
    assert "raw/notes of run 1234" in told[0]
    release.set()
    other.join(300)
    with waiting_lock(file, what="mimic-iv-3.1.duckdb", exclusive=True, purpose="me", wait_seconds=60):
        assert f"me (process {os.getpid()}" in holders(file)
    assert holders(file) == "another process"


def test_readers_share(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    with (
        waiting_lock(file, what="w", exclusive=False, purpose="one", wait_seconds=0),
        waiting_lock(file, what="w", exclusive=False, purpose="two", wait_seconds=0),
    ):
        assert {name.split(" ")[0] for name in holders(file).split(", ") if "process" in name} == {"one", "two"}


def test_a_killed_holder_neither_blocks_nor_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    held, release = SPAWN.Event(), SPAWN.Event()
    other = SPAWN.Process(target=_hold, args=(file, True, held, release))
    other.start()
    assert held.wait(300)
    other.kill()
    other.join(300)
    with waiting_lock(file, what="mimic-iv-3.1.duckdb", exclusive=True, purpose="me", wait_seconds=60):
        assert "raw/notes" not in holders(file)


def test_memory_and_temp_folder_are_the_settings(tmp_path: Path) -> None:
    settings = WarehouseSettings(memory_limit="64MB", threads=1, temp_folder=str(tmp_path / "scratch"))
    with open_warehouse(tmp_path / "w.duckdb", settings=settings) as con:
        names = ("memory_limit", "threads", "temp_directory")
        limit, threads, folder = (con.execute(f"SELECT current_setting('{name}')").fetchall()[0][0] for name in names)
        assert (limit, threads) == ("61.0 MiB", 1)
        assert folder == str(tmp_path / "scratch" / ".w.tmp")
        # Twice the limit: it goes through the folder.
        con.execute("CREATE TABLE t AS SELECT md5(i::VARCHAR) AS m FROM range(1_500_000) AS r(i)")
        assert con.execute("SELECT count(*) FROM (SELECT m FROM t ORDER BY m DESC OFFSET 10)").fetchall() == [
            (1_499_990,)
        ]


def test_a_memory_limit_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_limit"):
        WarehouseSettings(memory_limit="much")
