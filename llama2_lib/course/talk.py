"""A chat with a model, in a notebook: a line to write on, the reply as it comes, a temperature, a system message that holds.

Left out: editing what was said, several chats side by side.
"""
from __future__ import annotations

import html

import ipywidgets as w

from llama2_lib.model.generation import stream
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.chat import Message, render
from llama2_lib.text.tokenizer import Tokenizer


class Chat(w.VBox):
    """A dialogue with `model`; `say(text)` is a click on the button and returns the reply.

    When the dialogue no longer fits into the context, its oldest exchanges are forgotten.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer, system: str = "", temperature: float = 0.7,
                 max_new_tokens: int = 96, opening: str = "") -> None:
        self.model, self.tokenizer, self.max_new_tokens = model.eval(), tokenizer, max_new_tokens
        self.messages: list[Message] = []
        self.page = w.HTML()
        self.line = w.Text(value=opening, placeholder="say something", layout=w.Layout(width="60%"))
        self.system = w.Text(value=system, placeholder="a system message, if you like", layout=w.Layout(width="60%"))
        self.temperature = w.FloatSlider(min=0, max=1.5, step=0.1, value=temperature, description="temperature")
        send, again = w.Button(description="send"), w.Button(description="start again")
        send.on_click(lambda _: self.say(self.line.value))
        again.on_click(lambda _: self.forget())
        super().__init__([self.page, w.HBox([self.line, send, again]), self.system, self.temperature])
        self._show()

    def say(self, text: str) -> str:
        """Put `text` to the model and show its reply token by token; an empty text says nothing and gets "" back."""
        if not text.strip():
            return ""
        self.messages.append(Message("user", text.strip()))
        ids, written = self._fitting(), []
        for token in stream(self.model, ids, max_new_tokens=self.max_new_tokens, temperature=self.temperature.value,
                            eos_id=self.tokenizer.eos_id, seed=len(self.messages)):
            written.append(token)
            self._show(self.tokenizer.decode(written))
        reply = self.tokenizer.decode(written).strip()
        if reply:
            self.messages.append(Message("assistant", reply))
        else:
            self.messages.pop()
        self.line.value = ""
        self._show(note="" if reply else "(The model ended its turn without a word.)")
        return reply

    def forget(self) -> None:
        """Begin a new dialogue."""
        self.messages = []
        self._show()

    def _fitting(self) -> list[int]:
        """The dialogue as ids, its oldest exchanges dropped until a reply fits behind it."""
        first = (Message("system", self.system.value.strip()),) if self.system.value.strip() else ()
        room = self.model.config.max_seq_len - min(self.max_new_tokens, self.model.config.max_seq_len // 2)
        while True:
            ids = render((*first, *self.messages), self.tokenizer)[0]
            if len(ids) <= room or len(self.messages) == 1:
                return ids
            del self.messages[:2]

    def _show(self, unfinished: str = "", note: str = "") -> None:
        said = [(m.role, m.content) for m in self.messages] + ([("assistant", unfinished)] if unfinished else [])
        names = {"user": "you", "assistant": "model"}
        lines = [f"<b>{names[role]}</b>: {html.escape(text)}" for role, text in said]
        self.page.value = "<br>".join([*lines, *([html.escape(note)] if note else [])]) or "<i>nothing said yet</i>"

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        bundle = super()._repr_mimebundle_(**kwargs)
        text = "\n".join(f"{m.role}: {m.content}" for m in self.messages) or "a chat: write a line and send it"
        return bundle | {"text/plain": text}, {}
