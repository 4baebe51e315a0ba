"""What a run leaves behind beside its lines: the rejects, and a summary for people and for programs."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from medcode_assets.synthesis.tally import Tally
from medcode_assets.writing import refusing_unwritable
from medcode_serving.errors import MedcodeError

SUFFIX = ".jsonl"


@dataclass(frozen=True)
class Outputs:
    """The files of one output, which lie beside each other."""

    lines: Path

    def __post_init__(self) -> None:
        """Raise MedcodeError if the output is not named *.jsonl."""
        if self.lines.suffix != SUFFIX:
            raise MedcodeError(f"--output {self.lines}: name a file *{SUFFIX}")

    @property
    def journal(self) -> Path:
        """Everything that was answered; what a later run goes on from."""
        return self.lines.with_suffix(".journal")

    @property
    def rejects(self) -> Path:
        """The rejected answers."""
        return self.lines.with_suffix(f".rejects{SUFFIX}")

    @property
    def summary(self) -> Path:
        """Counts."""
        return self.lines.with_suffix(".summary.json")

    def refuse_read(self, read: Mapping[str, Path | None]) -> None:
        """Refuse to write over a file that is read, by the flag that names it.

        Raises:
            MedcodeError: it is one of these files.
        """
        own = {path.resolve() for path in (self.lines, self.journal, self.rejects, self.summary)}
        for flag, path in read.items():
            if path is not None and path.resolve() in own:
                raise MedcodeError(f"--output {self.lines} would write over {path} ({flag}); name another --output")

    def refuse_foreign(self) -> None:
        """Refuse to write over a file that this command has not written.

        Raises:
            MedcodeError: the output is there without a journal.
        """
        for path in (self.lines, self.journal, self.rejects, self.summary):
            if path.is_dir():
                raise MedcodeError(f"{path}: is a folder; name another --output")
        if self.lines.exists() and not self.journal.exists():
            raise MedcodeError(
                f"{self.lines} is there without {self.journal.name}: it may be somebody's; name another --output, or "
                "write over it with --drop-existing"
            )


@contextmanager
def written_aside(path: Path) -> Iterator[IO[str]]:
    """Open a file that takes the place of `path` at the end, whole or not at all.

    Raises:
        MedcodeError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with refusing_unwritable(path, "--output"):
            with aside.open("w", encoding="utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of JSON.

    Raises:
        MedcodeError: the file cannot be written.
    """
    with written_aside(path) as file:
        for line in lines:
            file.write(line + "\n")


def write_summary(
    path: Path, arguments: Mapping[str, Any], tally: Tally, *, ending: str, seconds: float, answers: int
) -> None:
    """Write the counts.

    Args:
        path: The file.
        arguments: What was asked for.
        tally: Counts of all runs.
        ending: Why this run asks no more.
        seconds: That this run took.
        answers: That this run got.

    Raises:
        MedcodeError: the file cannot be written.
    """
    counts = {
        "complete": tally.accepted == arguments["count"],
        "ending": ending,
        "accepted": tally.accepted,
        "rejected": tally.rejected,
        "rejected_by_kind": dict(sorted(tally.kinds.items())),
        "success_rate": round(tally.success_rate, 4),
        "given_up": tally.given_up,
        "failed": tally.failed,
        "retries": tally.retries,
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
        "cost_usd": tally.cost,
        "this_run": {
            "answers": answers,
            "seconds": round(seconds, 1),
            "answers_per_second": round(answers / seconds, 1) if seconds else None,
        },
        "arguments": dict(arguments),
    }
    with written_aside(path) as file:
        file.write(json.dumps(counts, indent=2) + "\n")


def summary_text(tally: Tally, count: int, *, seconds: float, answers: int) -> str:
    """Return the summary for people, a line each."""
    rate = f"{answers / seconds:,.1f} answers/s" if seconds > 0 else ""
    lines = [f"accepted {tally.accepted:,} of {count:,} lines; this run: {seconds:,.1f} s, {rate}"]
    by_kind = ", ".join(f"{kind} {times:,}" for kind, times in tally.kinds.most_common())
    lines += [f"rejected {tally.rejected:,} answers: {by_kind}"] if tally.rejected else []
    lines += [f"given up {tally.given_up:,} requests after their attempts"] if tally.given_up else []
    lines += [f"no answer to {tally.failed:,} requests; the same command asks them again"] if tally.failed else []
    spent = f"${tally.cost:,.4f}" if tally.cost is not None else "no price known"
    lines += [f"{tally.retries:,} retries, {tally.tokens:,} tokens, {spent}"] if tally.tokens else []
    return "\n".join(lines)
