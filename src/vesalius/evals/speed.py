"""How fast a model runs here, beside what the machine allows: reading a prompt, and writing one token after another.

Both go through the engine, so what is timed is what a user gets. The limits are the roofline's two ends (Williams et
al. 2009, "Roofline", section 3): a new token cannot be written faster than the weights and its context's keys and
values are read from memory, a prompt not read faster than its products are computed.
"""

import statistics
import time
from dataclasses import asdict, dataclass

import torch
from torch import nn

from vesalius.compress.quantised_linear import QuantisedLinear
from vesalius.core.errors import UserError
from vesalius.core.hardware import Rates, measure_rates
from vesalius.infer.engine import Engine, EngineOptions
from vesalius.infer.params import SamplingParams
from vesalius.models.counts import count_flops
from vesalius.models.transformer import Transformer

PROMPT = 512
CONTEXTS = (16, 448)
FIRST = 100
NEW_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One kind of work: `rate` is the median over the repeats, in tokens/s, of which `limit` is the most possible;
    `seconds` are a prompt's, or a new token's."""

    work: str
    rate: float
    limit: float
    seconds: float

    @property
    def share(self) -> float:
        """Of the limit."""
        return self.rate / self.limit

    def to_dict(self) -> dict[str, float | str]:
        """Plain values for JSON, the share included."""
        return asdict(self) | {"share": self.share}


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One kind of work, timed; `flops` or `read` is what a token costs at least: operations, or bytes of memory."""

    work: str
    rate: float
    seconds: float
    flops: float = 0.0
    read: float = 0.0

    def beside(self, rates: Rates) -> Speed:
        """With what a machine of these rates allows."""
        limit = max(rates.float32, rates.bfloat16) / self.flops if self.flops else rates.read / self.read
        return Speed(work=self.work, rate=self.rate, limit=limit, seconds=self.seconds)


def measure_speed(model: Transformer, *, repeats: int = 5, rates: Rates | None = None) -> list[Speed]:
    """`time_work` beside the limits, which are measured where `rates` are not given."""
    timings = time_work(model, repeats=repeats)
    rates = rates or measure_rates()
    return [timing.beside(rates) for timing in timings]


def time_work(model: Transformer, *, repeats: int = 5) -> list[Timing]:
    """Prompts of 512 and 100 tokens, and 64 new tokens behind 16 and 448, as far as the model's context reaches.

    UserError for a context too short for any of it, or fewer than one repeat.
    """
    room = model.config.max_position_embeddings
    contexts = [context for context in CONTEXTS if context + NEW_TOKENS < room]
    prompts = [count for count in (PROMPT, FIRST) if count < room]
    if not contexts:
        raise UserError(
            f"the model's context is {room}, expected more than {CONTEXTS[0] + NEW_TOKENS}: too short to measure"
        )
    if repeats < 1:
        raise UserError(f"repeats = {repeats}, expected a whole number from 1")
    engine = Engine(model, options=EngineOptions(prefix_caching=False))  # each time everything is read
    _prompt_seconds(engine, 32)  # warms up
    return [_prompt(engine, count, repeats) for count in prompts] + [
        _decode(engine, context, repeats) for context in contexts
    ]


def _prompt(engine: Engine, count: int, repeats: int) -> Timing:
    seconds = statistics.median(_prompt_seconds(engine, count) for _ in range(repeats))
    flops = count_flops(engine.model.config, count)
    last = flops.head / count  # only the last token goes through the head
    return Timing(
        work=f"prompt of {count}", rate=count / seconds, seconds=seconds, flops=flops.total - flops.head + last
    )


def _decode(engine: Engine, context: int, repeats: int) -> Timing:
    seconds = statistics.median(_token_seconds(engine, context) for _ in range(repeats))
    read = weight_bytes(engine.model) + _cache_bytes(engine.model, context + NEW_TOKENS // 2)
    return Timing(work=f"{NEW_TOKENS} tokens behind {context}", rate=1 / seconds, seconds=seconds, read=read)


def _prompt_seconds(engine: Engine, count: int) -> float:
    """Until the first token of the answer."""
    (sequence,) = engine.add(_ids(engine, count), SamplingParams(max_tokens=1))
    start = time.perf_counter()
    engine.run(sequence)
    return time.perf_counter() - start


def _token_seconds(engine: Engine, context: int) -> float:
    """Of each further token; an end token does not end it."""
    (sequence,) = engine.add(_ids(engine, context), SamplingParams(max_tokens=NEW_TOKENS + 1))
    while not sequence.ids:
        engine.step()
    start = time.perf_counter()
    engine.run(sequence)
    return (time.perf_counter() - start) / NEW_TOKENS


def _ids(engine: Engine, count: int) -> list[int]:
    """Arbitrary tokens, the same each time: what they are does not change the work."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(engine.model.config.vocab_size, (count,), generator=generator).tolist()


def weight_bytes(model: Transformer) -> int:
    """Bytes of all matrices that one token is multiplied with. A mixture counts with all its experts."""
    layers = list(model.modules())
    packed = sum(layer.matrix.nbytes for layer in layers if isinstance(layer, QuantisedLinear))
    plain = sum(layer.weight.nbytes for layer in layers if isinstance(layer, nn.Linear))
    return packed + plain


def _cache_bytes(model: Transformer, context: int) -> int:
    c = model.config
    return 2 * 4 * context * c.num_hidden_layers * c.num_key_value_heads * c.head_dim
