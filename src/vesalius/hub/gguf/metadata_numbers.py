"""Numbers of a file's metadata, checked for their kind: anyone may have written them."""

import math
from collections.abc import Mapping
from typing import Any

from vesalius.core.errors import UserError

Metadata = Mapping[str, Any]


class Numbers:
    """The numbers below one architecture's name, each checked for its kind."""

    def __init__(self, metadata: Metadata, name: str) -> None:
        self._metadata, self._name = metadata, name

    def whole(self, key: str) -> int:
        """0 where there is none. A list, a number for each layer, must hold one number only."""
        value = self._metadata.get(f"{self._name}.{key}", 0)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        if isinstance(value, list):
            raise UserError(
                f"{self._name}.{key} differs from layer to layer, which the model cannot compute: all layers are alike"
            )
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
            raise UserError(f"{self._name}.{key} is {value!r}, expected a whole number: the file is damaged")
        return value

    def real(self, key: str, default: float) -> float:
        value = self._metadata.get(f"{self._name}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{self._name}.{key} is {value!r}, expected a number: the file is damaged")
        return float(f"{value:.7g}")  # stored as float32: 1e-5 and not 9.999999747378752e-06

    def text(self, key: str) -> str:
        return str(self._metadata.get(f"{self._name}.{key}", ""))

    def flag(self, key: str, default: bool) -> bool:
        value = self._metadata.get(f"{self._name}.{key}", default)
        if not isinstance(value, bool):
            raise UserError(f"{self._name}.{key} is {value!r}, expected true or false: the file is damaged")
        return value
