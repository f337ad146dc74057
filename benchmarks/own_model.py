"""What a batch saves: requests a second of `batcher serve --backend hf`, one at a time and 64 at a time.

    python benchmarks/own_model.py [--base-model DIR] [--requests N] [--tokens N] [--gpu]

Without a model it makes a LLaMA of random weights, whose answers mean nothing and take as long as real ones. Each
answer is greedy; those that come out of the batch are compared with those that were generated alone.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import openai

from batcher.server.hf.loading import load
from batcher.server.hf.options import ModelOptions
from batcher.server.hf.serve import embedded_model

WORDS = ("fox", "dog", "quick", "brown", "lazy", "jumps", "over", "hello")


def make(place: Path) -> None:
    """Make a LLaMA of 7 million parameters and a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415 - only without --base-model
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: PLC0415

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({"<s>": 0, "</s>": 1} | {letter: 2 + at for at, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>").save_pretrained(place)  # noqa: S106 - no password
    shape = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8}
    config = LlamaConfig(vocab_size=2 + len(letters), max_position_embeddings=1024, initializer_range=0.1, **shape)
    LlamaForCausalLM(config).save_pretrained(place)


async def ask(url: str, prompts: list[str], tokens: int, together: int) -> tuple[list[str], float]:
    """Ask all prompts, so many at a time; return the answers, and the seconds."""
    gate = asyncio.Semaphore(together)

    async def one(client: openai.AsyncOpenAI, prompt: str) -> str:
        async with gate:
            found = await client.completions.create(model="m", prompt=prompt, max_tokens=tokens, temperature=0)
            return found.choices[0].text

    async with openai.AsyncOpenAI(base_url=url, api_key="-", max_retries=0, timeout=3600) as client:
        await one(client, prompts[0])
        began = time.perf_counter()
        answers = await asyncio.gather(*(one(client, prompt) for prompt in prompts))
        return list(answers), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", metavar="DIR")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--gpu", action="store_true")
    given = parser.parse_args()
    prompts = [f"{' '.join(WORDS[: 1 + at % len(WORDS)])} {at}" for at in range(given.requests)]
    with tempfile.TemporaryDirectory() as folder:
        if given.base_model is None:
            make(Path(folder))
        model = load(ModelOptions(given.base_model or folder, only_cpu=not given.gpu))
        print(f"{model.in_words}; {given.requests} requests of {given.tokens} tokens each\n")
        print("| at a time | requests/s | tokens/s | times | the same answers |")
        print("| ---: | ---: | ---: | ---: | ---: |")
        alone: list[str] = []
        first = 0.0
        for together in (1, 8, 64):
            with embedded_model(model) as (url, _):
                answers, seconds = asyncio.run(ask(url, prompts, given.tokens, together))
            alone, first = alone or answers, first or seconds
            same = sum(a == b for a, b in zip(alone, answers, strict=True))
            rate = given.requests / seconds
            print(
                f"| {together} | {rate:,.1f} | {rate * given.tokens:,.0f} | {first / seconds:.1f} | {same} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
