"""`medcode demo`: the main job on synthetic notes, ending with a served prediction."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from medcode_assets.commands import materialize_version, print_evaluation, require_assets_extra
from medcode_assets.config import PROJECT, load_settings
from medcode_serving.errors import MedcodeError

PARTITION = "demo"
SETTINGS = Path(__file__).with_name("demo.yaml")
MEDCODE = ".venv/bin/medcode" if (PROJECT / ".venv").exists() else "medcode"
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""For this machine only: a proxy named in the environment would be asked for 127.0.0.1, too."""


def run_demo(home: Path, *, admissions: int) -> None:
    """Write synthetic MIMIC-IV, materialize everything for it, serve the bundle, predict one note of the test split."""
    require_assets_extra()
    from medcode_assets.corpora.synthetic_mimic import write_synthetic_mimic
    from medcode_assets.mimic.sources import MimicVersion

    folder = (home / "demo" / "mimic-iv").resolve()
    settings = load_settings(SETTINGS)
    write_synthetic_mimic(folder, release="mimic-iv", admissions=admissions)
    typer.echo(f"Synthetic MIMIC-IV, {admissions} admissions: {folder}", err=True)
    materialize_version("run", home, MimicVersion(PARTITION, "mimic-iv", str(folder)), settings)
    print_evaluation(home, PARTITION)
    note, gold = unseen_note(home)
    with serving(home, newest_bundle(home, "icd", PARTITION)) as address:
        answer = post_json(f"{address}/predict", {"text": note})
    print_prediction(note, gold, answer)
    typer.echo(
        "\nThe API has stopped again. From here:\n"
        f"  {MEDCODE} ui --config {SETTINGS.relative_to(PROJECT)}   the Dagster UI, http://127.0.0.1:3000\n"
        f"  {MEDCODE} serve   the API, and a page to try it on: http://127.0.0.1:8000/ui\n"
        "The model has seen nothing but synthetic notes like the one above; other notes it codes badly.\n"
        f"State is in {home}; commands find it there through MEDCODE_HOME or --output-dir."
    )


def newest_bundle(home: Path, recipe: str, partition: str) -> Path:
    """Return the newest bundle of a partition; LATEST may name one of real data by now."""
    folders = [path.parent for path in (home / "bundles" / recipe).glob(f"{partition}-*/bundle.json")]
    return max(folders, key=lambda folder: folder.stat().st_mtime)


def unseen_note(home: Path) -> tuple[str, list[tuple[str, str, str | None]]]:
    """Return a note of the demo's test split, one with four codes, and its gold (system, code, description)."""
    from medcode_assets.warehouse import one_row, open_warehouse

    with open_warehouse(home / "warehouse" / f"{PARTITION}.duckdb", read_only=True) as con:
        row = one_row(
            con,
            "SELECT example_id, note FROM icd.examples JOIN icd.notes USING (example_id) WHERE split = 'test' "
            "ORDER BY len(gold) = 4 DESC, example_id LIMIT 1",
        )
        if row is None:
            raise MedcodeError("table icd.examples: no example in the test split; run the demo with more --admissions")
        gold = con.execute(
            "SELECT system, code, description FROM icd.labels "
            "WHERE label IN (SELECT unnest(gold) FROM icd.examples WHERE example_id = ?) ORDER BY label",
            [row[0]],
        ).fetchall()
    return row[1], gold


@contextmanager
def serving(home: Path, bundle: Path, recipe: str = "icd") -> Iterator[str]:
    """Run `medcode serve` for a recipe's bundle on a free port of this machine; give its address; stop it again."""
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "medcode_assets", "serve", "--port", str(port), "--output-dir", str(home)],
        stdout=subprocess.DEVNULL,
        env={
            **os.environ,
            "MEDCODE_SERVE_MODEL__BUNDLE": str(bundle.resolve()),
            "MEDCODE_SERVE_MODEL__RECIPES": json.dumps([recipe]),
            "MEDCODE_SERVE_LOGGING__LEVEL": "WARNING",
        },
    )
    try:
        _wait_until_loaded(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_until_loaded(address: str, process: "subprocess.Popen[bytes]", seconds: float = 120) -> None:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise MedcodeError(f"the API ended with exit code {process.returncode}; see its message above")
        try:
            with LOCAL.open(f"{address}/health", timeout=5) as response:
                if json.load(response)["model_loaded"]:
                    return
        except (urllib.error.URLError, ConnectionError):
            pass  # not listening yet
        time.sleep(0.2)
    raise MedcodeError(f"the API at {address} did not load its model within {seconds:.0f} s")


def post_json(address: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post JSON and return the JSON answer."""
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with LOCAL.open(request, timeout=120) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def print_prediction(note: str, gold: list[tuple[str, str, str | None]], answer: dict[str, Any]) -> None:
    """Print a synthetic note with predicted codes beside gold ones."""
    codes = {(code["system"], code["code"]): code for code in answer["codes"]}
    expected = {(system, code): description for system, code, description in gold}
    typer.echo(f"\nA note of the test split, sent to the API (synthetic, so it may be shown):\n\n{note.strip()}\n")
    typer.echo(f"{'code':<10} {'gold':<5} {'predicted':<10} description")
    for key in [*expected, *(key for key in codes if key not in expected)]:
        probability = f"{codes[key]['probability']:.3f}" if key in codes else "-"
        description = expected.get(key) or codes.get(key, {}).get("description") or ""
        typer.echo(f"{key[1]:<10} {'yes' if key in expected else '-':<5} {probability:<10} {description}")
    typer.echo(
        f"\nanswered by {answer['model']['recipe']} {answer['model']['version']} "
        f"in {answer['processing_time_ms']:.0f} ms"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
