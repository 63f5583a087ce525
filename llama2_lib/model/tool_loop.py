"""A chat model that uses tools: generate, run the call, give the result back, go on (section 5.1, Figure 23).

    while the reply is a call and calls are left:   reply ← model(dialogue + call + result)

All dialogues go on together, a batch a round; those with an answer leave. A call that cannot be met comes back as an error
that the model sees. The paper is silent on limits; here a model that has used up its calls is left with its last call as
its reply. Left out: several calls in one reply, calls in the middle of a sentence.
"""
from __future__ import annotations

from collections.abc import Sequence

from llama2_lib.config import require
from llama2_lib.model.replies import sample
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.chat import Dialog, Message
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.text.tools import Tools, answer_call, read_call

MAX_CALLS = 3          # of one answer
CALL_TOKENS = 64       # room for a reply or a call


def converse(model: Transformer, tokenizer: Tokenizer, dialogues: Sequence[Dialog], tools: Tools,
             max_calls: int = MAX_CALLS, temperature: float = 0.0, seed: int = 0,
             max_new_tokens: int = CALL_TOKENS) -> list[tuple[Message, ...]]:
    """Each dialogue with what the model said, every call with its result, up to the reply that is no call.

    An empty reply is left out: that dialogue then ends as it began. max_calls 0 gives the first reply as it is. Raises
    ValueError for a negative limit, a dialogue that does not wait for a reply or leaves no room for one.
    """
    require(max_calls >= 0, f"the number of calls must not be negative, got {max_calls}")
    whole = [tuple(d) for d in dialogues]
    waiting = list(range(len(whole)))
    for round_ in range(max_calls + 1):
        if not waiting:
            break
        said = sample(model, tokenizer, [whole[i] for i in waiting], temperature, seed + round_, max_new_tokens)
        going_on = []
        for i, reply in zip(waiting, said, strict=True):
            if not reply.text:
                continue
            whole[i] += (Message("assistant", reply.text),)
            call = read_call(reply.text)
            if call is not None and round_ < max_calls:
                whole[i] += (Message("user", answer_call(call, tools)),)
                going_on.append(i)
        waiting = going_on
    return whole


def final(dialogue: Dialog) -> str:
    """What the model said last, or "" if it said nothing."""
    return dialogue[-1].content if dialogue and dialogue[-1].role == "assistant" else ""
