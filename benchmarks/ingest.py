"""MIMIC's files to splits, beside merely decompressing the same files, at any scale.

    python benchmarks/ingest.py --scale 0.0625
    python benchmarks/ingest.py --scale 1 --work /big/disk

Prints, from one run: seconds of `gzip -dc` over all files (before and after), of raw tables to splits with all checks,
their ratio, and the peak memory. `--pandas` does the same job with pandas, for comparison.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mimic_shaped import write_mimic_shaped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1 / 16, help="1: as many rows as MIMIC-IV 3.1")
    parser.add_argument("--work", type=Path, default=Path("/tmp/medcode-benchmark"), help="folder for files; 6 GB at 1")
    parser.add_argument("--pandas", action="store_true", help="also the plain pandas version; needs 16 GB at 1/4")
    parser.add_argument("--job", choices=["medcode", "pandas"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.work / f"mimic-{arguments.scale:g}"
    if arguments.job:
        measure(arguments.job, folder, arguments.work)
        return
    write_mimic_shaped(folder, arguments.scale)
    files = sorted(folder.glob("*/*.csv.gz"))
    packed = sum(file.stat().st_size for file in files)
    before = gunzip(files)
    seconds = {job: run(job, arguments) for job in ("medcode", "pandas") if job == "medcode" or arguments.pandas}
    after = gunzip(files)
    baseline = (before + after) / 2
    print(f"scale {arguments.scale:g}: {packed / 1e6:,.0f} MB of .csv.gz")
    print(f"gzip -dc        {baseline:7.1f} s   (before {before:.1f}, after {after:.1f})")
    for job, elapsed in seconds.items():
        print(f"{job:<15} {elapsed:7.1f} s   {elapsed / baseline:.2f} times gzip -dc")


def gunzip(files: list[Path]) -> float:
    started = time.perf_counter()
    for file in files:
        subprocess.run(["gzip", "-dc", str(file)], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def run(job: str, arguments: argparse.Namespace) -> float:
    """Run a job in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--scale", str(arguments.scale), "--work", str(arguments.work), "--job", job]
    started = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - started


def measure(job: str, folder: Path, work: Path) -> None:
    steps = prepare_with_medcode(folder, work) if job == "medcode" else prepare_with_pandas(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{job}: peak memory {peak:.2f} GiB; " + ", ".join(f"{name} {took:.1f} s" for name, took in steps.items()))


def prepare_with_medcode(folder: Path, work: Path) -> dict[str, float]:
    """The functions that the assets call, one after the other, with their checks."""
    from medcode_assets.config import DataSettings
    from medcode_assets.mimic.checks import run_checks
    from medcode_assets.mimic.load import load_table
    from medcode_assets.mimic.sources import MimicVersion, find_files, table_specs
    from medcode_assets.mimic.transform import build_cohort, build_facts, build_splits, split_hash
    from medcode_assets.warehouse import open_warehouse

    warehouse = work / "warehouse" / "benchmark.duckdb"
    shutil.rmtree(warehouse.parent, ignore_errors=True)
    settings, steps = DataSettings(), {}
    files = find_files(MimicVersion("benchmark", "mimic-iv", str(folder)))

    def timed(name: str, work_of_step: object) -> None:
        started = time.perf_counter()
        with open_warehouse(warehouse) as con:
            work_of_step(con)
            if name.startswith("mimic/"):
                run_checks(con, name, settings)
        steps[name] = time.perf_counter() - started

    for table, spec in table_specs("mimic-iv").items():
        timed(f"raw/{table}", lambda con, spec=spec, table=table: load_table(con, spec, files.get(table)))
    timed("mimic/cohort", lambda con: build_cohort(con, "mimic-iv", settings))
    timed("mimic/facts", build_facts)
    timed("mimic/splits", lambda con: (build_splits(con, settings), split_hash(con)))
    print(f"warehouse {warehouse.stat().st_size / 1e6:,.0f} MB")
    return steps


def prepare_with_pandas(folder: Path) -> dict[str, float]:
    """What a notebook does: read everything, group codes by admission, merge with the text, split by patient."""
    import numpy as np
    import pandas as pd

    started = time.perf_counter()
    text = {"icd_code": str}
    notes = pd.read_csv(folder / "note" / "discharge.csv.gz")
    tables = {
        name: pd.read_csv(folder / "hosp" / f"{name}.csv.gz", dtype=text)
        for name in ("patients", "admissions", "diagnoses_icd", "procedures_icd", "d_icd_diagnoses", "d_icd_procedures")
    }
    codes = pd.concat([tables["diagnoses_icd"].assign(kind="cm"), tables["procedures_icd"].assign(kind="pcs")])
    codes = codes.dropna(subset=["icd_code"]).drop_duplicates(["hadm_id", "icd_version", "kind", "icd_code"])
    grouped = codes.groupby("hadm_id")["icd_code"].agg(list)
    texts = notes.sort_values("note_seq").groupby("hadm_id").agg({"subject_id": "first", "text": "\n\n".join})
    facts = texts.join(grouped)
    patients = facts["subject_id"].drop_duplicates().sample(frac=1.0, random_state=0).to_numpy()
    train, validation, _ = np.split(patients, [int(0.8 * len(patients)), int(0.9 * len(patients))])
    facts["split"] = np.where(
        facts["subject_id"].isin(train), "train", np.where(facts["subject_id"].isin(validation), "validation", "test")
    )
    return {"all": time.perf_counter() - started}


if __name__ == "__main__":
    main()
