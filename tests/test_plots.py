import io
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from PIL import Image

from llama2_lib.course import plots


def lightness(colour):
    """CIE L* of an sRGB colour, 0 black … 100 white."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(colour)]
    y = float(np.dot([0.2126, 0.7152, 0.0722], linear))
    return 116 * y ** (1 / 3) - 16 if y > 216 / 24389 else 903.3 * y


def test_the_colours_differ_in_grey():
    gaps = [abs(lightness(a) - lightness(b)) for a, b in combinations(plots.COLOURS, 2)]
    assert min(gaps) >= 8, "two colours of the house style look alike on a grey printer"
    assert max(map(lightness, plots.COLOURS)) <= 82, "a colour is too pale on white"
    assert len(set(map(str, plots.LINES))) == len(plots.COLOURS) == len(set(plots.MARKERS))


def line_figure():
    fig, ax = plots.figure(height=1.5)
    ax.plot([0, 1, 4])
    return fig


def test_the_same_drawing_gives_the_same_bytes_without_date_or_version():
    data = plots.png_bytes(line_figure())
    assert data == plots.png_bytes(line_figure())
    assert not Image.open(io.BytesIO(data)).info.keys() & {"Software", "Creation Time", "date"}
    assert b"atplotlib" not in data


def test_show_displays_one_png_with_alt_text_and_writes_the_named_file(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setenv("LLAMA2_FIGURES", str(tmp_path / "made"))
    monkeypatch.setattr("IPython.display.display", lambda data, **kw: shown.append((data, kw)))
    fig = line_figure()
    plots.show(fig, name="fig05_loss", alt="loss falls with tokens")
    ((data, kw),) = shown
    assert data["text/plain"] == "loss falls with tokens" == kw["metadata"]["image/png"]["alt"]
    assert (tmp_path / "made" / "fig05_loss.png").read_bytes() == data["image/png"]
    assert not matplotlib.pyplot.fignum_exists(fig.number), "show must close the figure"


@pytest.mark.parametrize("kwargs, message", [
    ({"alt": ""}, "alt text"), ({"alt": "a plot"}, "alt text"),
    ({"alt": "loss falls with tokens", "name": "../up"}, "plain file name"),
    ({"alt": "loss falls with tokens", "name": "fig.png"}, "plain file name")])
def test_show_refuses_missing_alt_text_and_odd_names(kwargs, message):
    with pytest.raises(ValueError, match=message):
        plots.show(line_figure(), **kwargs)


def test_curves_draw_the_mean_and_the_span():
    fig, ax = plots.figure()
    plots.curves(ax, [0, 1, 2], [[0, 1, 2], [2, 3, 4]], "runs")
    assert ax.lines[0].get_ydata().tolist() == [1, 2, 3]
    box = ax.collections[0].get_paths()[0].get_extents()
    assert (box.y0, box.y1) == (0, 4)
    plots.plt.close(fig)


def test_heat_writes_each_number_into_its_cell():
    fig, ax = plots.figure()
    plots.heat(ax, [[0.125, 1.0]], rows=["a"], cols=["x", "a long name"], numbers=".2f")
    assert [t.get_text() for t in ax.texts] == ["0.12", "1.00"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x", "a long name"]
    plots.plt.close(fig)


def test_tokens_show_every_piece_and_underline_weight_one():
    fig = plots.tokens(["<s>", "▁Paris", "\n", "</s>"], [0, 1, 0.5, 1])
    texts = [t.get_text() for t in fig.axes[0].texts]
    assert texts[:4] == ["<s>", "·Paris", "↵", "</s>"]
    assert len(fig.axes[0].lines) == 2 and len(fig.axes[0].patches) == 4
    plots.plt.close(fig)
    with pytest.raises(ValueError, match="1 pieces and 2 weights"):
        plots.tokens(["a"], [0, 1])


def test_table_aligns_numbers_right_and_refuses_ragged_rows(capsys):
    plots.table([["toy", "0.9"], ["70B", "68976.6"]], ["model", "millions"])
    assert capsys.readouterr().out.splitlines() == [
        "model  millions", "─────  ────────", "toy         0.9", "70B     68976.6"]
    with pytest.raises(ValueError, match="has 2 columns"):
        plots.table([["a"]], ["x", "y"])


def test_labels_of_a_winding_line_touch_neither_the_line_nor_each_other():
    fig, ax = plots.figure(1, 1, height=3.3)
    x, y = [.5, .597, .617, .643, .634, .647, .657], [.5, .535, .765, .77, .78, .8, .88]
    ax.plot(x, y, marker="o")
    ax.margins(0.25)
    plots.label_marks(ax, x, y, [f"V{i}" for i in range(len(x))])
    fig.draw_without_rendering()
    boxes = [t.get_window_extent() for t in ax.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    line = ax.transData.transform(np.column_stack([np.interp(np.linspace(0, 6, 600), range(7), v) for v in (x, y)]))
    assert not any(box.contains(*point) for box in boxes for point in line)
