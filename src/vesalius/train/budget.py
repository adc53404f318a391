"""How long a run may go on, in steps, tokens or minutes, and how far it is."""

from dataclasses import dataclass

from vesalius.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Exactly one of the three is set; `TrainConfig` has checked it."""

    steps: int | None = None
    tokens: int | None = None
    minutes: float | None = None

    @classmethod
    def of(cls, config: TrainConfig) -> "Budget":
        """The budget in a config."""
        return cls(steps=config.steps, tokens=config.tokens, minutes=config.minutes)

    def progress(self, step: float, tokens: float, seconds: float) -> float:
        """The part that is used up, from 0 to 1.

        >>> Budget(tokens=1000).progress(3, 250, 9.5)
        0.25
        """
        if self.steps is not None:
            return min(1.0, step / self.steps)
        if self.tokens is not None:
            return min(1.0, tokens / self.tokens)
        assert self.minutes is not None
        return min(1.0, seconds / (60 * self.minutes))
