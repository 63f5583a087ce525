"""Sliders and menus that repaint a picture, the same with and without a front end.

State lives in traits (a control's `value`, the picture's `value`), so a test can move a slider and look at the picture, and
strict nbval sees the same outputs on every run; `interact` and `Output` break it. Each widget also offers its picture as
a plain PNG, for GitHub, the printed page, and a notebook that was not run.
"""
from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import ipywidgets as w
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from llama2_lib.course.plots import png_bytes, use_style

_LAYOUT = {"width": "420px"}
_TEXT = {"description_width": "150px"}


def slider(low: float, high: float, value: float, step: float | None = None, label: str = "") -> w.Widget:
    """A slider over whole numbers when low, high, value and step are ints, else over real numbers."""
    numbers = [low, high, value] + ([] if step is None else [step])
    whole = all(isinstance(n, int) for n in numbers)
    if not low <= value <= high:
        raise ValueError(f"slider({label!r}) starts at {value}, outside {low}…{high}")
    kind = w.IntSlider if whole else w.FloatSlider
    step = step if step is not None else (1 if whole else (high - low) / 100)
    return kind(min=low, max=high, value=value, step=step, description=label, continuous_update=False,
                layout=w.Layout(**_LAYOUT), style=_TEXT)


def log_slider(low: float, high: float, value: float, label: str = "") -> w.FloatLogSlider:
    """A slider whose steps are equal ratios: for learning rates and RoPE bases."""
    import math
    if not 0 < low <= value <= high:
        raise ValueError(f"log_slider({label!r}) needs 0 < low ≤ value ≤ high, got {low}, {value}, {high}")
    return w.FloatLogSlider(min=math.log10(low), max=math.log10(high), value=value, step=0.05, description=label,
                            continuous_update=False, layout=w.Layout(**_LAYOUT), style=_TEXT, readout_format=".2g")


def choice(options: Sequence, value: object = None, label: str = "") -> w.Dropdown:
    """A menu of `options`; the first is chosen unless `value` says otherwise."""
    return w.Dropdown(options=list(options), value=options[0] if value is None else value, description=label,
                      layout=w.Layout(**_LAYOUT), style=_TEXT)


class Explorer(w.VBox):
    """Controls above a picture: `.controls` maps names to widgets, `.image` holds the PNG, `.alt` says what it shows."""

    def __init__(self, draw: Callable[..., Figure], alt: str, controls: dict[str, w.Widget]) -> None:
        self.draw, self.alt, self.controls = draw, alt, controls
        self.image = w.Image(format="png", layout=w.Layout(max_width="100%"))
        for name, control in controls.items():
            control.description = control.description or name.replace("_", " ")
            control.observe(self._paint, "value")
        self._paint()
        super().__init__([*controls.values(), self.image], layout=w.Layout(align_items="flex-start"))

    @property
    def values(self) -> dict[str, object]:
        return {name: control.value for name, control in self.controls.items()}

    def _paint(self, _change: object = None) -> None:
        use_style()
        fig = self.draw(**self.values)
        if not isinstance(fig, Figure):
            raise TypeError(f"the drawing function of a widget returns a matplotlib Figure, got {type(fig).__name__}")
        self.image.value = png_bytes(fig)
        plt.close(fig)

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        bundle = super()._repr_mimebundle_(**kwargs)
        settings = ", ".join(f"{name} = {value}" for name, value in self.values.items())
        text = f"{self.alt} ({settings})"
        bundle |= {"image/png": base64.b64encode(self.image.value).decode(), "text/plain": text}
        return bundle, {"image/png": {"alt": text}}


def explore(draw: Callable[..., Figure], alt: str, **controls: w.Widget) -> Explorer:
    """A picture that follows its controls: `explore(draw, alt="…", angle=slider(0, 90, 30), head=choice(["a", "b"]))`.

    `draw(angle=…, head=…)` returns a matplotlib Figure. `alt` says what the picture shows. Make the call the last expression
    of its cell. Raises ValueError without controls or alt text.
    """
    if not controls:
        raise ValueError("explore() needs at least one control")
    if len(alt.split()) < 3:
        raise ValueError(f"explore() needs alt text that says what the picture shows, got alt={alt!r}")
    return Explorer(draw, alt, controls)
