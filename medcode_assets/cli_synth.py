"""The command of `medcode` that makes synthetic training data."""

from pathlib import Path
from typing import Annotated

import typer

from medcode_serving.errors import MedcodeError

app = typer.Typer()

FEWER = 1
"""Exit code where there are fewer lines than asked for."""


@app.command()
def synth(
    stage: Annotated[
        int, typer.Option("--stage", min=1, max=3, help="1: code; 2: reasoning and code; 3: preferences.")
    ],
    count: Annotated[
        int,
        typer.Option("--count", min=1, help="Lines. A full run: 50,000 / 70,000 / 40,000 for stages 1 / 2 / 3."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", help="F.jsonl; beside it F.journal, F.rejects.jsonl and F.summary.json are written."),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="`template`: from templates, without a network. Else a model as LiteLLM names it, "
            "deepseek/deepseek-chat say, or as the server at --api-base does.",
        ),
    ] = "template",
    api_base: Annotated[
        str | None,
        typer.Option(
            "--api-base",
            help="Address of a server with OpenAI's protocol: http://127.0.0.1:8080/v1. Its key, if it wants one, is "
            "in the environment: MEDCODE_REMOTE_API_KEY.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="Host that may be asked besides this machine; repeatable.")
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=100, help="Requests at a time.")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is asked.")] = 0,
    narratives: Annotated[
        Path | None,
        typer.Option(
            "--narratives",
            help='Send these to be coded, in place of invented ones: JSONL with "narrative", or MTSamples\' CSV.',
        ),
    ] = None,
    codes: Annotated[
        Path | None,
        typer.Option("--codes", help="CSV with system, code, description and perhaps weight: what is asked about."),
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", min=0, help="US dollars at which no more is asked.")
    ] = None,
    retries: Annotated[int, typer.Option("--retries", min=0, help="Repetitions of a request without an answer.")] = 5,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that a server may be silent.")] = 60,
    drop_existing: Annotated[
        bool, typer.Option("--drop-existing", help="Begin anew; what was answered before is thrown away.")
    ] = False,
) -> None:
    """Synthetic training data of a stage of recipe `reasoning`; goes on where it was killed. Exit code 1: too few."""
    from medcode_assets.synth_command import SynthOptions, synthesize

    if api_base is not None and "@" in api_base:
        raise MedcodeError("--api-base: no keys or passwords on a command line; set MEDCODE_REMOTE_API_KEY")
    if api_base is not None and not {"?", "#"}.isdisjoint(api_base):
        raise MedcodeError("--api-base: ends before ? and #, and a key is no part of it; set MEDCODE_REMOTE_API_KEY")
    done = synthesize(
        SynthOptions(
            stage=stage,
            count=count,
            output=output,
            model=model,
            api_base=api_base,
            allowed_hosts=tuple(allow_host or ()),
            concurrency=concurrency,
            seed=seed,
            narratives=narratives,
            codes=codes,
            max_cost=max_cost,
            retries=retries,
            timeout_s=timeout,
            drop_existing=drop_existing,
        )
    )
    if not done:
        raise typer.Exit(FEWER)
