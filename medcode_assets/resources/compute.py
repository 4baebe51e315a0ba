"""Resource `compute`: where trainings run, and what Kubernetes is told of assets that need a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from pydantic import Field, ValidationError

from medcode_assets.training.job import TrainingResult
from medcode_assets.training.launch import launched_training, torchrun_command, torchrun_environment
from medcode_assets.training.progress import LogMetrics, metrics_line
from medcode_assets.training.settings import ComputeSettings, Device
from medcode_assets.training.worker import METRICS_MESSAGE
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from dagster._core.pipes.context import PipesMessageHandler
    from dagster_pipes import PipesParams

GPU = "gpu"
"""Pool of the assets that need a GPU; how many run at once: `dagster instance concurrency set gpu N`."""
KUBERNETES = "dagster-k8s/config"

_FIELDS = ComputeSettings.model_fields


class Compute(dg.ConfigurableResource):
    """Trains in this process, in processes that torchrun starts on this machine and others, or on a rented one."""

    device: Device = Field(default="auto", description=_FIELDS["device"].description)
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description=_FIELDS["precision"].description
    )
    memory_gb: float = Field(default=0.0, description=_FIELDS["memory_gb"].description)
    processes: int = Field(default=1, description=_FIELDS["processes"].description)
    machines: int = Field(default=1, description=_FIELDS["machines"].description)
    rendezvous: str | None = Field(default=None, description=_FIELDS["rendezvous"].description)
    sharding: Literal["none", "full"] = Field(default="none", description=_FIELDS["sharding"].description)
    max_restarts: int = Field(default=1, description=_FIELDS["max_restarts"].description)
    launcher: Literal["local", "subprocess", "modal"] = Field(
        default="local", description=_FIELDS["launcher"].description
    )
    allowed_hosts: list[str] = Field(default=[], description=_FIELDS["allowed_hosts"].description)
    gpu: str = Field(default="A10", description=_FIELDS["gpu"].description)
    remote_hours: float = Field(default=12.0, description=_FIELDS["remote_hours"].description)
    detach: bool = Field(default=False, description=_FIELDS["detach"].description)

    @property
    def settings(self) -> ComputeSettings:
        """The settings, bounds checked. Raises MedcodeError if one is out of bounds."""
        try:
            return ComputeSettings(**{name: getattr(self, name) for name in _FIELDS})
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            where = "".join(f"{part}: " for part in problem["loc"])
            raise MedcodeError(f"resource compute: {where}{problem['msg']}") from None

    def train(
        self, context: dg.AssetExecutionContext, folder: Path, on_metrics: LogMetrics | None = None
    ) -> TrainingResult:
        """Train what `<folder>/job.json` says; each entry of its progress is a line in the event log.

        Args:
            context: Of the asset that trains.
            folder: Of the training (`medcode_assets.training.job`).
            on_metrics: Told (step, metrics) of each entry: while it runs, or once launched processes have ended.

        Raises:
            MedcodeError: the training failed; says what to change.
        """
        settings = self.settings
        if settings.launcher != "local":
            return launched_training(folder, settings, _Remote(context, on_metrics))
        if settings.launched:
            return launched_training(folder, settings, _Piped(context, on_metrics))
        from medcode_assets.training.loop import train

        def tell(step: int, metrics: dict[str, float]) -> None:
            context.log.info(metrics_line(step, metrics))
            if on_metrics:
                on_metrics(step, metrics)

        return train(folder, tell)


@dataclass(frozen=True)
class _Piped:
    """Launcher of this machine whose first process tells Dagster how it goes."""

    context: dg.AssetExecutionContext
    on_metrics: LogMetrics | None

    def run(self, folder: Path, compute: ComputeSettings) -> int:
        """Run torchrun in a Pipes session; ending the Dagster run ends it too."""
        from dagster._core.errors import DagsterPipesExecutionError

        try:
            ended = dg.PipesSubprocessClient().run(
                context=self.context,
                command=torchrun_command(folder, compute),
                env=torchrun_environment(compute),
            )
        except DagsterPipesExecutionError:
            return 1  # its message only repeats the exit code
        for message in ended.get_custom_messages():
            if self.on_metrics and METRICS_MESSAGE in message:
                self.on_metrics(*message[METRICS_MESSAGE])
        return 0


@dataclass(frozen=True)
class _Remote:
    """Launcher of another machine, whose messages reach Dagster through a Pipes session of this one."""

    context: dg.AssetExecutionContext
    on_metrics: LogMetrics | None

    def run(self, folder: Path, compute: ComputeSettings) -> int:
        """Start the training there or find it, and follow it; ending the Dagster run ends it, unless `detach`."""
        from medcode_assets.training.remote.following import RemoteRun
        from medcode_assets.training.remote.launchers import launcher_for, refuse_host

        launcher, reader = launcher_for(compute, folder), _Relay()
        refuse_host(launcher, compute)
        # What somebody listens to, as a search does, is nothing without them.
        detach = compute.detach and self.on_metrics is None
        with dg.open_pipes_session(self.context, context_injector=dg.PipesEnvContextInjector(), message_reader=reader):
            return RemoteRun(launcher, reader.relay, self.on_metrics, detach).run(folder, compute)


class _Relay(dg.PipesMessageReader):
    """Hands Dagster the messages that were fetched from elsewhere: lines of the log, and when it opened and closed."""

    METHODS = ("opened", "log", "closed")

    @contextmanager
    def read_messages(self, handler: "PipesMessageHandler") -> "Iterator[PipesParams]":
        """Keep the handler for as long as the session is open."""
        self._handler = handler
        yield {}

    def relay(self, message: dict[str, Any]) -> None:
        """Hand over one message; a closing word's error stays back, as it may quote a note."""
        if message["method"] == "closed":
            message = {**message, "params": {}}
        if message["method"] in self.METHODS:
            self._handler.handle_message(message)  # type: ignore[arg-type]

    def no_messages_debug_text(self) -> str:
        """Say where the messages were to come from."""
        return "Attempted to fetch messages of the training from the other machine."


def gpu_tags(compute: ComputeSettings, gpus: int | None = None) -> dict[str, Any]:
    """Return the op tags of an asset that needs a GPU; nothing where no CUDA device is wanted, or a rented one.

    Outside Kubernetes nobody reads them.

    Args:
        compute: Where it runs.
        gpus: How many it needs; none: one for each training process.
    """
    trains_elsewhere = compute.launcher == "modal" and gpus is None
    if compute.device not in ("auto", "cuda") or trains_elsewhere:
        return {}
    gpus = compute.processes if gpus is None else gpus
    container: dict[str, Any] = {"resources": {"limits": {"nvidia.com/gpu": gpus}}}
    if gpus == 1:
        return {KUBERNETES: {"container_config": container}}
    # NCCL's processes meet in shared memory, of which a container has 64 MB otherwise.
    container["volume_mounts"] = [{"name": "shared-memory", "mount_path": "/dev/shm"}]
    volume = {"name": "shared-memory", "empty_dir": {"medium": "Memory"}}
    return {KUBERNETES: {"container_config": container, "pod_spec_config": {"volumes": [volume]}}}
