"""Runs `medcode consult ...` again and again, each time as a process of its own, importing once."""

import datasets  # noqa: F401 - what the command imports as it runs

import medcode_assets.consult_convert_command
import medcode_assets.recipes.consult.converting.asking
import medcode_assets.recipes.consult.converting.convert  # noqa: F401
from medcode_serving.engines.remote_model import import_litellm
from tests.assets.resuming import serve_forks

import_litellm().completion("hosted_vllm/m", api_base="http://127.0.0.1:9", messages=[], mock_response="ok")
serve_forks()
