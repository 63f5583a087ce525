"""Sampling against transformers' generate, against whole-sequence recomputation, and against the exact distributions."""
from __future__ import annotations

import random
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import greedy_one_by_one, hf_twin, rough_weights, sample_top_p_as_published

from llama2_lib.config import ModelConfig
from llama2_lib.model import generation
from llama2_lib.model.decoding import top_p_tokens
from llama2_lib.model.generation import generate, stream, uniform_draws
from llama2_lib.model.transformer import Transformer

CONFIG = ModelConfig(dim=64, n_layers=2, n_heads=8, n_kv_heads=2, vocab_size=40, multiple_of=16, norm_eps=3e-4,
                     max_seq_len=64)
EOS = 2


@pytest.fixture(scope="module")
def model() -> Transformer:
    return rough_weights(Transformer(CONFIG), scale=0.3).eval()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(CONFIG.vocab_size) for _ in range(draw.randrange(1, 25))] for _ in range(12)]


def recomputed_logprobs(model, prompt: list[int], reply: list[int], temperature: float) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + reply]))[0, len(prompt) - 1:-1] / (temperature or 1)
    return logits.log_softmax(-1).gather(1, torch.tensor(reply)[:, None])[:, 0]


# ------------------------------------------------------------------------------------------------------------------ greedy

def test_greedy_equals_transformers_token_for_token(model, prompts):
    twin = hf_twin(model)
    got = generate(model, prompts, max_new_tokens=30, temperature=0, eos_id=EOS)
    for prompt, reply in zip(prompts, got.lists(), strict=True):
        want = twin.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                             max_new_tokens=30, do_sample=False, eos_token_id=EOS, pad_token_id=0)[0, len(prompt):]
        assert reply == want.tolist()


def test_greedy_equals_the_whole_sequence_each_time(model, prompts):
    got = generate(model, prompts, max_new_tokens=20, temperature=0, eos_id=EOS)
    assert got.lists() == [greedy_one_by_one(model, prompt, 20, EOS) for prompt in prompts]


# ----------------------------------------------------------------------------------------------------------- what comes back

@pytest.mark.parametrize("temperature, top_p", [(0, 1.0), (0.7, 1.0), (1.0, 0.8)])
def test_logprobs_are_those_of_the_tempered_distribution_before_top_p(model, prompts, temperature, top_p):
    got = generate(model, prompts, max_new_tokens=20, temperature=temperature, top_p=top_p, eos_id=EOS, samples_per_prompt=3)
    for row, reply in enumerate(got.lists()):
        want = recomputed_logprobs(model, prompts[row // 3], reply, temperature)
        assert (got.logprobs_NT[row, :len(reply)] - want).abs().max() <= 2e-5 / (temperature or 1)
        assert (got.logprobs_NT[row, len(reply):] == 0).all()


def test_mask_end_token_and_stop_reason_agree(model, prompts):
    got = generate(model, prompts, max_new_tokens=25, eos_id=EOS, samples_per_prompt=8, seed=3)
    assert 0 < got.finished_N.sum() < len(got.finished_N), "both endings must occur for this test to say anything"
    for row, reply in enumerate(got.lists()):
        assert (EOS in reply) == bool(got.finished_N[row])
        assert EOS not in reply[:-1], "nothing follows the end token"
        assert bool(got.finished_N[row]) or len(reply) == 25
        assert got.mask_NT[row].int().diff().le(0).all() and (got.tokens_NT[row][~got.mask_NT[row]] == 0).all()


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_stream_gives_the_tokens_of_generate_one_by_one(model, prompts, temperature):
    for prompt in prompts[:3]:
        settings = {"max_new_tokens": 12, "temperature": temperature, "eos_id": EOS, "seed": 4}
        tokens = stream(model, prompt, **settings)
        first = next(tokens)
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled(), "between two tokens the caller is himself"
        assert [first, *tokens] == generate(model, [prompt], **settings).lists()[0]


def test_the_reasons_for_stopping_are_kept_apart(model):
    room = model.config.max_seq_len
    free = generate(model, [[5, 6, 7]], max_new_tokens=8, temperature=0, eos_id=-1).lists()[0]
    prompts = [[5] * (room - 3), [5, 6, 7]]
    by_end = generate(model, prompts[1:], max_new_tokens=8, temperature=0, eos_id=free[2])
    neither = generate(model, prompts, max_new_tokens=8, temperature=0, eos_id=-1)
    assert by_end.reasons == ["end token"] and neither.reasons == ["context", "budget"]
    assert neither.finished_N.tolist() == [False, False]


def test_an_end_token_in_the_prompt_ends_nothing(model):
    got = generate(model, [[1, EOS, 5, EOS]], max_new_tokens=6, temperature=0, eos_id=EOS)
    assert got.lists()[0] == greedy_one_by_one(model, [1, EOS, 5, EOS], 6, EOS)
    never = generate(model, [[1, 5]], max_new_tokens=6, temperature=1, eos_id=-1)
    assert len(never.lists()[0]) == 6 and not never.finished_N.any()


def test_another_end_token(model, prompts):
    free = generate(model, prompts[:1], max_new_tokens=10, temperature=0, eos_id=-1).lists()[0]
    cut = generate(model, prompts[:1], max_new_tokens=10, temperature=0, eos_id=free[3])
    assert cut.lists()[0] == free[:free.index(free[3]) + 1] and cut.finished_N.all()


def test_a_row_stops_where_the_context_ends(model):
    got = generate(model, [[3] * 60, [3] * 10], max_new_tokens=20, eos_id=-1)
    assert got.mask_NT.sum(1).tolist() == [4, 20] and not got.finished_N.any()


# -------------------------------------------------------------------------------------------------------------- independence

def test_a_sample_does_not_depend_on_its_batch(model, prompts):
    settings_ = {"max_new_tokens": 20, "temperature": 0.9, "top_p": 0.95, "eos_id": EOS, "seed": 7}
    whole = generate(model, prompts, samples_per_prompt=4, **settings_).lists()
    small = generate(model, prompts, samples_per_prompt=4, batch_rows=8, **settings_).lists()
    turned = generate(model, prompts[::-1], samples_per_prompt=4, **settings_).lists()
    assert whole == small
    assert whole == [turned[(len(prompts) - 1 - row // 4) * 4 + row % 4] for row in range(len(whole))]
    assert whole[20:24] == generate(model, [prompts[5]], samples_per_prompt=4, **settings_).lists()
    assert whole[20:24] == generate(model, [prompts[5]] * 4, **settings_).lists(), "four copies are four samples"
    assert whole != generate(model, prompts, samples_per_prompt=4, **settings_ | {"seed": 8}).lists()


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_compiled_steps_give_the_same_samples(model, prompts):
    prompts = [*prompts, [3] * 60]                  # it meets the end of the context; of 13 prompts the last batch has three
    for temperature, top_p in ((0, 1.0), (0.9, 0.95)):
        settings_ = {"max_new_tokens": 20, "temperature": temperature, "top_p": top_p, "eos_id": EOS, "seed": 7,
                     "samples_per_prompt": 3, "batch_rows": 15}
        plain, compiled = (generate(model, prompts, compiled=c, **settings_) for c in (False, True))
        assert set(plain.reasons) == {"end token", "budget", "context"}, "all endings must occur here"
        assert compiled.lists() == plain.lists() and compiled.reasons == plain.reasons
        assert torch.equal(compiled.mask_NT, plain.mask_NT) and torch.equal(compiled.tokens_NT, plain.tokens_NT)
        assert (compiled.logprobs_NT - plain.logprobs_NT).abs().max() <= 2e-5


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_compiled_steps_in_bf16_differ_by_its_rounding_alone(prompts):
    torch.manual_seed(0)
    model = Transformer(CONFIG).eval()                                  # small logits: errors are absolute
    settings_ = {"max_new_tokens": 20, "eos_id": EOS, "seed": 7, "dtype": torch.bfloat16}
    exact = generate(model, prompts, **settings_ | {"dtype": torch.float32})
    errors = []
    for compiled in (False, True):
        rough = generate(model, prompts, compiled=compiled, **settings_)
        same = (rough.tokens_NT == exact.tokens_NT).cumprod(1).bool() & rough.mask_NT & exact.mask_NT
        assert same.sum() > 0.7 * exact.mask_NT.sum(), "few tokens may turn, and what follows one in its row"
        errors.append((rough.logprobs_NT - exact.logprobs_NT)[same].abs().max())
    assert 0 < errors[1] <= 1.5 * errors[0], "keys and values in bfloat16 add little to the products' own rounding"


def test_compiled_steps_are_refused_where_they_cannot_be():
    with pytest.raises(ValueError, match="compiled steps need weights that lie whole on a CPU; these are on meta"):
        generate(Transformer(CONFIG).to("meta"), [[1]], max_new_tokens=1, eos_id=EOS, compiled=True)


def test_prompts_read_a_few_at_a_time_give_the_same_samples(model, prompts, monkeypatch):
    """Down to one row at a time; rows of one length have no padding, others share some of it."""
    uneven = [*prompts, [1] + [5] * 20, [1] + [7] * 20]
    settings_ = {"max_new_tokens": 8, "eos_id": EOS, "samples_per_prompt": 2, "seed": 3}
    whole = generate(model, uneven, **settings_)
    for at_once in (1, 2 * 21, 3 * 21):
        monkeypatch.setattr(generation, "PREFILL", at_once)
        few = generate(model, uneven, **settings_)
        assert torch.equal(few.tokens_NT, whole.tokens_NT) and torch.equal(few.stop_N, whole.stop_N)
        assert torch.allclose(few.logprobs_NT, whole.logprobs_NT, atol=1e-5)


def test_fewer_tokens_are_a_prefix_of_more(model, prompts):
    more = generate(model, prompts, max_new_tokens=20, eos_id=EOS).lists()
    fewer = generate(model, prompts, max_new_tokens=5, eos_id=EOS).lists()
    assert fewer == [reply[:5] for reply in more]


def test_draws_look_uniform_and_do_not_repeat():
    draws = uniform_draws([[1, 2], [1, 2], [2, 1], [1]], 50, 40, seed=0)
    assert draws.shape == (200, 40) and draws.min() >= 0 and draws.max() < 1
    assert draws.mean().item() == pytest.approx(0.5, abs=0.02)
    assert len(draws.flatten().unique()) > 0.99 * draws.numel()


# -------------------------------------------------------------------------------------------------------------- distribution

@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_top_p_keeps_exactly_what_llama_keeps(weights, top_p):
    probs = torch.tensor(weights) + 1e-3 * torch.arange(1, len(weights) + 1)       # no ties: their order is arbitrary
    probs = probs / probs.sum()
    want = sample_top_p_as_published(probs, top_p)
    grid = (torch.arange(4000) + 0.5) / 4000
    tokens = top_p_tokens(probs.expand(4000, -1).contiguous(), top_p, grid)
    share = torch.bincount(tokens, minlength=len(probs)) / 4000
    assert (share - want).abs().max() <= 1 / 4000 + 1e-4
    assert not (share[want == 0] > 0).any(), "a token outside the nucleus was drawn"


def test_the_largest_draw_never_leaves_the_support():
    probs = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    almost_one = torch.tensor([1 - 2 ** -24])
    assert top_p_tokens(probs, 1.0, almost_one).item() == 1
    assert top_p_tokens(probs, 0.9, almost_one).item() in (0, 1)
    assert top_p_tokens(torch.tensor([[0.0, 0.0, 1.0]]), 1.0, torch.zeros(1)).item() == 2


def test_first_tokens_follow_the_models_distribution(model):
    prompt, temperature = [5, 9, 1], 0.8
    with torch.no_grad():
        want = (model(torch.tensor([prompt]))[0, -1] / temperature).softmax(-1)
    got = generate(model, [prompt], max_new_tokens=1, temperature=temperature, eos_id=EOS, samples_per_prompt=4000)
    share = torch.bincount(got.tokens_NT[:, 0], minlength=40) / 4000
    assert ((share - want).abs() <= 5 * (want * (1 - want) / 4000).sqrt() + 1e-3).all()


def test_bf16_is_close_and_leaves_the_weights_alone(model, prompts):
    exact = generate(model, prompts, max_new_tokens=12, temperature=0, eos_id=EOS)
    rounded = generate(model, prompts, max_new_tokens=12, temperature=0, eos_id=EOS, dtype=torch.bfloat16)
    same = [a[:3] == b[:3] for a, b in zip(exact.lists(), rounded.lists(), strict=True)]
    assert sum(same) >= 0.8 * len(same) and model.output.weight.dtype == torch.float32


def test_results_can_enter_a_loss(model, prompts):
    """Tensors made in inference mode cannot be saved for backward."""
    got = generate(model, prompts, max_new_tokens=3, eos_id=EOS)
    weight = torch.ones(1, requires_grad=True)
    (weight * got.logprobs_NT * model(got.tokens_NT).sum()).sum().backward()


# ---------------------------------------------------------------------------------------------------------------- bad input

@pytest.mark.parametrize("change, message", [
    ({"prompts": []}, "no prompt"), ({"prompts": [[1], []]}, "prompt 1 is empty"),
    ({"prompts": [[1], [1] * 70]}, "prompt 1 has 70 tokens; the context of 64"), ({"prompts": [[1] * 64]}, "64 tokens"),
    ({"prompts": [[1, 40]]}, "1…40"), ({"prompts": [[-1]]}, "-1"), ({"temperature": -0.1}, "-0.1"), ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "1.5"), ({"max_new_tokens": 0}, "max_new_tokens"), ({"samples_per_prompt": 0}, "samples_per_prompt"),
])
def test_bad_requests_are_refused_with_their_values(model, change, message):
    good = {"prompts": [[1]], "max_new_tokens": 4, "eos_id": EOS}
    with pytest.raises(ValueError, match=message):
        generate(model, **good | change)
