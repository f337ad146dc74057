"""What is secret is hidden, and what is none is left as it is."""

from __future__ import annotations

import base64

import pytest

from batcher.hiding import hide, looks_like_key, secrets_among, secrets_in, unmistakable, without_user


@pytest.mark.parametrize("key", ["sk-5ecret", "0123456789abcdef", "sk-ant-api03-x", "gsk_1234", "token-abc123"])
def test_an_api_key_is_hidden_wherever_it_stands(key: str) -> None:
    assert hide(f"{key}, with {key}: {key}", secrets_among([key])) == "[API key], with [API key]: [API key]"


@pytest.mark.parametrize("key", ["", "0", "-", "EMPTY", "none", "sk-1234", "anything", "placeholder"])
def test_a_word_that_stands_in_for_a_key_is_no_secret(key: str) -> None:
    assert secrets_among([key, "sk-5ecret"]) == ("sk-5ecret",)


@pytest.mark.parametrize(
    "key", ["EMPTY", "lm-studio", "not-needed", "internationalization", "12345678", "2024-10-21", "my.own_key 2"]
)
def test_words_and_numbers_are_hidden_in_no_answer(key: str) -> None:
    assert unmistakable(secrets_among([key, "sk-5ecret"])) == ["sk-5ecret"]


@pytest.mark.parametrize(
    "key", ["sk-secret-word", "token-abc123", "0123456789abcdef", "aBcDeFgHiJkLmNoPq", "correct-horse-battery-staple"]
)
def test_what_no_answer_holds_by_chance_is_hidden_in_it(key: str) -> None:
    assert unmistakable(secrets_among([key])) == [key]


@pytest.mark.parametrize("proxy", ["http://me:p%40ss@proxy:3128", "me:p%40ss@proxy:3128"])
def test_the_password_of_a_proxy_is_found_in_each_form_in_which_it_travels(proxy: str) -> None:
    basic = base64.b64encode(b"me:p@ss").decode()
    found = secrets_in({"https_proxy": proxy})
    assert set(found) == {"me", "p%40ss", "me:p%40ss", "p@ss", "me:p@ss", basic}
    said = f"no {basic}, no me:p@ss, no me:p%40ss; not p@ss and not (me)"
    assert hide(said, found) == "no [API key], no [API key], no [API key]; not [API key] and not ([API key])"


def test_a_short_password_is_hidden_only_if_it_stands_alone() -> None:
    said = "someone at /home/me/data named 'me' got the message"
    assert hide(said, secrets_in({"ALL_PROXY": "http://me:got@h"})) == (
        "someone at /home/me/data named '[API key]' [API key] the message"
    )


def test_a_secret_is_not_sought_in_what_stands_for_another_one() -> None:
    assert hide("API:key, API key", secrets_in({"ALL_PROXY": "http://API:key@h"})) == "[API key], [API key] [API key]"


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("http://me:pw@h/v1", "http://h/v1"),
        ("http://me:p@w@h/v1", "http://h/v1"),
        ("at http://h/a and me@h", "at http://h/a and me@h"),
    ],
)
def test_a_user_is_removed_from_a_url_and_nothing_else(url: str, public: str) -> None:
    assert without_user(url) == public


KEYS_OF_SERVICES = [
    *("sk-1234", "sk-proj-abcdefghijklmnop", "sk_live_0123", "gsk_abcdefgh1", "xai-abcdefgh", "hf_abcdefgh"),
    *("AIzaSyA0123456789abcdefghij", "eyJhbGciOiJI.eyJzdWIi.c2ln", f"{'0123456789abcdef' * 2}.abcdefgh01234567"),
    "Bearer 0123456789",
]
NAMES = ["gpt-4o-mini-2024-07-18", "sk-reviews", "reviews_2024.csv", "ep-20250101123456-abcde", "deepseek-chat", ""]


def test_a_key_is_known_by_its_form_and_no_models_or_files_name_is_taken_for_one() -> None:
    assert [key for key in KEYS_OF_SERVICES if not looks_like_key(key)] == []
    assert [name for name in NAMES if looks_like_key(name)] == []
