"""How fast notes become tokens, beside a bare loop over the tokenizer's own batch call, in the same process.

    python benchmarks/tokenizing.py --notes 1000 4000

Notes are invented: about 1,500 words from syllables, drawn as Zipf's law has it, under the headings of a discharge
summary. Rounds alternate and medians are shown, because machines are noisy. Peak memory is measured in a process of its
own that does nothing else but build the tokens of a warehouse that is there already.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.training.tokens import BATCH, build_tokens
from medcode_assets.warehouse import build_table, open_warehouse
from medcode_serving.base_models import resolve_base_model
from medcode_serving.engines.transformers import load_tokenizer
from medcode_serving.prompts import PromptTemplate

if TYPE_CHECKING:
    import duckdb
    from transformers import PreTrainedTokenizerBase

WORDS = 20_000
WORDS_A_NOTE = 1_500
HEADINGS = [
    "Chief Complaint",
    "History of Present Illness",
    "Past Medical History",
    "Physical Exam",
    "Pertinent Results",
    "Brief Hospital Course",
    "Medications on Admission",
    "Discharge Medications",
    "Discharge Diagnosis",
    "Discharge Instructions",
]


def make_warehouse(file: Path, notes: int) -> None:
    """Make `icd.examples` and `icd.notes`; equal numbers of notes give equal notes."""
    with open_warehouse(file) as con:
        con.execute("CREATE SCHEMA icd")
        # Frequent words are short: one syllable for the hundred most frequent, three for the rarest.
        con.execute(
            "CREATE TEMP TABLE word AS SELECT id, array_to_string([substr('bcdfglmnprst', "
            "1 + (hash(id, s, 1) % 12)::INT, 1) || substr('aeiou', 1 + (hash(id, s, 2) % 5)::INT, 1) "
            f"FOR s IN range(1 + floor(log10(id) * 0.5)::INT)], '') AS word FROM range(1, {WORDS + 1}) r(id)"
        )
        # A rank of V to the power of a uniform number has Zipf's distribution.
        con.execute(
            f"CREATE TEMP TABLE draw AS SELECT n, w, floor(pow({WORDS}, hash(n, w) / 18446744073709551616.0))::BIGINT "
            f"AS id FROM range({notes}) a(n), range({WORDS_A_NOTE}) b(w)"
        )
        con.execute(
            "CREATE TABLE icd.notes AS SELECT n AS example_id, string_agg(CASE WHEN w % $section = 0 THEN "
            "chr(10) || $headings[1 + w // $section] || ':' || chr(10) ELSE '' END || word || "
            "CASE WHEN w % 12 = 11 THEN '.' || chr(10) ELSE ' ' END, '' ORDER BY w) AS note "
            "FROM draw JOIN word USING (id) GROUP BY n",
            {"section": WORDS_A_NOTE // len(HEADINGS), "headings": HEADINGS},
        )
        build_table(
            con,
            "icd.examples",
            f"SELECT id AS example_id, 'train' AS split, ['I10', 'E11.9', 'N17.9'] AS answer FROM range({notes}) r(id)",
            "1",
        )


def build(con: "duckdb.DuckDBPyConnection", tokenizer: "PreTrainedTokenizerBase", max_prompt_tokens: int) -> None:
    build_tokens(
        con,
        "icd",
        tokenizer,
        PromptTemplate(),
        max_prompt_tokens=max_prompt_tokens,
        base_revision="benchmark",
        rebuild=True,
    )


def tokenizer_of(folder: Path) -> "PreTrainedTokenizerBase":
    return load_tokenizer(resolve_base_model("embedded", folder).path)


def peak_megabytes(file: Path, max_prompt_tokens: int) -> float:
    """Return the peak memory of a process that builds the tokens once."""
    with open_warehouse(file) as con:
        build(con, tokenizer_of(file.parent), max_prompt_tokens)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds on the clock and those of all cores together, which other processes disturb less."""
    wall, cores = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cores


def compare(file: Path, max_prompt_tokens: int, rounds: int) -> dict[str, float]:
    """Return rows a second of the bare loops and of `build_tokens`, and what became of the notes."""
    tokenizer = tokenizer_of(file.parent)
    backend = tokenizer.backend_tokenizer
    with open_warehouse(file) as con:
        prompts = [PromptTemplate().render(row[0]) for row in con.execute("SELECT note FROM icd.notes").fetchall()]
        batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]

        def loop(encode: Callable[[list[str]], object]) -> None:
            for batch in batches:
                encode(batch)

        work: dict[str, Callable[[], object]] = {
            "encode_batch": lambda: loop(backend.encode_batch),
            "encode_batch_fast": lambda: loop(backend.encode_batch_fast),
            "build_tokens": lambda: build(con, tokenizer, max_prompt_tokens),
        }
        backend.encode_batch_fast(batches[0])  # the first call starts the threads
        taken = [{name: seconds(task) for name, task in work.items()} for _ in range(rounds)]
        found = {name: len(prompts) / statistics.median(one[name][0] for one in taken) for name in work}
        for name in ("encode_batch", "encode_batch_fast"):
            for place, clock in enumerate(("", ", CPU time")):
                ratios = [one[name][place] / one["build_tokens"][place] for one in taken]
                found[f"ratio to {name}{clock}"] = statistics.median(ratios)
        length, cut = con.execute("SELECT avg(whole_length), avg(truncated::INT) FROM icd.tokens").fetchall()[0]
    return {**found, "tokens a note": length, "share shortened": cut}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, nargs="+", default=[1_000, 4_000])
    parser.add_argument("--max-prompt-tokens", type=int, nargs="+", default=[4_096, 2_048])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # as the command line sets it
    print(f"{os.cpu_count()} cores; {arguments.rounds} rounds, medians; rows a second")
    context = get_context("spawn")
    for notes in arguments.notes:
        with (
            tempfile.TemporaryDirectory() as folder,
            ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as process,
        ):
            file = Path(folder) / "benchmark.duckdb"
            process.submit(make_warehouse, file, notes).result()
            for limit in arguments.max_prompt_tokens:
                memory = process.submit(peak_megabytes, file, limit).result()
                found = process.submit(compare, file, limit, arguments.rounds).result()
                print(f"\n{notes:,} notes, max_prompt_tokens {limit:,}: peak memory {memory:,.0f} MB")
                for name, value in found.items():
                    print(f"  {name:40}{value:12,.2f}", flush=True)


if __name__ == "__main__":
    main()
