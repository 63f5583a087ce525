"""What notebooks 08, 10 and 11 do with `weights=FOLDER`: a folder as transformers writes it, with shards and 16 bits."""
import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llama2_lib.analysis import diversity_studies, winrate
from llama2_lib.analysis.chat import published
from llama2_lib.course.talk import Chat
from llama2_lib.model.generation import generate
from llama2_lib.model.replies import as_dialog, replies
from llama2_lib.model.weights import convert
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.dialogs import HELPFUL, prompts
from llama2_lib.world.facts import TEST, load

WORLD = load()
CONFIG = LlamaConfig(hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, vocab_size=400, max_position_embeddings=512, rms_norm_eps=1e-5)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def folder(request, tmp_path_factory):
    """A chat model nobody trained, as Hugging Face publishes Llama 2: several shards and tokenizer.model beside them."""
    place = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    LlamaForCausalLM(CONFIG).to(request.param).save_pretrained(place, max_shard_size="100KB")
    Tokenizer.train([f"[INST] {p.text} [/INST] Yes." for p in prompts(WORLD, 300, 0)], 400, place / "tokenizer.model")
    assert len(list(place.glob("model-*.safetensors"))) > 2
    return place


def greedy(model) -> list[list[int]]:
    return generate(model, [[1, 5, 9], [1, 7, 20, 33]], max_new_tokens=8, temperature=0.0, eos_id=-1).lists()


def test_its_tokens_are_those_that_transformers_writes(folder):
    """In float32; a half-precision folder is compared with itself in float32, where near-ties cannot flip."""
    model, _ = published(folder)
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for prompt, ours in zip([[1, 5, 9], [1, 7, 20, 33]], greedy(model.float()), strict=True):
        ids = theirs.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert ours == ids[0, len(prompt):].tolist()


def test_it_keeps_its_precision_and_speaks_in_it(folder):
    model, tokenizer = published(folder)
    logits = model(torch.tensor([[1, 5, 9]]))
    assert model.output.weight.dtype == logits.dtype and not model.training
    said = Chat(model, tokenizer, "Always answer with Haiku.", max_new_tokens=8).say("Hello.")
    assert isinstance(said, str) and said
    half, whole = greedy(model), greedy(published(folder)[0].float())
    assert half[0][0] == whole[0][0], "the first greedy token hangs on no rounding of a long reply"


def test_its_self_bleu_is_measured(folder, monkeypatch):
    monkeypatch.setattr(diversity_studies, "REAL", {"factual": ("What is 1 + 1?",), "creative": ("Write a poem.",)})
    found = diversity_studies.real(folder, samples=2, temperatures=(0.0, 1.0))
    assert all(cold > hot >= 0 for cold, hot in found.values())


def test_it_can_be_judged_against_another(folder):
    asked = list(prompts(WORLD, 4, 0, HELPFUL, TEST))
    said = [text or "-" for text in replies(*published(folder), [as_dialog(p) for p in asked], 1.0, 0, 8)]
    rates = winrate.rates(winrate.outcomes(winrate.oracle(WORLD)(asked, said, ["-"] * 4), 1e-6))
    assert rates.win + rates.tie + rates.loss == pytest.approx(1)


def test_meta_s_files_give_the_same_model(folder, tmp_path):
    convert(folder, tmp_path / "meta", shards=2)
    shutil.copy(folder / "tokenizer.model", tmp_path / "meta")
    (one, words), (other, same_words) = published(folder), published(tmp_path / "meta")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert words.encode("Hello.") == same_words.encode("Hello.")
