"""A run small enough to take in milliseconds, and a callback that remembers what it was told."""

import pytest
import torch

from vesalius.data.batch import IGNORE, Batch
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.train.config import TrainConfig
from vesalius.train.loop import fit
from vesalius.train.objectives import NextToken
from vesalius.train.optim import build
from vesalius.train.optim.build import build_optimizer
from vesalius.train.schedules import build_schedule
from vesalius.train.training import Callback

V, T, ROWS = 64, 16, 4


class RandomBatches:
    """Batch n is drawn from (seed, n), so the state is n alone; `stop` ends it."""

    def __init__(self, seed=0, stop=None):
        self.seed, self.stop, self.index = seed, stop, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.index == self.stop:
            raise StopIteration
        tokens = torch.randint(0, V, (ROWS, T + 1), generator=torch.Generator().manual_seed(self.seed + self.index))
        targets = tokens[:, 1:].clone()
        targets[: self.index % ROWS, ::2] = IGNORE  # rows differ in how many targets they have
        self.index += 1
        return Batch(tokens=tokens[:, :-1], targets=targets, source=f"batch {self.index - 1}")

    def state_dict(self):
        return {"index": self.index}

    def load_state_dict(self, state):
        self.index = state["index"]


class Recorder(Callback):
    def __init__(self):
        self.steps, self.events = [], []

    def on_step(self, run, record):
        self.steps.append(dict(record))

    def on_event(self, run, record):
        self.events.append(dict(record))

    @property
    def losses(self):
        return [record["loss"] for record in self.steps]


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch):
    """Muon iterates in float32, whatever this machine is fast with."""
    monkeypatch.setattr(build, "bfloat16_is_fast", lambda device: False)


@pytest.fixture
def random_batches():
    return RandomBatches


@pytest.fixture
def tiny_model():
    """seed, changes -> a two-layer Transformer of 64 tokens."""

    def make(seed=0, **changes):
        shape = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        return Transformer(ModelConfig(**shape | {"max_position_embeddings": T} | changes), seed=seed)

    return make


@pytest.fixture
def train(tiny_model):
    """Runs `fit` and returns (result, recorder); settings are those of TrainConfig."""

    def run(*callbacks, model=None, batches=None, objective=None, **settings):
        budget = {} if {"steps", "tokens", "minutes"} & settings.keys() else {"steps": 10}
        config = TrainConfig(**{"precision": "float32", "compile": "off", **budget, **settings})
        model = tiny_model() if model is None else model
        recorder = Recorder()
        result = fit(
            model,
            RandomBatches() if batches is None else batches,
            objective or NextToken(config.label_smoothing, config.z_loss),
            build_optimizer(model, config),
            build_schedule(config),
            [*callbacks, recorder],
            config=config,
        )
        return result, recorder

    return run
