"""What is loaded, and what is wrong with it: said before the server listens, with exit status 2."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from programs import call, local_server
from tiny_model import TEXTS, ByHand, torch, transformers

import batcher
from batcher.server.hf.asking import ask_completion
from batcher.server.hf.loading import load
from batcher.server.hf.options import ModelOptions
from batcher.server.hf.prompts import alpaca
from batcher.server.hf.texts import Text
from batcher.server.requests import read_completion
from batcher.server.responses import Refusal

if TYPE_CHECKING:
    from tiny_model import Paths


def changed(place: Path, copy: Path, file: str, **values: Any) -> Path:
    """Copy a directory, with other values in one of its files."""
    shutil.copytree(place, copy)
    old = json.loads((copy / file).read_text(encoding="utf-8"))
    (copy / file).write_text(json.dumps(old | values), encoding="utf-8")
    return copy


# --- what is wrong ---


def test_wrong_options_end_with_status_2_and_a_sentence(tiny: Paths, tmp_path: Path) -> None:
    base = ("--backend", "hf", "--base-model", str(tiny.base), "--port", "0")
    (tmp_path / "file").touch()
    cases: list[tuple[tuple[str, ...], str]] = [
        (("--backend", "hf"), "--backend hf needs --base-model"),
        (("--base-model", str(tiny.base)), "--base-model is for a model of your own: add --backend hf"),
        ((*base, "--rpm", "5"), "--rpm is for the simulated model"),
        (
            ("--backend", "hf", "--base-model", "meta/llama"),
            "there is no directory 'meta/llama'. Nothing is downloaded",
        ),
        (("--backend", "hf", "--base-model", "file"), "'file' is a file"),
        (("--backend", "hf", "--base-model", "."), "there is no config.json in it"),
        ((*base, "--lora-model", str(tiny.base)), "there is no adapter_config.json in it"),
        ((*base, "--tokenizer-path", "."), "--tokenizer-path: '.' does not hold a tokenizer"),
        ((*base, "--gpus", "0,0"), "--gpus must be different numbers"),
        ((*base, "--gpus", "0", "--only-cpu"), "--only-cpu and --gpus exclude each other"),
    ]
    for arguments, said in cases:
        done = call("serve", *arguments, cwd=tmp_path)
        assert (done.status, done.stdout) == (2, ""), arguments
        assert said in done.stderr, arguments
        assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("gpus", [None, "0", "0,1"])
def test_without_a_gpu_it_says_so(tiny: Paths, gpus: str | None) -> None:
    with pytest.raises(batcher.SettingsError, match=r"there is no GPU that torch can use.*--only-cpu"):
        load(ModelOptions(str(tiny.base), gpus=gpus))


def test_a_lora_of_another_model_is_refused(tiny: Paths, tmp_path: Path) -> None:
    for lora in (
        tiny.other_lora,  # of another width
        changed(tiny.lora, tmp_path / "modules", "adapter_config.json", target_modules=["k_proj"]),
        changed(tiny.lora, tmp_path / "names", "adapter_config.json", target_modules=["c_attn"]),
        changed(tiny.lora, tmp_path / "more", "adapter_config.json", target_modules=["q_proj", "k_proj", "v_proj"]),
    ):
        with pytest.raises(batcher.SettingsError, match="is not a LoRA of the model in"):
            load(ModelOptions(str(tiny.base), str(lora), only_cpu=True))


def test_files_that_do_not_fit_together_are_refused(tiny: Paths, tmp_path: Path) -> None:
    deeper = changed(tiny.base, tmp_path / "deeper", "config.json", num_hidden_layers=3)
    with pytest.raises(batcher.SettingsError, match=r"lacks weights: .* tensors, the first is model.layers.2"):
        load(ModelOptions(str(deeper), only_cpu=True))
    (torn := shutil.copytree(tiny.base, tmp_path / "torn") / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(batcher.SettingsError, match=r"--base-model: .*torn' cannot be loaded"):
        load(ModelOptions(str(torn.parent), only_cpu=True))
    broken = changed(tiny.base, tmp_path / "broken", "config.json", model_type="no-such-model")
    with pytest.raises(batcher.SettingsError, match=r"--base-model: .*broken' cannot be loaded"):
        load(ModelOptions(str(broken), only_cpu=True))
    (bare := shutil.copytree(tiny.base, tmp_path / "bare") / "tokenizer.json").unlink()
    with pytest.raises(batcher.SettingsError, match="holds no tokenizer"):
        load(ModelOptions(str(bare.parent), only_cpu=True))
    more = shutil.copytree(tiny.base, tmp_path / "more")
    tokenizer = transformers.AutoTokenizer.from_pretrained(more)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(more)
    with pytest.raises(batcher.SettingsError, match=r"has 401 tokens, the model .* has 400"):
        load(ModelOptions(str(more), only_cpu=True))


def test_a_missing_library_is_named_with_what_installs_it(tiny: Paths) -> None:
    program = (
        "import sys; sys.modules['peft'] = None; from batcher.server.hf.options import ModelOptions\n"
        "try: ModelOptions(sys.argv[1])\nexcept Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program, tiny.base], check=True, capture_output=True, text=True)
    assert done.stdout == '--backend hf needs peft: pip install "batcher-llm[hf]"\n'


# --- what is loaded ---


def test_a_loras_own_tokens_get_room_in_the_model(tiny: Paths, tmp_path: Path) -> None:
    lora = shutil.copytree(tiny.lora, tmp_path / "lora")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny.base)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(lora)
    options = ModelOptions(str(tiny.base), str(lora), only_cpu=True)
    assert options.tokenizer == lora
    model = load(options)
    assert model.network.get_input_embeddings().weight.shape[0] == 401
    assert ModelOptions(str(tiny.base), str(lora), str(tiny.base), only_cpu=True).tokenizer == tiny.base


def test_what_the_model_says_about_sampling_is_the_default_and_its_ends_end(tiny: Paths, tmp_path: Path) -> None:
    own = {"temperature": 0.3, "top_k": 7, "max_new_tokens": 5, "eos_token_id": [2, 9]}
    model = load(
        ModelOptions(str(changed(tiny.base, tmp_path / "own", "generation_config.json", **own)), only_cpu=True)
    )
    assert model.ends == {2, 9}
    for body, expected in (
        ({}, (0.3, 7, 5, 1.0, True)),
        ({"temperature": 0.0}, (0.0, 7, 5, 1.0, False)),
        ({"temperature": 1.5, "top_k": 0, "max_tokens": 3, "top_p": 0.5}, (1.5, 0, 3, 0.5, True)),
        ({"do_sample": False}, (0.3, 7, 5, 1.0, False)),
    ):
        request = read_completion(json.dumps({"prompt": "hello", **body}).encode())
        assert not isinstance(request, Refusal)
        asked = ask_completion(model, request)
        assert not isinstance(asked, Refusal)
        found = asked.sampling
        assert (found.temperature, found.top_k, found.max_tokens, found.top_p, found.is_drawn) == expected


def test_weights_in_8_bits_give_nearly_the_same_logits(tiny: Paths) -> None:
    pytest.importorskip("bitsandbytes")
    hand = ByHand(tiny, has_lora=True)
    model = load(ModelOptions(str(tiny.base), str(tiny.lora), only_cpu=True, load_in_8bit=True))
    ids = torch.tensor([hand.ids("hello world")])
    with torch.inference_mode():
        logits = model.forward(ids, torch.ones_like(ids), model.new_cache())
        exact = hand.network(ids).logits[:, -1]
    assert "8 bits" in model.in_words
    assert torch.nn.functional.cosine_similarity(logits.float(), exact) > 0.99
    assert not torch.allclose(logits.float(), exact, atol=1e-4)


def test_models_of_other_families_answer_as_they_do_alone(tmp_path: Path, tiny: Paths) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny.base)
    shape: dict[str, Any] = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
        "eos_token_id": 2,
    }
    window = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 8}
    families = [
        transformers.GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3),
        transformers.Gemma2Config(**shape, **window),
        transformers.MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, state_size=4),
    ]
    for number, config in enumerate(families):
        torch.manual_seed(number)
        place = tmp_path / str(number)
        network = transformers.AutoModelForCausalLM.from_config(config).eval()
        network.save_pretrained(place)
        tokenizer.save_pretrained(place)
        model = load(ModelOptions(str(place), only_cpu=True))
        assert model.can_join == (config.model_type != "mamba")
        _answers_alike(model, network)


def _answers_alike(model: Any, network: Any) -> None:
    from test_hf_engine import GREEDY, Asked, all_at_once  # noqa: PLC0415 - its helpers

    from batcher.server.hf.engine import Engine  # noqa: PLC0415

    prompts = [[5, 6, 7], [8] * 20, [9, 10] * 6]
    engine = Engine(model)
    try:
        found = all_at_once(engine, [Asked(ids, GREEDY) for ids in prompts])
    finally:
        engine.close()
    for ids, text in zip(prompts, found, strict=True):
        alone = network.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
            max_new_tokens=GREEDY.max_tokens,
            do_sample=False,
            eos_token_id=sorted(model.ends),
            pad_token_id=0,
        )
        made = Text(model.tokenizer, ids)
        for token in alone[0, len(ids) :].tolist():
            if token not in model.ends:
                made.push(token)
        made.end()
        assert text == made.whole, model.in_words


def test_a_sentencepiece_tokenizer_keeps_its_spaces(tmp_path: Path, tiny: Paths) -> None:
    sentencepiece: Any = pytest.importorskip("sentencepiece")
    place = shutil.copytree(tiny.base, tmp_path / "pieces")
    (place / "tokenizer.json").unlink()
    (place / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}), encoding="utf-8"
    )
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 30),
        model_prefix=str(place / "tokenizer"),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=3,
    )
    tokenizer = load(ModelOptions(str(place), only_cpu=True)).tokenizer
    ids = tokenizer("hello the fox €")["input_ids"]
    made = Text(tokenizer, ids[:4])
    for token in ids[4:]:
        made.push(token)
    assert tokenizer.decode(ids[:4], skip_special_tokens=True) + made.whole == "hello the fox €"


def test_several_system_messages_stand_together_before_the_turns() -> None:
    turns = [("system", "A"), ("system", "B"), ("user", "C")]
    written = alpaca([{"role": role, "content": content} for role, content in turns])
    assert written == "A\nB\n\n### Instruction:\nC\n\n### Response: "


# --- the whole program ---


def test_the_program_serves_a_model_and_ends_at_sigterm(tiny: Paths, tmp_path: Path) -> None:
    options = ("--backend", "hf", "--base-model", str(tiny.base), "--lora-model", str(tiny.lora), "--only-cpu")
    with local_server(
        *options, "--model", "mine", "--api-key-env", "ACCEPTED", cwd=tmp_path, ACCEPTED="sk-a", OMP_NUM_THREADS="1"
    ) as server:
        import openai  # noqa: PLC0415 - for this test alone

        with openai.OpenAI(base_url=server.base_url, api_key="sk-a", max_retries=0) as client:
            found = client.completions.create(model="mine", prompt="hello", max_tokens=9, temperature=0)
            assert found.choices[0].text == ByHand(tiny, has_lora=True).text("hello", 9)
            with pytest.raises(openai.NotFoundError, match="this server has"):
                client.completions.create(model="other", prompt="hello", max_tokens=9)
        with (
            openai.OpenAI(base_url=server.base_url, api_key="sk-b", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.completions.create(model="mine", prompt="hello", max_tokens=9)
        assert server.books()["answered"] == 1
