"""Forward passes of the published networks, written from their definitions over their published parameter names."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def randomized(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter random and large enough that a wrong one shows: fresh networks have zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            inputs = parameter[0].numel() if parameter.ndim > 1 else 16
            table = "embed" in name and parameter.ndim != 4
            parameter.normal_(0.0, 0.5 if table else 1.5 / max(inputs, 16) ** 0.5, generator=generator)
            if "norm" in name.split(".")[-2:][0] and name.endswith("weight"):
                parameter.add_(1.0)
    return module.eval()


def attention(x: Tensor, qkv_weight: Tensor, qkv_bias: Tensor, heads: int) -> Tensor:
    batch, length, width = x.shape
    qkv = F.linear(x, qkv_weight, qkv_bias).reshape(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    q, k, v = qkv
    weights = ((q @ k.transpose(-2, -1)) / (width // heads) ** 0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).reshape(batch, length, width)


def dino_state(state: State) -> State:
    """Parameters under the names of facebookresearch/dino."""
    table = {
        "cls_token": state["embeddings.cls_token"],
        "pos_embed": state["embeddings.position_embeddings"],
        "patch_embed.proj.weight": state["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": state["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": state["layernorm.weight"],
        "norm.bias": state["layernorm.bias"],
    }
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
    names = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    }  # fmt: skip
    for i in range(layers):
        for kind in ("weight", "bias"):
            parts = [state[f"layers.{i}.attention.{part}_proj.{kind}"] for part in "qkv"]
            table[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
            for theirs, ours in names.items():
                table[f"blocks.{i}.{theirs}.{kind}"] = state[f"layers.{i}.{ours}.{kind}"]
    return table


def dino_forward(state: State, pixels: Tensor, heads: int) -> Tensor:
    """Class token of DINO's vision_transformer.py: layer norms of eps 1e-6, positions by scale factor with + 0.1."""
    patch = state["patch_embed.proj.weight"].shape[-1]
    height, width = pixels.shape[-2:]
    x = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=patch)
    x = x.flatten(2).transpose(1, 2)
    positions, dims = state["pos_embed"], x.shape[-1]
    count = positions.shape[1] - 1
    if not (x.shape[1] == count and height == width):
        side = int(count**0.5)
        h0, w0 = height // patch + 0.1, width // patch + 0.1
        grid = positions[:, 1:].reshape(1, side, side, dims).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=(h0 / side, w0 / side), mode="bicubic")
        assert grid.shape[-2:] == (int(h0), int(w0))
        positions = torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, dims)], dim=1)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1) + positions
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for i in range(layers):
        own = {
            name.removeprefix(f"blocks.{i}."): value for name, value in state.items() if name.startswith(f"blocks.{i}.")
        }
        y = F.layer_norm(x, (dims,), own["norm1.weight"], own["norm1.bias"], 1e-6)
        y = attention(y, own["attn.qkv.weight"], own["attn.qkv.bias"], heads)
        x = x + F.linear(y, own["attn.proj.weight"], own["attn.proj.bias"])
        y = F.layer_norm(x, (dims,), own["norm2.weight"], own["norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, own["mlp.fc1.weight"], own["mlp.fc1.bias"]))
        x = x + F.linear(y, own["mlp.fc2.weight"], own["mlp.fc2.bias"])
    return F.layer_norm(x, (dims,), state["norm.weight"], state["norm.bias"], 1e-6)[:, 0]


def clip_state(state: State) -> State:
    """Parameters under the names of openai/CLIP's ``visual``."""
    own = {name.removeprefix("vision_model."): value for name, value in state.items()}
    table = {
        "conv1.weight": own["embeddings.patch_embedding.weight"],
        "class_embedding": own["embeddings.class_embedding"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "proj": own["visual_projection.weight"].T,
    }
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
             "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}  # fmt: skip
    layers = 1 + max(int(name.split(".")[2]) for name in own if name.startswith("encoder.layers."))
    for kind in ("weight", "bias"):
        table[f"ln_pre.{kind}"] = own[f"pre_layrnorm.{kind}"]
        table[f"ln_post.{kind}"] = own[f"post_layernorm.{kind}"]
        for i in range(layers):
            parts = [own[f"encoder.layers.{i}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            table[f"transformer.resblocks.{i}.attn.in_proj_{kind}"] = torch.cat(parts)
            for theirs, ours in names.items():
                table[f"transformer.resblocks.{i}.{theirs}.{kind}"] = own[f"encoder.layers.{i}.{ours}.{kind}"]
    return table


def clip_forward(state: State, pixels: Tensor, heads: int) -> Tensor:
    """``encode_image`` of openai/CLIP's model.py: QuickGELU, projection of the normalised class token."""
    x = F.conv2d(pixels, state["conv1.weight"], stride=state["conv1.weight"].shape[-1]).flatten(2).transpose(1, 2)
    dims = x.shape[-1]
    x = torch.cat([state["class_embedding"].expand(len(x), 1, -1), x], dim=1) + state["positional_embedding"]
    x = F.layer_norm(x, (dims,), state["ln_pre.weight"], state["ln_pre.bias"], 1e-5)
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("transformer."))
    for i in range(layers):
        start = f"transformer.resblocks.{i}."
        own = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
        y = F.layer_norm(x, (dims,), own["ln_1.weight"], own["ln_1.bias"], 1e-5)
        y = attention(y, own["attn.in_proj_weight"], own["attn.in_proj_bias"], heads)
        x = x + F.linear(y, own["attn.out_proj.weight"], own["attn.out_proj.bias"])
        y = F.linear(F.layer_norm(x, (dims,), own["ln_2.weight"], own["ln_2.bias"], 1e-5), own["mlp.c_fc.weight"],
                     own["mlp.c_fc.bias"])  # fmt: skip
        y = y * torch.sigmoid(1.702 * y)
        x = x + F.linear(y, own["mlp.c_proj.weight"], own["mlp.c_proj.bias"])
    return F.layer_norm(x[:, 0], (dims,), state["ln_post.weight"], state["ln_post.bias"], 1e-5) @ state["proj"]
