"""A JSON object in a file that somebody else wrote."""

import json
from pathlib import Path
from typing import Any

from vesalius.core.errors import UserError


def read_object(path: Path) -> dict[str, Any]:
    """UserError where the file is damaged: it is the user's input here."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): it is cut off or damaged, fetch it again") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(values).__name__}: fetch it again")
    return values
