"""The atlas: typesetting, the chain, statements of the literature, damaged and older results."""

import json
import math
import re
import shutil

import pytest
from atlas_results import edit, put, ROWS, three

from experiments import __main__ as command, framework
from experiments.framework import results
from experiments.framework.atlas import chain, literature, numbers, page, typeset


@pytest.fixture
def out(tmp_path):
    """Three results; one is of another version."""
    return three(tmp_path)


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
