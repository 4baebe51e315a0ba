"""Runs `medcode consult ...` again and again, each time as a process of its own, importing once.

Reads a line of JSON for each process: {"argv": [...], "log": FILE}; writes its id and, when it has ended, its exit code
(negative: the signal that ended it).
"""

import json
import os
import sys
import traceback

import datasets  # noqa: F401 - what the command imports as it runs

import medcode_assets.consult_command
import medcode_assets.recipes.consult.converting.asking
import medcode_assets.recipes.consult.converting.convert  # noqa: F401
from medcode_assets.cli_consult import app
from medcode_serving.engines.litellm import import_litellm


def run(argv: list[str], log: str) -> None:
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    try:
        code = app(argv, standalone_mode=False)
    except BaseException:  # noqa: BLE001 - whatever it is, this process ends here
        traceback.print_exc()
        os._exit(2)
    os._exit(code or 0)


import_litellm().completion("hosted_vllm/m", api_base="http://127.0.0.1:9", messages=[], mock_response="ok")
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        run(**json.loads(line))
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
