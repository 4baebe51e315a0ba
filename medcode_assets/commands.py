"""What the commands of `medcode` do, once their flags are read."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medcode_assets.config import PROJECT, Settings, load_settings, parse_assignments
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from medcode_assets.mimic.sources import MimicVersion


def run_stage(
    stage: str,
    *,
    home: Path,
    mimic_dir: Path,
    release: str,
    name: str | None,
    config: Path | None,
    flags: dict[str, Any],
    assignments: list[str],
    drop_existing: bool,
) -> None:
    """Materialize a stage for a MIMIC folder and print what came of it.

    Raises:
        MedcodeError: as `load_settings`, `find_version`, `add_version` and `materialize` do.
    """
    settings = load_settings(config, {**flags, **parse_assignments(assignments)})
    require_assets_extra()
    version = find_version(mimic_dir, release, name)
    materialize_version(stage, home, version, settings, drop_existing=drop_existing)
    if stage in ("evaluate", "export", "run"):
        print_evaluation(home, version.name)
    if stage in ("export", "run"):
        from medcode_assets.export_command import print_export

        print_export(home, version.name)
    if stage == "search":
        print_search(home, version.name)
    typer.echo(f"\nDagster UI: medcode ui{_output_dir_flag(home)}")
    if stage in ("run", "export"):
        typer.echo(f"Serve it:   medcode serve{_output_dir_flag(home)}")


def materialize_version(
    stage: str, home: Path, version: "MimicVersion", settings: Settings, *, drop_existing: bool = False
) -> None:
    """Register a version and materialize a stage for it, a line an asset on stderr."""
    from medcode_assets.pipeline import materialize, open_instance
    from medcode_assets.versions import add_version

    with open_instance(home) as instance:
        add_version(instance, home, version)
        typer.echo(f"{stage}: MIMIC version {version.name} ({version.release}), state in {home}", err=True)
        materialize(instance, home, stage, version.name, settings, drop_existing=drop_existing)


def find_version(mimic_dir: Path, release: str, name: str | None) -> "MimicVersion":
    """Return the version that the flags describe. Raises MedcodeError if the release is unknown."""
    from medcode_assets.mimic.sources import MimicVersion
    from medcode_assets.mimic.versions import version_name

    return MimicVersion(name or version_name(mimic_dir, release), release, str(mimic_dir.resolve()))


def add_mimic_version(home: Path, mimic_dir: Path, release: str, name: str | None) -> None:
    """Register a MIMIC folder as a partition."""
    require_assets_extra()
    from medcode_assets.pipeline import open_instance
    from medcode_assets.versions import add_version

    version = find_version(mimic_dir, release, name)
    with open_instance(home) as instance:
        add_version(instance, home, version)
    typer.echo(f"{version.name}: registered; materialize it in the Dagster UI: medcode ui{_output_dir_flag(home)}")


def list_mimic_versions(home: Path) -> None:
    """Print the registered versions and how far each is."""
    require_assets_extra()
    from medcode_assets.pipeline import open_instance
    from medcode_assets.versions import version_statuses

    with open_instance(home) as instance:
        statuses = version_statuses(instance, home)
    if not statuses:
        typer.echo(
            f"no MIMIC version is registered in {home}: medcode versions add --mimic-dir DIR --dataset-version RELEASE"
        )
        return
    width = max(len("name"), *(len(status.version.name) for status in statuses))
    typer.echo(f"{'name':<{width}}  {'release':<14}  {'assets':<7}  folder")
    for status in statuses:
        done = f"{status.materialized}/{status.assets}"
        version = status.version
        typer.echo(f"{version.name:<{width}}  {version.release:<14}  {done:<7}  {version.directory}")
        if status.problem:
            typer.echo(f"{'':<{width}}  {status.problem}")


def remove_mimic_version(home: Path, name: str, *, delete_data: bool) -> None:
    """Forget a version, and delete what was made from it if asked to."""
    require_assets_extra()
    from medcode_assets.pipeline import open_instance
    from medcode_assets.versions import remove_version

    with open_instance(home) as instance:
        remove_version(instance, home, name, delete_data=delete_data)
    deleted = ", its warehouse, artifacts and evaluations deleted" if delete_data else ""
    typer.echo(f"{name}: removed{deleted}; MIMIC's files and published bundles are as they were")


def refuse_name(name: str) -> None:
    """Raise MedcodeError unless a name can be a partition's: it becomes a folder's and a warehouse's."""
    if not re.fullmatch(r"(?!.*\.\.)[a-z0-9][a-z0-9._-]{0,79}", name):
        raise MedcodeError(
            f"--name {name[:100]}: use small letters, digits, single dots, dashes and underscores only, at most 80"
        )


def print_evaluation(home: Path, partition: str, recipe: str = "icd") -> None:
    """Print the metrics of a partition's evaluation, if there is one."""
    from medcode_assets.evaluation.report import read_report, report_table

    artifacts = home / "artifacts" / recipe / partition
    if (file := artifacts / "evaluation" / "evaluation.json").exists():
        typer.echo("\n" + report_table(read_report(file)))
    if (page := artifacts / "report" / "report.html").exists():
        typer.echo(f"\nReport:     {page}")


def compare_evaluations(home: Path, recipe: str, first: str, second: str) -> None:
    """Print the paired differences of two evaluations.

    Args:
        home: MEDCODE_HOME.
        recipe: Whose evaluations.
        first: A bundle version, how it begins, or `latest`; `:ENGINE` behind it names a baseline.
        second: The other one.

    Raises:
        MedcodeError: there is no such evaluation, or they measured different questions.
    """
    require_assets_extra()
    from medcode_assets.evaluation.history import ADAPTER, KeptEvaluation, compare_kept, find_evaluation
    from medcode_assets.evaluation.report import difference_table
    from medcode_serving.bundle import latest_version

    def found(name: str) -> tuple[KeptEvaluation, str]:
        version, _, engine = name.partition(":")
        version = latest_version(home / "bundles", recipe) if version == "latest" else version
        return find_evaluation(home, recipe, version), engine or ADAPTER

    sides = found(first), found(second)
    names = [f"{kept.about.version}:{engine}" for kept, engine in sides]
    rows = compare_kept(*sides, names=(names[0], names[1]))
    documents = sides[0][0].report.documents
    typer.echo(f"{names[0]} minus {names[1]}, paired bootstrap over the same {documents} test documents:\n")
    typer.echo(difference_table(rows))


def print_search(home: Path, partition: str) -> None:
    """Print the best settings of a version's search, and how to train with them."""
    from medcode_assets.artifacts import required

    found = required(home / "artifacts" / "icd" / partition / "search", "icd/search")
    typer.echo(f"\nBest of {found['counted']} trials, validation loss {found['best_value']:.4f} nats a token:")
    for name, value in found["best"].items():
        typer.echo(f"  {name}: {value:.4g}")
    typer.echo("Train with them: medcode train ... --set search.use_best=true")


def start_ui(home: Path, host: str, port: int, config: Path | None) -> None:
    """Run `dagster dev` on the project's instance until it is interrupted."""
    require_assets_extra()
    from medcode_assets.pipeline import dagster_home, open_instance

    load_settings(config)  # a mistake in the settings is one line here, a stack of process output below
    os.environ["MEDCODE_HOME"] = str(home.resolve())
    if config:
        os.environ["MEDCODE_CONFIG"] = str(config.resolve())
    with open_instance(home):
        folder = dagster_home(home)
    typer.echo(f"Dagster UI: http://{host}:{port} (instance {folder}); stop it with Ctrl-C")
    workspace = PROJECT / "workspace.yaml"
    location = ["-w", str(workspace)] if workspace.exists() else ["-m", "medcode_assets.definitions"]
    # A shell that starts us with `&` has SIGINT ignored, which children inherit; dagster dev ends its own by SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([sys.executable, "-m", "dagster", "dev", *location, "-h", host, "-p", str(port)])
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
    except KeyboardInterrupt:
        code = process.wait()
    if code > 0:
        raise MedcodeError(f"dagster dev ended with exit code {code}; is port {port} taken?")


def require_assets_extra() -> None:
    """Raise MedcodeError if only the serving side of medcode is installed."""
    from importlib.util import find_spec

    if find_spec("dagster") is None:
        raise MedcodeError("this command makes adapters and needs the asset side: pip install 'medcode[assets]'")


def _output_dir_flag(home: Path) -> str:
    return "" if home == Path(".medcode") else f" --output-dir {home}"
