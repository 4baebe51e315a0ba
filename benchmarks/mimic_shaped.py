"""Files in the shape of MIMIC-IV at any scale, made by the SQL beside this file: for benchmarks, never for tests."""

import shutil
import subprocess
from pathlib import Path

SQL = Path(__file__).with_name("mimic_shaped.sql")


def write_mimic_shaped(folder: Path, scale: float) -> Path:
    """Write the files of a scale (1: all of MIMIC-IV 3.1) to `folder`, gzipped; a folder that is complete is kept."""
    import duckdb

    if folder.exists():
        return folder
    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    for part in ("hosp", "note"):
        (aside / part).mkdir(parents=True)
    with duckdb.connect(str(aside / "scratch.duckdb"), config={"preserve_insertion_order": False}) as con:
        con.execute("SET enable_progress_bar = false")
        for statement in SQL.read_text().replace("{folder}", str(aside)).split(";\n"):
            parameters = {"scale": scale} if "$scale" in statement.split("AS SELECT")[-1] else {}
            con.execute(statement, parameters)
    (aside / "scratch.duckdb").unlink()
    processes = [subprocess.Popen(["gzip", "-6", str(file)]) for file in sorted(aside.glob("*/*.csv"))]
    if any(process.wait() for process in processes):
        raise SystemExit("gzip failed; is the disk full?")
    aside.rename(folder)
    return folder
