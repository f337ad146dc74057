"""What is secret is hidden, and what is none is left as it is."""

from __future__ import annotations

import pytest

from batcher.hiding import hide, secrets_among


@pytest.mark.parametrize("key", ["sk-5ecret", "0123456789abcdef", "sk-ant-api03-x", "gsk_1234", "token-abc123"])
def test_an_api_key_is_hidden_wherever_it_stands(key: str) -> None:
    assert hide(f"{key}, with {key}: {key}", secrets_among([key])) == "[API key], with [API key]: [API key]"


@pytest.mark.parametrize("key", ["", "0", "-", "EMPTY", "none", "sk-1234", "anything", "placeholder"])
def test_a_word_that_stands_in_for_a_key_is_no_secret(key: str) -> None:
    assert secrets_among([key, "sk-5ecret"]) == ("sk-5ecret",)
