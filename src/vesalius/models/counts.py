"""What a model costs, from its config alone: parameters, floating-point operations a token, bytes.

The conventions are those of PaLM's model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): a
multiply-add is two operations, attention scores count the whole (T, T) square, the backward pass costs twice the
forward. So a training step takes about 6 · parameters · tokens, plus the scores; of a mixture only the experts that a
token uses count. Windows save nothing here: what they hide is computed and masked. Left out of the operations: norms,
activations and softmax, which move bytes and hardly compute; of the bytes: what an allocator or a library keeps for
itself.
"""

from dataclasses import dataclass

from vesalius.kernels.attention import SHORT
from vesalius.kernels.attention_blocks import weights_kept
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import LatentAttention, Mixture

NORMS = {"pre": 2, "post": 2, "sandwich": 4, "parallel": 2}
"""In each kind of block."""

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
    mixture = config.mixture
    return _parameters(config, mixture.num_experts if mixture else 0)


def count_active_parameters(config: ModelConfig) -> Parts:
    """Numbers that one token passes through: all of them, but of a mixture's experts only those that it uses."""
    mixture = config.mixture
    return _parameters(config, mixture.num_experts_per_tok if mixture else 0)


def _parameters(config: ModelConfig, experts: int) -> Parts:
    c, L = config, config.num_hidden_layers
    sparse = _sparse_layers(c)
    norm = c.hidden_size * (2 if c.norm == "layer" else 1)
    positions = c.max_position_embeddings * c.hidden_size * (c.position == "learned")
    table = c.vocab_size * c.hidden_size
    attention = _latent_parameters(c, c.latent_attention) if c.latent_attention else _attention_parameters(c)
    mixture = _mixture_parameters(c, c.mixture, experts) if c.mixture else 0
    return Parts(
        embedding=table + positions,
        attention=L * attention,
        mlp=(L - sparse) * _mlp_parameters(c, c.intermediate_size) + sparse * mixture,
        norm=(NORMS[c.block] * L + 1 + c.embedding_norm) * norm,
        head=0 if c.tie_word_embeddings else table,
    )


def _sparse_layers(config: ModelConfig) -> int:
    """How many layers have a mixture."""
    if config.mixture is None:
        return 0
    return config.num_hidden_layers - sum(i < config.num_hidden_layers for i in set(config.mixture.dense_layers))


def _widths(config: ModelConfig) -> tuple[int, int]:
    """Numbers in the queries and in the keys of a token, all heads together."""
    return config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim


def _attention_parameters(config: ModelConfig) -> int:
    c, (q, kv) = config, _widths(config)
    biases = (q + 2 * kv) * c.attention_bias + c.hidden_size * c.attention_output_bias
    norms = {"none": 0, "head": 2 * c.head_dim, "full": q + kv}[c.qk_norm]
    return 2 * c.hidden_size * (q + kv) + biases + norms + c.num_attention_heads * c.attention_sinks


def _latent_parameters(config: ModelConfig, latent: LatentAttention) -> int:
    c, m = config, latent
    biases = (m.q_lora_rank + m.kv_lora_rank + m.qk_rope_head_dim) * c.attention_bias
    biases += c.hidden_size * c.attention_output_bias
    return _latent_products(c, m) + m.q_lora_rank + m.kv_lora_rank + biases  # two norms


def _latent_products(config: ModelConfig, latent: LatentAttention) -> int:
    """Numbers in the matrices that every token is multiplied by."""
    c, m = config, latent
    wide = c.num_attention_heads * (m.qk_nope_head_dim + m.qk_rope_head_dim)
    queries = m.q_lora_rank * (c.hidden_size + wide) if m.q_lora_rank else c.hidden_size * wide
    down = c.hidden_size * (m.kv_lora_rank + m.qk_rope_head_dim)
    up = m.kv_lora_rank * c.num_attention_heads * (m.qk_nope_head_dim + m.v_head_dim)
    return queries + down + up + c.num_attention_heads * m.v_head_dim * c.hidden_size


def _mlp_parameters(config: ModelConfig, width: int) -> int:
    matrices = 3 if config.mlp == "gated" else 2
    biases = ((matrices - 1) * width + config.hidden_size) * config.mlp_bias
    return matrices * config.hidden_size * width + biases


def _mixture_parameters(config: ModelConfig, mixture: Mixture, experts: int) -> int:
    """Router, `experts` experts and the shared one; experts are gated whatever the model's MLP is."""
    D, m = config.hidden_size, mixture
    router = m.num_experts * (D + m.router_bias)
    expert = 3 * D * m.moe_intermediate_size + (2 * m.moe_intermediate_size + D) * m.expert_bias
    width = m.shared_expert_intermediate_size
    shared = 3 * D * width + (2 * width + D) * config.mlp_bias * bool(width) + D * bool(m.shared_expert_gate and width)
    return router + experts * expert + shared


def count_flops(config: ModelConfig, context: int) -> Parts:
    """Operations of one forward pass for each token of a row of `context` tokens, by part. A training step takes three
    times as many.
    """
    c, L, (q, kv) = config, config.num_hidden_layers, _widths(config)
    products, scores = 2 * c.hidden_size * (q + kv), 2 * q
    if m := c.latent_attention:
        products = _latent_products(c, m)
        scores = c.num_attention_heads * (m.qk_nope_head_dim + m.qk_rope_head_dim + m.v_head_dim)
    sparse = _sparse_layers(c)
    mlp = (3 if c.mlp == "gated" else 2) * c.hidden_size * c.intermediate_size
    return Parts(
        embedding=0,
        attention=L * 2 * products,
        attention_scores=L * 2 * context * scores,
        mlp=2 * ((L - sparse) * mlp + (sparse * _mixture_products(c, c.mixture) if c.mixture else 0)),
        head=2 * c.vocab_size * c.hidden_size,
    )


def _mixture_products(config: ModelConfig, mixture: Mixture) -> int:
    """Numbers in the matrices that one token is multiplied by."""
    m = mixture
    used = m.num_experts_per_tok * m.moe_intermediate_size + m.shared_expert_intermediate_size
    gate = bool(m.shared_expert_gate and m.shared_expert_intermediate_size)
    return config.hidden_size * (3 * used + m.num_experts + gate + m.num_experts_per_tok)  # the last: the weighted sum


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

    Activations are what autograd keeps from the forward pass up to the logits, in float32 without dropout; of latent
    attention and mixtures about that.
    """
    parameters = count_parameters(config)
    rest = parameters.embedding + parameters.head + parameters.norm
    matrices = parameters.total - rest
    states = OPTIMIZER_FLOATS[optimizer] * matrices + (2 if optimizer == "muon" else OPTIMIZER_FLOATS[optimizer]) * rest
    latent = config.latent_attention
    kv = latent.kv_lora_rank + latent.qk_rope_head_dim if latent else 2 * _widths(config)[1]
    return TrainingBytes(
        weights=weight_bytes * parameters.total,
        gradients=4 * parameters.total,
        optimizer=4 * states,
        activations=activation_bytes * batch_rows * context * _saved_numbers(config, context),
        kv_cache=activation_bytes * config.num_hidden_layers * kv * config.max_position_embeddings,
    )


def _saved_numbers(config: ModelConfig, context: int) -> int:
    """Numbers for each token that the backward pass needs: the inputs of every product and norm, q, k, v, and the
    logits.
    """
    c, D = config, config.hidden_size
    statistics = 2 if c.norm == "layer" else 1
    norm = 2 * D + statistics  # its input, its output, and one or two numbers about the row
    norms = {
        "pre": 2 * norm,
        "post": 2 * norm,
        "sandwich": 2 * (norm + D + statistics),  # what comes out of the second is only added
        "parallel": 2 * norm - D,  # both norms have one input
    }[c.block]
    attention = _saved_by_latent(c, c.latent_attention) if c.latent_attention else _saved_by_attention(c, context)
    if c.attn_logit_softcapping or c.attention_sinks:  # the weights themselves, and what is before the cap
        kept = (1 + bool(c.attn_logit_softcapping)) * context + c.attention_sinks
        attention += c.num_attention_heads * (kept - 1)
    L, sparse = c.num_hidden_layers, _sparse_layers(c)
    channels = (L - sparse) * _saved_by_mlp(c, c.intermediate_size, gated=c.mlp == "gated")
    if m := c.mixture:
        shared = _saved_by_mlp(c, m.shared_expert_intermediate_size, gated=True)
        expert = 2 * D + _saved_by_mlp(c, m.moe_intermediate_size, gated=True)  # its rows, its output
        channels += sparse * (m.num_experts_per_tok * expert + shared + m.num_experts)
    embedding = (D + statistics) * c.embedding_norm
    return embedding + L * (norms + attention) + channels + norm + c.vocab_size


def _saved_by_attention(config: ModelConfig, context: int) -> int:
    c, (q, kv) = config, _widths(config)
    heads = c.num_attention_heads + c.num_key_value_heads
    before_qk_norm = {"none": 0, "head": q + kv + heads, "full": q + kv + 2}[c.qk_norm]
    if context <= SHORT and c.position != "alibi" and not c.attn_logit_softcapping and not c.attention_sinks:
        return before_qk_norm + 2 * q + 2 * kv + c.num_attention_heads * weights_kept(context)
    return before_qk_norm + 2 * q + 2 * kv + c.num_attention_heads  # q, the output, k, v, log-sum-exp


def _saved_by_latent(config: ModelConfig, latent: LatentAttention) -> int:
    c, m = config, latent
    wide = m.qk_nope_head_dim + m.qk_rope_head_dim
    compressed = 2 * (m.kv_lora_rank + m.q_lora_rank) + 1 + bool(m.q_lora_rank)  # before and behind their norms
    return compressed + c.num_attention_heads * (2 * wide + 2 * m.v_head_dim + 1)


def _saved_by_mlp(config: ModelConfig, width: int, *, gated: bool) -> int:
    activation = (
        1 if config.hidden_act == "relu" else 2
    )  # ReLU's backward needs only its output, the others their input
    return (activation + 2 * gated) * width
