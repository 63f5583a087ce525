"""What notebook 02 leans on: its pictures, and the small work on pages that would only be in the way there.

Paper: sections 2.1, 2.2 and 4.1, Table 10.
"""
from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import sentencepiece
from matplotlib.figure import Figure

from llama2_lib.config import ModelConfig
from llama2_lib.course import plots
from llama2_lib.text.cleaning import Score
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training.accounting import parameter_count
from llama2_lib.world.web import Page

STATIONS = (("pages", ""), ("language", "sort"), ("personal\ndata", "cut out"), ("furniture", "cut out"),
            ("noise", "drop"), ("copies", "drop"), ("insults,\nbenchmark", "report"), ("mixture", "repeat"))
PAPER_LANGUAGES = {"en": 89.70, "unknown": 8.38, "de": 0.17, "fr": 0.16}      # Table 10, percent of documents


def draw_pipeline() -> Figure:
    """The stations of the pipeline from left to right, and what each does to a page."""
    fig, ax = plots.figure(height=1.5)
    ax.axis("off")
    ax.set(xlim=(-0.6, len(STATIONS) - 0.4), ylim=(0, 2))
    for i, (name, does) in enumerate(STATIONS):
        box = {"boxstyle": "round", "fc": plots.PALE, "ec": plots.NAVY if does != "report" else plots.VERMILION}
        ax.text(i, 1.35, name, ha="center", va="center", fontsize=8.5, bbox=box)
        ax.text(i, 0.4, does or "as crawled", ha="center", va="center", fontsize=8.5, color=plots.GREY)
        if i:
            ax.annotate("", (i - 0.42, 1.35), (i - 0.58, 1.35), arrowprops={"arrowstyle": "->", "color": plots.GREY})
    return fig


def draw_minhash(honest: Sequence[tuple[float, float]], copies: Sequence[tuple[float, float]]) -> Figure:
    """(true, estimated) Jaccard similarity of pairs of pages, honest ones and copies, around the diagonal."""
    fig, ax = plots.figure(height=2.9, width=4.2)
    ax.plot([0, 1], [0, 1], color=plots.GREY, lw=1, ls="-")
    kinds = ((honest, "honest pairs", "o", plots.SKY), (copies, "near copies", "s", plots.VERMILION))
    for pairs, name, marker, colour in kinds:
        ax.plot(*np.array(pairs).T, marker=marker, ls="", ms=3.5, color=colour, label=name)
    ax.set(xlabel="Jaccard similarity", ylabel="share of equal minima", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.legend(loc="upper left")
    return fig


def draw_lsh(bands: int, rows: int, honest: Sequence[float], copies: Sequence[float]) -> Figure:
    """Chance that LSH proposes a pair, by its similarity, above the similarities that honest pairs and copies have."""
    fig, ax = plots.figure(height=2.8)
    s = np.linspace(0, 1, 200)
    ax.plot(s, 1 - (1 - s**rows) ** bands, label=f"proposed: 1 − (1 − s^{rows})^{bands}")
    edges = np.linspace(0, 1, 41)
    for values, name, colour in ((honest, "honest pairs", plots.SKY), (copies, "near copies", plots.VERMILION)):
        heights, _ = np.histogram(values, edges)
        ax.bar(edges[:-1], heights / heights.max() * 0.5, width=0.025, align="edge", color=colour, alpha=0.7, label=name)
    ax.axvline(0.5, color=plots.GREY, ls=":")
    ax.set(title=f"{bands} bands of {rows} rows: {bands * rows} hashes a page", xlabel="similarity s", ylim=(0, 1.05))
    ax.legend(loc="center right")
    return fig


def draw_losses(stages: Mapping[str, int]) -> Figure:
    """Pages left after each step, as bars from top to bottom."""
    fig, ax = plots.figure(height=1.9)
    names, left = list(stages), list(stages.values())
    ax.barh(names[::-1], left[::-1], color=plots.NAVY)
    for i, value in enumerate(left[::-1]):
        ax.text(value, i, f" {value:,}", va="center", fontsize=9)
    ax.set(xlabel="pages left", xlim=(0, max(left) * 1.12))
    ax.grid(False)
    return fig


def draw_mixture(before: Mapping[str, float], after: Mapping[str, float]) -> Figure:
    """Share of the tokens that each source has in the clean corpus and in what is trained on."""
    fig, ax = plots.figure(height=2.5)
    x = np.arange(len(before))
    ax.bar(x - 0.2, list(before.values()), 0.38, label="clean corpus", color=plots.SKY)
    ax.bar(x + 0.2, [after[s] for s in before], 0.38, label="mixture", color=plots.NAVY)
    ax.set_xticks(x, list(before))
    ax.set(ylabel="share of tokens")
    ax.legend()
    return fig


SENTENCE = "A story about a clever little fox and 38 bells."


def characters_a_token(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Mean characters a token over all texts."""
    return sum(map(len, texts)) / sum(map(len, tokenizer.encode_batch(texts)))


def embedding_share(model: ModelConfig, size: int) -> float:
    """Share of a model's parameters that sit in input and output embeddings if its vocabulary had `size` pieces."""
    return 2 * size * model.dim / parameter_count(replace(model, vocab_size=size))


def draw_vocabulary(size: int, texts: Sequence[str], vocabularies: Mapping[int, Tokenizer], model: ModelConfig) -> Figure:
    """Left: characters a token by vocabulary. Right: share of the parameters in embeddings. Below: one sentence."""
    fig, (left, right) = plots.figure(1, 2, height=2.9)
    sizes = list(vocabularies)
    characters = [characters_a_token(t, texts[:300]) for t in vocabularies.values()]
    shares = [embedding_share(model, n) for n in sizes]
    for ax, values, title in ((left, characters, "characters a token"), (right, shares, "share of all parameters")):
        ax.plot(sizes, values, marker="o")
        ax.plot([size], [values[sizes.index(size)]], marker="o", ms=11, mfc="none", color=plots.VERMILION, ls="")
        ax.set(title=title, xlabel="pieces in the vocabulary", xscale="log")
        ax.set_xticks(sizes, [str(s) for s in sizes], fontsize=8)
        ax.minorticks_off()
    pieces = vocabularies[size].pieces(SENTENCE)
    text = " ".join(p.replace("▁", "·") for p in pieces)
    fig.supxlabel(f"{len(pieces)} pieces:  {text}", fontsize=9, family="monospace")
    return fig


def draw_languages(ours: Mapping[str, float]) -> Figure:
    """Percent of documents by identified language, ours and the paper's Table 10, on a logarithmic axis."""
    fig, ax = plots.figure(height=2.6)
    x = np.arange(len(PAPER_LANGUAGES))
    both = ((-0.2, PAPER_LANGUAGES, "Llama 2, Table 10", plots.SKY), (0.2, ours, "ours", plots.NAVY))
    for shift, values, name, colour in both:
        heights = [values.get(language, 0.0) for language in PAPER_LANGUAGES]
        for bar in ax.bar(x + shift, heights, 0.38, label=name, color=colour):
            ax.text(bar.get_x() + 0.19, bar.get_height() * 1.1, f"{bar.get_height():.2f}", ha="center", fontsize=8)
    ax.set_xticks(x, list(PAPER_LANGUAGES))
    ax.set(yscale="log", ylabel="percent of documents", ylim=(0.05, 300))
    ax.legend()
    return fig


# ------------------------------------------------------------------------------------------------ small work on pages

FAULTS = {"personal data": "pii", "furniture": "boilerplate", "insult": "toxic", "noise": "gibberish",
          "benchmark text": "contaminated", "exact copy": "duplicate_of", "near copy": "near_duplicate_of"}


def has(page: Page, field: str) -> bool:
    """Whether the fault was planted in the page; page number 0 may be copied, so `duplicate_of` 0 counts."""
    return getattr(page, field) not in ((), False, None)


def glimpse(page: Page, field: str, width: int = 100) -> str:
    """A line of the page, around the first planted piece where there is one."""
    planted = getattr(page, field)
    pieces = [piece for piece in planted if isinstance(piece, str)] if isinstance(planted, tuple) else []
    start = max(0, page.text.find(pieces[0]) - width // 3) if pieces else 0
    return page.text[start:start + width].replace("\n", " ⏎ ")


def marks(pages: Iterable[Page], find: Callable[[str], list[str]], planted: Callable[[Page], Sequence[str]]) -> Score:
    """How well find(text) gives the pieces planted(page), counted piece by piece."""
    score = Score()
    for page in pages:
        found, truth = Counter(find(page.text)), Counter(planted(page))
        score.hits += (found & truth).total()
        score.misses += (truth - found).total()
        score.false_alarms += (found - truth).total()
    return score


def page_pairs(pages: Sequence[Page]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(near copies with their originals, pairs of honest English pages of one source), as texts."""
    copies = [(p.text, pages[p.near_duplicate_of].text) for p in pages if p.near_duplicate_of is not None]
    honest: list[tuple[str, str]] = []
    for source in sorted({p.source for p in pages}):
        texts = [p.text for p in pages if p.source == source and p.language == "en" and not (p.marked or p.gibberish)
                 and p.duplicate_of is None and p.near_duplicate_of is None]
        honest += list(zip(texts[::2], texts[1::2], strict=False))[:50]
    return copies, honest


def pages_left(statistics: Mapping) -> dict[str, int]:
    """Pages left after each filter that drops pages, from the statistics of a corpus."""
    counts = statistics["counts"]
    left = {"crawled": counts["pages"]}
    for step in ("empty", "gibberish", "exact_duplicates", "near_duplicates"):
        left[f"without {step.replace('_', ' ')}"] = list(left.values())[-1] - counts.get(step, 0)
    return left


def train_pieces(texts: Iterable[str], vocab_size: int, split_digits: bool) -> sentencepiece.SentencePieceProcessor:
    """A SentencePiece BPE model with digits split or not; the library's tokenizer always splits them."""
    lines, model = (line for text in texts for line in text.split("\n") if line.strip()), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=vocab_size, model_type="bpe", split_digits=split_digits,
        byte_fallback=True, num_threads=1, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
