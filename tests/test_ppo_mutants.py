"""PPO's tests, tested: each fault of the field is put into the code, and a test must fail.

A mutant is the source of stages/ppo.py with one text replaced; pytest runs the tests that should notice on it. A fault whose
text is no longer found fails here too, so that the list keeps up with the code.
"""
import inspect
import sys
import types

import pytest

from llama2_lib.stages import ppo

MUTANTS = {      # fault: (text, what stands there instead, tests that should notice)
    "the price of KL is a bonus": ("-beta * (logprobs_BT", "beta * (logprobs_BT", "kl_of_the_reward"),
    "the score stands on every token":
        ("torch.where(last_token(mask_BT), score_B", "torch.where(mask_BT, score_B", "score_stands"),
    "advantages run over padding":
        ("(torch.where(mask_BT, x, 0.0) for x in (rewards_BT, values_BT))",
         "(rewards_BT, values_BT)", "gae_equals or prompts_before"),
    "the next value is not discounted": ("gamma * next_value_B", "next_value_B", "gae_equals"),
    "the clip holds on the wrong side":
        ("torch.maximum(free_BT, held_BT)", "torch.minimum(free_BT, held_BT)", "policy_loss_by_hand"),
    "the loss is a mean of means": ("held_BT), mask_BT), {", "held_BT), mask_BT, 1).mean(), {", "means_over_all"),
    "old log-probabilities get a gradient": ("old_logprobs_BT.detach()", "old_logprobs_BT", "old_quantities"),
    "the value loss is twice too large": ("return 0.5 * masked_mean", "return masked_mean", "value_loss_by_hand"),
    "the value loss takes the smaller error": ("torch.maximum((values_BT", "torch.minimum((values_BT", "value_loss_by_hand"),
    "the threshold is turned round": ("UNSAFE_BELOW = 0.15", "UNSAFE_BELOW = 0.85", "safety_score_rules"),
    "the policy forgets the temperature": ("h_ND).float() / temperature", "h_ND).float()", "sampler_s_log"),
    "the reference forgets the temperature": (".float() / config.temperature", ".float()", "starts_as_its_own"),
    "the reference drifts with the policy": ("copy.deepcopy(policy).eval().requires_grad_(False)", "policy", "kl_grows"),
    "whitening counts padding": ("whiten(advantages_BT, mask_BT)", "whiten(advantages_BT)", "advantages_are_whitened"),
    "a cut reply counts as finished":
        ("torch.where(finished_B, whiten(score_B), UNFINISHED)", "whiten(score_B)", "unfinished"),
    "labels are off by one": (".flatten()[at_N + 1]", ".flatten()[at_N]", "log_probabilities_stand"),
    "the value head starts at random": ("std=0.0", "std=1.0", "value_head_starts"),
    "the last policy is kept, not the best": ("policy.load_state_dict(best[2])", "pass", "keeps_the_best"),
}


class Instead:
    """A pytest plugin: the tests that are collected see `module` under the name ppo."""

    def __init__(self, module):
        self.module, self.seen = module, set()

    def pytest_collection_modifyitems(self, items):
        for item in items:
            item.module.ppo = self.module
            self.seen.add(item.module)


def mutant(find, replacement):
    source = inspect.getsource(ppo)
    assert source.count(find) == 1, f"{find!r} stands {source.count(find)} times in stages/ppo.py"
    module = types.ModuleType("llama2_lib.stages.ppo_mutant")
    sys.modules[module.__name__] = module
    exec(compile(source.replace(find, replacement), ppo.__file__, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("fault", MUTANTS)
def test_a_test_notices(fault, capsys):
    find, replacement, names = MUTANTS[fault]
    plugin = Instead(mutant(find, replacement))
    try:
        outcome = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", names, "tests/test_ppo.py",
                               "tests/test_ppo_loop.py"], plugins=[plugin])
    finally:
        for tests in plugin.seen:
            tests.ppo = ppo
    assert outcome == pytest.ExitCode.TESTS_FAILED, capsys.readouterr().out[-800:]
