"""The pages of the atlas in a real browser, from disk and offline."""

import shutil
from pathlib import Path

import pytest
from atlas_results import ROWS, three
from rich.console import Console

from experiments.framework.atlas import page

# As root Chromium has no sandbox; and it must not look for anything on a network.
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


# Texts whose contrast with what is behind them is below 4.5, with its value.
PALE = """() => {
  const parts = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
    v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4
  ).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parts(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility()) continue;
    const [a, b] = [parts(getComputedStyle(e).color), behind(e)].map(light);
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.push(`${e.outerHTML.slice(0, 80)} ${ratio}`);
  }
  return found;
}"""


@pytest.fixture
def out(tmp_path):
    """Three results; one is of another version."""
    return three(tmp_path)


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium, or the one that playwright has brought."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        system = shutil.which("chromium") or shutil.which("chromium-browser")
        path = system or playwright.chromium.executable_path
        if not Path(path).is_file():
            pytest.skip(f"no Chromium: neither on the PATH nor {path!r}")
        opened = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, out):
    """Opens a page of the atlas from disk, offline; whatever it logs or asks for is an error."""
    page.write(out, Console(quiet=True))
    complaints, asked, contexts = [], [], []

    def opened(name="index.html", width=1280, **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, offline=True, **options
        )
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((out / "atlas" / name).as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert all(url.startswith(("file:", "data:image/")) for url in asked)


def visible(tab, what="article.item"):
    """Names of the claims that are shown."""
    shown = f"[...document.querySelectorAll('{what}')].filter(e => e.checkVisibility())"
    return tab.evaluate(f"{shown}.map(e => e.dataset.name)")


def test_the_page_opens_from_disk_with_every_picture(visit, out):
    """One card a claim, with its picture, equation, rows, links, run; the older one is marked."""
    tab = visit()
    assert sorted(visible(tab)) == sorted(visible(tab, "tr.item")) == sorted(ROWS)
    sizes = tab.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
    assert sizes == [600] * 3
    alts = tab.evaluate("[...document.images].map(i => i.alt)")
    assert all(alt.startswith("Figure of ") and len(alt) > 60 for alt in alts)
    card = tab.locator("article#sharp_or_flat_well")
    told = " ".join(card.inner_text().split())
    for text in (
        "0.276 ± 0.010", "×0.500", "3 rows: 2 agree, 1 deviate; all as expected",
        "preset smoke; seed 3; 1 min 15 s", "--preset smoke --seed 3", "jax ",
    ):  # fmt: skip
        assert text in told
    href = card.locator("p.source a").first.get_attribute("href")
    assert href == "https://arxiv.org/abs/1711.04623"
    assert tab.locator("article#stationary_covariance .equation").count() == 1
    assert "not as expected" in tab.locator("article#stationary_covariance").inner_text()
    # What is in a name is text.
    assert "<b>, none & more" in tab.locator("article#sgld_logistic_posterior").inner_text()
    assert tab.locator("article.other").evaluate_all("e => e.map(x => x.id)") == [
        "sgld_logistic_posterior"
    ]
    assert "0123456789abcdef" in tab.locator("article.other .note").inner_text()
    assert "2 of 43 experiments" in tab.locator(".lead").inner_text()


def test_the_matrix_says_where_the_sde_holds(visit):
    """SGD against the SDE's .4: fails ×0.500; a process outside of the chain is by its name."""
    tab = visit()

    def cells(name):
        row = tab.locator(f"tr.item[data-name={name}] td")
        return [" ".join(text.split()) for text in row.all_inner_texts()]

    assert cells("sharp_or_flat_well")[:2] == ["○ fails ×0.500", "1 agree 1 deviate ×0.500"]
    assert cells("sharp_or_flat_well")[4] == "1 agree"
    assert "1 not as expected" in cells("stationary_covariance")[3]
    assert "SGLD: 1 deviate by 0.37" in cells("sgld_logistic_posterior")[5]


def test_filters_by_subject_process_verdict_and_text(visit):
    """Each alone, two together, none left; a link to a hidden claim shows it."""
    tab = visit()
    tab.select_option("#subject", "noises")
    assert visible(tab) == visible(tab, "tr.item") == ["sgld_logistic_posterior"]
    assert tab.inner_text("#found") == "1 of 3 claims"
    tab.select_option("#process", "SGD")
    assert visible(tab) == [] and tab.inner_text("#found") == "0 of 3 claims"
    tab.click("text=Show all")
    tab.wait_for_function("document.getElementById('found').textContent.startsWith('3 of 3')")
    tab.select_option("#process", "Euler(η)")
    assert visible(tab) == ["stationary_covariance"]
    tab.select_option("#process", "")
    tab.select_option("#verdict", "unexpected")
    assert visible(tab) == ["stationary_covariance"]
    tab.select_option("#verdict", "other")
    assert visible(tab) == ["sgld_logistic_posterior"]
    tab.select_option("#verdict", "")
    tab.fill("#text", "JASTRZEBSKI flat")
    assert visible(tab) == ["sharp_or_flat_well"]
    tab.evaluate("location.hash = 'stationary_covariance'")
    tab.wait_for_function("document.getElementById('text').value === ''")
    assert len(visible(tab)) == 3


@pytest.mark.parametrize("name", ["index.html", "literature.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_s_width_contrast_and_names(visit, name, scheme):
    """No horizontal scroll at 390 pixels; contrast of text ≥ 4.5 (WCAG AA); names of controls."""
    tab = visit(name, width=390, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert tab.evaluate(PALE) == []
    assert tab.evaluate("document.documentElement.lang") == "en" and tab.title()
    assert tab.evaluate(
        "[...document.querySelectorAll('input, select')].every(e => e.labels.length)"
    )
    levels = tab.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    # Controls: a pale paragraph, and one that is too wide.
    add = "document.querySelector('main').insertAdjacentHTML('beforeend', '<p style=\"{}\">x</p>')"
    tab.evaluate(add.format("color: #8a8a8a; background: #fff"))
    assert len(tab.evaluate(PALE)) == 1
    tab.evaluate(add.format("width: 500px; max-width: none"))
    assert tab.evaluate("document.documentElement.scrollWidth") > 390
    assert levels[0] == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


def test_the_keyboard_reaches_everything(visit):
    """Tab: the skip link first, then the pages, then the filters; a select changes by key."""
    tab = visit()
    order = []
    for _ in range(12):
        tab.keyboard.press("Tab")
        order.append(tab.evaluate("document.activeElement.id || document.activeElement.innerText"))
    assert order[0] == "To the content"
    filters = [order.index(name) for name in ("text", "subject", "process", "verdict")]
    assert filters == sorted(filters)
    tab.focus("#text")
    tab.keyboard.type("langevin")
    assert visible(tab) == ["sgld_logistic_posterior"]
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_literature_page(visit):
    """The statement that fails, the claimed and the measured number; links back to the claim."""
    tab = visit("literature.html")
    first = tab.locator("section.statement").first
    told = " ".join(first.inner_text().split())
    assert "η/B" in told and "0.4" in told and "0.200 ± 0.010" in told and "×0.500" in told
    assert tab.locator("h2").first.inner_text() == "Do not hold"
    first.locator("tbody th a").click()
    assert tab.url.endswith("index.html#sharp_or_flat_well")


def test_the_page_prints(visit):
    """On paper: no filters, every row, black on white."""
    tab = visit()
    tab.emulate_media(media="print")
    assert not tab.locator("#filters").is_visible()
    assert tab.evaluate("getComputedStyle(document.documentElement).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    assert tab.pdf()[:5] == b"%PDF-"
