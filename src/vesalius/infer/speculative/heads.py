"""Multi-token heads: from one hidden state the next tokens but one, but two, … are guessed as a tree. Medusa, Cai et
al. 2024, arXiv:2401.10774, section 2.1.

Head i is one residual block, h + silu(W h + b), whose result goes through the model's own norm-free output head, so a
head adds D² weights and not D · V. W and b begin at 0: an untrained head says what the model says for the next token.
The tree has the guesses of the highest joint probability, each node at the expense of the least likely one (as EAGLE-2,
arXiv:2406.16858, section 4.1, grows its tree), in place of Medusa's fixed one. Guesses are not drawn, so the
verification is exact at any temperature. The heads are trained by align/heads.py with everything else frozen.
"""

import heapq
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from vesalius.core.errors import UserError
from vesalius.core.files import atomic_path
from vesalius.infer.intake import placement
from vesalius.infer.sequence import Sequence
from vesalius.infer.speculative.draft import EMPTY, MOST_NODES, Draft
from vesalius.models.transformer import Transformer

FILE = "heads.safetensors"
"""Beside the model's own files."""

WIDTH = 8
"""Candidates of one head that may stand in a tree."""


class MultiTokenHeads(nn.Module):
    """hidden (…, D) -> `count` hidden states (count, …, D), for the output head of the model."""

    def __init__(self, hidden_size: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(count))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.stack([hidden + F.silu(layer(hidden)) for layer in self.layers])

    def save(self, directory: Path) -> None:
        """Writes heads.safetensors into a directory, whole or not at all."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with atomic_path(directory / FILE) as scratch:
            save_file(weights, scratch)

    @classmethod
    def load(cls, path: Path | str, hidden_size: int) -> "MultiTokenHeads":
        """From that file or its directory. UserError where it is not there, damaged, or of a model of another width."""
        path = Path(path)
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise UserError(f"no heads at {file}: train them by `vesalius run heads --set model=MODEL --out DIRECTORY`")
        try:
            with safe_open(file, "pt") as opened:
                weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a dict
        except SafetensorError as error:
            raise UserError(f"{file} is no safetensors file ({error}): train the heads again") from error
        heads = cls(hidden_size, len(weights) // 2)
        expected = {name: tuple(tensor.shape) for name, tensor in heads.state_dict().items()}
        if {name: tuple(tensor.shape) for name, tensor in weights.items()} != expected or not weights:
            raise UserError(
                f"{file} does not hold heads of width {hidden_size}: they belong to another model, train them for this"
            )
        heads.load_state_dict(weights)
        return heads.eval()


class Heads:
    """Drafts trees by the heads of a model."""

    needs_hidden = True

    def __init__(self, model: Transformer, heads: MultiTokenHeads) -> None:
        self._model, self._heads = model, heads.to(*placement(model))

    @torch.inference_mode()
    def propose(self, sequence: Sequence, limit: int) -> Draft:
        """The `limit` likeliest nodes."""
        if sequence.hidden is None or limit < 1:
            return EMPTY
        logits = self._model.logits(self._heads(sequence.hidden))  # (count, V)
        best = logits.log_softmax(-1).topk(min(WIDTH, logits.shape[-1]))
        return likeliest_tree(best.indices.tolist(), best.values.tolist(), min(limit, MOST_NODES))

    def close(self, sequence: Sequence) -> None:
        """Nothing was kept."""


def likeliest_tree(tokens: list[list[int]], logprobs: list[list[float]], limit: int) -> Draft:
    """Candidates of each depth, likeliest first -> the tree of the `limit` paths with the highest joint probability.

    A node is never likelier than its parent nor than the sibling before it, so the next best is always one of those
    that are reached from the nodes taken: the first child, or the next sibling.

    >>> tree = likeliest_tree([[5, 6], [7, 8]], [[-0.1, -2.4], [-0.7, -0.8]], limit=3)
    >>> tree.tokens, tree.parents
    ([5, 7, 8], [-1, 0, 0])
    """
    reached = [(-logprobs[0][0], 0, 0, -1, 0.0)]  # (-joint, depth, rank, parent, joint of the parent)
    nodes: list[int] = []
    parents: list[int] = []
    while reached and len(nodes) < limit:
        joint, depth, rank, parent, before = heapq.heappop(reached)
        nodes.append(tokens[depth][rank])
        parents.append(parent)
        if depth + 1 < len(tokens):
            heapq.heappush(reached, (joint - logprobs[depth + 1][0], depth + 1, 0, len(nodes) - 1, joint))
        if rank + 1 < len(tokens[depth]):
            heapq.heappush(reached, (before - logprobs[depth][rank + 1], depth, rank + 1, parent, before))
    return Draft(nodes, parents)
