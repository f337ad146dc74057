"""Makes the callers of a run: through our own client, or through the chat model in `llm=`.

Invariant: all endpoints share one HTTP client, and closing the callers closes all that a run has opened.
"""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl

import openai
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, convert_to_messages
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from batcher.calls import certificates
from batcher.calls.batch_facts import UNKNOWN
from batcher.calls.batch_lines import Lines
from batcher.calls.caller import Caller, Streaming
from batcher.calls.chat_caller import CLOSE, ChatCaller, unshared
from batcher.calls.fast_chat import OwnCaller, as_text
from batcher.calls.services import check_batches, service_at
from batcher.calls.transport import MOST_BYTES, MOST_CONNECTIONS, Completions, authorization, open_session
from batcher.calls.ways import proxy_for, proxy_secrets, way_to
from batcher.chat_model import keys_in
from batcher.endpoint import OFFLINE, Endpoint
from batcher.errors import SettingsError
from batcher.hiding import credentials_of_proxy, longest_first, secrets_among
from batcher.params import unfolded
from batcher.records import Message

if TYPE_CHECKING:
    from batcher.calls.openai_batches import OpenAIBatches

_OF_THE_SDK = ("Authorization", "OpenAI-Organization", "OpenAI-Project")


class ChatCallers:
    """The callers of real endpoints: one HTTP client for all of them.

    Args:
        params: the request parameters of every row.
        offline_url: the base URL of the embedded server, if endpoints need it.
        most_bytes: the most bytes of a response, unpacked.
        most_connections: the most connections that may be open at once.
        streaming: ask for streamed answers, which may be silent for so long (`--stream`).
        scores: ask for the log-probabilities of the tokens of answers (`--with confidence`).
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        offline_url: str | None = None,
        most_bytes: int = MOST_BYTES,
        most_connections: int = MOST_CONNECTIONS,
        streaming: Streaming | None = None,
        *,
        scores: bool = False,
    ) -> None:
        self._params = params
        self._scores = scores
        self._offline_url = offline_url
        self._most_bytes = most_bytes
        self._streaming = streaming
        self._session = open_session(most_connections)
        self._has_warned = False
        # One for each proxy, because the HTTP library has its proxy once and for all.
        self._sdk_clients: dict[str, openai.DefaultAsyncHttpxClient] = {}

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """The TLS context of the run; loading the system's authorities takes 20 ms."""
        return certificates.trusted()

    def caller(self, endpoint: Endpoint) -> Caller:
        """Make the caller of an endpoint.

        Raises:
            SettingsError: its `llm` is not a chat model, or its proxy or the certificates cannot be used.
        """
        if endpoint.llm is not None:
            if not isinstance(endpoint.llm, BaseChatModel):
                raise SettingsError(
                    f"Endpoint(llm=...) takes a LangChain chat model, not {type(endpoint.llm).__name__}"
                )
            options = unshared(endpoint.llm, self._params)
            return ChatCaller(
                endpoint.llm,
                lambda messages, params: (convert_to_messages(messages), {**options, **params} if params else options),
                most_bytes=self._most_bytes,
                keys=[*proxy_secrets(), *credentials_of_proxy(getattr(endpoint.llm, "openai_proxy", None) or "")],
                streaming=self._streaming,
                scores=self._scores and "logprobs" not in unfolded(self._params),
            )
        base_url = (endpoint.base_url == OFFLINE and self._offline_url) or endpoint.base_url
        params = {**unfolded(self._params), **endpoint.params}
        model = cast("str", endpoint.model)
        completions = Completions(
            self._session,
            base_url,
            endpoint.api_key,
            model,
            params,
            headers=endpoint.headers,
            most_bytes=self._most_bytes,
            tls=self._tls if way_to(base_url).needs_tls else None,
            is_streamed=self._streaming is not None,
            scores=self._scores,
        )

        def instead(reason: Exception) -> ChatCaller:
            return self._through_the_sdk(endpoint, base_url, params, reason)

        return OwnCaller(completions, model, instead, self._streaming)

    def _through_the_sdk(
        self, endpoint: Endpoint, base_url: str, params: Mapping[str, Any], reason: Exception
    ) -> ChatCaller:
        """Make the caller that takes over if LangChain no longer supports ours; warn once."""
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "the installed langchain-openai does not let batcher's own client make the calls"
                f" ({type(reason).__name__}: {reason}); the slower one of the SDK takes over. A newer batcher, or an"
                " older langchain-openai, will be faster.",
                RuntimeWarning,
                stacklevel=2,
            )
        proxy = proxy_for(base_url)
        client = self._client_to(base_url)
        place, _, version = base_url.partition("?")
        headers: dict[str, str | openai.Omit] = {**endpoint.headers, **authorization(base_url, endpoint.api_key)}
        headers |= _not_of_the_sdk(headers)
        llm = ChatOpenAI(
            model=cast("str", endpoint.model),
            api_key=SecretStr(endpoint.api_key or "-"),
            base_url=place,
            default_query=dict(parse_qsl(version)) or None,
            extra_body=dict(params),
            max_retries=0,
            use_responses_api=False,
            include_response_headers=True,
            stream_usage=True,
            streaming=params.get("stream") is True,
            cache=False,
            http_async_client=client,
            default_headers=CLOSE,
        )

        def question(
            messages: Sequence[Message], further: Mapping[str, Any]
        ) -> tuple[list[BaseMessage], dict[str, Any]]:
            # The SDK lays `extra_body` over its own body, and so sends the user's parameters unchanged. Its own timeout
            # would count seconds in which this process stands still.
            body = {**params, **further, "messages": messages}
            return as_text(messages), {"timeout": None, "extra_headers": headers, "extra_body": body}

        keys = [*keys_in(endpoint.headers), *(proxy.secrets if proxy else ())]
        return ChatCaller(
            llm,
            question,
            must_finish=llm.streaming,
            most_bytes=self._most_bytes,
            keys=keys,
            scores=self._scores and "logprobs" not in params,
        )

    def batches(self, endpoint: Endpoint) -> OpenAIBatches:
        """Make the client of an endpoint's batch API.

        Raises:
            SettingsError: its service is known to have none, it has a chat model, or its proxy cannot be used.
        """
        check_batches(endpoint)
        from batcher.calls.openai_batches import Link, OpenAIBatches, Place  # noqa: PLC0415 - few runs need it

        base_url = (endpoint.base_url == OFFLINE and self._offline_url) or endpoint.base_url
        service, place = service_at(base_url), Place.of(base_url)
        # Under the SDK's own spelling, so that they replace what it would add.
        spelling = {name.lower(): name for name in _OF_THE_SDK}
        own = {spelling.get(name.lower(), name): value for name, value in endpoint.headers.items()}
        own |= authorization(base_url, endpoint.api_key)
        proxy = proxy_for(place.base_url)
        secrets = secrets_among([endpoint.api_key or "", *keys_in(endpoint.headers)])
        secrets = longest_first([*secrets, *(proxy.secrets if proxy else ())])
        client = openai.AsyncOpenAI(
            api_key="-",  # the real key is in a header alone: nothing here can print it
            base_url=place.base_url,
            default_query=dict(place.query) or None,
            default_headers=own,
            http_client=self._client_to(place.base_url),
            max_retries=0,
        )
        params = {**unfolded(self._params), **endpoint.params}
        model = place.deployment or cast("str", endpoint.model)
        return OpenAIBatches(
            place,
            Link(client, self._client_to, own, _not_of_the_sdk(own), secrets),
            Lines(model, params, scores=self._scores, secrets=secrets),
            (service and service.batch) or UNKNOWN,
            model,
        )

    def _client_to(self, url: str) -> openai.DefaultAsyncHttpxClient:
        """Return the SDK's HTTP client for a URL.

        The SDK would share a client between event loops, and the second loop would fail. It would also follow redirects
        with all headers, of which one may be the key.
        """
        proxy = proxy_for(url)
        name = proxy.url if proxy else ""
        if name not in self._sdk_clients:
            self._sdk_clients[name] = openai.DefaultAsyncHttpxClient(
                proxy=name or None, verify=self._tls, trust_env=False, follow_redirects=False
            )
        return self._sdk_clients[name]

    async def close(self) -> None:
        await self._session.close()
        for client in self._sdk_clients.values():
            await client.aclose()


def _not_of_the_sdk(headers: Mapping[str, object]) -> dict[str, openai.Omit]:
    """Return what removes headers that the SDK would add itself: its header for the key, OpenAI's organization."""
    given = {name.lower() for name in headers}
    return {name: openai.Omit() for name in _OF_THE_SDK if name.lower() not in given}
