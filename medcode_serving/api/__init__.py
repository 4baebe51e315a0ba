"""The HTTP API: an application factory, small routers, and errors that never quote a note."""

from medcode_serving.api.app import create_app

__all__ = ["create_app"]
