"""Throughput and latency of `medcode serve`, beside `generate` note by note on the same model, in one run.

    python benchmarks/serving.py --home .medcode        # a home with a published bundle: `medcode demo` makes one

Notes are synthetic discharge summaries; the same ones in every mode. Clients send their next note when they have the
answer to the one before. CPU seconds are those of the server's process (for `generate`: of its own), which other
processes disturb less than the clock; clients run in another process and are not counted. `generate` writes freely and
greedily, without any constraint, up to as many tokens as the server may.
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from served import Served, served

CLIENTS = (1, 8, 32)


@dataclass(frozen=True)
class Measured:
    """One mode."""

    name: str
    notes: int
    seconds: float
    cpu_seconds: float
    latencies: Sequence[float]
    """Seconds."""

    def row(self, baseline: "Measured | None" = None) -> str:
        """Return it as a line of the table."""
        centiles = [f"{1000 * value:.0f}" for value in percentiles(self.latencies)]
        per_note = 1000 * self.cpu_seconds / self.notes
        ratios = ["", ""]
        if baseline is not None:
            ratios = [
                f"{baseline.cpu_seconds / baseline.notes / (self.cpu_seconds / self.notes):.2f}",
                f"{baseline.seconds / baseline.notes / (self.seconds / self.notes):.2f}",
            ]
        cells = [self.name, f"{self.notes / self.seconds:.1f}", f"{per_note:.1f}", *ratios, *centiles]
        return "| " + " | ".join(cells) + " |"


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return P50, P95 and P99."""
    ranked = sorted(values)
    return tuple(ranked[min(len(ranked) - 1, int(len(ranked) * share))] for share in (0.5, 0.95, 0.99))  # type: ignore[return-value]


def make_notes(count: int) -> list[str]:
    """Return synthetic discharge summaries; equal counts give equal ones."""
    from medcode_assets.corpora.synthetic_notes import generate_notes

    return [note.text for note in generate_notes(count, seed=77)]


def generate_one_by_one(home: Path, notes: list[str]) -> Measured:
    """Answer with transformers' own `generate`, a note at a time, on the adapter merged into its base."""
    import torch

    from medcode_serving.adapters import load_adapted_model
    from medcode_serving.base_models import resolve_base_model
    from medcode_serving.bundle import latest_bundle
    from medcode_serving.codes.vocabulary import Vocabulary
    from medcode_serving.decoding import build_trie
    from medcode_serving.engines.transformers import load_tokenizer
    from medcode_serving.prompts import encode_prompts

    bundle = latest_bundle(home / "bundles", "icd")
    manifest = bundle.manifest
    base = resolve_base_model(manifest.base_model.id, home / "base_models", revision=manifest.base_model.revision)
    model = load_adapted_model(base.path, bundle.adapter, dtype="float32", merge=True).eval()
    tokenizer = load_tokenizer(base.path)
    texts = [code.text for code in Vocabulary.read(bundle.codes).codes]
    most = manifest.decoding.max_codes * (build_trie(tokenizer, texts).longest + 1)

    def answer(note: str) -> float:
        begun = time.perf_counter()
        (prompt,) = encode_prompts(tokenizer, manifest.prompt, [note], manifest.decoding.max_prompt_tokens)
        ids = torch.tensor([prompt.input_ids])
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return time.perf_counter() - begun

    for note in notes[:3]:
        answer(note)
    cpu, begun = time.process_time(), time.perf_counter()
    latencies = [answer(note) for note in notes]
    return Measured(
        "`generate`, note by note", len(notes), time.perf_counter() - begun, time.process_time() - cpu, latencies
    )


async def ask(server: Served, notes: Sequence[str], clients: int) -> list[float]:
    """Send every note through `clients` connections at once; return the latencies."""
    import httpx

    waiting = list(reversed(notes))
    latencies: list[float] = []
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)

    async with httpx.AsyncClient(base_url=server.address, timeout=600, limits=limits, trust_env=False) as client:

        async def one_client() -> None:
            while waiting:
                begun = time.perf_counter()
                response = await client.post("/predict", json={"text": waiting.pop()})
                response.raise_for_status()
                assert response.json()["fallback"] is None
                latencies.append(time.perf_counter() - begun)

        await asyncio.gather(*(one_client() for _ in range(clients)))
    return latencies


def measure_clients(server: Served, notes: Sequence[str], clients: int, name: str) -> Measured:
    """Measure concurrent single requests."""
    asyncio.run(ask(server, notes[: 2 * clients + 2], clients))
    cpu, begun = server.cpu_seconds(), time.perf_counter()
    latencies = asyncio.run(ask(server, notes, clients))
    return Measured(name, len(notes), time.perf_counter() - begun, server.cpu_seconds() - cpu, latencies)


def measure_batch(server: Served, notes: Sequence[str]) -> Measured:
    """Measure one streamed batch of JSON lines."""
    import httpx

    lines = "".join(json.dumps({"id": str(number), "text": note}) + "\n" for number, note in enumerate(notes))
    cpu, begun = server.cpu_seconds(), time.perf_counter()
    response = httpx.post(
        f"{server.address}/predict/batch",
        content=lines,
        headers={"content-type": "application/x-ndjson"},
        timeout=1200,
        trust_env=False,
    )
    seconds = time.perf_counter() - begun
    answers = [json.loads(line) for line in response.text.splitlines()]
    assert [answer["id"] for answer in answers] == [str(number) for number in range(len(notes))]
    assert all("prediction" in answer for answer in answers)
    cpu = server.cpu_seconds() - cpu
    return Measured("`/predict/batch`, JSON lines", len(notes), seconds, cpu, [seconds])


def overhead_ms(server: Served, notes: Sequence[str]) -> float:
    """Return how much longer a request takes than the engine, on average, in ms: from the client's side, one by one.

    The engine's time is what the server itself measures around it; the client's own work counts as overhead.
    """
    import httpx

    def engine_seconds(client: httpx.Client) -> float:
        lines = client.get("/metrics").text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("medcode_batch_seconds_sum")))

    with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as client:
        before = engine_seconds(client)
        seconds = 0.0
        for note in notes:
            begun = time.perf_counter()
            client.post("/predict", json={"text": note}).raise_for_status()
            seconds += time.perf_counter() - begun
        return 1000 * (seconds - (engine_seconds(client) - before)) / len(notes)


def in_own_process(task, *arguments):  # noqa: ANN001, ANN201 - passes on whatever it is
    """Run something in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(task, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("MEDCODE_HOME", ".medcode")))
    parser.add_argument("--notes", type=int, default=192)
    parser.add_argument("--repeat", type=int, default=2, help="Rounds over all modes; the table shows each.")
    arguments = parser.parse_args()
    notes = make_notes(arguments.notes)
    words = statistics.mean(len(note.split()) for note in notes)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {len(notes)} notes of {words:.0f} words on average\n"
    )
    print("| mode | notes/s | CPU ms a note | CPU, times `generate` | clock, times `generate` | P50 ms | P95 | P99 |")
    print("|---|" + "---:|" * 7)
    overheads: list[float] = []
    for _ in range(arguments.repeat):
        baseline = in_own_process(generate_one_by_one, arguments.home, notes)
        print(baseline.row(), flush=True)
        with served(arguments.home) as server:
            for clients in CLIENTS:
                measured = measure_clients(server, notes, clients, f"`/predict`, {clients} clients")
                print(measured.row(baseline), flush=True)
            print(measure_batch(server, notes).row(baseline), flush=True)
            overheads.append(overhead_ms(server, notes[:60]))
        with served(arguments.home, MODEL__ENGINE="linear") as server:
            for clients in CLIENTS[:2]:
                measured = measure_clients(server, notes, clients, f"linear model, {clients} clients")
                print(measured.row(baseline), flush=True)
    print(f"\nA request takes {statistics.median(overheads):.1f} ms longer than the engine")


if __name__ == "__main__":
    main()
