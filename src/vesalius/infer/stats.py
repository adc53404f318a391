"""What an engine has done so far, and how full it is: for reports, and for the metrics of a server."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class EngineStats:
    """Counters from the engine's start.

    steps              passes through the model
    prompt_tokens      of prompts, found or read
    cached_tokens      of them found in the cache
    cold_tokens        whose keys and values came back from a file, for whatever reason they were needed
    read_tokens        that went through the model
    generated_tokens   written
    preemptions        times that a sequence had to give its blocks to others
    drafted, accepted  tokens that were guessed, and of those the ones that turned out right
    """

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cold_tokens: int = 0
    read_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of prompt tokens that were found."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def acceptance(self) -> float:
        """Share of guessed tokens that turned out right."""
        return self.accepted / self.drafted if self.drafted else 0.0
