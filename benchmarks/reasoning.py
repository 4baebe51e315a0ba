"""What the data of recipe `reasoning` costs: the corpus, its near-duplicate search, code checks.

    python benchmarks/reasoning.py [--lines 5000]

Each number is CPU seconds of this process, beside a plain way to do the same where there is one.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from medcode_assets.corpora.synthetic_narratives import synthetic_lines
from medcode_assets.recipes.reasoning.corpus.build import build_corpus
from medcode_assets.recipes.reasoning.corpus.duplicates import NearDuplicates, shingles
from medcode_assets.recipes.reasoning.settings import ReasoningSettings
from medcode_serving.codes.tables import code_tables
from medcode_serving.codes.validation import check_code


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def measure_near_duplicates(count: int) -> None:
    texts = [line.narrative for line in islice(synthetic_lines(2, 0), count)]

    def indexed() -> None:
        index = NearDuplicates(0.8)
        for number, text in enumerate(texts):
            index.add(number, text)

    some = [shingles(text) for text in texts[:500]]

    def every_pair() -> None:
        for place, one in enumerate(some):
            for other in some[:place]:
                len(one & other) / len(one | other)

    found, plain = cpu_seconds(indexed), cpu_seconds(every_pair)
    whole = plain * (count / len(some)) ** 2
    print(
        f"near duplicates among {count:,}: {found:.1f} s; every pair: {whole:,.0f} s (from 500), {whole / found:,.0f}x"
    )


def measure_corpus(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = {2: ReasoningSettings(stage=2, examples=count)}
        tables = code_tables()
        seconds = cpu_seconds(lambda: build_corpus(settings, Path(folder) / "corpus", tables=tables, mimic=_none))
    made = cpu_seconds(lambda: list(islice(synthetic_lines(2, 0), count)))
    share = f"making them is {made / seconds:.0%} of it"
    print(f"corpus of {count:,} lines: {seconds:.1f} s, {count / seconds:,.0f} lines/s; {share}")


def _none(name: str) -> object:
    raise ValueError(name)


def measure_codes() -> None:
    tables = code_tables()
    first = cpu_seconds(lambda: check_code("E11.9", "icd10cm", tables))
    for what, code in (("valid", "E11.9"), ("header", "E11"), ("unknown", "E11.98")):
        again = cpu_seconds(lambda code=code: [check_code(code, "icd10cm", tables) for _ in range(200)]) / 200
        print(f"check of a code that is {what}: {again * 1e6:,.0f} µs")
    print(f"the first check, which reads the table: {first * 1e3:,.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=5000)
    lines = parser.parse_args().lines
    measure_codes()
    measure_near_duplicates(lines)
    measure_corpus(lines)


if __name__ == "__main__":
    main()
