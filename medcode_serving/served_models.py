"""The bundles that a running service answers with: one a recipe, swapped while requests run.

A new bundle is verified and loaded beside the old one, has to answer a note, and only then takes its place. The old one
is closed when the last request that it answers is done. A bundle that cannot be loaded leaves the old one serving.
"""

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import anyio.to_thread

from medcode_serving.bundle import bundle_versions, latest_version
from medcode_serving.engines.loading import SharedBases
from medcode_serving.engines.protocol import NoteOptions, Writing
from medcode_serving.errors import MedcodeError
from medcode_serving.loading import load_predictor
from medcode_serving.note_queue import EngineFailedError, NoteQueue, QueueClosedError
from medcode_serving.predictor import Predictor
from medcode_serving.settings import InferenceSettings

logger = logging.getLogger(__name__)

WARM_UP_NOTE = "Discharge Diagnosis: essential hypertension, type 2 diabetes mellitus.\nNo chest pain."
"""What a new bundle has to answer before it serves: a made-up note."""
WARM_UP = NoteOptions(writing=Writing(max_tokens=8))
"""In a few words, where it answers in words."""
LONGEST_PAUSE_S = 300.0
"""Between two attempts at a bundle that cannot be loaded."""

Loader = Callable[[InferenceSettings, str, str | None, SharedBases | None], Predictor]


@dataclass(frozen=True)
class ReloadAttempt:
    """How the last attempt to load a bundle went."""

    at: datetime
    version: str | None
    """The bundle that was to be loaded; None if LATEST names none."""
    outcome: Literal["loaded", "unchanged", "failed"]
    reason: str | None = None
    """Why it failed."""


@dataclass(eq=False)
class _Lease:
    predictor: Predictor
    users: int = 0
    retired: bool = False


@dataclass(eq=False)
class ServedModel:
    """What answers for one recipe."""

    recipe: str
    lease: _Lease | None = None
    last_attempt: ReloadAttempt | None = None
    previous_version: str | None = None
    pinned: bool = False
    """Rolled back by hand: LATEST is not followed until somebody reloads."""
    failures: int = 0
    next_attempt: float = 0.0
    reloading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def predictor(self) -> Predictor | None:
        """What answers now."""
        return None if self.lease is None else self.lease.predictor

    @property
    def version(self) -> str | None:
        """Version of the bundle that answers now."""
        return None if self.predictor is None else self.predictor.manifest.version


class ServedModels:
    """The served model of every recipe in the settings."""

    def __init__(
        self,
        settings: InferenceSettings,
        queue: NoteQueue,
        *,
        load: Loader = load_predictor,
        on_attempt: Callable[[ServedModel], None] | None = None,
    ) -> None:
        """Load nothing yet.

        Args:
            settings: Which recipes, and how often LATEST is looked at.
            queue: Where a new bundle answers its first note.
            load: What turns recipe and version into a predictor.
            on_attempt: Is told of a model after each attempt to load one.
        """
        self._settings = settings
        self._queue = queue
        self._load = load
        self._on_attempt = on_attempt or (lambda model: None)
        # Adapters over one base share it. A single one is merged into its base instead, which answers faster.
        self._shared_bases = SharedBases() if len(settings.model.recipes) > 1 else None
        self._closing: set[asyncio.Task[None]] = set()
        self.by_recipe = {recipe: ServedModel(recipe) for recipe in settings.model.recipes}

    @contextmanager
    def lease(self, recipe: str) -> Iterator[Predictor | None]:
        """Give a recipe's predictor, which is not closed while it is in use; None if none is loaded."""
        lease = self.by_recipe[recipe].lease
        if lease is None:
            yield None
            return
        lease.users += 1
        try:
            yield lease.predictor
        finally:
            lease.users -= 1
            if lease.retired and lease.users == 0:
                task = asyncio.get_running_loop().create_task(self._close(lease))
                self._closing.add(task)  # the loop itself keeps no reference
                task.add_done_callback(self._closing.discard)

    async def load_all(self) -> None:
        """Load every recipe's bundle; what cannot be loaded is logged and tried again by `watch`."""
        for model in self.by_recipe.values():
            await self.reload(model.recipe)

    async def watch(self) -> None:
        """Look at LATEST again and again, until cancelled."""
        while self._settings.model.watch_s:
            await asyncio.sleep(self._settings.model.watch_s)
            for model in self.by_recipe.values():
                try:
                    await self._follow(model)
                except Exception:  # whatever it is, LATEST has to be looked at again
                    logger.exception("recipe %s: LATEST was not followed", model.recipe)

    async def _follow(self, model: ServedModel) -> None:
        if model.pinned or model.reloading.locked():
            return
        wanted, last = self._wanted(model), model.last_attempt
        failed = last is not None and last.outcome == "failed"
        if wanted is not None and wanted == model.version:
            # Somebody set LATEST back to what serves: the failure is over.
            if failed and not self._is_fixed(model):
                self._note(model, ReloadAttempt(datetime.now(UTC), wanted, "unchanged"))
        elif last is None or wanted != last.version or time.monotonic() >= model.next_attempt:
            await self.reload(model.recipe)

    def _wanted(self, model: ServedModel) -> str | None:
        """Return the version to serve; None if LATEST names none."""
        if self._is_fixed(model):
            # A folder named in the settings: whatever it holds is right once it is loaded.
            return model.version or "(as in the settings)"
        try:
            return latest_version(self._settings.home / "bundles", model.recipe)
        except MedcodeError:
            return None  # loading it tells why

    def _is_fixed(self, model: ServedModel) -> bool:
        return self._settings.model.bundle is not None and model.recipe == self._settings.model.recipes[0]

    async def reload(self, recipe: str) -> ReloadAttempt:
        """Load the bundle that LATEST names, unless it serves already; from now on LATEST is followed again."""
        model = self.by_recipe[recipe]
        async with model.reloading:
            model.pinned = False
            wanted = self._wanted(model)
            if wanted is not None and wanted == model.version and not self._is_fixed(model):
                return self._note(model, ReloadAttempt(datetime.now(UTC), wanted, "unchanged"))
            return await self._replace(model, None)

    async def roll_back(self, recipe: str, version: str | None = None) -> ReloadAttempt:
        """Load an earlier bundle and stay with it until `reload`; None takes the one that served before.

        Raises:
            MedcodeError: nothing served before, or the recipe has no such version.
        """
        model = self.by_recipe[recipe]
        async with model.reloading:
            wanted = version or model.previous_version
            if wanted is None:
                raise MedcodeError("no bundle served before this one since the service started; name a version")
            versions = bundle_versions(self._settings.home / "bundles", recipe)
            if wanted not in versions:
                raise MedcodeError(f"recipe {recipe!r} has no such bundle; there are {', '.join(versions) or 'none'}")
            attempt = await self._replace(model, wanted)
            model.pinned = model.pinned or attempt.outcome == "loaded"
            return attempt

    async def _replace(self, model: ServedModel, version: str | None) -> ReloadAttempt:
        start = time.perf_counter()
        try:
            predictor = await anyio.to_thread.run_sync(
                self._load, self._settings, model.recipe, version, self._shared_bases, abandon_on_cancel=True
            )
        except Exception as error:  # noqa: BLE001 - whatever a bundle is made of, the old one goes on serving
            return self._failed(model, version, error)
        try:
            # A full queue must not keep a rollback from happening: it goes before what waits.
            await self._queue.run(lambda _: predictor.engine.predict([WARM_UP_NOTE], options=[WARM_UP]), next_=True)
        except (MedcodeError, EngineFailedError, QueueClosedError) as error:
            await self._close(_Lease(predictor))
            return self._failed(model, version or predictor.manifest.version, error)
        old, model.lease = model.lease, _Lease(predictor)
        model.failures, model.next_attempt = 0, 0.0
        if old is not None:
            if old.predictor.manifest.version != predictor.manifest.version:
                model.previous_version = old.predictor.manifest.version
            old.retired = True
            if old.users == 0:
                await self._close(old)
        new = predictor.manifest.version
        seconds = time.perf_counter() - start
        logger.info("recipe %s: serving %s with engine %s, %.1f s", model.recipe, new, predictor.engine.name, seconds)
        return self._note(model, ReloadAttempt(datetime.now(UTC), new, "loaded"))

    def _failed(self, model: ServedModel, version: str | None, error: Exception) -> ReloadAttempt:
        model.failures += 1
        pause = min(self._settings.model.watch_s * 2**model.failures, LONGEST_PAUSE_S)
        model.next_attempt = time.monotonic() + pause
        if isinstance(error, MedcodeError):
            reason = str(error)
        else:
            reason = f"{type(error).__name__} while loading; the log of the service names the place"
            logger.error("recipe %s: %s", model.recipe, reason, exc_info=error)
        if version is None:
            version = self._wanted(model)
        goes_on = f"; {model.version} goes on serving" if model.version else ""
        logger.warning("recipe %s: no new model: %s%s", model.recipe, reason, goes_on)
        return self._note(model, ReloadAttempt(datetime.now(UTC), version, "failed", reason))

    def _note(self, model: ServedModel, attempt: ReloadAttempt) -> ReloadAttempt:
        model.last_attempt = attempt
        self._on_attempt(model)
        return attempt

    async def _close(self, lease: _Lease) -> None:
        """Free a predictor's memory, on the inference thread: nothing is running there then."""
        try:
            await self._queue.run(lambda _: lease.predictor.close(), next_=True)
        except (QueueClosedError, EngineFailedError):
            return  # the process ends, or the thread has logged it
        del lease.predictor
        await anyio.to_thread.run_sync(_give_memory_back)


def _give_memory_back() -> None:
    """Let the system have the memory of what was closed; glibc keeps most of it otherwise."""
    import ctypes

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl has none
        if trim is not None:
            trim(0)
