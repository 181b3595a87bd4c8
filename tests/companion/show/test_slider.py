"""The picture slider: pictures as given, no text as markup, and how it behaves in a real browser."""

import base64
import io
from html.parser import HTMLParser

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from browser import open_page
from matplotlib.figure import Figure
from PIL import Image

from companion.show.player import StemPlayer
from companion.show.slider import PictureSlider

NASTY = "</script><script>window.hurt=1</script><img src=x onerror=window.hurt=1>\"'&`${hurt}"


def picture(level, size=(60, 40)):
    return Figure(figsize=(size[0] / 10, size[1] / 10), dpi=10, facecolor=(level / 255, level / 255, level / 255))


def slider(steps=4, name="step", title="growing"):
    return PictureSlider([picture(40 * k) for k in range(steps)], [f"{name} {k}" for k in range(steps)], title)


class Tags(HTMLParser):
    """[(tag, attributes)] of a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_figures_become_small_pictures_of_what_they_show():
    rng = np.random.default_rng(0)
    frames = []
    for level in (0.2, 0.8):
        figure = Figure(figsize=(4, 3), dpi=50)
        grey = level + 0.02 * rng.standard_normal((150, 200))
        figure.figimage(grey, vmin=0, vmax=1, cmap="gray")
        frames.append(figure)
    made = PictureSlider(frames, ["dark", "light"])
    assert made.size == (200, 150)
    images = Tags(made._repr_html_()).named("img")
    assert [base64.b64decode(image["src"].removeprefix("data:image/webp;base64,")) for image in images] == made.frames
    assert [(image["width"], image["height"], image["alt"]) for image in images] == [
        ("200", "150", label) for label in ("dark", "light")
    ]
    shown = [np.asarray(Image.open(io.BytesIO(data)).convert("L"), float).mean() / 255 for data in made.frames]
    np.testing.assert_allclose(shown, (0.2, 0.8), atol=0.02)


def test_only_the_first_and_the_last_are_not_hidden():
    figures = Tags(slider(5)._repr_html_()).named("figure")
    assert ["hidden" in figure for figure in figures] == [False, True, True, True, False]


def test_no_text_becomes_markup():
    tags = Tags(slider(2, NASTY, NASTY)._repr_html_())
    assert [tag for tag, _ in tags.tags].count("script") == 1 and len(tags.named("img")) == 2
    assert tags.named("figure")[1]["data-label"] == f"{NASTY} 1"
    assert not any(key.startswith("on") for _, attributes in tags.tags for key in attributes)


@pytest.fixture
def page_with(chromium):
    """Open sliders on one page; leaving it fails if anything was asked of a network or said on the console."""

    def opened(*sliders, **options):
        body = "\n".join(f"<div>{one._repr_html_()}</div>" for one in sliders)
        style = "<style>:root{color-scheme:light dark}body{margin:8px}</style>"
        head = f'<meta charset=utf-8><meta name=viewport content="width=device-width">{style}'
        return open_page(f"<!doctype html>{head}<body>{body}", browser=chromium, **options)

    return opened


def quiet(page):
    return page.console_errors == [] and page.requests == []


@pytest.mark.browser
def test_the_keyboard_moves_one_slider_and_leaves_the_other(page_with):
    with page_with(slider(4, "first"), slider(3, "second")) as page:
        assert page.locator("figure:visible").all_inner_texts() == ["first 0", "second 0"]
        one, two = page.get_by_role("slider").all()
        one.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert page.locator("figure:visible").all_inner_texts() == ["first 2", "second 0"]
        assert one.get_attribute("aria-valuetext") == "first 2"
        two.focus()
        page.keyboard.press("End")
        assert page.locator("figure:visible").all_inner_texts() == ["first 2", "second 2"]
        two.press("Home")
        assert page.locator("figure:visible").all_inner_texts() == ["first 2", "second 0"]
        assert page.get_by_role("group", name="growing").count() == 2
        assert quiet(page)


@pytest.mark.browser
def test_it_plays_to_the_last_picture_and_can_be_paused(page_with):
    with page_with(slider(3)) as page:
        page.get_by_role("button", name="Play").click()
        page.get_by_role("button", name="Pause").wait_for()
        page.wait_for_function("document.querySelector('flowsep-slider').step === 2")
        page.get_by_role("button", name="Play").wait_for()  # it has stopped by itself
        page.get_by_role("button", name="Play").press("Enter")  # from the first again
        assert page.evaluate("document.querySelector('flowsep-slider').step") == 0
        page.get_by_role("button", name="Pause").click()
        page.wait_for_timeout(900)
        assert page.locator("figure:visible").all_inner_texts() == ["step 0"]
        assert quiet(page)


@pytest.mark.browser
def test_the_next_player_follows_the_pictures(page_with):
    """Each picture brings its system; a player above the slider, and what the listener then chooses, are let be."""
    tone = np.sin(np.arange(8000) / 8).astype(np.float32)
    heard = {f"{NASTY} {k}": {"vocals": tone, "bass": tone} for k in range(3)}
    linked = PictureSlider([picture(40 * k) for k in range(3)], ["a", "b", "c"], "steps", systems=list(heard))
    with page_with(StemPlayer(heard, 8000), linked, StemPlayer(heard, 8000)) as page:
        systems = "[...document.querySelectorAll('flowsep-player')].map(player => player.system)"
        page.get_by_role("slider", name="Step").press("End")
        assert page.evaluate(systems) == [f"{NASTY} 0", f"{NASTY} 2"]
        page.get_by_role("slider", name="Step").press("ArrowLeft")
        assert page.evaluate(systems) == [f"{NASTY} 0", f"{NASTY} 1"]
        assert page.evaluate("window.hurt") is None and quiet(page)


@pytest.mark.browser
def test_without_scripts_the_first_and_the_last_stand_there(page_with):
    with page_with(slider(4), java_script=False) as page:
        assert page.locator("figure:visible").all_inner_texts() == ["step 0", "step 3"]
        assert page.get_by_text("growing").is_visible()
        assert quiet(page)


@pytest.mark.browser
def test_labels_on_the_page_do_nothing(page_with):
    with page_with(slider(2, NASTY, NASTY)) as page:
        page.get_by_role("slider").press("ArrowRight")
        assert page.locator("figure:visible").all_inner_texts() == [f"{NASTY} 1"]
        assert page.evaluate("window.hurt") is None
        assert page.locator("img").count() == 2
        assert quiet(page)


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_all_of_it(page_with, dark):
    wide = PictureSlider([picture(k, (1400, 300)) for k in (0, 90)], ["a", "b" * 60], "title" * 20)
    with page_with(wide, width=390, height=800, dark=dark) as page:
        page.get_by_role("slider").press("End")
        for part in (page.locator("img:visible"), page.get_by_role("slider"), page.get_by_role("button")):
            box = part.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 24
        ink = page.get_by_role("button").evaluate("button => getComputedStyle(button).color")
        assert ink == ("rgb(255, 255, 255)" if dark else "rgb(0, 0, 0)")
        assert quiet(page)
