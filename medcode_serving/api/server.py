"""Runs the application under uvicorn."""

import logging
import math

from medcode_serving.api.app import create_app
from medcode_serving.api.keys import refuse_open_address
from medcode_serving.settings import InferenceSettings


def serve(settings: InferenceSettings) -> None:
    """Serve until interrupted; then requests that run are finished, for `api.shutdown_s` at most.

    Logs go to stderr; uvicorn's access log, which has query strings, is off.

    Raises:
        MedcodeError: a public address without API keys, or settings that are not usable.
    """
    import uvicorn

    logging.basicConfig(
        level=settings.logging.level, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    refuse_open_address(settings.api.host, keys_required=settings.api.keys_file is not None)
    uvicorn.run(
        create_app(settings),
        host=settings.api.host,
        port=settings.api.port,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.api.shutdown_s),
    )
