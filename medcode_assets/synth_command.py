"""What `medcode synth` does."""

import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medcode_assets.commands import require_assets_extra
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from tqdm import tqdm

    from medcode_assets.synthesis.generate import Ending, Generation
    from medcode_assets.synthesis.journal import Journal
    from medcode_assets.synthesis.replies import Standard
    from medcode_assets.synthesis.requests import Inquiry
    from medcode_assets.synthesis.summary import Outputs
    from medcode_assets.synthesis.tally import Tally

TEMPLATE = "template"
"""The model that is none: lines are made from templates."""


@dataclass(frozen=True)
class SynthOptions:
    """The options of `medcode synth`."""

    stage: int
    count: int
    output: Path
    model: str = TEMPLATE
    api_base: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    concurrency: int = 8
    seed: int = 0
    narratives: Path | None = None
    codes: Path | None = None
    max_cost: float | None = None
    retries: int = 5
    timeout_s: float = 60.0
    drop_existing: bool = False


def synthesize(options: SynthOptions) -> bool:
    """Make lines of a stage and say what came of it; return whether there are as many as asked for.

    Raises:
        MedcodeError: an option makes no sense, the host is not allowed or refuses, the output is another run's.
        KeyboardInterrupt: Ctrl-C; everything that was answered is kept.
    """
    require_assets_extra()
    from medcode_assets.recipes.reasoning.rules import Limits
    from medcode_assets.synthesis.replies import Standard
    from medcode_assets.synthesis.summary import Outputs
    from medcode_serving.codes.tables import code_tables

    _refuse_no_number({"--max-cost": options.max_cost, "--timeout": options.timeout_s})
    outputs = Outputs(options.output)
    outputs.refuse_read({"--narratives": options.narratives, "--codes": options.codes})
    if not options.drop_existing:
        outputs.refuse_foreign()
    source = options.narratives.stem if options.narratives else "synthetic"
    standard = Standard(options.stage, Limits(), code_tables(), source)
    return (_from_templates if options.model == TEMPLATE else _from_model)(options, outputs, standard)


def _refuse_no_number(given: Mapping[str, float | None]) -> None:
    for flag, value in given.items():
        if value is not None and not math.isfinite(value):
            raise MedcodeError(f"{flag} {value}: give a number, or leave it out")


def _from_templates(options: SynthOptions, outputs: "Outputs", standard: "Standard") -> bool:
    from medcode_assets.recipes.reasoning.formats import written
    from medcode_assets.synthesis.from_templates import template_lines
    from medcode_assets.synthesis.journal import open_journal
    from medcode_assets.synthesis.summary import write_lines
    from medcode_assets.synthesis.tally import Tally

    given = {"--api-base": options.api_base, "--narratives": options.narratives, "--codes": options.codes}
    for flag, value in {**given, "--max-cost": options.max_cost}.items():
        if value is not None:
            raise MedcodeError(f"synth: {flag} is for a model; name one with --model, or leave {flag} out")
    arguments = {"stage": options.stage, "count": options.count, "seed": options.seed, "model": TEMPLATE}
    started = time.monotonic()
    tally = Tally()
    with (
        open_journal(outputs.journal, arguments, anew=options.drop_existing) as journal,
        _bar(options.count, tally) as bar,
    ):
        lines = template_lines(
            standard,
            seed=options.seed,
            count=options.count,
            tally=tally,
            on_progress=lambda now: _show(bar, now),
        )
        journal.append([{"templates": True}])  # from now on the output is of these arguments
        write_lines(outputs.lines, map(written, lines))
        outputs.rejects.unlink(missing_ok=True)
    return _report(options, outputs, arguments, tally, "done", started, tally.answers)


def _from_model(options: SynthOptions, outputs: "Outputs", standard: "Standard") -> bool:
    from medcode_assets.synthesis.client import Client
    from medcode_assets.synthesis.endpoints import resolve_endpoint
    from medcode_assets.synthesis.generate import Generation, replayed
    from medcode_assets.synthesis.journal import open_journal

    started = time.monotonic()
    inquiry = _inquiry(options, standard)
    arguments = _arguments(options, inquiry)
    endpoint = resolve_endpoint(options.model, options.api_base, options.allowed_hosts)
    with open_journal(outputs.journal, arguments, anew=options.drop_existing) as journal:
        said = f"{options.narratives} is sent there" if options.narratives else "only codes and descriptions are sent"
        typer.echo(f"synth: asking {options.model} at {endpoint.host}; {said}", err=True)
        stop = threading.Event()
        client = Client(endpoint, retries=options.retries, timeout_s=options.timeout_s, stop=stop)
        if options.max_cost is not None and client.prices is None:
            raise MedcodeError(f"--max-cost: no price is known for --model {options.model}; leave it out")
        state = replayed(journal, options.count)
        if state.accepted:
            typer.echo(f"synth: going on from {len(state.accepted):,} accepted lines", err=True)
        generation = Generation(inquiry, standard, journal, state)
        tally = state.tally
        answers = tally.answers
        try:
            ending = _run(options, generation, client.ask, stop)
        finally:
            client.close()
        _write_outputs(options, outputs, journal, generation)
    return _report(options, outputs, arguments, tally, ending, started, tally.answers - answers)


def _inquiry(options: SynthOptions, standard: "Standard") -> "Inquiry":
    from medcode_assets.recipes.reasoning.corpus.mtsamples import read_narratives
    from medcode_assets.synthesis.default_codes import default_codes
    from medcode_assets.synthesis.requests import Inquiry, read_codes

    if options.narratives is not None:
        if options.codes is not None:
            raise MedcodeError("synth: --codes and --narratives both say what is coded; give one")
        narratives = tuple(read_narratives(options.narratives))
        if len(narratives) < options.count:
            raise MedcodeError(
                f"{options.narratives}: {len(narratives):,} narratives for --count {options.count:,}; ask for no more "
                "than there are"
            )
        return Inquiry(options.stage, options.seed, (), narratives, standard.limits.max_reasoning_words)
    codes = read_codes(options.codes) if options.codes else default_codes(standard.tables)
    return Inquiry(options.stage, options.seed, codes, max_reasoning_words=standard.limits.max_reasoning_words)


def _arguments(options: SynthOptions, inquiry: "Inquiry") -> dict[str, Any]:
    """Return what decides what is asked and of whom; never a key."""
    from medcode_assets.synthesis.requests import fingerprint, prompts_fingerprint

    narratives = hashlib.sha256("\0".join(inquiry.narratives).encode()).hexdigest()[:12]
    return {
        "stage": options.stage,
        "count": options.count,
        "seed": options.seed,
        "model": options.model,
        "api_base": options.api_base,
        "codes": fingerprint(list(inquiry.codes)) if inquiry.codes else None,
        "narratives": narratives if inquiry.narratives else None,
        "prompts": prompts_fingerprint(),
    }


def _run(options: SynthOptions, generation: "Generation", ask: Any, stop: threading.Event) -> "Ending":
    with stopping_on_interrupt(stop), _bar(options.count, generation.state.tally) as bar:
        return generation.run(
            ask,
            concurrency=options.concurrency,
            stop=stop,
            max_cost=options.max_cost,
            on_progress=lambda tally: _show(bar, tally),
        )


def _write_outputs(options: SynthOptions, outputs: "Outputs", journal: "Journal", generation: "Generation") -> None:
    from medcode_assets.recipes.reasoning.formats import written
    from medcode_assets.synthesis.generate import accepted_lines, rejected_answers
    from medcode_assets.synthesis.summary import write_lines

    write_lines(outputs.lines, map(written, accepted_lines(journal, generation.state, options.stage)))
    write_lines(outputs.rejects, (json.dumps(reject, ensure_ascii=False) for reject in rejected_answers(journal)))


def _report(
    options: SynthOptions,
    outputs: "Outputs",
    arguments: dict[str, Any],
    tally: "Tally",
    ending: str,
    started: float,
    answers: int,
) -> bool:
    from medcode_assets.synthesis.summary import summary_text, write_summary

    seconds = time.monotonic() - started
    write_summary(outputs.summary, arguments, tally, ending=ending, seconds=seconds, answers=answers)
    typer.echo(summary_text(tally, options.count, seconds=seconds, answers=answers), err=True)
    typer.echo(f"Written: {outputs.lines}")
    if ending == "interrupted":
        typer.echo("medcode: interrupted; the same command goes on from here", err=True)  # typer says nothing
        raise KeyboardInterrupt
    if ending == "max_cost" and tally.accepted < options.count:
        typer.echo("--max-cost is spent; the same command with a higher one goes on from here", err=True)
    return tally.accepted == options.count


@contextmanager
def stopping_on_interrupt(stop: threading.Event) -> Iterator[None]:
    """Let Ctrl-C end the run after what is under way, and a second one at once."""

    def interrupted(_signal: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        typer.echo("\nstopping: what is under way is waited for; Ctrl-C again stops at once", err=True)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _bar(count: int, tally: "Tally") -> "tqdm[Any]":
    from tqdm import tqdm

    return tqdm(total=count, initial=tally.accepted, desc="synth", unit="line", mininterval=1)


def _show(bar: "tqdm[Any]", tally: "Tally") -> None:
    bar.set_postfix_str(tally.shown(), refresh=False)
    bar.update(tally.accepted - bar.n)
