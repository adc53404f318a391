"""The run directory (contract 6): one place and one set of names for everything that a long computation writes.

    recipe.toml    the resolved recipe            evals.json    results of the evaluations
    metrics.jsonl  one record a step or event     report.html   everything above, drawn
    checkpoints/   atomic, the newest kept        model/        Hugging Face layout
    data/          tokenised shards               tokenizer/    tokenizer.json and the chat template
    made/          conversations and pairs that the model made, with all that led to them
    adapter/       PEFT layout

Metrics are appended a line at a time and flushed, so a killed run loses at most the line being written; a resumed run
first drops the records that are newer than its checkpoint, so a step never stands twice in the file.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vesalius.core.errors import UserError
from vesalius.core.files import atomic_write, disk_full_is_told, read_json, remove_scratch, write_json


class RunDirectory:
    """Paths and records of one run. `RunDirectory.create` makes or reopens it; the constructor only names it."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    @classmethod
    def create(cls, root: Path | str, *, resume: bool = False) -> "RunDirectory":
        """Makes the directory. UserError where it has files already and `resume` is not set, or where it is a file."""
        run = cls(root)
        if run.root.exists() and not run.root.is_dir():
            raise UserError(f"{root} is a file, expected a directory for the run: choose another --out")
        if run.root.exists() and any(run.root.iterdir()) and not resume:
            raise UserError(f"{root} is not empty: add --resume to go on with it, or choose another --out")
        try:
            run.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make {root} ({error.strerror}): choose another --out") from error
        remove_scratch(run.root)
        return run

    recipe = property(lambda self: self.root / "recipe.toml")
    metrics = property(lambda self: self.root / "metrics.jsonl")
    evals = property(lambda self: self.root / "evals.json")
    report = property(lambda self: self.root / "report.html")
    checkpoints = property(lambda self: self.root / "checkpoints")
    model = property(lambda self: self.root / "model")
    adapter = property(lambda self: self.root / "adapter")
    tokenizer = property(lambda self: self.root / "tokenizer")
    data = property(lambda self: self.root / "data")
    made = property(lambda self: self.root / "made")

    def log(self, **record: Any) -> None:
        """Appends one record to metrics.jsonl."""
        line = json.dumps(record, ensure_ascii=False, default=float) + "\n"
        with disk_full_is_told(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(line)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All records in order; a last line that a kill cut off is left out."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_bytes().split(b"\n")
        return [json.loads(line) for line in lines[:-1] if line]

    def keep_metrics(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Rewrites metrics.jsonl with only the records that `wanted` accepts."""
        kept = [record for record in self.read_metrics() if wanted(record)]
        atomic_write(self.metrics, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))

    def read_evals(self) -> dict[str, Any]:
        """What evals.json holds, {} where there is none yet."""
        return read_json(self.evals) if self.evals.exists() else {}

    def add_evals(self, **results: Any) -> None:
        """Merges named results into evals.json."""
        write_json(self.evals, self.read_evals() | results)
