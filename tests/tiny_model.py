"""A LLaMA of random weights with a tokenizer and a LoRA, small enough to be made by a test; and the same by hand."""

from __future__ import annotations

import json
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# If one is missing, the tests that use this module are skipped.
WHY = 'needs the extra hf: make test installs it, or pip install -e ".[hf]"'
torch: Any = pytest.importorskip("torch", reason=WHY)
transformers: Any = pytest.importorskip("transformers", reason=WHY)
peft: Any = pytest.importorskip("peft", reason=WHY)
torch.set_num_threads(1)  # threads that wait for each other take longer than so small a model

TEXTS = [
    "the quick brown fox jumps over the lazy dog, and it says hello to the world",
    "数学计算: 请计算 今天天气真不错 给我讲一些有关杭州的故事吧",
    "### Instruction: Below is an instruction ### Response:",
]
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}<|assistant|>"
CONTEXT = 512


class Paths(NamedTuple):
    """Directories of a base model, its LoRA, and other ones.

    Attributes:
        base: the model with its tokenizer.
        lora: a LoRA without a tokenizer.
        chat: the same model, with a tokenizer that has a chat template.
        other_lora: a LoRA of a larger model.
    """

    base: Path
    lora: Path
    chat: Path
    other_lora: Path


def make(root: Path) -> Paths:
    """Make them in a second."""
    with warnings.catch_warnings(category=FutureWarning, action="ignore"):  # of peft about transformers
        return _make(root)


def _make(root: Path) -> Paths:
    paths = Paths(*(root / name for name in Paths._fields))
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    network = _llama(len(tokenizer), 32)
    for place in (paths.base, paths.chat):
        network.save_pretrained(place)
    tokenizer.save_pretrained(paths.base)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(paths.chat)
    _lora(network).save_pretrained(paths.lora)
    _lora(_llama(len(tokenizer), 64)).save_pretrained(paths.other_lora)
    return paths


def _llama(size: int, width: int) -> Any:
    # Weights that are spread widely make clear differences: a rounding error must not decide between two tokens.
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.3,
    )
    return transformers.LlamaForCausalLM(config)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: PLC0415

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **marks)


def _lora(network: Any) -> Any:
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return peft.get_peft_model(network, config)


class ByHand:
    """The same model, asked with transformers and peft alone, one prompt at a time."""

    def __init__(self, paths: Paths, *, has_lora: bool = False) -> None:
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(paths.base)
        self._paths = paths
        self._has_lora = has_lora

    @cached_property
    def network(self) -> Any:
        made = transformers.AutoModelForCausalLM.from_pretrained(self._paths.base)
        with warnings.catch_warnings(category=FutureWarning, action="ignore"):
            return (peft.PeftModel.from_pretrained(made, self._paths.lora) if self._has_lora else made).eval()

    def ids(self, text: str) -> list[int]:
        return [int(each) for each in self.tokenizer(text)["input_ids"]]

    def generated(self, prompt: str, count: int, **options: Any) -> list[int]:
        """Return the tokens of an answer; without options it is greedy."""
        ids = torch.tensor([self.ids(prompt)])
        found = self.network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **{"max_new_tokens": count, "do_sample": False, **options},
        )
        return [int(each) for each in found[0, ids.shape[1] :]]

    def text(self, prompt: str, count: int, **options: Any) -> str:
        return str(self.tokenizer.decode(self.generated(prompt, count, **options), skip_special_tokens=True))

    def embedded(self, text: str) -> list[float]:
        """Return the mean of the last hidden layer, with length 1."""
        with torch.no_grad():
            found = self.network(torch.tensor([self.ids(text)]), output_hidden_states=True)
        mean = found.hidden_states[-1][0].mean(dim=0)
        return [float(each) for each in mean / mean.norm()]


def state_defaults(place: Path, **defaults: Any) -> None:
    """Write values into the `generation_config.json` of a model."""
    file = place / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | defaults), encoding="utf-8")
