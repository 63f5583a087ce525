"""Write the README's gallery and table of claims from data/claims.json: the end of `make claims`. --check only compares."""
from __future__ import annotations

import sys
from statistics import fmean

from llama2_lib.course import ROOT, studies  # noqa: F401  (fills STUDIES)
from llama2_lib.course.claims import STUDIES, measured, number, read_ledger

BY = "written by scripts/render_claims.py from data/claims.json"
# (figure, claim, place, what the paper shows, what five seeds show: their means by name). ≈: read off a plot.
GALLERY = (
    ("fig05_training_loss", "C05", "Figure 5",
     "after two trillion tokens ≈ 1.74, 1.67, 1.57 and 1.50 nats for 7B, 13B, 34B and 70B",
     "{v[loss_0.16M]:.2f}, {v[loss_0.36M]:.2f}, {v[loss_0.73M]:.2f} and {v[loss_1.26M]:.2f} nats for 0.16M to 1.26M"),
    ("table08_accuracy_by_grade", "C08", "Table 8",
     "helpfulness reward right on .807, .675, .609 and .547 of the pairs, from significantly to negligibly better",
     "{v[significantly]:.3f}, {v[better]:.3f}, {v[slightly]:.3f} and {v[negligibly]:.3f}"),
    ("fig07_best_of_k", "C14", "Figure 7",
     "the best reward of N replies rises from ≈ .54 to ≈ .67 by N = 20; the median stays",
     "from {v[reward_1]:.2f} to {v[reward_16]:.2f} by 16 and {v[reward_64]:.2f} by 64; the gold of the best from "
     "{v[gold_1]:.2f} to {v[gold_16]:.2f} and {v[gold_64]:.2f}"),
    ("fig11_versions", "C18", "Figure 11",
     "won against ChatGPT, by the paper's own reward: helpful ≈ .61 (V1) to .78 (V5), harmless ≈ .48 to .76",
     "gold: helpful {v[helpful_V1]:.2f} (SFT {v[helpful_SFT]:.2f}) to {v[helpful_V5]:.2f}, harmless {v[safe_V1]:.2f} "
     "(SFT {v[safe_SFT]:.2f}) to {v[safe_V5]:.2f}"),
    ("fig20_scores", "C28", "Figure 20",
     "the low tail of the scores vanishes from fine-tuning to RLHF",
     "below 0.2 lie {v[below_SFT]:.3f} of the replies of SFT, {v[below_V1]:.3f} of V1's, {v[below_V5]:.3f} of V5's"),
    ("table30_recall", "C20", "Table 30",
     "rule kept at turns 2, 4, 6 and 20: 1, .1, 0 and 0; with Ghost Attention 1 throughout",
     "at turns 2, 4 and 6: {v[before_2]:.2f}, {v[before_4]:.2f} and {v[before_6]:.2f}; with Ghost Attention "
     "{v[gatt_2]:.2f}, {v[gatt_4]:.2f} and {v[gatt_6]:.2f}, and {v[gatt_beyond_10]:.2f} beyond turn 10"),
    ("fig15_data_scaling", "C25", "Figure 15",
     "with all safety data for none the mean safety score rises from ≈ .68 to ≈ .77, helpfulness stays at ≈ .58",
     "the safety score rises from {v[safety_0]:.2f} to {v[safety_1]:.2f}; gold on helpful prompts {v[helpful_0]:.2f} and "
     "{v[helpful_1]:.2f}"),
    ("fig21_self_bleu", "C29", "Figure 21",
     "Self-BLEU at T = 1.4, SFT and V3: factual ≈ .77 and .93, creative ≈ .755 and .85",
     "SFT and V5: factual {v[factual_SFT_1.4]:.2f} and {v[factual_V5_1.4]:.2f}, creative {v[creative_SFT_1.4]:.2f} and "
     "{v[creative_V5_1.4]:.2f}"),
)


def criterion_words(c: dict) -> str:
    if c["side"] == "exactly":
        return f"{number(c['mean'])} {c['words']}".strip()
    return f"{c['words'] or c['metric']}: {measured(c)}"


def link(notebook: str) -> str:
    """The notebook's number, linked once the notebook exists."""
    digits = notebook[:2]
    return f"[{digits}](notebooks/{notebook}.ipynb)" if (ROOT / "notebooks" / f"{notebook}.ipynb").exists() else digits


def line(claim: str, recorded: dict | None) -> str:
    """One row of the table: a claim with a record, or one whose study has not been run whole."""
    s = STUDIES[claim]
    head = f"| {claim} | {s.place} | {s.sentence} |"
    if recorded is None:
        return f"{head} – | – | no record yet | {link(s.notebook)} |"
    found = "<br>".join(criterion_words(c) for c in recorded["criteria"])
    seeds = str(len(recorded["seeds"])) if len(recorded["seeds"]) > 1 else "–"
    return (f"{head} {found} | {seeds} | **{recorded['verdict']}** | "
            f"{link(s.notebook)} |")


def claims_table() -> str:
    """One row a claim."""
    ledger = read_ledger()
    rows = [line(claim, ledger.get(claim)) for claim in sorted(STUDIES)]
    return "\n".join(["| | paper | claim | measured: mean (95% interval) | seeds | verdict | notebook |",
                      "|---|---|---|---|---|---|---|", *rows])


def gallery() -> str:
    """Two pictures a row, each with what the paper shows and what was measured."""
    cells = []
    for figure, claim, place, paper, here in GALLERY:
        values = {name: fmean(seeds) for name, seeds in read_ledger()[claim]["values"].items()}
        cells.append(f"![{place} in small](figures/{figure}.png)<br>**{place}** ({claim}, notebook "
                     f"{link(STUDIES[claim].notebook)})<br>*paper:* {paper}<br>*here:* {here.format(v=values)}")
    rows = [f"| {a} | {b} |" for a, b in zip(cells[::2], cells[1::2], strict=True)]
    return "\n".join(["| | |", "|---|---|", *rows])


BLOCKS = {"claims": claims_table, "gallery": gallery}


def filled(text: str) -> str:
    """The text with each block between its marks written anew. ValueError for a mark that is missing or there twice."""
    for name, write in BLOCKS.items():
        begin, end = f"<!-- {name}: {BY} -->", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"README.md must hold each mark once: {begin} and {end}")
        head, rest = text.split(begin)
        text = "\n".join([head + begin, write(), end + rest.split(end)[1]])
    return text


def main() -> int:
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    try:
        new = filled(text)
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 1
    if "--check" in sys.argv[1:]:
        if new != text:
            print("README.md's claims are not those of data/claims.json: run scripts/render_claims.py", file=sys.stderr)
        return int(new != text)
    path.write_text(new, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
