"""A training's worker that things are done to: `watched_worker.py FOLDER`, as the environment asks.

KILL_STEP   the second process kills itself, as the kernel would, after so many steps of the first start, as soon as
            the first one has written their checkpoint
SHARES      each process writes `shares-<rank>.json` into the folder: by weight, the numbers it holds, and all
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from medcode_assets.training import keeping, loop, worker
from medcode_assets.training.checkpoints import step_folder

RANK = os.environ["RANK"]


def main(folder: Path) -> int:
    if "SHARES" in os.environ:
        count_shares(folder)
    save = keeping.Keeper.save_if_due

    def save_and_die(keeper: Any, result: Any) -> None:
        save(keeper, result)
        first_start = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if RANK == "1" and first_start and os.environ.get("KILL_STEP") == str(result.steps):
            while not step_folder(folder, result.steps).exists():
                time.sleep(0.01)  # else torchrun might end the first process while it writes
            os.kill(os.getpid(), signal.SIGKILL)

    keeping.Keeper.save_if_due = save_and_die  # type: ignore[method-assign]
    return worker.main(folder)


def count_shares(folder: Path) -> None:
    shard = loop.shard

    def shard_and_count(model: Any, *rest: Any) -> None:
        shard(model, *rest)
        held = {name: (weight.to_local().numel(), weight.numel()) for name, weight in model.named_parameters()}
        (folder / f"shares-{RANK}.json").write_text(json.dumps(held))

    loop.shard = shard_and_count


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
