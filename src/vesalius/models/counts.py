"""What a model costs, from its config alone: parameters, floating-point operations a token, bytes.

The conventions are those of PaLM's model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): a
multiply-add is two operations, attention scores count the whole (T, T) square, the backward pass costs twice the
forward. So a training step takes about 6 · parameters · tokens, plus the scores. Left out of the operations: norms,
activations and softmax, which move bytes and hardly compute; of the bytes: what an allocator or a library keeps for
itself.
"""

from dataclasses import dataclass

from vesalius.models.config import ModelConfig

OPTIMIZER_FLOATS = {"adamw": 2, "adam": 2, "muon": 1, "lion": 1, "sgd": 1}
"""State numbers for each parameter; Muon's embeddings, head and norms are with AdamW and have 2."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One number for each part of a model. `head` is 0 in parameters where it is the embedding transposed."""

    embedding: int
    attention: int
    attention_scores: int = 0
    mlp: int
    norm: int = 0
    head: int

    @property
    def total(self) -> int:
        return self.embedding + self.attention + self.attention_scores + self.mlp + self.norm + self.head


@dataclass(frozen=True, kw_only=True)
class TrainingBytes:
    """Bytes that a training step holds at once, and the cache that decoding one sequence of full context holds."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    kv_cache: int

    @property
    def training(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def count_parameters(config: ModelConfig) -> Parts:
    """Numbers in the weights, by part; equal to what the built model holds."""
    c, L = config, config.num_hidden_layers
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    attention = 2 * c.hidden_size * (q + kv)
    attention += (
        (q + 2 * kv) * c.attention_bias
        + c.hidden_size * c.attention_output_bias
        + 2 * c.head_dim * (c.qk_norm == "head")
    )
    matrices = 3 if c.mlp == "gated" else 2
    mlp = matrices * c.hidden_size * c.intermediate_size
    mlp += ((matrices - 1) * c.intermediate_size + c.hidden_size) * c.mlp_bias
    norm = c.hidden_size * (2 if c.norm == "layer" else 1)
    positions = c.max_position_embeddings * c.hidden_size * (c.position == "learned")
    table = c.vocab_size * c.hidden_size
    return Parts(
        embedding=table + positions,
        attention=L * attention,
        mlp=L * mlp,
        norm=(2 * L + 1) * norm,
        head=0 if c.tie_word_embeddings else table,
    )


def count_flops(config: ModelConfig, context: int) -> Parts:
    """Operations of one forward pass for each token of a row of `context` tokens, by part. A training step takes three
    times as many.
    """
    c, L = config, config.num_hidden_layers
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    return Parts(
        embedding=0,
        attention=L * 4 * c.hidden_size * (q + kv),
        attention_scores=L * 4 * context * q,
        mlp=L * 2 * (3 if c.mlp == "gated" else 2) * c.hidden_size * c.intermediate_size,
        head=2 * c.vocab_size * c.hidden_size,
    )


def count_bytes(
    config: ModelConfig,
    *,
    batch_rows: int,
    context: int,
    optimizer: str = "adamw",
    weight_bytes: int = 4,
    activation_bytes: int = 4,
) -> TrainingBytes:
    """Bytes for training on batches of `batch_rows` × `context` tokens; gradients and optimizer state are float32.

    Activations are what autograd keeps from the forward pass up to the logits, in float32 without dropout.
    """
    parameters = count_parameters(config)
    rest = parameters.embedding + parameters.head + parameters.norm
    matrices = parameters.total - rest
    states = OPTIMIZER_FLOATS[optimizer] * matrices + (2 if optimizer == "muon" else OPTIMIZER_FLOATS[optimizer]) * rest
    kv = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return TrainingBytes(
        weights=weight_bytes * parameters.total,
        gradients=4 * parameters.total,
        optimizer=4 * states,
        activations=activation_bytes * batch_rows * context * _saved_numbers(config),
        kv_cache=activation_bytes * kv * config.max_position_embeddings,
    )


def _saved_numbers(config: ModelConfig) -> int:
    """Numbers for each token that the backward pass needs: the inputs of every product and norm, q, k, v, and the
    logits.
    """
    c = config
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    statistics = 2 if c.norm == "layer" else 1
    norm = 2 * c.hidden_size + statistics  # its input, its output, and one or two numbers about the row
    before_qk_norm = (q + kv + c.num_attention_heads + c.num_key_value_heads) * (c.qk_norm == "head")
    attention = before_qk_norm + 2 * q + 2 * kv + c.num_attention_heads  # q, the output, k, v, log-sum-exp
    activation = 1 if c.hidden_act == "relu" else 2  # ReLU's backward needs only its output, the others their input too
    mlp = (activation + 2 * (c.mlp == "gated")) * c.intermediate_size
    return c.num_hidden_layers * (2 * norm + attention + mlp) + norm + c.vocab_size
