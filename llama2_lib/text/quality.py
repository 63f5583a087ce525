"""Pages and lines that are not worth reading: noise, site furniture, and insults, which are counted but kept (section 4.1).

The paper does no content filtering beyond this in pretraining: a base model that has seen toxic text can be taught to
recognise it, and filters silence the groups that are talked about. So `ToxicWords` reports, and whoever calls decides.
"""
from __future__ import annotations

import re
from collections.abc import Iterable

from llama2_lib.text.language import LanguageModel

FLUENCY_FLOOR = -11.75       # nats a trigram: prose lies near −9.8, lists of names near −11, letters at random near −12.2
ODD_SHARE, ODD_FLUENCY = 0.12, -10.0     # noise too: this many words made unlike words, if the rest is not prose either
WORDLIKE = re.compile(r"""(?x) (?<!\S) ["'(«„“]* (?: [^\W\d_]+ (?:['’-][^\W\d_]+)* [.,;:!?)"'»”…]*
                                                   | [\d.,:+=×*/%()-]+ [.,;:!?]? ) (?!\S)""")
MIXED_CASE = re.compile(r"[a-zß-ÿ][A-ZÀ-Þ]")

# What a line of site furniture says, whatever it is about, anywhere in it or at its start. Case is ignored.
CUES = re.compile(r"""(?ix)
    \bcookies?\b .* \b(accept|consent|agree|settings|policy|preferences|we\ use|uses|decline|this\ site|improve)\b
  | \b(accept|manage|reject|allow|uses?)\b .* \bcookies\b
  | \b(click|tap)\ (here|below|on\ the\ (link|button)|to\ (continue|expand|enlarge|subscribe))\b
  | \ball\ rights\ reserved\b | \b(terms\ of\ (use|service)|privacy\ (policy|notice))\b
  | \b(newsletter|javascript|rss|webmaster)\b | \byour\ browser\b | \bad\ ?blocker\b
  | \b(read|see|show|load)\ more(\ \w+)?\s*(»|>+|\.{3}|…|→)?\s*$
""")
HINT_OF_CUE = re.compile(r"cookie|click|tap |rights|terms|privacy|newsletter|script|rss|webmaster|browser|blocker| more",
                         re.IGNORECASE)
STARTS = re.compile(r"""(?ix) \s* (?:
    (©|\(c\)|copyright)\s?(\(c\)\s)?\d{4}
  | (skip\ to|back\ to\ (the\ )?(top|home|list|overview)|jump\ to|go\ to\ top)\b
  | (advertisement|sponsored|promoted|loading|you\ are\ here)\b
  | (share\ (this|on)|tweet\ this|print\ this|follow\ us|like\ us)\b
  | (log\ ?in|sign\ (in|up)|register|subscribe|unsubscribe|create\ (an|your)\ account)\b.{0,60}$
  | (previous|next|older|newer)\b.{0,30}(previous|next|older|newer|page|post)
  | \d+\ (comments?|replies|shares|likes|views)\b | page\ \d+\ of\ \d+ | leave\ a\ (comment|reply)
  | (last\ (updated|modified)|posted\ (by|on|in)|filed\ under|tags?:|related\ (posts|articles|pages):?)
)""")
MENU_MARKS = re.compile(r"\s[|·•>»/–]\s|\s::\s")


def is_boilerplate(line: str) -> bool:
    """Whether a line is site furniture: one of the cues, or a menu, that is three short entries or more between marks."""
    if STARTS.match(line) or (HINT_OF_CUE.search(line) and CUES.search(line)):
        return True
    entries = MENU_MARKS.split(line)
    return len(entries) >= 3 and all(len(e.split()) <= 4 for e in entries) and "=" not in line


def remove_boilerplate(text: str) -> tuple[str, list[str]]:
    """`text` without its lines of site furniture, and those lines."""
    kept, removed = [], []
    for line in text.split("\n"):
        (removed if line.strip() and is_boilerplate(line) else kept).append(line)
    return ("\n".join(kept).strip("\n") if removed else text), removed


def odd_share(text: str) -> float:
    """Share of the words that are not made like words: symbols or stops within, a capital after a small letter."""
    words = len(text.split())
    return (words - len(WORDLIKE.findall(text)) + len(MIXED_CASE.findall(text))) / words if words else 0.0


def is_gibberish(text: str, model: LanguageModel) -> bool:
    """Whether a page is noise: most words are odd, its letters follow no language, or some of both.

    A page in a language that `model` does not know counts as noise; a page without letters does not.
    """
    odd = odd_share(text)
    if odd > 0.5:
        return True
    fluency = model.fluency(text)
    return fluency != float("-inf") and (fluency < FLUENCY_FLOOR or (odd > ODD_SHARE and fluency < ODD_FLUENCY))


class ToxicWords:
    """Finds the words of a list, also in capitals, with an ending, or with a letter starred out or doubled."""

    def __init__(self, words: Iterable[str]) -> None:
        stems = sorted(set(words))
        if not stems:
            raise ValueError("the list of toxic words is empty")
        loose = "|".join(map(self._loose, stems))
        self._pattern = re.compile(rf"\b(?:{loose})(?:s|es|ed|ing|ish|y|head)?(?!\w)", re.IGNORECASE)

    @staticmethod
    def _loose(stem: str) -> str:
        """A pattern for `stem`: the first letter as it is, every other possibly doubled, starred, or after a hyphen."""
        first, *rest = stem
        return re.escape(first) + "".join(rf"-?(?:{re.escape(c)}+|[*@#$])" for c in rest)

    def find(self, text: str) -> list[str]:
        """The toxic words of `text` as they are written there."""
        return [m.group() for m in self._pattern.finditer(text)]
