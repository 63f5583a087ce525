import base64

import pytest

from llama2_lib.course.plots import figure
from llama2_lib.course.widgets import choice, explore, log_slider, slider

PNG = b"\x89PNG"


def draw(k, kind="straight"):
    fig, ax = figure(height=1.5)
    ax.plot([0, k if kind == "straight" else k * k])
    return fig


def test_moving_any_control_repaints_and_moving_back_gives_the_same_picture():
    box = explore(draw, "a line that rises", k=slider(1, 9, 3), kind=choice(["straight", "bent"]))
    first = box.image.value
    assert first[:4] == PNG
    box.controls["k"].value = 5
    second = box.image.value
    assert second != first
    box.controls["kind"].value = "bent"
    assert box.image.value not in (first, second)
    box.controls["kind"].value, box.controls["k"].value = "straight", 3
    assert box.image.value == first


def test_the_fallback_is_the_current_picture_with_alt_text_and_settings():
    box = explore(draw, "a line that rises", k=slider(1, 9, 3))
    box.controls["k"].value = 7
    data, metadata = box._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == box.image.value
    assert data["text/plain"] == "a line that rises (k = 7)" == metadata["image/png"]["alt"]
    assert "application/vnd.jupyter.widget-view+json" in data


def test_a_control_is_named_after_its_argument_unless_it_has_a_label():
    box = explore(draw, "a line that rises", k=slider(1, 9, 3, label="steepness"), kind=choice(["straight", "bent"]))
    assert [c.description for c in box.controls.values()] == ["steepness", "kind"]


def test_sliders_keep_whole_numbers_whole():
    assert isinstance(slider(0, 4, 2).value, int) and isinstance(slider(0.0, 4, 2).value, float)
    assert isinstance(slider(0, 4, 2, step=0.5).value, float)
    assert log_slider(1e-4, 1e-1, 1e-3).value == pytest.approx(1e-3)


@pytest.mark.parametrize("make, message", [
    (lambda: slider(0, 4, 5, label="k"), "outside 0…4"),
    (lambda: log_slider(0, 1, 0.5), "0 < low"),
    (lambda: explore(draw, "a line that rises"), "at least one control"),
    (lambda: explore(draw, "line", k=slider(1, 9, 3)), "alt text")])
def test_wrong_calls_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_drawing_function_that_returns_no_figure_is_refused():
    with pytest.raises(TypeError, match="returns a matplotlib Figure, got NoneType"):
        explore(lambda k: None, "a line that rises", k=slider(1, 9, 3))
