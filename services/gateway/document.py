"""Writes the OpenAPI document of all routes to the file that is named, docs/openapi.json by default."""

import json
import sys
from pathlib import Path
from typing import Final

from services.gateway.app import bare_app

DOCUMENT: Final = Path("docs/openapi.json")


def text() -> str:
    """The document as it is committed."""
    return json.dumps(bare_app().openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(*sys.argv[1:] or DOCUMENT.parts).write_text(text())
