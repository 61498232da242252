"""The atlas: typesetting, the chain, damaged and older results, and the pages in a real browser."""

import json
import math
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from rich.console import Console

import sde_sgd as ss
from experiments import __main__ as command, _files as files, framework
from experiments.framework import results, single
from experiments.framework.atlas import chain, literature, numbers, page, typeset

# As root Chromium has no sandbox; and it must not look for anything on a network.
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def compared(name, process, predicted, measured, error=0.01, expected="agree"):
    """One row of a verdict."""
    estimate = ss.Estimate(np.asarray(measured, float), np.full(np.shape(measured), error), 1000)
    return ss.compare(estimate, predicted, name=name, process=process, expected=expected)


ROWS = {
    "sharp_or_flat_well": [
        compared("P(sharp), η=0.4, B=1, exact", "SGD", 0.2733, 0.2757),
        compared("P(sharp), η=0.4, B=1", "SDE", 0.3276, 0.3291),
        compared("P(sharp), η=0.4, B=1, against the SDE's", "SGD", 0.4, 0.2, expected="deviate"),
    ],
    "stationary_covariance": [
        compared("M", "SGD", np.eye(2), [[1.005, 0.0], [0.01, 1.0]]),
        compared("M", "SDE, h = η/substeps", np.eye(2), np.eye(2)),
        compared("M", "Euler, h = η", np.eye(2), [[1.0, 0.0], [0.5, 1.0]]),
    ],
    "sgld_logistic_posterior": [
        compared("excess <b>, none & more", "SGLD", 0.0, 0.37, expected="deviate"),
        compared("excess b, that of η → 0", "SGWORLD", 0.0, 0.002),
    ],
}  # fmt: skip


def put(out: Path, name: str, preset="smoke", seed=3, **changed):
    """A result of an experiment in `out`, by the writer that every experiment has."""
    module = framework.load(name)
    config = module.PRESETS["smoke"]
    figure = plt.figure(figsize=(4, 2))
    figure.add_subplot().plot([0, 1])

    class Made:
        __doc__ = module.__doc__
        Config = type(config)
        predict = staticmethod(lambda config: {})
        check = staticmethod(lambda config, data, predicted: ROWS[name])
        plot = staticmethod(lambda config, data, predicted: figure)

    values = framework.as_json(config) | changed
    described = files.Described(name, preset, seed, values, 75.0, False, "cpu", files.code())
    folder = out / name
    files.make_writable(folder)
    files.write_data(folder, xr.Dataset({"x": 1.0}), described)
    single._finish(Made, described, xr.Dataset(), folder, Console(quiet=True))
    plt.close(figure)


@pytest.fixture
def out(tmp_path):
    """Three results; one is of another version."""
    for name in ROWS:
        put(tmp_path, name)
    edit(tmp_path / "sgld_logistic_posterior", code="0123456789abcdef")
    return tmp_path


def edit(folder: Path, **changed):
    """Other values in a verdict.json."""
    path = folder / "verdict.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_numbers_as_a_journal_sets_them():
    """By hand."""
    for value, text in (
        (8.25e-5, "8.25·10⁻⁵"), (16958.2, "16958.2"), (-2e7, "−2·10⁷"), (0.0, "0"),
        (math.nan, "–"), (-math.inf, "−∞"),
    ):  # fmt: skip
        assert numbers.plain(value) == text
    for value, error, text in (
        (0.420503, 0.00523, "0.4205 ± 0.0052"), (847.57, 16.9, "848 ± 17"), (1.25, 0.0, "1.25"),
        (8.25e-7, 2.04e-8, "(8.25 ± 0.20)·10⁻⁷"), (-0.003, 0.026, "−0.003 ± 0.026"),
    ):  # fmt: skip
        assert numbers.with_error(value, error) == text
    for ratio, text in ((2.0, "×2.00"), (3.9159, "×3.92"), (1.00042, "×1.00042"), (163.2, "×163")):
        assert numbers.factor(ratio) == text
    assert numbers.score(-10.5, 0.1) == "−10.50" and numbers.score(3.0, 0.0) == "–"
    assert numbers.duration(75.0) == "1 min 15 s" and numbers.duration(9.96) == "10.0 s"


def test_equations_sources_and_tables():
    """e^{−V/D}, p_t, √η dW and arXiv numbers; what is no formula stays; nothing is markup."""
    (block,) = typeset.blocks("T.\n\n    p_t = e^{−V(y)/D} ,  ∫_{−1}^{1} η dW < SGD")
    assert block.kind == "equation"
    assert block.html == (
        "<i>p</i><sub><i>t</i></sub> = <i>e</i><sup>−<i>V</i>(<i>y</i>)/<i>D</i></sup> ,"
        '<span class="gap"></span>∫<span class="both"><sup>1</sup><sub>−1</sub></span> '
        "<i>η</i> d<i>W</i> &lt; SGD"
    )
    prose = typeset.prose("x_i of `a_b` and *these*, which_link_breaks, in sde_sgd.theory.laws <b>")
    assert prose == (
        "x<sub>i</sub> of <code>a_b</code> and <em>these</em>, <code>which_link_breaks</code>, in "
        "<code>sde_sgd.theory.laws</code> &lt;b&gt;"
    )
    link = '<a href="https://arxiv.org/abs/{0}">arXiv:{0}</a>'
    assert typeset.source("A 2017 (1704.04289), 5.2.7") == (
        f"A 2017 ({link.format('1704.04289')}), 5.2.7"
    )
    (table,) = typeset.blocks("T.\n\n| a | b |\n|---|---|\n| x^2 | 1 |")
    assert table.head == ("a", "b") and table.rows == (("x<sup>2</sup>", "1"),)
    for name in framework.names():
        text = framework.docstring(name)
        assert typeset.blocks(text) and typeset.title(text)
        assert not re.search(r"[_^]\{", "".join(block.html for block in typeset.blocks(text)))


def test_every_source_has_a_link_with_a_text():
    """Each number of arXiv in a Source line becomes one link."""
    linked = 0
    for name in framework.names():
        source = framework.paragraph(framework.docstring(name), "Source")
        made = typeset.source(source)
        assert made.count("<a ") == len(re.findall(r"\d{4}\.\d{5}", source))
        linked += made.count("<a ")
    assert linked > 40


def test_the_chain_sorts_rows_by_their_process():
    """Names of processes to links; whether a row holds discrete steps against the SDE."""
    for process, link in (
        ("SGD", "SGD"), ("SGD, κ = 16", "SGD"), ("SGD, shuffled epochs", "SGD"),
        ("Gaussian SGD, η=0.1", "Gaussian SGD"), ("Gaussian SGD, diagonal noise", None),
        ("Euler(η)", "Euler(η)"), ("Euler, h = η", "Euler(η)"), ("SDE, exact, h → 0", "SDE"),
        ("SDE, wrong noise", None), ("SGLD", None), ("SGD, SDE", None), ("SVAG(2)", None),
    ):  # fmt: skip
        assert chain.link(process) == link and chain.own(process) == (link or process)

    def row(name, process, predicted=1.0, measured=3.0, verdict="disagrees"):
        return results.Row(name, process, predicted, measured, 0.1, 9.0, "deviate", verdict, ())

    rows = [row("the SDE's time", "SGD"), row("variance of h → 0", "Gaussian SGD", measured=2.0)]
    others = [
        row("mean time", "SGD"),
        row("the SDE's time", "SDE"),
        row("iterations of SDE, Mori's Σ", "SGD"),
        row("SGD less SDE", "SGD, SDE", predicted=0.2),
    ]
    assert all(map(chain.stands_in, rows)) and not any(map(chain.stands_in, others))
    assert chain.stands_in(row("mean loss", "SGD, SDE", predicted=0.0))
    line = chain.line("x", [*rows, *others])
    assert line.stand_in == chain.Cell(0, 2, 0, 0, "×2.00 to ×3.00")
    assert line.links["SGD"].deviate == 3 and line.links["Euler(η)"].empty
    assert set(line.others) == {"SGD, SDE"}
    assert chain.cell([row("a", "SGD", predicted=0.0, measured=-0.25)]).by == "by\xa00.25"


def test_the_deciding_entry_of_an_array():
    """The entry whose z the verdict names: (1, 0) of [[1, 0], [.5, 1]] against the identity."""
    told = ROWS["stationary_covariance"][2].row()
    row = results._row(json.loads(json.dumps(told)))
    assert row.place == (1, 0) and row.measured == 0.5 and row.factor is None
    assert row.z == pytest.approx(50.0) and row.verdict == "disagrees" and not row.as_expected


def test_statements_of_the_literature_name_experiments_that_there_are():
    """Each names experiments, once each has a source, and finds its rows by name and process."""
    for statement in literature.STATEMENTS:
        assert statement.says and statement.source
        assert {name for name, _ in statement.rows} <= set(framework.names())
    assert len({statement.says for statement in literature.STATEMENTS}) == len(
        literature.STATEMENTS
    )


def test_a_statement_fails_by_a_row_that_disagrees(out):
    """η/B alone: .4 claimed, .2 measured; an experiment without a result is named."""
    found = literature.find(results.find(out)[0])
    failing = [one for one in found if one.fails]
    assert len(failing) == 1 and found[0] is failing[0]
    assert "1711.04623" in failing[0].statement.source
    assert [row.factor for _, row in failing[0].rows] == [pytest.approx(0.5)]
    assert failing[0].missing == ("final_sharpness",)
    assert all(one.missing for one in found[1:])


def test_damaged_results_are_named_and_left_out(out, capsys):
    """A broken verdict, a broken picture, rows without a verdict, a name that nobody has."""
    names = ("law_of_balance", "lazy_to_rich", "svag_converges", "volterra_risk_curves")
    for name in (*names, "no_such_experiment"):
        shutil.copytree(out / "sharp_or_flat_well", out / name)
        edit(out / name, experiment=name)
    whole = (out / "law_of_balance" / "verdict.json").read_text()
    (out / "law_of_balance" / "verdict.json").write_text(whole[: len(whole) // 2])
    picture = (out / "lazy_to_rich" / "figure.png").read_bytes()
    (out / "lazy_to_rich" / "figure.png").write_bytes(picture[: len(picture) // 2])
    edit(out / "svag_converges", checks=[{"name": "x"}])
    edit(out / "volterra_risk_curves", experiment="throughput")
    # Of a run that has not ended: no result, and no damage.
    (out / "throughput").mkdir()
    assert command.main(["atlas", "--out", str(out)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("Left out: ") == 5 and "3 results, 1 of them of another version" in told
    for text in (
        "law_of_balance: JSONDecodeError", "lazy_to_rich/figure.png is not a whole picture",
        "a row has no", "volterra_risk_curves/verdict.json is of 'throughput'",
        "no_such_experiment: this version has no experiment of that name",
    ):  # fmt: skip
        assert text in told
    text = (out / "atlas" / "index.html").read_text()
    assert "Damaged, and left out" in text and 'id="law_of_balance"' not in text


def test_an_empty_folder_is_one_line(tmp_path):
    """No result, or no folder at all: which command makes some."""
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SystemExit, match="there is no whole result in .* all --out"):
            command.main(["atlas", "--out", str(folder)])
    assert not (tmp_path / "nowhere").exists()


def test_changed_parameters_are_in_the_command(out):
    """--preset smoke with another ensemble and batch size: the command says so."""
    put(out, "stationary_covariance", ensemble_size=8)
    (result,) = [r for r in results.find(out)[0] if r.experiment == "stationary_covariance"]
    made = page.card(result)
    assert made.changed == {"ensemble_size": 8}
    assert made.command.endswith(
        "experiments stationary_covariance --preset smoke --seed 3 --ensemble-size 8"
    )
    config = framework.as_json(framework.load("stationary_covariance").PRESETS["smoke"])
    assert not results.is_current(result, "smoke", 3, config)
    assert results.is_current(result, "smoke", 3, result.config)
    assert not results.is_current(result, "smoke", 4, result.config)


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
    low = tab.evaluate(
        """() => {
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
    )
    assert low == []
    assert tab.evaluate("document.documentElement.lang") == "en" and tab.title()
    assert tab.evaluate(
        "[...document.querySelectorAll('input, select')].every(e => e.labels.length)"
    )
    levels = tab.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
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


@pytest.mark.slow
def test_a_real_experiment_in_the_atlas(tmp_path, capsys):
    """One that is run as users run it: its card has its rows, and no mark."""
    name = "finite_learning_rate_variance"
    command.main([name, "--out", str(tmp_path), "--ensemble-size", "8", "--num-steps", "20"])
    assert command.main(["atlas", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "atlas" / "index.html").read_text()
    rows = json.loads((tmp_path / name / "verdict.json").read_text())["checks"]
    assert f"{len(rows)} rows: " in text and "Of another version" not in text
    assert "--ensemble-size 8 --num-steps 20" in text
    assert str(tmp_path) not in text
