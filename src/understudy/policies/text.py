"""Networks that turn text into features: [N, L] bytes or numbers of a vocabulary, padded with 0."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from understudy.errors import UserError
from understudy.policies.spaces import starts
from understudy.policies.spec import Encoder

BUCKETS = 2048
"""Rows for words and pairs of words. BabyAI has some 50 words and 250 pairs: one in eight shares its row."""
_PRIME, _BASE, _PAIR = 2**31 - 1, 1_103_515_245, 48_271
"""The hash of a word b_0 .. b_n is sum_i b_i BASE^(n-i) mod PRIME; that of a pair v w is v PAIR + w mod PRIME."""


def _tokens(space: gym.Space[Any], encoder: Encoder) -> int:
    """Return how many tokens there are, padding among them."""
    if isinstance(space, gym.spaces.MultiDiscrete) and len(space.nvec.shape) == 1:
        if any(starts(space)):
            raise UserError(f"the encoder {encoder.type} reads tokens that begin at 0, not {space}")
        return int(space.nvec.max())
    if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 1:
        return 256
    raise UserError(f"the encoder {encoder.type} reads a MultiDiscrete or a vector of uint8, not {space}")


class TextBag(nn.Module):
    """The mean of the tokens' vectors; their order is lost. [N, L] -> [N, features], zeros for an empty text."""

    def __init__(self, space: gym.Space[Any], encoder: Encoder) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(_tokens(space, encoder), encoder.features, mode="mean", padding_idx=0)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, L] token numbers -> [N, features]."""
        features: Tensor = self.embedding(tokens.long())
        return features


class TextLSTM(nn.Module):
    """The state of an LSTM after the last token. [N, L] -> [N, features], zeros for an empty text."""

    def __init__(self, space: gym.Space[Any], encoder: Encoder) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_tokens(space, encoder), encoder.features)
        self.lstm = nn.LSTM(encoder.features, encoder.features)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, L] token numbers -> [N, features]."""
        # An instruction stays the same for an episode, so a batch holds few different ones: each is read once.
        texts, row = torch.unique(tokens, dim=0, return_inverse=True)
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        lengths = torch.where(texts != 0, places, 0).amax(dim=1)
        longest = max(int(lengths.max()), 1)
        states, _ = self.lstm(self.embedding(texts[:, :longest].T.long()))  # [longest, texts, features]
        last = states[(lengths - 1).clamp_min(0), torch.arange(len(texts), device=tokens.device)]
        features: Tensor = last * (lengths > 0).unsqueeze(1)
        return features[row]


class TextWords(nn.Module):
    """The mean of the vectors of a text's words and pairs of neighbours. [N, L] -> [N, features], zeros without words.

    Words and pairs are hashed (fastText: Joulin 2016, arXiv 1607.01759, section 2.1). Words of bytes are runs of ASCII
    letters, digits and bytes from 128 on; case does not count. Of a vocabulary, every token but 0 is a word. "red ball"
    is one vector from the first step on, where ``TextLSTM`` has to learn to spell.
    Differs in: words and pairs share the rows, and there are ``BUCKETS`` of them for millions.
    """

    def __init__(self, space: gym.Space[Any], encoder: Encoder) -> None:
        super().__init__()
        _tokens(space, encoder)
        self._bytes = isinstance(space, gym.spaces.Box)
        length = int(space.shape[0])  # type: ignore[index]
        self.embedding = nn.EmbeddingBag(BUCKETS + 1, encoder.features, mode="mean", padding_idx=0)
        powers = torch.tensor([[pow(_BASE, i, _PRIME), pow(_BASE, -i, _PRIME)] for i in range(length)]).T
        self.register_buffer("powers", powers, persistent=False)

    def rows(self, tokens: Tensor) -> Tensor:
        """[N, L] token numbers -> [N, 2 L] rows of the words and of the pairs at their last tokens, 0 elsewhere."""
        tokens = tokens.long()
        words = self._words(tokens) if self._bytes else torch.where(tokens > 0, tokens, -1)
        before = _latest(words >= 0)
        first = words.gather(1, before.clamp_min(0))
        pairs = (first * _PAIR + words) % _PRIME
        bigram = (words >= 0) & (before >= 0)
        return torch.cat((_row(words, words >= 0), _row(pairs + 1, bigram)), dim=1)

    def _words(self, tokens: Tensor) -> Tensor:
        """[N, L] bytes -> [N, L] the hash of a word at its last byte, -1 elsewhere."""
        powers = self.get_buffer("powers")
        upper = (tokens >= 65) & (tokens <= 90)
        letters = torch.where(upper, tokens + 32, tokens)
        inside = ((letters >= 97) & (letters <= 122)) | ((letters >= 48) & (letters <= 57)) | (letters >= 128)
        ends = inside & ~functional.pad(inside[:, 1:], (0, 1))
        # b_i BASE^-i, summed over all bytes so far; the difference of two ends is one word.
        total = (torch.where(inside, letters, 0) * powers[1] % _PRIME).cumsum(dim=1) % _PRIME
        before = _latest(ends)
        earlier = torch.where(before >= 0, total.gather(1, before.clamp_min(0)), 0)
        hashed = (total - earlier) % _PRIME * powers[0] % _PRIME
        return torch.where(ends, hashed, -1)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, L] token numbers -> [N, features]."""
        if tokens.device.type != "cpu":  # where to be told how many there are is waiting
            everywhere: Tensor = self.embedding(self.rows(tokens))
            return everywhere
        texts, row = torch.unique(tokens, dim=0, return_inverse=True)  # few: see ``TextLSTM``
        rows = self.rows(texts)
        most = max(int((rows > 0).sum(dim=1).max()), 1)
        features: Tensor = self.embedding(rows.topk(most, dim=1).values)  # the order in a bag does not count
        return features[row]


def _latest(marks: Tensor) -> Tensor:
    """[N, L] bool -> [N, L] the last marked place before each place, -1 where there is none."""
    places = torch.arange(marks.shape[1], device=marks.device)
    marked = torch.where(marks, places, -1)
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        # ONNX has no running maximum.
        return torch.where(places[None, :] < places[:, None], marked[:, None, :], -1).amax(dim=2)
    so_far = torch.cummax(marked, dim=1).values
    return functional.pad(so_far[:, :-1], (1, 0), value=-1)


def _row(hashed: Tensor, there: Tensor) -> Tensor:
    """Spread hashes over the rows from 1 on."""
    return torch.where(there, 1 + hashed * _BASE % _PRIME % BUCKETS, 0)


__all__ = ["BUCKETS", "TextBag", "TextLSTM", "TextWords"]
