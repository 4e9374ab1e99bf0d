"""The report's page in a real browser: nothing fails, nothing is fetched, everything is visible at two widths."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Route

from horovod_flowers.config.run import RunConfig
from horovod_flowers.report.__main__ import main
from horovod_flowers.runlog.run_folder import RunFolder
from tests.single.recorded_runs import write_run

HOSTILE = '<script>document.title="owned"</script><img src="http://example.invalid/x.png" onerror="alert(1)">'
WIDTHS = {"desktop": 1280, "phone": 390}


def write_study(runs: Path) -> None:
    """Two strategies on 1, 2, 4 ranks, six runs each, some with an evaluation, and hostile words where there may be."""
    for strategy, loss in (("allreduce", 60), ("none", 20)):
        for ranks in (1, 2, 4):
            for repetition in range(6):
                if ranks == 1 and strategy == "none":
                    continue
                step = 400 // ranks + (loss if ranks > 1 else 0) + 3 * repetition
                parts = (1, step - 31 if ranks > 1 else step - 21, 10 if ranks > 1 else 0, 20)
                folder = write_run(
                    runs / f"s-{ranks}ranks-{strategy}-run{repetition}",
                    ranks,
                    [[(0, 900, 0, 0)] * ranks, *[[parts] * ranks] * 6],
                    config=RunConfig(global_batch=64, threads=1, strategy=strategy),  # type: ignore[arg-type]
                    accuracy=None if strategy == "none" and ranks > 1 else 0.6,
                    validation=() if strategy == "none" and ranks > 1 else (0.4, 0.6),
                    cpu_model=HOSTILE,
                    oversubscribed=ranks == 4,
                )
    predict(folder)
    (runs / HOSTILE.replace("/", "|")).mkdir()


def predict(folder: RunFolder) -> None:
    photos = folder.predictions.parent / "photos"
    photos.mkdir(parents=True)
    rows = [("rose", "rose", 0.9), (HOSTILE, "rose", 0.8), ("rose", HOSTILE, 0.7)]
    folder.predictions.write_text(
        "".join(
            json.dumps({"image": image, "label": label, "predicted": predicted, "probability": chance}) + "\n"
            for image, (label, predicted, chance) in enumerate(rows)
        )
    )
    cv2.imwrite(str(photos / "1.png"), np.full((40, 40, 3), 128, np.uint8))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_study(folder / "runs")
    options = ["--compare", "s-2ranks-allreduce-*", "s-2ranks-none-*"]
    options += ["--check", "min-efficiency=0.1@2", "--strict", "no"]
    main(["--runs-dir", str(folder / "runs"), "--output", str(folder / "report"), *options])
    return folder / "report"


@dataclass
class Opened:
    """A page and what happened while it was loaded."""

    page: Page
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(params=WIDTHS)
def opened(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Opened]:
    page = browser.new_page(viewport={"width": WIDTHS[request.param], "height": 900})
    found = Opened(page)

    def refuse(route: Route) -> None:
        found.requests.append(route.request.url)
        route.abort()

    page.on("console", lambda message: found.messages.append(message.text))
    page.on("pageerror", lambda error: found.messages.append(str(error)))
    page.on("dialog", lambda dialog: found.messages.append(dialog.message))
    page.route(lambda url: not url.startswith(("file:", "data:")), refuse)
    page.goto((report / "index.html").as_uri())
    yield found
    page.close()


def test_nothing_fails_and_nothing_is_fetched(opened: Opened) -> None:
    assert opened.messages == []
    assert opened.requests == []
    assert opened.page.title() == "Scaling report"


def test_no_word_of_a_run_becomes_markup(opened: Opened) -> None:
    assert opened.page.locator("script").count() == 0
    assert opened.page.locator("[onerror]").count() == 0
    assert 'document.title="owned"' in opened.page.locator("dl").last.inner_text()  # the CPU's name, as text


def test_everything_is_within_the_page(opened: Opened, pictures: Path) -> None:
    width = opened.page.viewport_size["width"] if opened.page.viewport_size else 0
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    assert opened.page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert opened.page.locator("img").count() >= 8
    shown = [heading.inner_text() for heading in opened.page.locator("h2").all()]
    assert shown == [
        *("Checks", "Scaling", "Where the time goes", "Bounds beside the measurements", "Percent of peak"),
        *("Ranks", "Learning"),
        *("For an allocation proposal", "Before and after", "Provenance"),
    ]
    shot = pictures / f"report-{width}.png"
    opened.page.screenshot(path=shot, full_page=True)
    image = cv2.imread(str(shot))
    assert image is not None
    assert image.shape[1] == width
    ink = (image < 128).any(axis=2).mean(axis=1)  # share of dark pixels of each line
    longest_gap = max(len(run) for run in "".join("x" if share else " " for share in ink).split("x"))
    assert longest_gap < 400  # no screenful without anything on it


def test_a_phone_gets_cards_for_tables_and_panels_one_below_the_other(opened: Opened) -> None:
    page = opened.page
    phone = page.viewport_size is not None and page.viewport_size["width"] == WIDTHS["phone"]
    picture = page.locator('img[alt^="Speed-up and efficiency"]').first
    assert (picture.evaluate("image => image.naturalWidth < image.naturalHeight")) is phone
    assert page.locator("thead").nth(1).is_visible() is not phone
    named = page.locator('td[data-label="images/s"]').first
    shown = named.evaluate("cell => getComputedStyle(cell, '::before').content")
    assert shown == ('"images/s"' if phone else "none")
    beyond = (
        "[...document.querySelectorAll('.scroll, figure')].filter(each => each.scrollWidth > each.clientWidth).length"
    )
    assert page.evaluate(beyond) == 0


def test_marks_stand_where_ranks_shared_cores(opened: Opened) -> None:
    first = opened.page.locator("table").nth(1)  # behind the checks
    for row in first.locator("tbody tr").all():
        ranks = row.locator("td").nth(2).inner_text()
        assert ranks in ("1", "2", "4*")


def test_predictions_are_shown_with_what_they_are_worth(opened: Opened) -> None:
    main = opened.page.locator("main")
    assert "Accuracy 0.333 (95 % interval 0.061 to 0.792) on 3 images. " in main.inner_text()
    assert "expected calibration error 0.533 (15 bins)" in main.inner_text()
    for start in ("Confusion matrix of run", "Reliability diagram of run", "image 1: "):
        picture = main.locator(f'img[alt^="{start}"]')
        assert picture.count() == 1
        box = picture.bounding_box()
        assert box is not None
        assert box["width"] > 100
    assert main.locator("figcaption", has_text="taken for rose (80.0 %)").count() == 1


def test_it_prints(opened: Opened, pictures: Path) -> None:
    data = opened.page.pdf(path=pictures / "report.pdf", format="A4")
    assert data.startswith(b"%PDF")
    assert 3 <= data.count(b"/Type /Page\n") + data.count(b"/Type /Page ") + data.count(b"/Type /Page/") <= 20


def test_each_picture_opens_by_itself(browser: Browser, report: Path) -> None:
    files = sorted((report / "pictures").glob("*.svg"))
    assert len(files) >= 8
    page = browser.new_page()
    for file in files:
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.tagName") == "svg"
        assert page.evaluate("document.documentElement.getBoundingClientRect().width") > 200
    page.close()
