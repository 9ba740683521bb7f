"""Imported models take and make text by the tokenizer that came with them, and render conversations."""

import json
import os
import shutil
import subprocess

import bitttt
import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif("BITTTT_COMMAND" not in os.environ, reason="the command, which imports, is not built")

SPECIAL = ["<unk>", "<|begin|>", "<|end|>"]
LETTERS = [chr(c) for c in range(ord("!"), ord("!") + 80)] + ["\u0120", "\u010a"]  # GPT-2's space and newline
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def tokenizer():
    vocabulary = {token: i for i, token in enumerate(SPECIAL + LETTERS)}
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(SPECIAL)],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    source = ROOT / "tests" / "fixtures" / "import" / "llama_packed"
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    settings = {"chat_template": TEMPLATE, "bos_token": "<|begin|>", "eos_token": "<|end|>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    path = folder / "model.bttt"
    command = [os.environ["BITTTT_COMMAND"], "import", "hf-llama", str(folder), "--out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return bitttt.Model(path)


def test_text_goes_through_the_tokenizer_that_came_with_the_model(imported):
    assert imported.has_tokenizer
    tokens = imported.encode("AB ab<|end|>")
    assert tokens == [3 + ord(c) - ord("!") for c in "AB"] + [83, 67, 68, 2]
    assert imported.decode(tokens) == "AB ab"
    assert imported.stop_tokens == [2]


def test_text_begins_as_the_model_was_taught(imported):
    session = bitttt.Session(imported)
    generation = session.generate("AB", 5, temperature=0, stop=[])
    assert generation.prompt_tokens == 3  # <|begin|> is not in the text
    text = "".join(generation)
    assert text == imported.decode(generation.tokens)
    other = bitttt.Session(imported)
    tokens = other.generate_tokens([1] + imported.encode("AB"), 5, temperature=0, stop=[])
    assert list(tokens) == generation.tokens
    again = session.generate("AB", 5, stop=[])
    assert again.prompt_tokens == 2


def test_conversations_are_rendered_by_the_model_s_template(imported, demo):
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    text = imported.apply_chat_template(messages)
    assert text == "<|begin|>system: be brief<|end|>user: hello<|end|>assistant:"
    generation = bitttt.Session(imported).generate(text, 3)
    assert generation.prompt_tokens == len(imported.encode(text))  # the template begins it itself
    for wrong in ([{"role": "pirate", "content": "a"}], [{"role": "user"}], "hello", None, [1]):
        with pytest.raises(bitttt.InputError, match="messages must be"):
            imported.apply_chat_template(wrong)
    with pytest.raises(TypeError):
        imported.apply_chat_template([object()])
    with pytest.raises(bitttt.InputError, match="no chat template"):
        demo.apply_chat_template(messages)


def test_steps_agree_with_prefill(imported):
    one, other = bitttt.Session(imported), bitttt.Session(imported, batch=3)
    tokens = imported.encode("AN OLD TALE OF A MILL")
    for token in tokens:
        logits = one.step(token)
    assert (logits == other.forward(tokens)[-1]).all()
    assert one.state_hash == other.state_hash
