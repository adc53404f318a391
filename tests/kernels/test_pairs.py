"""Every implementation of a kernel equals its reference, forward and backward (contract 5)."""

import itertools
import math

import pytest
import torch

from vesalius.kernels import attention, norms, rope

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-2}


def leaves(*shapes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def outcome(function, inputs):
    """The output and the gradients of all inputs under a fixed random cotangent."""
    output = function(*inputs)
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(9)).to(output.dtype)
    return [output, *torch.autograd.grad(output, inputs, cotangent)]


def assert_same(function, reference, inputs):
    tolerance = TOLERANCE[inputs[0].dtype]
    for ours, truth in zip(outcome(function, inputs), outcome(reference, inputs), strict=True):
        torch.testing.assert_close(ours, truth, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(2, 3, 8), (1, 1), (5, 33), (2, 0, 4)])
@pytest.mark.parametrize("impl", norms.IMPLS)
def test_rms_norm(impl, shape, dtype):
    x, weight = leaves(shape, shape[-1:], dtype=dtype)
    assert_same(lambda x, w: norms.rms_norm(x, w, 1e-5, impl), lambda x, w: norms.reference(x, w, 1e-5), [x, weight])


def test_the_rms_norm_reference_equals_torchs():
    x, weight = leaves((4, 16), (16,))
    torch.testing.assert_close(norms.reference(x, weight, 1e-6), torch.nn.functional.rms_norm(x, (16,), weight, 1e-6))


@pytest.mark.parametrize("impl", norms.IMPLS)
def test_rms_norm_passes_a_numerical_gradient_check(impl):
    x, weight = (tensor.detach().double().requires_grad_() for tensor in leaves((3, 5), (5,)))
    assert torch.autograd.gradcheck(lambda x, w: norms.rms_norm(x, w, 1e-5, impl), (x, weight), atol=1e-4, eps=1e-3)


def test_norm_weights_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"weight must have shape \(4,\), got \(3,\)"):
        norms.rms_norm(torch.ones(2, 4), torch.ones(3))


@pytest.mark.parametrize("impl", norms.LAYER_NORM_IMPLS)
def test_layer_norm(impl):
    inputs = leaves((4, 16), (16,), (16,))
    assert_same(
        lambda x, w, b: norms.layer_norm(x, w, b, 1e-5, impl), lambda *a: norms.layer_norm_reference(*a, 1e-5), inputs
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("impl", rope.IMPLS)
def test_rope(impl, dtype):
    (x,) = leaves((2, 3, 5, 8), dtype=dtype)
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]])
    cos, sin = rope.angles(positions.unsqueeze(1), rope.frequencies(8))
    assert_same(lambda x: rope.rotate(x, cos, sin, impl), lambda x: rope.reference(x, cos, sin), [x])


@pytest.mark.parametrize("impl", rope.IMPLS)
def test_narrower_angles_turn_the_first_coordinates_only(impl):
    (x,) = leaves((2, 3, 5, 8))
    cos, sin = rope.angles(torch.arange(5), rope.frequencies(4))
    assert_same(lambda x: rope.rotate(x, cos, sin, impl), lambda x: rope.reference(x, cos, sin), [x])
    torch.testing.assert_close(rope.rotate(x, cos, sin, impl)[..., :4], rope.reference(x[..., :4], cos, sin))
    assert torch.equal(rope.rotate(x, cos, sin, impl)[..., 4:], x[..., 4:])


def test_turned_products_depend_only_on_the_distance():
    q, k = leaves((1, 1, 1, 16), (1, 1, 1, 16))

    def product(i, j):
        turned = [
            rope.rotate(x, *rope.angles(torch.tensor([[[place]]]), rope.frequencies(16)))
            for x, place in ((q, i), (k, j))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(3, 1), product(1003, 1001), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("impl", attention.IMPLS)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("lengths", [(5, 5), (1, 7), (3, 7)])
def test_attention(impl, heads, lengths):
    (H, K), (T, S) = heads, lengths
    q, k, v = leaves((2, H, T, 8), (2, K, S, 8), (2, K, S, 8))
    assert_same(lambda *qkv: attention.attention(*qkv, impl=impl), lambda *qkv: attention.reference(*qkv), [q, k, v])


@pytest.mark.parametrize("impl", attention.IMPLS)
def test_attention_with_a_document_mask(impl):
    q, k, v = leaves((2, 2, 6, 8), (2, 2, 6, 8), (2, 2, 6, 8))
    mask = attention.document_mask(torch.tensor([[0, 1, 2, 0, 1, 2], [0, 0, 1, 2, 3, 0]]))
    assert_same(
        lambda *qkv: attention.attention(*qkv, causal=False, mask=mask, impl=impl),
        lambda *qkv: attention.reference(*qkv, causal=False, mask=mask),
        [q, k, v],
    )


RULES = {
    "scale": {"scale": 0.3},
    "window": {"window": 3},
    "window of one": {"window": 1},
    "window wider than the text": {"window": 99},
    "soft cap": {"softcap": 0.7},
    "slopes": {"slopes": torch.tensor([0.5, 0.25, 0.1, 0.0])},
    "sinks": {"sinks": torch.tensor([0.5, -1.0, 3.0, 0.0])},
    "everything": {
        "scale": 0.3,
        "window": 3,
        "softcap": 0.7,
        "slopes": torch.tensor([0.5, 0.25, 0.1, 0.0]),
        "sinks": torch.tensor([0.5, -1.0, 3.0, 0.0]),
    },
}


def attention_by_loops(q, k, v, mask, rule):
    """Eq. 1 of arXiv:1706.03762, one query at a time, with what the rule adds written out."""
    (B, H, T, E), S = q.shape, k.shape[2]
    out = torch.zeros(B, H, T, v.shape[3])
    for b, h, t in itertools.product(range(B), range(H), range(T)):
        here, scores, seen = S - T + t, [], []
        for s in range(here + 1):
            if (mask is None or mask[b, 0, t, s]) and (not rule.window or here - s < rule.window):
                score = float(q[b, h, t] @ k[b, h * k.shape[1] // H, s]) * (rule.scale or E**-0.5)
                score = rule.softcap * math.tanh(score / rule.softcap) if rule.softcap else score
                scores.append(score - (float(rule.slopes[h]) * (here - s) if rule.slopes is not None else 0))
                seen.append(v[b, h * k.shape[1] // H, s])
        sink = [] if rule.sinks is None else [float(rule.sinks[h])]
        weights = torch.tensor(scores + sink).softmax(0)[: len(scores)]
        out[b, h, t] = (weights.unsqueeze(1) * torch.stack(seen)).sum(0)
    return out


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("settings", RULES.values(), ids=RULES.keys())
def test_the_attention_reference_says_what_the_rule_says(settings, packed):
    rule = attention.AttentionRule(**settings)
    T, S = (6, 6) if packed else (4, 6)
    q, k, v = (x.detach() for x in leaves((2, 4, T, 8), (2, 2, S, 8), (2, 2, S, 5)))
    mask = attention.document_mask(torch.tensor([[0, 1, 2, 0, 1, 2], [0, 0, 1, 2, 3, 0]])) if packed else None
    ours = attention.reference(q, k, v, causal=not packed, mask=mask, rule=rule)
    torch.testing.assert_close(ours, attention_by_loops(q, k, v, mask, rule), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("settings", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("impl", attention.IMPLS)
def test_attention_by_a_rule(impl, settings, packed, dtype):
    rule = attention.AttentionRule(**settings)
    q, k, v = leaves((2, 4, 6, 8), (2, 2, 6, 8), (2, 2, 6, 8), dtype=dtype)
    mask = attention.document_mask(torch.tensor([[0, 1, 2, 0, 1, 2], [0, 0, 1, 2, 3, 0]])) if packed else None
    assert_same(
        lambda *qkv: attention.attention(*qkv, causal=not packed, mask=mask, rule=rule, impl=impl),
        lambda *qkv: attention.reference(*qkv, causal=not packed, mask=mask, rule=rule),
        [q, k, v],
    )


@pytest.mark.parametrize("impl", attention.IMPLS)
def test_sinks_learn(impl):
    q, k, v, sinks = leaves((2, 4, 6, 8), (2, 2, 6, 8), (2, 2, 6, 8), (4,))
    assert_same(
        lambda *all: attention.attention(*all[:3], rule=attention.AttentionRule(sinks=all[3]), impl=impl),
        lambda *all: attention.reference(*all[:3], rule=attention.AttentionRule(sinks=all[3])),
        [q, k, v, sinks],
    )


def test_a_document_mask_is_causal_and_stays_in_the_document():
    mask = attention.document_mask(torch.tensor([[0, 1, 0, 1]]))
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert mask.int().tolist() == [[expected]]


def test_a_document_mask_lets_continuations_share_their_beginning():
    mask = attention.document_mask(torch.tensor([[0, 1, 2, 3, 2, 0, 0]]))[0, 0]
    read = [[place for place, visible in enumerate(row) if visible] for row in mask.tolist()]
    assert read == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [5], [6]]


def test_heads_that_do_not_divide_are_refused():
    q, k = leaves((1, 4, 2, 8), (1, 3, 2, 8))
    with pytest.raises(ValueError, match="multiple of key/value heads, got 4 and 3"):
        attention.reference(q, k, k)
