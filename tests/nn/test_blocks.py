"""FiLM, embeddings and attention blocks against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from macedance.errors import ConfigError
from macedance.nn.attention import CrossAttentionFeedForward, SelfAttention
from macedance.nn.embeddings import SinusoidalEmbedding, rotate_by_position
from macedance.nn.film import FiLM


def test_film_scales_and_shifts_by_the_condition() -> None:
    torch.manual_seed(0)
    film = FiLM(6, 4)
    x, e = torch.randn(2, 3, 4), torch.randn(2, 6)
    scale, shift = F.linear(F.mish(e), film.block[1].weight, film.block[1].bias).split(4, dim=-1)
    torch.testing.assert_close(film(x, e), (1 + scale[:, None]) * x + shift[:, None])
    assert list(film.state_dict()) == ["block.1.weight", "block.1.bias"]


def test_sinusoid_is_sine_then_cosine_from_one_to_a_ten_thousandth() -> None:
    out = SinusoidalEmbedding(8, scale=10.0)(torch.tensor([0.0, 0.3]))
    torch.testing.assert_close(out[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    frequencies = [10_000 ** (-i / 3) for i in range(4)]
    expected = [math.sin(3 * f) for f in frequencies] + [math.cos(3 * f) for f in frequencies]
    torch.testing.assert_close(out[1], torch.tensor(expected))


def test_sinusoid_takes_integers_and_refuses_odd_widths() -> None:
    embedding = SinusoidalEmbedding(16)
    assert torch.equal(embedding(torch.tensor([7])), embedding(torch.tensor([7.0])))
    for dim in (2, 9):
        with pytest.raises(ConfigError, match="width"):
            SinusoidalEmbedding(dim)


def test_rotary_positions_depend_on_distance_only() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(8), torch.randn(8)
    rows_q, rows_k = (rotate_by_position(x.expand(1, 1, 40, 8))[0, 0] for x in (q, k))
    scores = rows_q @ rows_k.T
    torch.testing.assert_close(scores[5, 2], scores[35, 32], rtol=1e-4, atol=1e-5)
    assert abs(float(scores[5, 2] - scores[5, 3])) > 1e-3
    torch.testing.assert_close(rows_q.norm(dim=-1), q.norm().expand(40))


def test_cross_attention_block_follows_the_released_formula() -> None:
    torch.manual_seed(0)
    block = CrossAttentionFeedForward(8, 2, 12, dropout=0.0)
    for name, value in block.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(value)
    x, music = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    q, m = block.norm_dance(x), block.norm_music(music)
    wq, wk, wv = block.cross_attn.in_proj_weight.chunk(3)
    bq, bk, bv = block.cross_attn.in_proj_bias.chunk(3)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        scores = (q @ wq.T + bq)[..., h] @ (m @ wk.T + bk)[..., h].transpose(1, 2) / 2.0
        heads.append(scores.softmax(-1) @ (m @ wv.T + bv)[..., h])
    z = block.cross_attn.out_proj(torch.cat(heads, -1))
    expected = block.linear2(F.gelu(block.linear1(block.norm(z))))
    torch.testing.assert_close(block(x, music), expected)


def test_cross_attention_knows_no_positions_of_the_music() -> None:
    torch.manual_seed(0)
    block = CrossAttentionFeedForward(8, 2, 12, dropout=0.0)
    x, music = torch.randn(1, 5, 8), torch.randn(1, 7, 8)
    torch.testing.assert_close(block(x, music), block(x, music[:, torch.randperm(7)]))


def test_self_attention_sees_order() -> None:
    torch.manual_seed(0)
    block, x = SelfAttention(8, 2, dropout=0.0), torch.randn(1, 6, 8)
    assert not torch.allclose(block(x.flip(1)).flip(1), block(x), atol=1e-4)
    changed = x.clone()
    changed[:, 5] += 1
    assert not torch.equal(block(changed)[:, 0], block(x)[:, 0])


def test_attention_refuses_widths_that_do_not_divide() -> None:
    with pytest.raises(ConfigError, match="3 heads"):
        CrossAttentionFeedForward(8, 3, 12)
    with pytest.raises(ConfigError, match="even"):
        SelfAttention(6, 2)
