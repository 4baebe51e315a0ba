"""Runs `medcode synth` again and again, each time as a process of its own, with the seconds of its imports once."""

import medcode_assets.synth_command
import medcode_assets.synthesis.generate  # noqa: F401 - imports what the command imports as it runs
from medcode_assets.recipes.reasoning.corpus.duplicates import signature
from medcode_serving.codes.tables import code_tables
from medcode_serving.engines.remote_model import import_litellm
from tests.assets.resuming import serve_forks

# What takes seconds at first and is the same in every process.
for system in ("icd10cm", "cpt", "hcpcs"):
    code_tables().below(system, "E11")
signature("a text")
litellm = import_litellm()
litellm.completion("hosted_vllm/m", api_base="http://127.0.0.1:9", messages=[], mock_response="ok")
serve_forks()
