"""The page at /ui: a few static files, and a policy by which a browser loads and calls nothing but this server."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, RedirectResponse
from starlette.exceptions import HTTPException

FOLDER = Path(__file__).parent.parent / "page"
# Not guessed: a Windows registry may call .js text/plain, which browsers refuse under nosniff.
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {path.name: path for path in FOLDER.iterdir() if path.suffix in MEDIA_TYPES}

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        # No text can become HTML, whatever a later change of the page does: innerHTML throws.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)

router = APIRouter(include_in_schema=False)


@router.get("/")
async def to_page() -> RedirectResponse:
    """Send a browser on to the page; the address is relative, so that a proxy's prefix is kept."""
    return RedirectResponse("ui")  # 307


@router.get("/ui")
async def page() -> FileResponse:
    """Return the page. Its addresses are relative, so it works behind a proxy that adds a prefix."""
    return _file("index.html")


@router.get("/ui/{name}")
async def page_file(name: str) -> FileResponse:
    """Return one of the page's files; raises 404 for any other name."""
    return _file(name)


def _file(name: str) -> FileResponse:
    path = FILES.get(name)
    if path is None:
        raise HTTPException(404)
    return FileResponse(
        path, media_type=MEDIA_TYPES[path.suffix], headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY}
    )
