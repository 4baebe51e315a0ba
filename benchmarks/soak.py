"""Ten minutes of mixed load with reloads: does the server lose a request, answer 5xx, or grow?

    python benchmarks/soak.py --home .medcode --minutes 10 --pdfs ../shared/data/pdf

Clients send notes, PDFs (good and broken ones), lists, streams of JSON lines and bad input, and some hang up before the
answer. Meanwhile copies of the bundle are published, one of them corrupt. Every request must end in one of the statuses
that its kind allows; RSS is fitted by a line over the last third, which has no reload. It works on a copy of the home's
bundles.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from served import Served, served
from serving import make_notes, percentiles

if TYPE_CHECKING:
    import httpx

BAD_BODIES = (b"", b"{", b"[]", b'{"text": 7}', b'{"text": ""}', b'{"text": "\\ud800"}', b'{"text": "x", "top_k": 0}')


@dataclass
class Tally:
    """What happened."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    hung_up: int = 0
    versions: set[str] = field(default_factory=set)
    memory: list[tuple[float, float]] = field(default_factory=list)

    def note(self, kind: str, status: int, allowed: set[int]) -> None:
        """Count a status, and remember one that should not be."""
        self.statuses[kind, status] += 1
        if status not in allowed:
            self.surprises.append(f"{kind}: {status}")


class Load:
    """The clients."""

    def __init__(self, client: "httpx.AsyncClient", notes: list[str], pdfs: list[Path], until: float) -> None:
        self.client = client
        self.notes = notes
        self.pdfs = pdfs
        self.until = until
        self.tally = Tally()
        self.random = random.Random(5)

    async def run(self, kind: str) -> None:
        """Send requests of one kind until the time is over."""
        import httpx

        while time.monotonic() < self.until:
            try:
                await getattr(self, kind)()
            except httpx.HTTPError as error:
                self.tally.surprises.append(f"{kind}: lost ({type(error).__name__})")
                await asyncio.sleep(0.1)

    async def text(self) -> None:
        """Ask for one note."""
        begun = time.monotonic()
        note = self.random.choice(self.notes)
        evidence = self.random.choice(["none", "lexical"])
        response = await self.client.post("/predict", json={"text": note, "evidence": evidence})
        self.tally.note("text", response.status_code, {200})
        self.tally.latencies.append(time.monotonic() - begun)
        if response.status_code == 200:
            self.tally.versions.add(response.json()["model"]["version"])

    async def pdf(self) -> None:
        """Send one of the PDFs."""
        data = self.random.choice(self.pdfs).read_bytes()
        response = await self.client.post("/predict/pdf", files={"file": ("x.pdf", data)})
        self.tally.note("pdf", response.status_code, {200, 413, 415, 422, 504})

    async def batch(self) -> None:
        """Send a list with a bad note in it."""
        texts = [*self.random.sample(self.notes, 6), " "]
        response = await self.client.post("/predict/batch", json={"notes": [{"text": text} for text in texts]})
        self.tally.note("list", response.status_code, {200})
        results = response.json()["results"]
        if [("prediction" in result) for result in results] != [True] * 6 + [False]:
            self.tally.surprises.append("list: results do not fit the notes")

    async def lines(self) -> None:
        """Stream JSON lines."""
        ids = [str(self.random.random()) for _ in range(20)]
        body = "".join(json.dumps({"id": id_, "text": self.random.choice(self.notes)}) + "\n" for id_ in ids)
        headers = {"content-type": "application/x-ndjson"}
        response = await self.client.post("/predict/batch", content=body, headers=headers)
        self.tally.note("lines", response.status_code, {200})
        results = [json.loads(line) for line in response.text.splitlines()]
        if [result["id"] for result in results if "prediction" in result] != ids:
            self.tally.surprises.append("lines: results do not fit the notes")

    async def bad(self) -> None:
        """Send something wrong."""
        headers = {"content-type": "application/json"}
        body = self.random.choice(BAD_BODIES)
        response = await self.client.post("/predict", content=body, headers=headers)
        self.tally.note("bad input", response.status_code, {422})
        await asyncio.sleep(0.05)

    async def hang_up(self) -> None:
        """Close the connection before the answer."""
        import httpx

        async with httpx.AsyncClient(base_url=self.client.base_url, trust_env=False) as client:
            task = asyncio.create_task(client.post("/predict", json={"text": self.random.choice(self.notes)}))
            await asyncio.sleep(self.random.uniform(0.002, 0.08))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.tally.hung_up += 1
        await asyncio.sleep(0.1)


CORRUPT = 3
"""Which of the copies has a flipped bit."""
MOST_GROWTH = 2.0
"""MB a minute in the last third, which has no reload."""

KINDS = ("text", "text", "text", "pdf", "batch", "lines", "bad", "hang_up")


async def publish_copies(client: "httpx.AsyncClient", bundles: Path, until: float, tally: Tally) -> list[str]:
    """Publish five copies of the bundle, the third one corrupt; return what the service said of each."""
    pause = (until - time.monotonic()) / 8  # the last third of the time is for watching the memory
    first = (bundles / "LATEST").read_text().strip()
    said = []
    for number in range(1, 6):
        await asyncio.sleep(pause)
        version = f"copy-{number}"
        await asyncio.to_thread(copy_bundle, bundles / first, bundles / version, corrupt=number == CORRUPT)
        (bundles / ".LATEST.new").write_text(version + "\n")
        (bundles / ".LATEST.new").replace(bundles / "LATEST")
        health = {}
        for _ in range(300):
            await asyncio.sleep(0.2)
            health = (await client.get("/health")).json()
            if health["models"]["icd"]["last_reload"]["version"] == version:
                break
        reload = health["models"]["icd"]["last_reload"]
        expected = "failed" if number == CORRUPT else "loaded"
        if (reload["version"], reload["outcome"]) != (version, expected):
            tally.surprises.append(f"{version}: {reload['version']} {reload['outcome']}")
        said.append(f"{version}: {reload['outcome']}, {health['models']['icd']['version']} serves, {health['status']}")
    return said


def copy_bundle(source: Path, target: Path, *, corrupt: bool) -> None:
    """Copy a bundle under another version; a corrupt one has a flipped bit in its adapter."""
    aside = target.with_name(f".{target.name}")
    shutil.copytree(source, aside, ignore=shutil.ignore_patterns("gguf"))
    manifest = json.loads((aside / "bundle.json").read_text())
    (aside / "bundle.json").write_text(json.dumps(manifest | {"version": target.name}))
    if corrupt:
        weights = aside / "adapter" / "adapter_model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    aside.rename(target)


async def watch_memory(server: Served, tally: Tally, until: float) -> None:
    """Read the server's memory every second."""
    begun = time.monotonic()
    while time.monotonic() < until:
        tally.memory.append(((time.monotonic() - begun) / 60, server.megabytes()))
        await asyncio.sleep(1)


async def soak(server: Served, bundles: Path, notes: list[str], pdfs: list[Path], minutes: float) -> bool:
    """Put the server under load and report; return whether all was as it should be."""
    import httpx

    until = time.monotonic() + 60 * minutes
    limits = httpx.Limits(max_connections=len(KINDS) + 2)
    async with httpx.AsyncClient(base_url=server.address, timeout=300, limits=limits, trust_env=False) as client:
        load = Load(client, notes, pdfs, until)
        *_, said = await asyncio.gather(
            *(load.run(kind) for kind in KINDS),
            watch_memory(server, load.tally, until),
            publish_copies(client, bundles, until, load.tally),
        )
        metrics = (await client.get("/metrics")).text
        health = (await client.get("/health")).json()
    return report(load.tally, said, metrics, health)


def report(tally: Tally, said: list[str], metrics: str, health: dict) -> bool:
    """Print what happened."""
    import numpy as np

    print(f"{sum(tally.statuses.values()):,} requests answered, {tally.hung_up:,} hung up:")
    for (kind, status), count in sorted(tally.statuses.items()):
        print(f"  {kind} {status}: {count:,}")
    print(f"Notes: P50, P95, P99 {', '.join(f'{1000 * value:.0f}' for value in percentiles(tally.latencies))} ms")
    print(f"Answered by: {', '.join(sorted(tally.versions))}")
    print("Reloads:\n  " + "\n  ".join(said))
    last_third = tally.memory[-len(tally.memory) // 3 :]
    slope = np.polyfit(*np.array(last_third).T, 1)[0]
    if slope > MOST_GROWTH:
        tally.surprises.append("memory grows")
    first, last = tally.memory[0][1], tally.memory[-1][1]
    highest = max(megabytes for _, megabytes in tally.memory)
    print(f"RSS: {first:.0f} MB at first, {last:.0f} at last, {highest:.0f} at most; {slope:+.2f} MB a minute at last")
    left = [line for line in metrics.splitlines() if line.startswith(("medcode_queue_notes", "medcode_running_notes"))]
    print(f"Left in the queue: {', '.join(left)}; health: {health['status']}")
    print(f"Surprises: {len(tally.surprises)} {Counter(tally.surprises).most_common(10)}")
    return not tally.surprises


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("MEDCODE_HOME", ".medcode")))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--pdfs", type=Path, required=True, help="Folder of PDFs, good and broken ones.")
    parser.add_argument("--log", type=Path, help="Where the server's log goes.")
    arguments = parser.parse_args()
    pdfs = [file for file in sorted(arguments.pdfs.iterdir()) if file.suffix in {".pdf", ".fuzz"}]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        shutil.copytree(arguments.home / "bundles" / "icd", home / "bundles" / "icd")
        if (arguments.home / "base_models").is_dir():
            (home / "base_models").symlink_to((arguments.home / "base_models").resolve())
        with served(home, arguments.log, MODEL__WATCH_S="1", DOCUMENTS__TIMEOUT_S="5") as server:
            fine = asyncio.run(soak(server, home / "bundles" / "icd", make_notes(300), pdfs, arguments.minutes))
    raise SystemExit(0 if fine else 1)


if __name__ == "__main__":
    main()
