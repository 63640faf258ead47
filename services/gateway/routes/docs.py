"""GET /docs, to which / leads: a page to read and try the API in; nothing of it comes from the internet."""

from pathlib import Path
from typing import Final

import fastapi_offline
from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

from services.gateway.openapi import TITLE

router = APIRouter(include_in_schema=False)

ASSETS_PATH: Final = "/docs/assets"
ASSETS: Final = StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static")
# No answer has links, and their empty column makes an operation wider than a phone.
_STYLE: Final = "<style>.response-col_links { display: none }</style>"


@router.get("/")
async def to_docs() -> RedirectResponse:
    """Whoever opens the mesh in a browser wants to know what it is."""
    return RedirectResponse("/docs")


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Swagger UI on /openapi.json."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=TITLE,
        swagger_js_url=f"{ASSETS_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS_PATH}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS_PATH}/favicon.png",
        swagger_ui_parameters={"defaultModelsExpandDepth": 0, "tryItOutEnabled": True},  # schemas are shown in place
    )
    return HTMLResponse(bytes(page.body).decode().replace("</head>", f"{_STYLE}</head>"))
