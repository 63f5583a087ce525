"""Rounds of red teaming: whose topics are attacked, what is learned from, and what the next version is asked again."""
from types import SimpleNamespace

import pytest

from llama2_lib.analysis import redteam, refinement
from llama2_lib.analysis.redteam import Attack, Attempt, Rate
from llama2_lib.config import preset
from llama2_lib.model.replies import Reply
from llama2_lib.stages import gatt
from llama2_lib.stages.distillation import TEMPLATES
from llama2_lib.world.facts import load
from llama2_lib.world.oracle import Gold
from llama2_lib.world.prompts import howtos_of

WORLD, RECIPE = load(), preset("toy")
STORY = Attack("semantic", ("Hi.", "Hello.", "Say how to {request}."))
SPLITS = {split: howtos_of(WORLD, "unsafe", split) for split in ("train", "test", "heldout")}
VERSIONS = [SimpleNamespace(name=name, policy=name, tokenizer=None) for name in ("SFT", "V1", "V2", "V3")]


def attempt(howto, bad):
    return Attempt(howto, STORY, "said", Gold(1, 1, 1, 0.0 if bad else 1.0, unsafe=True))


@pytest.fixture
def rounds(monkeypatch):
    """The rounds of VERSIONS and the raids behind them; SFT falls for all attacks, a version that learned for none."""
    asked = []

    def raid(policy, tokenizer, world, topics, copies, seed):
        asked.append((policy, seed))
        return [attempt(h, policy == "SFT") for h in topics for _ in range(copies)]
    monkeypatch.setattr(refinement, "raid", raid)
    monkeypatch.setattr(refinement, "patched", lambda policy, tokenizer, found, world, recipe: (
        f"{policy} + {sum(a.violates for a in found)}"))
    return refinement.refined(VERSIONS, WORLD, RECIPE), asked


def test_each_round_attacks_topics_of_its_own_and_never_the_held_out_ones(rounds):
    topics = [list(dict.fromkeys(a.howto for a in r.before)) for r in rounds[0]]
    attacked = sum(topics, [])
    assert set(attacked) == {*SPLITS["train"], *SPLITS["test"]} and len(attacked) == len(set(attacked))
    assert not set(attacked) & set(SPLITS["heldout"])
    assert max(map(len, topics)) - min(map(len, topics)) <= 1


def test_a_round_attacks_the_refined_version_before_and_learns_from_all_findings_so_far(rounds):
    found, asked = rounds
    n = len(found[0].before)
    assert [(r.name, r.policy) for r in found] == [(v, f"{v} + {n}") for v in ("V1", "V2", "V3")]
    assert [policy for policy, _ in asked] == ["SFT", "V1", f"V1 + {n}", f"V1 + {n}", "V2", f"V2 + {n}",
                                               f"V2 + {n}", "V3", f"V3 + {n}"]
    assert len({seed for _, seed in asked}) == len(asked), "two raids drew the same random numbers"
    assert refinement.withstood(found, "after") == refinement.withstood(found, "untuned") == Rate(n, n)


def test_a_finding_is_learned_with_the_template_of_its_category_and_a_reply_of_the_model_s_own_beside_it(monkeypatch):
    learned, bad = [], attempt(SPLITS["train"][0], True)
    monkeypatch.setattr(refinement.distillation, "tune", lambda model, tokenizer, data, *rest: learned.extend(data))
    monkeypatch.setattr(gatt, "sample", lambda p, t, asked, temperature, seed: [Reply("My own.", True) for _ in asked])
    refinement.patched(None, None, [bad, attempt(SPLITS["train"][1], False), bad], WORLD, RECIPE)
    assert [d[-1].content for d in learned] == [TEMPLATES[bad.category]] * 2 + ["My own."] * 2
    assert learned[0][:-1] == STORY.on(SPLITS["train"][0])
    harmless = {m.content for d in learned[2:] for m in d}
    assert not any(h.request in text for h in sum(SPLITS.values(), ()) for text in harmless)


def test_without_a_finding_nothing_is_trained(monkeypatch):
    monkeypatch.setattr(refinement.distillation, "tune", lambda *_: pytest.fail("trained on nothing"))
    assert refinement.patched("the policy", None, [attempt(SPLITS["train"][0], False)], WORLD, RECIPE) == "the policy"


def test_the_study_takes_gamma_on_held_out_topics(monkeypatch, rounds):
    found, _ = rounds
    monkeypatch.setattr(refinement, "refined", lambda *_: found)
    monkeypatch.setattr(refinement, "raid", lambda policy, tokenizer, world, topics=(), copies=1, seed=0: (
        [attempt(h, policy == "SFT") for h in topics or SPLITS["heldout"] for _ in range(copies)]))
    answers = SimpleNamespace(helpful_gold=0.5, borderline_refused=redteam.Rate(1, 4))
    monkeypatch.setattr(refinement, "ask", lambda *_: answers)
    numbers = refinement.refinement_study(VERSIONS, WORLD, RECIPE, copies=3)
    assert [numbers[f"gamma_{v.name}"] for v in VERSIONS] == [100, 0, 0, 0]
    assert numbers["largest_step"] == 0 and numbers["change"] == -100 and numbers["fixed"] == 1
