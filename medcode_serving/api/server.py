"""Runs the application under uvicorn."""

import logging

from medcode_serving.api.app import create_app
from medcode_serving.settings import InferenceSettings


def serve(settings: InferenceSettings) -> None:
    """Serve until interrupted. Logs go to stderr; uvicorn's access log, which has query strings, is off."""
    import uvicorn

    logging.basicConfig(
        level=settings.logging.level, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    uvicorn.run(
        create_app(settings),
        host=settings.api.host,
        port=settings.api.port,
        access_log=False,
        log_config=None,
        server_header=False,
    )
