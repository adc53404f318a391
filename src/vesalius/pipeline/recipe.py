"""What a recipe may hold: one section for each stage, in the order in which they run.

    [data] → [tokenizer] → [model] → [train] → [adapter] → [sft] → [distill] → [dpo] → [kto] → [grpo] → [ppo]
    → [reward] | [prm] → [heads] → [eval]

[best_of_n], [star] and [constitution] make conversations for [sft]; [constitution] and [self_rewarding] make pairs for
[dpo] and [kto]. [panel] asks what the model lost of what it could do before.

A stage whose section is missing is not run. Training starts either from fresh weights (`[tokenizer]` and a shape in
`[model]`) or from a model that exists (`model.start`). A new way of training is a section here, a row in
`stages.STAGES`, and nothing else.
"""

import importlib.resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vesalius.core.errors import UserError, nearest
from vesalius.core.recipes import Section, load_recipe
from vesalius.models.config import ModelConfig
from vesalius.models.presets import by_depth, by_name
from vesalius.pipeline.recipe_sections.adapter import UNMERGEABLE, AdapterSection
from vesalius.pipeline.recipe_sections.distill import DistillSection
from vesalius.pipeline.recipe_sections.making import (
    BestOfNSection,
    ConstitutionSection,
    SelfRewardingSection,
    StarSection,
)
from vesalius.pipeline.recipe_sections.panel import PanelSection
from vesalius.pipeline.recipe_sections.policy import GrpoSection, PpoSection
from vesalius.pipeline.recipe_sections.preference import DpoSection, KtoSection
from vesalius.pipeline.recipe_sections.scoring import PrmSection, RewardSection
from vesalius.pipeline.recipe_sections.sft import SftSection
from vesalius.tokenizers.kinds import BYTE_SIZE
from vesalius.train.config import Positive, TrainConfig

Count = Annotated[int, Field(ge=1)]


class DataSection(Section):
    """Where the text comes from: `corpus:python`, paths, globs, `hf:owner/name`; the rest likewise: conversations, or
    `questions:python`; pairs, ratings and scores, or `pairs:python`; steps, or `steps:arithmetic`; tasks that a program
    can check, or `tasks:arithmetic` and its kin; prompts that the model answers itself, or `questions:python`.

    weights  what each of `conversations` is to have of the tokens that are trained on, relative to the others; []: by
             their sizes, so that every conversation comes once an epoch
    """

    text: list[str] = []
    conversations: list[str] = []
    weights: list[Positive] = []
    pairs: list[str] = []
    ratings: list[str] = []
    scores: list[str] = []
    steps: list[str] = []
    tasks: list[str] = []
    prompts: list[str] = []
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05

    @property
    def shares(self) -> dict[str, float] | None:
        """The weights by the names of the conversations; None where there are none."""
        return dict(zip(self.conversations, self.weights, strict=True)) if self.weights else None

    @model_validator(mode="after")
    def _check_weights(self) -> "DataSection":
        if self.weights and len(self.weights) != len(self.conversations):
            raise ValueError(
                f"got {len(self.weights)} weights for {len(self.conversations)} names in conversations: give one each"
            )
        if len(set(self.conversations)) < len(self.conversations):
            raise ValueError("conversations names the same data twice: give it a larger weight instead")
        return self


class TokenizerSection(Section):
    """A tokenizer learned from the training text.

    kind        what `tokenizers/kinds.py` says of each
    vocab_size  4096 where it is not given, and for bytes as many as there are
    """

    kind: Literal["bpe", "unigram", "char", "byte"] = "bpe"
    vocab_size: Count | None = None

    @property
    def size(self) -> int:
        """The tokens that are asked for."""
        return self.vocab_size or (BYTE_SIZE if self.kind == "byte" else 4096)


class ModelSection(Section):
    """One of: `start` (a model that exists: an alias, a hub id, a directory or a run), `depth` (the dial), `preset` (a
    named size). `config` changes single fields of the last two.
    """

    start: str | None = None
    depth: Count | None = None
    preset: str | None = None
    config: dict[str, int | float | bool | str | list[Any] | dict[str, Any]] = {}

    @model_validator(mode="after")
    def _check(self) -> "ModelSection":
        given = [name for name in ("start", "depth", "preset") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"got {' and '.join(given) or 'none of them'}, expected exactly one of start, depth and preset"
            )
        if self.start is not None and self.config:
            raise ValueError("config changes a fresh shape; a model that exists keeps its own: remove config or start")
        return self

    def build(self, vocab_size: int, context: int) -> ModelConfig:
        """The shape of a fresh model whose context is at least `context`."""
        changes = {"max_position_embeddings": max(context, 1024), **self.config}
        if self.depth is not None:
            return by_depth(self.depth, vocab_size=vocab_size, **changes)
        assert self.preset is not None, "checked above"
        return by_name(self.preset, vocab_size=vocab_size, **changes)


class HeadsSection(TrainConfig):
    """Training of `count` multi-token heads for speculative decoding; the model stays as it is."""

    count: Annotated[int, Field(ge=1, le=16)] = 3


class EvalSection(Section):
    """What is measured at the end, and how much of it.

    answers          held-out conversations whose answers' perplexity is measured, before and after tuning
    written_answers  how many of these are answered, to compare the words, with at most `answer_tokens` each
    """

    answers: Annotated[int, Field(ge=0)] = 200
    written_answers: Annotated[int, Field(ge=0)] = 50
    answer_tokens: Count = 64
    choice_questions: Annotated[int, Field(ge=0)] = 200
    baselines: bool = True
    prompts: list[str] = ["def read_json(path):\n", "import os\n\n", "The Python language is "]
    questions: list[str] = ["What does `os.path.join` do?", "What are the parameters of `json.dumps`?"]
    sample_tokens: Count = 80
    temperature: Annotated[float, Field(ge=0)] = 0.7


class Recipe(Section):
    """A whole recipe. `model = "path"` and `data = "file.jsonl"` are short for `model.start` and the data of the first
    stage.
    """

    data: DataSection = DataSection()
    tokenizer: TokenizerSection | None = None
    model: ModelSection
    train: TrainConfig | None = None
    best_of_n: BestOfNSection | None = None
    star: StarSection | None = None
    constitution: ConstitutionSection | None = None
    adapter: AdapterSection | None = None
    sft: SftSection | None = None
    distill: DistillSection | None = None
    self_rewarding: SelfRewardingSection | None = None
    dpo: DpoSection | None = None
    kto: KtoSection | None = None
    grpo: GrpoSection | None = None
    ppo: PpoSection | None = None
    reward: RewardSection | None = None
    prm: PrmSection | None = None
    heads: HeadsSection | None = None
    panel: PanelSection | None = None
    eval: EvalSection | None = None

    @property
    def tuning(self) -> TrainConfig | None:
        """The first stage that changes the model's weights; None where it stays as it is."""
        return next((value for name, value in self if isinstance(value, TrainConfig) and name != "heads"), None)

    @property
    def answering(self) -> str:
        """The last stage that teaches to answer, "" where there is none."""
        names = ("ppo", "grpo", "kto", "dpo", "distill", "sft")
        return next((name for name in names if getattr(self, name)), "")

    @property
    def scores(self) -> bool:
        """Whether what comes out scores answers, and writes none."""
        return bool(self.reward or self.prm)

    @property
    def tunes(self) -> bool:
        """Whether any stage trains the model, or an adapter around it, from where [train] left it."""
        others = {name: value for name, value in self if name not in ("train", "heads")}
        return any(isinstance(value, TrainConfig) for value in others.values())

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if isinstance(values.get("model"), str):
            values["model"] = {"start": values["model"]}
        if isinstance(data := values.get("data"), str | list):
            values["data"] = {_data_of(values): [data] if isinstance(data, str) else data}
        return values

    @property
    def makes_conversations(self) -> bool:
        """Whether a stage before [sft] makes what it trains on."""
        return bool(self.best_of_n or self.star or self.constitution)

    @property
    def makes_pairs(self) -> bool:
        """Whether a stage before [dpo] and [kto] makes what they train on."""
        return self.self_rewarding is not None or (self.constitution is not None and self.constitution.pairs)

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.train and not self.data.text:
            raise ValueError("[train] needs data.text: corpus:python, files or globs")
        if (self.best_of_n or self.star) and not self.data.tasks:
            raise ValueError("[best_of_n] and [star] need data.tasks: tasks:arithmetic, or files with answers")
        if self.self_rewarding and not self.data.prompts:
            raise ValueError("[self_rewarding] needs data.prompts: questions:python, or files of prompts")
        if self.sft and not (self.data.conversations or self.makes_conversations):
            raise ValueError("[sft] needs data.conversations: questions:python, or JSONL files")
        if self.distill and not self.data.conversations:
            raise ValueError("[distill] needs data.conversations: questions:python, or JSONL files")
        if self.dpo and not (self.data.pairs or self.makes_pairs):
            raise ValueError("[dpo] needs data.pairs: pairs:python, or JSONL files")
        if self.kto and not (self.data.ratings or self.makes_pairs):
            raise ValueError("[kto] needs data.ratings: pairs:python, or JSONL files of prompt, completion and label")
        if (self.grpo or self.ppo) and not self.data.tasks:
            raise ValueError("[grpo] and [ppo] need data.tasks: tasks:arithmetic, or files of prompts and answers")
        if self.reward and not (self.data.pairs if self.reward.learn == "pairs" else self.data.scores):
            raise ValueError(f"[reward] needs data.{self.reward.learn}: pairs:python, or JSONL files")
        if self.prm and not self.data.steps:
            raise ValueError("[prm] needs data.steps: steps:arithmetic, or JSONL files")
        if self.data.weights and self.makes_conversations:
            raise ValueError("data.weights are for data.conversations alone: what a stage makes has none, remove them")
        self._check_scoring()
        if self.adapter and not self.tunes:
            raise ValueError("[adapter] is what a tuning stage trains: add one, for example [sft]")
        if self.panel and (self.scores or not self.tunes):
            raise ValueError(
                "[panel] asks a model that was adapted and still writes what it lost: add a stage such as [sft] and no "
                "[reward] or [prm], or remove [panel]"
            )
        if self.heads and not (self.data.text or self.data.conversations):
            raise ValueError("[heads] needs data.text or data.conversations: what the model is to write, or the like")
        if self.model.start is None and not (self.tokenizer and (self.train or self.sft)):
            raise ValueError(
                "a fresh model needs [tokenizer], and [train] or [sft]; or give model.start, a model that exists"
            )
        if self.tokenizer and not self.data.text:
            raise ValueError("[tokenizer] needs data.text to learn from: corpus:python, files or globs")
        if self.model.start is not None and self.tokenizer:
            raise ValueError("a model that exists keeps its own tokenizer: remove [tokenizer] or model.start")
        return self

    def _check_scoring(self) -> None:
        """A decoder that learns to score forgets how to write, so a run ends with one of them."""
        scoring = [name for name in ("reward", "prm") if getattr(self, name)]
        writing = ("train", "sft", "distill", "dpo", "kto", "grpo", "ppo", "heads")
        others = [name for name in writing if getattr(self, name)]
        if scoring and len(scoring + others) > 1:
            raise ValueError(
                f"[{scoring[0]}] makes a model that scores and no longer writes: train "
                f"{' and '.join(others + scoring[1:])} in a run of its own, and start from that by model.start"
            )
        if scoring and self.adapter and self.adapter.kind in UNMERGEABLE:
            raise ValueError(
                f"[{scoring[0]}] saves its model with the adapter merged, and {self.adapter.kind} is no change of the "
                "weights: use lora, dora, ia3 or freeze"
            )


def _data_of(values: dict[str, Any]) -> str:
    """What `data = "file"` means in a recipe of these sections."""
    match values:
        case {"train": _}:
            return "text"
        case {"best_of_n": _} | {"star": _}:
            return "tasks"
        case {"constitution": _}:
            return "prompts"
        case {"sft": _}:
            return "conversations"
        case {"self_rewarding": _}:
            return "prompts"
        case {"dpo": _}:
            return "pairs"
        case {"kto": _}:
            return "ratings"
        case {"grpo": _} | {"ppo": _}:
            return "tasks"
        case {"reward": {"learn": "scores"}}:
            return "scores"
        case {"reward": _}:
            return "pairs"
        case {"prm": _}:
            return "steps"
    return "conversations"


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = importlib.resources.files("vesalius") / "recipes"
    return {path.stem: path for path in sorted(Path(str(folder)).glob("*.toml"))}


def find_recipe(name: str, overrides: list[str]) -> Recipe:
    """The recipe of that name or at that path, with overrides applied. UserError where there is none."""
    shipped = shipped_recipes()
    path = shipped.get(name) or Path(name)
    if not path.exists():
        raise UserError(f"no recipe {name!r}, {nearest(name, shipped)} (or give the path of a TOML file)")
    return load_recipe(path, Recipe, overrides)
