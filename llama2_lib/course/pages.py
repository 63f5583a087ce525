"""Executed notebooks as pages, and the index that leads to them: build/course/index.html.

The pages hold their pictures; nothing is fetched from elsewhere but the fonts of formulas (MathJax), without which a formula
shows as its TeX source.
"""
from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from nbformat import NotebookNode

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .4rem .6rem; vertical-align: top;
border-bottom: 1px solid #8886; } td.number, th.number { text-align: right; white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1rem; }
figure { margin: 0; } img { max-width: 100%; background: white; } .failed { color: #c22; font-weight: bold; }
"""


def write_page(nb: NotebookNode, path: Path) -> None:
    """One executed notebook as HTML, pictures inside, alt text kept."""
    from nbconvert import HTMLExporter
    text, _ = HTMLExporter(template_name="lab").from_notebook_node(nb, {"metadata": {"name": path.stem}})
    path.write_text(text, encoding="utf-8")


def _row(result) -> str:
    name, title = html.escape(result.name), html.escape(result.title or result.name)
    verdict = f'<span class="failed">failed at cell {html.escape(result.failed_cell)}</span>' if result.error else "ran"
    return (f'<tr><td><a href="{name}.html">{title}</a><br>{html.escape(result.claim)}</td>'
            f'<td class="number">{result.seconds:.0f} s</td><td class="number">{result.checks} ✓</td>'
            f"<td>{verdict}</td></tr>")


def write_index(results: Sequence, folder: Path, preset: str, seed: int) -> Path:
    """The index page: every notebook with its claim, time and checks, then every named figure of this run."""
    rows = "\n".join(_row(r) for r in results)
    figures = "\n".join(
        f'<figure><a href="figures/{p.name}"><img src="figures/{p.name}" alt="{html.escape(p.stem.replace("_", " "))}"></a>'
        f"<figcaption>{html.escape(p.stem)}</figcaption></figure>" for p in sorted((folder / "figures").glob("*.png")))
    page = folder / "index.html"
    page.write_text(f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>The Llama 2 course</title><style>{STYLE}</style></head><body>
<h1>The Llama 2 course</h1>
<p>Preset <code>{html.escape(preset)}</code>, seed {seed}: {len(results)} notebooks, {sum(r.checks for r in results)} checks,
{sum(r.seconds for r in results):.0f} seconds.</p>
<table><thead><tr><th>notebook</th><th class="number">time</th><th class="number">checks</th><th>result</th></tr></thead>
<tbody>
{rows}
</tbody></table>
<h2>Figures of this run</h2>
<div class="figures">
{figures}
</div>
</body></html>
""", encoding="utf-8")
    return page
