"""What a run has come to: counted from the journal's records, so that a run that goes on counts on."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """Counts over all runs of a journal; `failed` and `failures` are of this run alone."""

    accepted: int = 0
    answers: int = 0
    rejected: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """Rejected answers by reason; one may have several."""
    given_up: int = 0
    failed: int = 0
    """Requests without an answer."""
    failures: Counter[str] = field(default_factory=Counter)
    """Those by why there was none."""
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    """US dollars; None: no price is known."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one record of the journal."""
        if "accepted" in record:
            self.accepted += 1
        if "given_up" in record:
            self.given_up += 1
        if "kinds" in record:
            self.rejected += 1
            self.kinds.update(record["kinds"])
        if "prompt_tokens" in record:
            self.answers += 1
            self.retries += record["retries"]
            self.prompt_tokens += record["prompt_tokens"]
            self.completion_tokens += record["completion_tokens"]
            if record.get("cost") is not None:
                self.cost = (self.cost or 0.0) + record["cost"]

    @property
    def tokens(self) -> int:
        """Of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def success_rate(self) -> float:
        """Share of the answers that are not rejected, in [0, 1]; 0 if nothing but failures came."""
        return 1 - self.rejected / self.answers if self.answers else float(not self.failed)

    def shown(self) -> str:
        """Return the line beside the progress bar."""
        parts = [f"success {self.success_rate:.0%}", f"{self.rejected:,} rejects", f"{self.retries:,} retries"]
        parts += [f"{self.failed:,} failed"] if self.failed else []
        parts += [f"{self.tokens:,} tokens"] if self.tokens else []
        parts += [f"${self.cost:,.2f}"] if self.cost is not None else []
        return ", ".join(parts)
