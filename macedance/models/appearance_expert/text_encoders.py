"""Prompts to embeddings: Wan's UMT5, or a fixed table of words without any weights for networks of toy size.

Shapes: B prompts, N tokens, D channels.
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: Tokens that Wan's prompts are padded to.
WAN_TOKENS = 512
_QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"'})


class TextEncoder(nn.Module):
    """Embeds prompts: ``forward(prompts)`` gives (B, ``tokens``, ``dim``), float32, zeros after a prompt's end.

    Attributes:
        dim: Channels.
        tokens: Tokens of every prompt.
    """

    dim: int
    tokens: int

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """The embeddings of prompts."""
        raise NotImplementedError

    def identity(self) -> str:
        """Tells whether two of them give equal embeddings."""
        raise NotImplementedError


class HashedText(TextEncoder):
    """A fixed random vector for each word, drawn by the word itself: no weights, no vocabulary, the same everywhere.

    A word is one of letters and digits, in lower case; an end marker follows the last, so that the empty prompt is not
    the dropped one. Longer prompts are cut.

    Args:
        dim: Channels, the transformer's ``text_dim``.
        tokens: Of every prompt.
    """

    #: Tokens, where nothing else is said.
    TOKENS = 16

    def __init__(self, dim: int, tokens: int = TOKENS) -> None:
        super().__init__()
        self.dim, self.tokens = dim, tokens

    @staticmethod
    def sizes(identity: str) -> tuple[int, int] | None:
        """Width and tokens of the one that an identity is of; None where it is of another text encoder."""
        found = re.fullmatch(r"words-(\d+)-(\d+)", identity)
        return None if found is None else (int(found[1]), int(found[2]))

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (B, N, D) on the CPU, standard normal where there is a word."""
        embedded = np.zeros((len(prompts), self.tokens, self.dim), dtype=np.float32)
        for row, prompt in enumerate(prompts):
            words = re.findall(r"\w+", prompt.lower())[: self.tokens - 1]
            for column, word in enumerate([*words, ""]):
                embedded[row, column] = self._vector(word)
        return torch.from_numpy(embedded)

    def identity(self) -> str:
        """Its sizes: nothing else decides."""
        return f"words-{self.dim}-{self.tokens}"

    def _vector(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        return np.random.Generator(np.random.Philox(seed)).standard_normal(self.dim, dtype=np.float32)


class UMT5Text(TextEncoder):
    """Wan's text encoder: UMT5 with its tokenizer, what follows a prompt's end set to 0.

    Args:
        encoder: UMT5EncoderModel; frozen here.
        tokenizer: Its tokenizer.
        tokens: Of every prompt.
    """

    def __init__(self, encoder: Any, tokenizer: Any, tokens: int = WAN_TOKENS) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.dim, self.tokens = int(encoder.config.d_model), tokens

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (B, N, D), float32, on the encoder's device."""
        told = self.tokenizer(
            [clean_prompt(prompt) for prompt in prompts],
            padding="max_length",
            max_length=self.tokens,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        device = next(self.encoder.parameters()).device
        mask = told.attention_mask.to(device)
        hidden: Tensor = self.encoder(told.input_ids.to(device), mask).last_hidden_state.float()
        return hidden * mask.gt(0).unsqueeze(-1)

    def identity(self) -> str:
        """Of its weights and of its vocabulary's size."""
        return f"{weights_identity(self.encoder)}-{len(self.tokenizer)}-{self.tokens}"


def clean_prompt(prompt: str) -> str:
    """A prompt as Wan reads it: composed characters, straight quotes, HTML entities resolved, single spaces.

    What Wan's tool mends beside that (text decoded by a wrong table) is left as it is.
    """
    text = unicodedata.normalize("NFC", prompt).translate(_QUOTES)
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()


#: Numbers of each weight that its identity looks at.
_SAMPLED = 4096


def weights_identity(module: nn.Module, exact: bool = False) -> str:
    """Sha256 (64 hex digits) over names, shapes and up to 4096 evenly spaced numbers of each weight.

    Args:
        module: The network.
        exact: Numbers count as they are; otherwise rounded to bfloat16, so that a network is the same one in every
            precision that it is loaded in.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        flat = value.detach().reshape(-1)
        chosen = flat[:: max(1, -(-flat.numel() // _SAMPLED))].cpu()
        chosen = (chosen if exact else chosen.to(torch.bfloat16)).contiguous()
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(chosen.view(torch.uint8).numpy().tobytes() if chosen.numel() else b"")
    return digest.hexdigest()
