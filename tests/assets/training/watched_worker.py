"""A training's worker that is watched: `watched_worker.py FOLDER`; what the environment asks for is done to it.

KILL_RANK, KILL_STEP   this process kills itself, as the kernel would, after so many steps of the first start
SHARES                 each process writes `shares-<rank>.json` into the folder: numbers it holds, and in all
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from medcode_assets.training import keeping, loop, worker


def main(folder: Path) -> int:
    rank, first_start = int(os.environ["RANK"]), os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    save, shard = keeping.Keeper.save_if_due, loop.shard

    def save_then_die(keeper: Any, result: Any) -> None:
        save(keeper, result)
        if first_start and os.environ.get("KILL_RANK") == str(rank) and result.steps == int(os.environ["KILL_STEP"]):
            os.kill(os.getpid(), signal.SIGKILL)

    def shard_and_count(model: Any, *rest: Any) -> None:
        shard(model, *rest)
        held = {name: (p.to_local().numel(), p.numel()) for name, p in model.named_parameters()}
        (folder / f"shares-{rank}.json").write_text(json.dumps(held))

    keeping.Keeper.save_if_due = save_then_die  # type: ignore[method-assign]
    if "SHARES" in os.environ:
        loop.shard = shard_and_count
    return worker.main(folder)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
