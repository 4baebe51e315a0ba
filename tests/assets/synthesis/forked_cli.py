"""Runs `medcode` again and again, each time as a process of its own, and spends the seconds of its imports once.

Reads a line of JSON for each process: {"argv": [...], "log": FILE}; writes its id and, when it has ended, its exit code
(negative: the signal that ended it).
"""

import json
import os
import sys

import medcode_assets.synth_command
import medcode_assets.synthesis.generate  # noqa: F401 - imports what the command imports as it runs
from medcode_assets.cli import main
from medcode_assets.recipes.reasoning.corpus.duplicates import signature
from medcode_serving.codes.tables import code_tables
from medcode_serving.engines.litellm import import_litellm


def run(argv: list[str], log: str) -> None:
    os.setpgid(0, 0)
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = ["medcode", *argv]
    main()


# What takes seconds at first and is the same in every process.
for system in ("icd10cm", "cpt", "hcpcs"):
    code_tables().below(system, "E11")
signature("a text")
litellm = import_litellm()
litellm.completion("hosted_vllm/m", api_base="http://127.0.0.1:9", messages=[], mock_response="ok")
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            run(**json.loads(line))
        finally:
            os._exit(99)  # main() ends the process itself
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
