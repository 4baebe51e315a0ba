"""How many dangers the safety check finds, how often it is wrong, and how long it takes.

    python benchmarks/safety.py [--part held_out|tuned|all] [--wrong]

Times are for the labelled lines end to end, which are full of drugs and signs, and for this project's documents.

On `tests/serving/safety/labelled.jsonl`, made by hand. A danger counts as found if its rule is told and the answer is
not said to advise against it; a false alarm is a line with a warning of a kind (moderate or worse, or of a dose far too
low, not addressed) that its labels have not. Intervals are Wilson's, 95 %. The rules were tuned on the half that is not
`held_out`. Tags of the lines of 2026-11-22: `added10` and `added10b` are new ones; `reviewer10` and `trial10` the finds
of a reviewer and of a user, all tuned on.

Where the repository has `../shared/data`, the share of its texts that are told of is counted too: exam questions of
MedMCQA with their right answers, where no patient asks, and the dialogues of MTS-Dialog. None of their text is printed.
"""

import argparse
import csv
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from medcode_serving.safety import SafetyReport, check_safety

LABELLED = Path(__file__).parents[1] / "tests/serving/safety/labelled.jsonl"
DOCUMENTS = Path(__file__).parents[1] / "docs"
SHARED = Path(__file__).parents[1] / "../shared/data"
KINDS = ("interaction", "emergency", "dose", "age")
Z = 1.96
REPEATS = 5
"""Of which the fastest counts: other work on the machine is no part of a check."""
Judged = tuple[dict, set[tuple[str, str]], set[tuple[str, str]]]


def wilson(hits: int, of: int) -> tuple[float, float]:
    if not of:
        return (0.0, 1.0)
    share, square = hits / of, Z * Z / of
    middle, reach = share + square / 2, Z * (share * (1 - share) / of + square / of / 4) ** 0.5
    # rounding may leave a billionth under nothing
    return (max(0.0, (middle - reach) / (1 + square)), min(1.0, (middle + reach) / (1 + square)))


def read_lines(part: str = "all") -> list[dict]:
    lines = [json.loads(line) for line in LABELLED.read_text("utf-8").splitlines()]
    return [line for line in lines if part == "all" or line["held_out"] == (part == "held_out")]


def alarms(report: SafetyReport) -> set[tuple[str, str]]:
    return {
        (one.kind, one.rule)
        for one in report.warnings
        if one.kind == "emergency" or (not one.addressed and (one.kind == "dose" or one.severity != "low"))
    }


def judge(lines: Sequence[dict]) -> list[Judged]:
    """Return each line with what should be and what was told."""
    judged = []
    for line in lines:
        told = alarms(check_safety(line["answer"], question=line["question"]))
        judged.append((line, {(one["kind"], one["rule"]) for one in line["expect"]}, told))
    return judged


def count(judged: Sequence[Judged], kind: str | None = None, tag: str | None = None) -> tuple[int, int, int, int]:
    """Return dangers found, dangers, lines with a false alarm, lines without the kind's danger."""
    found = dangers = false = quiet = 0
    for line, wanted, told in judged:
        if tag and tag not in line["tags"]:
            continue
        mine = {one for one in wanted if kind in (None, one[0])}
        heard = {one for one in told if kind in (None, one[0])}
        found, dangers = found + len(mine & heard), dangers + len(mine)
        if not mine:
            quiet, false = quiet + 1, false + bool(heard)
    return found, dangers, false, quiet


def print_row(name: str, counts: tuple[int, int, int, int]) -> None:
    cells = []
    for hits, of in ((counts[0], counts[1]), (counts[2], counts[3])):
        low, high = wilson(hits, of)
        cells.append(f"{hits}/{of} = {hits / of:.3f} ({low:.2f} to {high:.2f})" if of else "")
    print(f"| {name} | {cells[0]} | {cells[1]} |")


def print_figures(part: str, wrong: bool) -> None:
    judged = judge(read_lines(part))
    print(f"\n{part}: {len(judged)} lines\n\n| | recall | false alarms (lines) |\n|---|---|---|")
    print_row("all", count(judged))
    for kind in KINDS:
        print_row(kind, count(judged, kind))
    for tag in sorted({tag for line, _, _ in judged for tag in line["tags"]}):
        print_row(f"tag {tag}", count(judged, tag=tag))
    for line, wanted, told in judged if wrong else ():
        if wanted != told:
            print(f"\n{line['question']} >> {line['answer']}\n  missed {wanted - told} extra {told - wanted}")


def exam_questions() -> Iterator[tuple[str, str]]:
    """Yield each question of MedMCQA with its right answer and the explanation of it."""
    for line in (SHARED / "medmcqa/dev-half.jsonl").read_text("utf-8").splitlines():
        one = json.loads(line)
        yield one["question"], f"{one['op' + 'abcd'[one['cop'] - 1]]}. {one['exp'] or ''}"


def dialogues() -> Iterator[tuple[str, str]]:
    """Yield each dialogue of MTS-Dialog as a question without an answer."""
    with (SHARED / "mts-dialog/MTS-Dialog-TrainingSet.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["dialogue"], ""


def print_shared() -> None:
    """Print how many of the shared texts are told of; nobody has labelled them."""
    for name, folder, texts in (("MedMCQA", "medmcqa", exam_questions), ("MTS-Dialog", "mts-dialog", dialogues)):
        if not (SHARED / folder).is_dir():
            print(f"\n{name}: not counted, there is no ../shared/data/{folder}")
            continue
        told: Counter[str] = Counter()
        of = 0
        for question, answer in texts():
            report = check_safety(answer, question=question)
            of += 1
            told.update({kind for kind, _ in alarms(report)})
            told["to be seen today"] += report.risk_level == "high"
            told["call now"] += report.risk_level == "emergency"
        print(f"\n{name}: {of} texts, told of: " + ", ".join(f"{kind} {told[kind]}" for kind in sorted(told)))


def measure(answer: str, question: str) -> float:
    started = time.thread_time()
    check_safety(answer, question=question)
    return 1e3 * (time.thread_time() - started)


def print_times() -> None:
    dense = " ".join(f"{line['question']} {line['answer']}" for line in read_lines())
    prose = " ".join(path.read_text("utf-8") for path in sorted(DOCUMENTS.glob("*.md")))
    for name, text, size in (("labelled", dense, 200), ("labelled", dense, 2000), ("documents", prose, 2000)):
        pieces = [text[start : start + size] for start in range(0, len(text) - size, size)]
        times = []
        for piece in pieces:
            times.append(min(measure(piece[size // 4 :], piece[: size // 4]) for _ in range(REPEATS)))
        median, worst = statistics.median(times), max(times)
        print(f"{name}, {size} characters: median {median:.2f} ms of CPU, worst {worst:.2f} ms of {len(times)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=("held_out", "tuned", "all"), default="all")
    parser.add_argument("--wrong", action="store_true", help="print the lines that went wrong")
    arguments = parser.parse_args()
    for chosen in ("tuned", "held_out") if arguments.part == "all" else (arguments.part,):
        print_figures(chosen, arguments.wrong)
    print_shared()
    print()
    print_times()
