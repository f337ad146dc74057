"""Makes a tiny LLaMA, as Hugging Face's libraries read it and as llama.cpp does.

Its weights are random, but for this: the end of a prompt leads to one of four first tokens, of which three are labels
that end the answer, and the fourth rambles on. Which one it is depends on the prompt alone.

    python tiny.py FOLDER          writes the folder that Hugging Face's libraries read; needs numpy
    python tiny.py FOLDER --gguf   writes FOLDER/tiny.gguf; needs gguf
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ("positive", "negative", "neutral")
RAMBLES = "Well"
CONTEXT = 1024
"""The most tokens of a prompt and its answer; a token is a byte, or one of these words."""

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_WORDS = (*LABELS, RAMBLES)
_END = 256 + 2
_WIDTH, _LAYERS, _HEADS, _INNER = 64, 2, 4, 128
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _byte_letters() -> list[str]:
    """Return the letters that GPT-2's tokenizer writes the 256 bytes with."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _tokens() -> list[str]:
    return [*_byte_letters(), *_SPECIAL, *_WORDS]


def _weights() -> dict[str, Any]:
    """Return the weights by Hugging Face's names."""
    random = np.random.default_rng(7)

    def drawn(*shape: int, size: float) -> Any:
        return (random.standard_normal(shape) * size / np.sqrt(shape[-1])).astype(np.float32)

    count = len(_tokens())
    words = [count - len(_WORDS) + number for number in range(len(_WORDS))]
    embedding = drawn(count, _WIDTH, size=np.sqrt(_WIDTH))
    head = drawn(count, _WIDTH, size=0.3)
    line_end = embedding[ord("\n")] / np.sqrt(_WIDTH)
    for number, word in enumerate(words):
        taste = drawn(_WIDTH, size=3.0)
        head[word] = 2 * line_end + taste - line_end * (taste @ line_end)
        if number < len(LABELS):
            head[_END] += 3 * embedding[word] / np.sqrt(_WIDTH)
    weights = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": np.ones(_WIDTH, np.float32),
        "lm_head.weight": head,
    }
    for layer in range(_LAYERS):
        for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"):
            weights[f"model.layers.{layer}.{name}_proj.weight"] = drawn(_WIDTH, _WIDTH, size=1.2)
        for name, shape in (("gate", (_INNER, _WIDTH)), ("up", (_INNER, _WIDTH)), ("down", (_WIDTH, _INNER))):
            weights[f"model.layers.{layer}.mlp.{name}_proj.weight"] = drawn(*shape, size=0.2)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = np.ones(_WIDTH, np.float32)
    return weights


# --- Hugging Face ---


def _tokenizer() -> dict[str, Any]:
    added = [
        {
            "id": 256 + number,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": text in _SPECIAL,
        }
        for number, text in enumerate((*_SPECIAL, *_WORDS))
    ]
    bytes_alone = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": bytes_alone,
        "post_processor": None,
        "decoder": bytes_alone,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(_tokens())},
            "merges": [],
        },
    }


def _files() -> dict[str, dict[str, Any]]:
    return {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": len(_tokens()),
            "hidden_size": _WIDTH,
            "intermediate_size": _INNER,
            "num_hidden_layers": _LAYERS,
            "num_attention_heads": _HEADS,
            "num_key_value_heads": _HEADS,
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "bos_token_id": None,
            "eos_token_id": _END,
            "pad_token_id": 256,
        },
        "generation_config.json": {"eos_token_id": _END, "pad_token_id": 256},
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONTEXT,
            "chat_template": _TEMPLATE,
        },
    }


def write_folder(folder: Path) -> Path:
    """Write what Hugging Face's libraries read."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _files().items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts, at = [], 0
    for name, weight in _weights().items():
        part = weight.tobytes()
        header[name] = {"dtype": "F32", "shape": [*weight.shape], "data_offsets": [at, at + len(part)]}
        parts.append(part)
        at += len(part)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    (folder / "model.safetensors").write_bytes(b"".join([struct.pack("<Q", len(head)), head, *parts]))
    return folder


# --- llama.cpp ---

_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _gguf_name(name: str) -> str:
    for theirs, ours in _GGUF_NAMES.items():
        name = name.replace(theirs, ours)
    return name


def _turned(name: str, weight: Any) -> Any:
    """Return queries and keys in the order in which llama.cpp rotates them."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return weight
    halves = weight.reshape(_HEADS, 2, _WIDTH // _HEADS // 2, _WIDTH)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def write_gguf(path: Path) -> Path:
    """Write what llama.cpp reads."""
    import gguf  # noqa: PLC0415 - one of llama.cpp's own environments has it

    kinds = [gguf.TokenType.NORMAL] * 256
    kinds += [gguf.TokenType.CONTROL] * len(_SPECIAL) + [gguf.TokenType.USER_DEFINED] * len(_WORDS)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_vocab_size(len(_tokens()))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(_tokens())
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])  # llama.cpp wants one; there is no such token
    writer.add_eos_token_id(_END)
    writer.add_pad_token_id(256)
    writer.add_add_bos_token(value=False)
    writer.add_chat_template(_TEMPLATE)
    for name, weight in _weights().items():
        writer.add_tensor(_gguf_name(name), _turned(name, weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


if __name__ == "__main__":
    place = Path(sys.argv[1])
    if sys.argv[2:] == ["--gguf"]:
        place.mkdir(parents=True, exist_ok=True)
        write_gguf(place / "tiny.gguf")
    else:
        write_folder(place)
