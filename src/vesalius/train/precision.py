"""What numbers a training step computes in. Weights, gradients and optimizer state are always float32.

bfloat16 and float16 are used by autocast: matrix products take the short type, sums and norms stay in float32. float16
has few exponents, so small gradients would vanish: the loss is multiplied by a large scale and the gradients divided by
it (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2). "auto" measures: bfloat16 where its matrix products are
clearly faster (AMX, GPUs), else float32.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from vesalius.core.errors import UserError
from vesalius.core.hardware import matmul_rate

CLEARLY_FASTER = 1.5
"""autocast's casts cost something too. Where bfloat16 is emulated it is several times slower; where its unit is shared
with neighbours the measured ratio was seen between 1.4 and 6, so a busy moment can choose float32.
"""


def bfloat16_is_fast(device: str) -> bool:
    """Whether products in bfloat16 are clearly faster than in float32: both are measured, in a fraction of a second."""
    bfloat16, float32 = (matmul_rate(dtype, device, size=512, repeats=3) for dtype in (torch.bfloat16, torch.float32))
    return bfloat16 > CLEARLY_FASTER * float32


@dataclass(frozen=True)
class Precision:
    """ "float32", "bfloat16" or "float16" on a kind of device such as "cpu" or "cuda"."""

    name: str
    device: str

    @classmethod
    def choose(cls, setting: str, device: str) -> "Precision":
        """The precision for a setting of `TrainConfig.precision`. UserError where the device cannot multiply in it."""
        if setting == "auto":
            setting = "bfloat16" if bfloat16_is_fast(device) else "float32"
        return cls(setting, device).checked()

    def checked(self) -> "Precision":
        """Itself; UserError where the device cannot multiply in this precision."""
        try:
            torch.ones(2, 2, device=self.device, dtype=self.dtype) @ torch.ones(
                2, 2, device=self.device, dtype=self.dtype
            )
        except RuntimeError as error:
            raise UserError(
                f"precision {self.name!r} is not available on {self.device} ({error}): use float32"
            ) from error
        return self

    @property
    def dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.name]

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Inside, matrix products of the forward pass are computed in this precision."""
        with torch.autocast(
            self.device, dtype=self.dtype if self.name != "float32" else None, enabled=self.name != "float32"
        ):
            yield

    def scaler(self) -> "LossScaler | None":
        """A fresh loss scaler where this precision needs one."""
        return LossScaler() if self.name == "float16" else None


class LossScaler:
    """Finds the largest scale that gradients survive: halved when they overflow, doubled after `interval` good steps.

    The numbers are those of torch.amp.GradScaler. Written by hand because the loop knows the gradient norm already:
    asking once more whether it is finite would cost another wait for the device.
    """

    def __init__(self, scale: float = 2.0**16, interval: int = 2000) -> None:
        self.scale, self.interval, self.good_steps = scale, interval, 0

    def accept(self) -> None:
        """After a step whose gradients were finite."""
        self.good_steps += 1
        if self.good_steps == self.interval:
            self.scale, self.good_steps = self.scale * 2, 0

    def back_off(self) -> bool:
        """After an overflow: whether a smaller scale is left to try. If not, the overflow isn't the scale's fault."""
        if self.scale <= 1:
            return False
        self.scale, self.good_steps = self.scale / 2, 0
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale, self.good_steps = state["scale"], state["good_steps"]
