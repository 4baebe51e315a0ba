"""A training's worker that things are done to: `watched_worker.py FOLDER`, as the environment asks.

    KILL_STEP   the second process kills itself, as the kernel would, after so many steps of the first start
    STOP_STEP   all processes stop after so many steps, and start again at once
    SHARES      each process writes `shares-<rank>.json` into the folder: by weight, the numbers it holds, and all
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from medcode_assets.training import keeping, loop, worker

RANK = os.environ["RANK"]


class Stopped(Exception):
    pass


def main(folder: Path) -> int:
    if "SHARES" in os.environ:
        count_shares(folder)
    save = keeping.Keeper.save_if_due

    def save_and_end(keeper: Any, result: Any) -> None:
        save(keeper, result)
        if os.environ.get("KILL_STEP") == str(result.steps) and (RANK, restarts()) == ("1", "0"):
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("STOP_STEP") == str(result.steps):
            del os.environ["STOP_STEP"]
            raise Stopped

    keeping.Keeper.save_if_due = save_and_end  # type: ignore[method-assign]
    try:
        return worker.main(folder)
    except Stopped:
        return worker.main(folder)


def restarts() -> str:
    return os.environ["TORCHELASTIC_RESTART_COUNT"]


def count_shares(folder: Path) -> None:
    shard = loop.shard

    def shard_and_count(model: Any, *rest: Any) -> None:
        shard(model, *rest)
        held = {name: (weight.to_local().numel(), weight.numel()) for name, weight in model.named_parameters()}
        (folder / f"shares-{RANK}.json").write_text(json.dumps(held))

    loop.shard = shard_and_count


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
