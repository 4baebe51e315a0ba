"""The commands of `medcode` that serve: they need no more than `pip install medcode` installs."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medcode_serving.errors import MedcodeError

app = typer.Typer()

OutputDir = Annotated[
    Path | None, typer.Option("--output-dir", help="Folder for all state; MEDCODE_HOME or .medcode if not given.")
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")]
InferenceConfig = Annotated[
    Path | None, typer.Option("--config", help="Inference settings; config/inference-config.yaml if not given.")
]
Engine = Annotated[
    str | None,
    typer.Option("--engine", help="transformers, llamacpp, litellm, linear, untuned_base or frequency_prior."),
]
UseLitellm = Annotated[
    bool, typer.Option("--use-litellm", help="--engine litellm: the OpenAI-compatible server of section `remote`.")
]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; other than loopback only with keys.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    recipe: Annotated[
        list[str] | None, typer.Option("--recipe", help="Recipe to serve; repeatable, the first answers by default.")
    ] = None,
    config: InferenceConfig = None,
    output_dir: OutputDir = None,
    device: Device = None,
    engine: Engine = None,
    use_litellm: UseLitellm = False,
) -> None:
    """Serve the latest published bundles over HTTP."""
    from medcode_serving.api.server import serve as serve_api

    more = {"api.host": host, "api.port": port, "model.recipes": recipe or None}
    serve_api(_inference_settings(config, _serving_flags(output_dir, device, engine, use_litellm, more)))


@app.command()
def predict(
    text: Annotated[
        str | None, typer.Option(help="The note itself; other users of the machine see it in the list of processes.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A text file; - is standard input.")] = None,
    pdf: Annotated[Path | None, typer.Option(help="A PDF with a text layer.")] = None,
    jsonl: Annotated[
        Path | None,
        typer.Option(help='Many notes: lines of {"id": ..., "text": ...}; - is standard input. One line is answered.'),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="File for the answer; stdout if not given. With --jsonl, what it lacks is added."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --jsonl: answer all notes anew.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="With --jsonl: exit code 1 if a note had a problem, in whichever run.")
    ] = False,
    format_: Annotated[Literal["json", "table"], typer.Option("--format", help="Of one note's answer.")] = "json",
    recipe: Annotated[str | None, typer.Option(help="Whose bundle answers; the settings' first if not given.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least probability of a code; the bundle's if not given.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Codes that an answer has at most.")] = None,
    max_codes: Annotated[int | None, typer.Option(help="Codes that the model writes at most.")] = None,
    evidence: Annotated[
        Literal["none", "lexical", "occlusion"], typer.Option(help="How passages that support a code are found.")
    ] = "none",
    long_notes: Annotated[
        Literal["shorten", "windows", "refuse"], typer.Option(help="What becomes of a note that is too long.")
    ] = "shorten",
    free: Annotated[
        bool, typer.Option("--free", help="Let the model write freely, and count what is no code as dropped.")
    ] = False,
    config: InferenceConfig = None,
    output_dir: OutputDir = None,
    device: Device = None,
    engine: Engine = None,
    use_litellm: UseLitellm = False,
) -> None:
    """Predict the codes of a note, or of a file of notes, with the latest published bundle, without a server."""
    from medcode_assets.predict_command import predict_once, prediction_options
    from medcode_assets.predict_lines import predict_lines

    if sum(source is not None for source in (text, file, pdf, jsonl)) != 1:
        raise MedcodeError("predict: give exactly one of --text, --file, --pdf and --jsonl")
    options = prediction_options(
        recipe=recipe,
        threshold=threshold,
        top_k=top_k,
        max_codes=max_codes,
        constrained=not free,
        long_notes=long_notes,
        evidence=evidence,
    )
    settings = _inference_settings(config, _serving_flags(output_dir, device, engine, use_litellm, {}))
    if jsonl is not None:
        if format_ != "json":
            raise MedcodeError("--format: with --jsonl, answers are JSON lines")
        problems = predict_lines(settings, options, jsonl=jsonl, output=output, overwrite=overwrite)
        if strict and problems:
            raise typer.Exit(1)
        return
    if overwrite:
        raise MedcodeError("--overwrite: goes with --jsonl; the answer to one note replaces an earlier one anyway")
    if strict:
        raise MedcodeError("--strict: goes with --jsonl; one note with a problem ends with exit code 2 anyway")
    predict_once(settings, options, text=text, file=file, pdf=pdf, output=output, format_=format_)


keys = typer.Typer(no_args_is_help=True, help="API keys of `medcode serve`; the running server follows their file.")

KeysFile = Annotated[
    Path | None, typer.Option("--file", help="File of keys; api.keys_file of the settings if not given.")
]


@keys.command("new")
def keys_new(
    name: Annotated[str, typer.Option(help="Whose key, as the audit log names it.")],
    scope: Annotated[
        list[str],
        typer.Option("--scope", help="predict, metrics or admin, which opens all; repeatable."),
    ],
    rate_limit: Annotated[str | None, typer.Option(help="Its own limit of requests, as in 60/minute.")] = None,
    expires: Annotated[str | None, typer.Option(help="First day on which it is refused, as in 2027-01-31.")] = None,
    file: KeysFile = None,
    config: InferenceConfig = None,
) -> None:
    """Make a key: its secret goes to standard output, once, and its hash to the file."""
    from medcode_assets.keys_command import keys_file, new_key

    settings = _inference_settings(config, {})
    chosen = keys_file(settings, file)
    new_key(chosen, name, scope, rate_limit, expires, served=chosen == settings.api.keys_file)


@keys.command("list")
def keys_list(file: KeysFile = None, config: InferenceConfig = None) -> None:
    """Show the keys without their secrets, which are stored nowhere."""
    from medcode_assets.keys_command import keys_file, list_keys

    list_keys(keys_file(_inference_settings(config, {}), file))


@keys.command("remove")
def keys_remove(
    name: Annotated[str, typer.Argument(help="Name of the key, as `medcode keys list` shows it.")],
    file: KeysFile = None,
    config: InferenceConfig = None,
) -> None:
    """Revoke a key: a running server refuses it at once."""
    from medcode_assets.keys_command import keys_file, remove_key

    remove_key(keys_file(_inference_settings(config, {}), file), name)


def _serving_flags(
    output_dir: Path | None, device: str | None, engine: str | None, use_litellm: bool, more: dict[str, Any]
) -> dict[str, Any]:
    if use_litellm and engine not in (None, "litellm"):
        raise MedcodeError(f"--use-litellm and --engine {engine}: give one of them")
    flags = {
        **more,
        "model.home": str(output_dir) if output_dir else None,
        "device": device,
        "model.engine": "litellm" if use_litellm else engine,
    }
    return {key: value for key, value in flags.items() if value is not None}


def _inference_settings(config: Path | None, flags: dict[str, Any]) -> Any:
    from medcode_serving.settings import load_inference_settings

    committed = Path(__file__).resolve().parent.parent / "config" / "inference-config.yaml"
    if config is None and committed.exists():  # a checkout; an installed package has the same defaults in code
        config = committed
    return load_inference_settings(config, **flags)
