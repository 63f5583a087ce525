"""Write the README's table of claims from data/claims.json: `make claims` ends with it. --check only compares."""
from __future__ import annotations

import sys

from llama2_lib.course import ROOT, studies  # noqa: F401  (fills STUDIES)
from llama2_lib.course.claims import STUDIES, measured, number, read_ledger

BEGIN, END = "<!-- claims: written by scripts/render_claims.py from data/claims.json -->", "<!-- end of claims -->"


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
    found = "; ".join(criterion_words(c) for c in recorded["criteria"])
    seeds = str(len(recorded["seeds"])) if len(recorded["seeds"]) > 1 else "–"
    return (f"{head} {found} | {seeds} | **{recorded['verdict']}** | "
            f"{link(s.notebook)} |")


def rendered() -> str:
    """The whole table between its marks."""
    ledger = read_ledger()
    rows = [line(claim, ledger.get(claim)) for claim in sorted(STUDIES)]
    return "\n".join([BEGIN, "| | paper | claim | measured: mean (95% interval) | seeds | verdict | notebook |",
                      "|---|---|---|---|---|---|---|", *rows, END])


def main() -> int:
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        print(f"README.md must hold each mark once: {BEGIN} and {END}", file=sys.stderr)
        return 1
    head, rest = text.split(BEGIN)
    new = head + rendered() + rest.split(END)[1]
    if "--check" in sys.argv[1:]:
        if new != text:
            print("README.md's claims are not those of data/claims.json: run scripts/render_claims.py", file=sys.stderr)
        return int(new != text)
    path.write_text(new, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
