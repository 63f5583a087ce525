"""From crawled pages to training text: filters in order, each measured, and the mixture (sections 2.1 and 4.1).

    language → personal data → furniture lines → noise → exact copies → near copies → insults and benchmark text (reported)

`Cleaner` streams: it takes pages one by one and yields the documents it keeps. Where the pages carry the truth (those of
`world.web` do), each filter's hits and misses are counted, which no real corpus allows. The paper says that sites with
much personal data were left out, that factual sources were up-sampled, and that no other content was filtered; it gives
no filter, no threshold and no proportions, so those are ours, chosen as open pipelines since have done.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from llama2_lib.text.dedup import ExactDuplicates, NearDuplicates, shingles
from llama2_lib.text.language import LanguageModel, default_model
from llama2_lib.text.mixture import mixture_order
from llama2_lib.text.pii import Span, find_pii, remove_pii
from llama2_lib.text.quality import ToxicWords, is_gibberish, remove_boilerplate
from llama2_lib.text.reading import read_jsonl

__all__ = ["Benchmark", "Cleaner", "Document", "ExactDuplicates", "LanguageModel", "NearDuplicates", "Score", "ToxicWords",
           "find_pii", "is_gibberish", "mixture_order", "read_jsonl", "remove_boilerplate", "remove_pii"]


@dataclass(frozen=True)
class Document:
    """A page after cleaning. `source` is "languages" for a page that is not English, whatever the crawler called it."""
    text: str
    source: str
    language: str
    toxic: bool = False
    contaminated: bool = False


class Crawled(Protocol):
    """What a page needs to be cleaned; pages of `world.web` carry the truth besides."""
    text: str
    source: str


@dataclass
class Score:
    """Counts of one filter against the truth: found and planted, found but not planted, planted but not found."""
    hits: int = 0
    false_alarms: int = 0
    misses: int = 0

    def count(self, found: bool, true: bool) -> None:
        self.hits += found and true
        self.false_alarms += found and not true
        self.misses += true and not found

    @property
    def precision(self) -> float:
        """Share of what was found that was planted; 1 if nothing was found."""
        found = self.hits + self.false_alarms
        return self.hits / found if found else 1.0

    @property
    def recall(self) -> float:
        """Share of what was planted that was found; 1 if nothing was planted."""
        planted = self.hits + self.misses
        return self.hits / planted if planted else 1.0

    def as_dict(self) -> dict[str, float]:
        return asdict(self) | {"precision": self.precision, "recall": self.recall}


class Benchmark:
    """Recognises benchmark items in a page by runs of `words` words they share (GPT-3's rule; A.6 does it on tokens)."""

    def __init__(self, items: Iterable[str], words: int = 10) -> None:
        self._words = words
        self._items = {h for item in items for h in shingles(item, words).tolist()}

    def in_page(self, text: str) -> bool:
        """Whether any run of words of `text` occurs in an item."""
        return bool(self._items) and not self._items.isdisjoint(shingles(text, self._words).tolist())


FILTERS = ("language", "pii", "boilerplate", "gibberish", "exact_duplicates", "near_duplicates", "toxic", "contamination")


class Cleaner:
    """The filters in order. `without` names filters to leave out, to see what they were for.

    `counts` says what became of the pages; `scores` holds a Score a filter and stays at zero on pages without truth. PII
    and furniture are scored by piece and by line, the other filters by page.
    """

    def __init__(self, toxic_words: Iterable[str] = (), benchmark: Iterable[str] = (),
                 without: Sequence[str] = ()) -> None:
        unknown = set(without) - set(FILTERS)
        if unknown:
            raise ValueError(f"no filter is called {', '.join(sorted(unknown))}; there are {', '.join(FILTERS)}")
        self.without = frozenset(without)
        self.model = default_model()
        self.exact, self.near = ExactDuplicates(), NearDuplicates()
        toxic_words = list(toxic_words)
        self.toxic_words = ToxicWords(toxic_words) if toxic_words else None
        self.benchmark = Benchmark(benchmark)
        self.scores = {name: Score() for name in FILTERS}
        self.counts: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()

    def clean(self, pages: Iterable[Crawled]) -> Iterator[Document]:
        """The documents that are kept, in order. ValueError at the end if no page came or none was kept."""
        for page in pages:
            self.counts["pages"] += 1
            self.counts["characters read"] += len(page.text)
            document = self._document(page)
            if document is not None:
                self.counts["documents"] += 1
                self.counts["characters kept"] += len(document.text)
                yield document
        if not self.counts["documents"]:
            raise ValueError(f"cleaning kept none of {self.counts['pages']} pages: {dict(self.counts)}")

    def _document(self, page: Crawled) -> Document | None:
        language = self._language(page)
        text = self._pii(page)
        text = self._boilerplate(page, text)
        if not text.strip():
            self.counts["empty"] += 1
            return None
        drops = {"gibberish": self._gibberish, "exact_duplicates": self._exact, "near_duplicates": self._near}
        for name, found in drops.items():
            if name not in self.without and found(page, text):
                self.counts[name] += 1
                return None
        self.languages[language] += 1
        english = language in ("en", "unknown")
        return Document(text, page.source if english else "languages", language, self._toxic(page, text),
                        self._contaminated(page, text))

    def _language(self, page: Crawled) -> str:
        """The page's language; a crawl that is not sorted by language takes every page for English."""
        if "language" in self.without:
            return "en"
        language, _ = self.model.identify(page.text)
        if hasattr(page, "language") and not page.gibberish:
            self.scores["language"].count(language not in ("en", "unknown"), page.language != "en")
        return language

    def _pii(self, page: Crawled) -> str:
        if "pii" in self.without:
            return page.text
        spans = find_pii(page.text)
        self.counts["pii"] += len(spans)
        if hasattr(page, "pii"):
            score_spans(self.scores["pii"], page.text, spans, page.pii)
        return remove_pii(page.text, spans)

    def _boilerplate(self, page: Crawled, text: str) -> str:
        if "boilerplate" in self.without:
            return text
        text, lines = remove_boilerplate(text)
        self.counts["boilerplate"] += len(lines)
        if hasattr(page, "boilerplate") and not page.gibberish:
            score, planted = self.scores["boilerplate"], Counter(page.boilerplate)
            found = Counter(lines)
            score.hits += (found & planted).total()
            score.false_alarms += (found - planted).total()
            score.misses += (planted - found).total()
        return text

    def _gibberish(self, page: Crawled, text: str) -> bool:
        found = is_gibberish(text, self.model)
        if hasattr(page, "gibberish"):
            self.scores["gibberish"].count(found, page.gibberish)
        return found

    def _exact(self, page: Crawled, text: str) -> bool:
        found = self.exact.seen(text)
        if hasattr(page, "duplicate_of"):
            self.scores["exact_duplicates"].count(found, page.duplicate_of is not None)
        return found

    def _near(self, page: Crawled, text: str) -> bool:
        found = self.near.seen(text)
        if hasattr(page, "near_duplicate_of"):
            copy = page.near_duplicate_of is not None or page.duplicate_of is not None
            self.scores["near_duplicates"].count(found, copy)
        return found

    def _toxic(self, page: Crawled, text: str) -> bool:
        if self.toxic_words is None or "toxic" in self.without:
            return False
        found = bool(self.toxic_words.find(text))
        self.counts["toxic"] += found
        if hasattr(page, "toxic"):
            self.scores["toxic"].count(found, bool(page.toxic))
        return found

    def _contaminated(self, page: Crawled, text: str) -> bool:
        if "contamination" in self.without:
            return False
        found = self.benchmark.in_page(text)
        self.counts["contamination"] += found
        if hasattr(page, "contaminated"):
            self.scores["contamination"].count(found, bool(page.contaminated))
        return found


def score_spans(score: Score, text: str, spans: Sequence[Span], planted: Sequence[str]) -> None:
    """Count spans against planted pieces: a piece is found if a span covers it whole; a span touching none is false."""
    places, at = [], Counter()
    for piece in planted:
        start = text.index(piece, at[piece])
        at[piece] = start + 1
        places.append((start, start + len(piece)))
        score.count(found=any(s.start <= start and start + len(piece) <= s.end for s in spans), true=True)
    score.false_alarms += sum(not any(s.start < end and start < s.end for start, end in places) for s in spans)
