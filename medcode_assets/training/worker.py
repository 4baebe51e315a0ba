"""One process of a launched training, as torchrun starts it: `python -m medcode_assets.training.worker FOLDER`.

The first process tells Dagster how it goes, if Dagster started it. What the user can mend is left as one line in
error.txt, and torchrun's restart then ends at once instead of making the same mistake again.
"""

import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from medcode_assets.locks import alive
from medcode_assets.training.job import ERROR, finished, forget_outcome
from medcode_assets.training.launch import LAUNCHER_PID
from medcode_assets.training.progress import metrics_line
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from dagster_pipes import PipesContext

USER_MISTAKE = 2
"""Exit code, as the command line's."""
PIPES_VARIABLE = "DAGSTER_PIPES_CONTEXT"
METRICS_MESSAGE = "metrics"
"""Key of the custom message with (step, metrics)."""


def main(folder: Path) -> int:
    """Take part in the training in a folder; returns the exit code."""
    rank, restarts = int(os.environ.get("RANK", "0")), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if restarts and (folder / ERROR).exists():
        return USER_MISTAKE
    if restarts and finished(folder):
        return 0  # it died after the last word
    if not restarts and rank == 0:
        forget_outcome(folder)
    # Every process would warn of the same things.
    logging.basicConfig(level=logging.ERROR if rank else logging.WARNING, format="%(message)s")
    threading.Thread(target=_end_with_those_who_wait, daemon=True).start()
    pipes = _open_pipes() if rank == 0 else None
    code = _train(folder, pipes, rank)
    # Not after a crash: a restarted process goes on telling, and nothing may follow the closing word.
    if pipes is not None:
        pipes.close()
    return code


def _train(folder: Path, pipes: "PipesContext | None", rank: int) -> int:
    from medcode_assets.training.loop import train

    def tell(step: int, metrics: dict[str, float]) -> None:
        if pipes is not None:
            pipes.log.info(metrics_line(step, metrics))
            pipes.report_custom_message({METRICS_MESSAGE: [step, metrics]})

    try:
        result = train(folder, tell)
    except MedcodeError as error:
        _leave_error(folder, rank, str(error))
        return USER_MISTAKE
    if pipes is not None:
        pipes.log.info(
            f"trained {result.steps} steps with {result.processes} processes on {result.device}: "
            f"{result.tokens_per_second:,.0f} tokens a second, peak {result.peak_memory_gb:.1f} GiB in the first"
        )
    return 0


def _open_pipes() -> "PipesContext | None":
    """Return the way to Dagster, if it started this process."""
    if PIPES_VARIABLE not in os.environ:
        return None
    from dagster_pipes import open_dagster_pipes

    return open_dagster_pipes()


def _leave_error(folder: Path, rank: int, line: str) -> None:
    """Write error.txt aside, by rank, and rename it: several processes find the same mistake at once."""
    aside = folder / f"{ERROR}.{rank}.part"
    aside.write_text(line)
    aside.replace(folder / ERROR)


def _end_with_those_who_wait() -> NoReturn:
    """End this process once torchrun or the launcher was killed: else it would train on, beside its successor."""
    torchrun, launcher = os.getppid(), os.environ.get(LAUNCHER_PID)
    while os.getppid() == torchrun and (launcher is None or alive(int(launcher))):
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
