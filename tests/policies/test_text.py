"""Encoders of text: what a word is, their sums against plain Python, padding, and what order means."""

import re

import gymnasium as gym
import numpy as np
import pytest
import torch

from understudy.errors import UserError
from understudy.policies.policy import Policy
from understudy.policies.spec import TEXTS, Encoder, PolicySpec, space_to_json
from understudy.policies.text import BUCKETS, TextWords

PRIME = 2**31 - 1


def bytes_of(length):
    return gym.spaces.Box(0, 255, (length,), np.uint8)


def policy(space, kind, features=8):
    torch.manual_seed(0)
    spaces = space_to_json(space), space_to_json(gym.spaces.Discrete(3))
    return Policy(PolicySpec(*spaces, "categorical", (Encoder("", kind, features),), hidden=())).eval()


def coded(*texts, length=64):
    rows = [np.frombuffer(one.encode().ljust(length, b"\0"), np.uint8) for one in texts]
    return torch.from_numpy(np.stack(rows))


def rows_of(words):
    """Return the rows of words and of pairs as the docstrings write them, one after the other."""
    found = []
    for word in words:
        value = 0
        for byte in word:
            value = (value * 1_103_515_245 + byte) % PRIME
        found.append(value)
    found += [(v * 48_271 + w) % PRIME + 1 for v, w in zip(found[:-1], found[1:], strict=True)]
    return sorted(1 + value * 1_103_515_245 % PRIME % BUCKETS for value in found)


@pytest.mark.parametrize(
    "text",
    [
        "go to the red ball", "Pick up the KEY, then open door2!", "ball", " two  spaces ", "the the the", "größe 7",
        "", ", .", "x" * 64, "a " * 32,
    ],
)  # fmt: skip
def test_rows_are_words_and_pairs_of_neighbours(text):
    network = TextWords(bytes_of(64), Encoder("", "text_words", 4))
    data = re.sub(rb"[A-Z]", lambda match: match[0].lower(), text.encode())
    expected = rows_of(re.findall(rb"[a-z0-9\x80-\xff]+", data))
    rows = network.rows(coded(text))[0]
    assert sorted(rows[rows > 0].tolist()) == expected
    features = network(coded(text, "another text", text))
    mean = network.embedding.weight[expected].mean(dim=0) if expected else torch.zeros(4)
    torch.testing.assert_close(features[0], mean)
    torch.testing.assert_close(features[2], mean)


def test_tokens_of_a_vocabulary_are_words():
    network = TextWords(gym.spaces.MultiDiscrete([9, 9, 9, 9]), Encoder("", "text_words", 4))
    rows = network.rows(torch.tensor([[5, 8, 2, 0], [0, 0, 0, 0]]))
    hashed = [5, 8, 2, 1 + (5 * 48_271 + 8) % PRIME, 1 + (8 * 48_271 + 2) % PRIME]
    assert sorted(rows[0][rows[0] > 0].tolist()) == sorted(1 + h * 1_103_515_245 % PRIME % BUCKETS for h in hashed)
    assert not rows[1].any()


def test_words_that_are_one_vector_apart_are_told_apart():
    """The same letters, the same words in another order, and a word more: four texts, four codes."""
    network = TextWords(bytes_of(64), Encoder("", "text_words", 8))
    texts = "the key next to the ball", "the ball next to the key", "the yek next to the ball", "key next to the ball"
    features = network(coded(*texts))
    distance = (features[:, None] - features[None]).abs().amax(dim=2) + torch.eye(4)
    assert distance.min() > 1e-2


def test_only_the_rows_of_a_text_learn():
    network = TextWords(bytes_of(64), Encoder("", "text_words", 8))
    network(coded("go to the red ball")).sum().backward()
    rows = network.rows(coded("go to the red ball"))[0]
    moved = network.embedding.weight.grad.abs().sum(dim=1).nonzero().flatten()
    assert moved.tolist() == sorted(set(rows[rows > 0].tolist()))


@pytest.mark.parametrize("kind", TEXTS)
def test_padding_does_not_count(kind):
    short, long = policy(bytes_of(8), kind), policy(bytes_of(16), kind)
    words = coded("k d b", "k", "k d b", "", "b d k", length=8)
    padded = torch.nn.functional.pad(words, (0, 8))
    features = short.encode(words)
    torch.testing.assert_close(long.encode(padded), features)
    # One text alone, among others, and twice in a batch; an empty one is zeros.
    torch.testing.assert_close(short.encode(words[1:2]), features[1:2])
    torch.testing.assert_close(features[0], features[2])
    assert not features[3].any()
    assert torch.allclose(features[0], features[4]) == (kind == "text_bag")  # the order of words


def test_text_lstm_is_the_lstms_last_state():
    one = policy(bytes_of(6), "text_lstm")
    network = one.cnns["_"]
    _, (last, _) = network.lstm(network.embedding(torch.tensor([[9], [4], [200]])))
    torch.testing.assert_close(one.encode(torch.tensor([[9, 4, 200, 0, 0, 0]], dtype=torch.uint8)), last[0])


@pytest.mark.parametrize("kind", TEXTS)
def test_what_is_no_text_is_refused(kind):
    with pytest.raises(UserError, match=f"{kind} reads a MultiDiscrete or a vector of uint8"):
        policy(gym.spaces.Box(0, 255, (7, 7, 3), np.uint8), kind)
    with pytest.raises(UserError, match=f"{kind} reads tokens that begin at 0"):
        policy(gym.spaces.MultiDiscrete([5, 5], start=[1, 1]), kind)
