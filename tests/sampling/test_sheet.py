"""Pages of images: where each stands, how rows are named, and how a forgotten one is told from the others."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from functions import imagenet
from functions.errors import InputError
from functions.sampling import sheet
from functions.sampling.folders import find_samples
from functions.sampling.sheet import RED, TILE, Row


def grey(*values: int) -> list[Image.Image]:
    return [Image.new("L", (8, 8), v) for v in values]


def centres(page: Image.Image) -> list[tuple[int, ...]]:
    """The grey images' values by row, from the page's pixels: flat patches of TILE x TILE that are no paper."""
    pixels = np.asarray(page).astype(int)
    flat = (pixels[:-2, :-2] == pixels[2:, 2:]).all(2) & (np.ptp(pixels[:-2, :-2], axis=2) == 0)
    values = np.where(flat, pixels[:-2, :-2, 0], 255)
    found = {v: np.argwhere(values == v) for v in range(10, 90, 10)}
    places = {v: tuple(at.mean(0)) for v, at in found.items() if len(at) > TILE * TILE // 2}
    rows = sorted({round(y) for y, _ in places.values()})
    return [tuple(sorted((v for v in places if round(places[v][0]) == y), key=lambda v: places[v][1])) for y in rows]


def test_images_stand_where_they_belong_and_the_forgotten_row_is_framed():
    sides = {"before": [grey(10, 20), grey(30, 40)], "after": [grey(50, 60), grey(70, 80)]}
    page = sheet.sheet(sides, [Row(0, "a"), Row(1, "b", True)])
    assert centres(page) == [(10, 20, 50, 60), (30, 40, 70, 80)]
    red = np.argwhere((np.asarray(page) == RED).all(2))
    rows_of_40 = np.argwhere((np.asarray(page) == 40).all(2))[:, 0]
    assert red[:, 0].min() < rows_of_40.min() and red[:, 0].max() > rows_of_40.max()
    assert red[:, 0].min() > np.argwhere((np.asarray(page) == 10).all(2))[:, 0].max()  # none around the row above
    assert not (np.asarray(sheet.sheet(sides, [Row(0, "a"), Row(1, "b")])) == RED).all(2).any()


def test_the_mark_is_a_word_too(monkeypatch):
    """Who sees no colour reads it."""
    written, draw = [], sheet.ImageDraw.ImageDraw.text
    monkeypatch.setattr(sheet.ImageDraw.ImageDraw, "text", lambda *a, **k: written.append(a[2]) or draw(*a, **k))
    sheet.sheet({"guidance 2": [grey(10), grey(20)]}, sheet.rows_of([0, 2], ["cat", "dog", "emu"], [2]))
    assert written == ["guidance 2", "cat", "forgotten", "emu"]


@pytest.mark.parametrize(
    "size, wanted", [((8, 8), 64), ((32, 32), 64), ((48, 48), 96), ((20, 64), 64), ((256, 256), 256)]
)
def test_images_are_enlarged_by_whole_numbers_to_be_looked_at(size, wanted):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 200, (size[1], size[0], 3), dtype=np.uint8))
    page = np.asarray(sheet.sheet({"": [[image]]}, [Row(0, "a")]))
    scale = wanted // max(size)
    large = np.asarray(image).repeat(scale, 0).repeat(scale, 1)
    y, x = np.argwhere((page == large[0, 0]).all(2))[0]
    assert (page[y : y + large.shape[0], x : x + large.shape[1]] == large).all()


def test_names_of_many_scripts_are_drawn_and_those_without_a_font_are_numbers(monkeypatch):
    monkeypatch.setattr(sheet, "_installed", lambda: [])
    sheet.font.cache_clear()
    for name in ("Füchse & Bären", "кошка", "γάτα", "con mèo"):
        assert sheet._fitted(Row(1, name)) == ([name], sheet.SIZE)
    assert sheet._fitted(Row(2, "猫"))[0] == ["class 2"]
    assert sheet._fitted(Row(0, "two\nlines"))[0] == ["two lines"]
    sheet.font.cache_clear()


def test_another_font_of_the_machine_is_found(monkeypatch, tmp_path):
    import matplotlib

    mono = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSansMono.ttf")
    broken = tmp_path / "a.ttf"
    broken.write_bytes(b"no font")
    monkeypatch.setattr(sheet, "_installed", lambda: [str(broken), str(mono)])
    monkeypatch.setattr(
        sheet, "_has", lambda path, text: "Mono" in str(path) or ("猫" not in text and sheet._letters(str(path)))
    )
    sheet.font.cache_clear()
    assert sheet.font("猫", 16).path == str(mono)
    sheet.font.cache_clear()


def test_long_names_are_wrapped_and_longer_ones_end_in_dots():
    lines, size = sheet._fitted(Row(0, "Chesapeake Bay retriever of Maryland"))
    assert " ".join(lines) == "Chesapeake Bay retriever of Maryland" and len(lines) == 2
    for name in ("great white shark, man-eater, Carcharodon carcharias", "x" * 99, "a " + "x" * 99):
        lines, size = sheet._fitted(Row(0, name))
        assert len(lines) <= 2 and lines[-1].endswith("…") and name.startswith(lines[0].removesuffix("…"))
        assert all(sheet._width(line, size) <= sheet.LABEL for line in lines)
    title = "generalized, 1000 steps, guidance 2"
    assert sheet.sheet({title: [grey(10)]}, [Row(0, "a")]).width > sheet._width(title, sheet.SIZE)


def test_both_lines_of_a_name_stand_beside_its_own_row():
    """Within the height of its images, forgotten or not, so that no name runs into another row."""
    long, short = Row(0, "Chesapeake Bay retriever of Maryland"), Row(1, "a")
    for rows in ([long, short], [long._replace(forgotten=True), short]):
        page = np.asarray(sheet.sheet({"": [grey(10), grey(20)]}, rows)).astype(int)
        first = np.argwhere((page == 10).all(2))[:, 0]
        second = np.argwhere((page == 20).all(2))
        letters = np.argwhere((page[: second[:, 0].min(), sheet.EDGE : second[:, 1].min() - 1] < 250).any(2))[:, 0]
        letters = letters[letters > sheet.EDGE + sheet.SIZE]
        inside = letters if not rows[0].forgotten else letters[(letters > first.min()) & (letters < first.max())]
        assert first.min() <= inside.min() and inside.max() <= first.max()
        assert inside.max() - inside.min() > 2 * sheet.SMALL


def test_imagenets_classes_are_shown_by_their_english_names():
    assert sheet.rows_of([207], imagenet.wnids(), [207]) == [Row(207, "golden retriever", True)]


def test_colour_and_grey_pixels_become_rows():
    pixels = np.arange(4 * 3 * 2 * 2, dtype=np.uint8).reshape(4, 3, 2, 2)
    rows = sheet.images_of(pixels, 2)
    assert [len(r) for r in rows] == [2, 2] and rows[1][0].mode == "RGB"
    assert (np.asarray(rows[1][0]) == pixels[2].transpose(1, 2, 0)).all()
    assert sheet.images_of(pixels[:, :1], 4)[0][0].mode == "L"


def test_a_picture_is_whole_or_absent(monkeypatch, tmp_path):
    page = sheet.sheet({"": [grey(10)]}, [Row(0, "a")])
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        sheet.save(page, tmp_path / "page.png")
    assert not list(tmp_path.iterdir())


def test_no_judge_takes_a_page_for_samples(tmp_path):
    """Who names the run's folder in place of its samples is told, not judged on pages."""
    for k in range(3):
        Image.new("L", (8, 8), k).save(tmp_path / f"{k}.png")
    sheet.save(sheet.sheet({"": [grey(10)]}, [Row(0, "a")]), tmp_path / "visualization_guidance_2.0.png")
    with pytest.raises(InputError, match=r"visualization_guidance_2\.0\.png"):
        find_samples(tmp_path).images(3)
