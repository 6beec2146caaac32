"""The report, from folders that the test writes: what stands in its tables, in each format, finished or not."""

import csv
import fcntl
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import left_sweeps
import pytest
from left_sweeps import CLASSES, HOSTILE

from sweeps import paper
from sweeps.report import making, origin, record, tables, writers
from sweeps.report.values import Table
from sweeps.search import importances

CELLS = ("wav2vec2-random.tones", "wav2vec2-random.tones.finetune")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep `whole` and a killed one `half`."""
    folder = tmp_path_factory.mktemp("storage")
    left_sweeps.finished(folder / "whole", left_sweeps.prepared(folder))
    left_sweeps.begun(folder / "half")
    return folder


@pytest.fixture(scope="module")
def found(storage: Path) -> dict[str, Table]:
    return {table.name: table for table in tables.of([record.read(storage / "whole")])}


def column(table: Table, head: str) -> list[object]:
    return [row[list(table.columns).index(head)] for row in table.rows]


def test_the_champion_stands_first_with_its_doubt(found: dict[str, Table]) -> None:
    assert next(iter(found)) == "champions"
    (row,) = found["champions"].rows
    assert row[:6] == ["tones", "wav2vec2-random", "PairTune", "accuracy", "75.00 ± 0.00", "10.0 to 90.0"]
    assert row[6:8] == ["wav2vec2-random, FineTune", "+0.5000"]


def test_label_sets_have_average_precision_by_its_name_and_no_empty_column(storage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(storage / "whole", folder)
    for path in folder.glob("trials/*/result.json"):
        told = json.loads(path.read_text())
        told["metrics"] |= {"test_mean_average_precision": 0.625}
        path.write_text(json.dumps(told))
    made = record.read(folder)
    found = tables._filled(tables._cells(made))
    assert column(found, "mean average precision") == [0.625, 0.625]
    assert "log loss in nats" not in found.columns
    assert tables._accuracies([made]).title == "Table 2. Test mean average precision"
    plain = tables._filled(tables._cells(record.read(storage / "whole")))
    assert column(plain, "accuracy") == [0.25, 0.75]
    assert "mean average precision" not in plain.columns


def test_the_ten_questions_name_headings_that_the_report_has(storage: Path, tmp_path: Path) -> None:
    page = making.make([storage / "whole"], tmp_path).html.read_text()
    asked = (Path(__file__).parents[2] / "sweeps" / "README.md").read_text().partition("## Ten questions")[2]
    rows = [line for line in asked.partition("\nWhere things are")[0].splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10
    for heading in re.findall(r'"([^"]+)"', "".join(rows)):
        assert f"<h2>{heading}</h2>" in page


def test_pairtune_stands_against_finetune_with_the_count_of_clear_cells(found: dict[str, Table]) -> None:
    (row,) = found["significance"].rows
    assert row[3] == "+0.5000"
    clear = float(row[4]) > 0 or float(row[5]) < 0
    assert row[6] == ("yes" if clear else "no")
    assert f"Of 1 cell PairTune is ahead beyond doubt in {int(clear)}, FineTune in 0." in found["significance"].note


def test_a_cell_whose_probe_could_read_every_layer_has_its_score_by_layer(storage: Path, tmp_path: Path) -> None:
    """Two seeds of one cell of two, whose probe read the last layer."""
    folder = tmp_path / "whole"
    shutil.copytree(storage / "whole", folder)
    for score, trial in zip((0.5, 0.75), sorted(folder.glob(f"trials/{CELLS[0]}-test-*")), strict=True):
        (trial / "layers.json").write_text(json.dumps({"0": 0.25, "last": score}))
    made = making.make([folder], tmp_path / "out")
    assert (tmp_path / "out" / "layers.csv").read_text().splitlines() == [
        "cell,layer,validation,chosen",
        f"{CELLS[0]},0,0.25,",
        f"{CELLS[0]},last,0.625,yes",
    ]
    assert made.text.count(f"![](layers-{CELLS[0]}.png)") == 1
    assert {path.suffix for path in (tmp_path / "out").glob("layers-*")} == {".png", ".pdf"}
    assert CELLS[1] not in (tmp_path / "out" / "layers.csv").read_text()


def test_the_worst_speaker_and_each_class_are_told(found: dict[str, Table]) -> None:
    assert column(found["groups"], "group")[0] == "s0"
    assert column(found["groups"], "accuracy") == [0.0, 1.0, 1.0, 1.0]
    assert "s0 of tones (0.000)" in found["groups"].note
    assert column(found["classes"], "class") == list(CLASSES)
    assert column(found["classes"], "recall") == [0.75] * 3  # 6 of 8
    assert column(found["classes"], "most often taken for") == [CLASSES[1], CLASSES[2], CLASSES[0]]


def test_cost_counts_hours_and_the_epochs_that_were_trained(found: dict[str, Table]) -> None:
    """Four trials of 900 s and a failed one of 36 s, on two workers of half a GPU; the fourth trained nothing."""
    row = dict(zip(found["cost"].columns, found["cost"].rows[0], strict=True))
    assert (row["complete"], row["failed"], row["stage-1 epochs"]) == (4, 1, 6)
    assert row["slot hours"] == row["GPU hours"] == pytest.approx(1.01)


def test_time_is_told_by_phase_with_the_speed_of_training(found: dict[str, Table]) -> None:
    """Two trials of 15 minutes that say it: 0.5 and 0.1 of them trained 2 and 4 clips a second."""
    row = dict(zip(found["phases"].columns, found["phases"].rows[0], strict=True))
    assert (row["training"], row["rest"], row["probe"]) == (9.0, 21.0, 0.0)
    assert row["clips a second"] == pytest.approx((7.5 * 2 + 1.5 * 4) / 9, abs=0.05)


def test_the_setting_that_decides_has_the_importance(found: dict[str, Table]) -> None:
    assert column(found["importances"], "setting")[0] == "batch_size"
    assert sum(column(found["importances"], "importance")) == pytest.approx(1, abs=0.01)


def test_too_few_trials_and_equal_scores_have_no_importance() -> None:
    trials = [({"batch_size": size}, float(size)) for size in (8, 16, 8)]
    assert importances.of(trials) == {}
    assert importances.of([(params, 1.0) for params, _ in trials * 2]) == {}
    assert importances.of([]) == {}


def test_the_best_trial_of_a_search_is_told_before_test_is_read(storage: Path) -> None:
    found = {table.name: table for table in tables.of([record.read(storage / "half")])}
    (row,) = found["search"].rows
    assert row[:4] == [CELLS[0], 4, f"{CELLS[0]}-1", 0.9]
    assert row[4] == 16


def test_failures_and_clips_left_out_are_counted_by_reason(found: dict[str, Table]) -> None:
    assert found["failures"].rows == [[CELLS[0], "trial", 1, f"out of memory in {HOSTILE}"]]
    assert column(found["left-out"], "clips") == [1, 1]
    assert found["race"].rows[0][:3] == ["tones", 1, CELLS[0]]
    assert column(found["race"], "dropped out because") == [None, "Behind."]


def test_a_killed_sweep_gives_a_report_that_says_what_is_missing(storage: Path, tmp_path: Path) -> None:
    assert paper.main(["--storage", str(storage), "--name", "half", "--out", str(tmp_path)]) == 0
    text = (tmp_path / making.PAGE).read_text()
    assert f"Not confirmed on test: {', '.join(CELLS)}." in text
    assert "No race over inner folds: tones" in text
    assert "1 run failed" in text
    assert text.count("not confirmed") == 2  # Table 2
    assert not (tmp_path / "champions.csv").exists()


def test_a_sweep_that_runs_is_called_so(storage: Path, tmp_path: Path) -> None:
    shutil.copytree(storage / "half", tmp_path / "half")
    with (tmp_path / "half" / "driver.lease").open("a+") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        assert record.read(tmp_path / "half").missing()[0].startswith("The sweep is still running")
        assert not record.read(tmp_path / "half", ended=True).is_running
    assert not record.read(tmp_path / "half").is_running


def test_sweeps_stand_side_by_side(storage: Path) -> None:
    assert paper.main(["--storage", str(storage), "--name", "whole", "--name", "half"]) == 0
    out = storage / "paper-whole-half"
    with (out / "table2.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["sweep"], row["method"], row["tones"]) for row in rows] == [
        ("half", "FineTune", "not confirmed"),
        ("half", "PairTune", "not confirmed"),
        ("whole", "FineTune", "25.00 ± 0.00"),
        ("whole", "PairTune", "75.00 ± 0.00"),
    ]
    assert (out / "figure2-whole-tones-wav2vec2-random.pdf").stat().st_size > 5000


def test_no_sweep_is_refused(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert paper.main(["--storage", str(storage), "--name", "none"]) == 2
    assert "No sweep has begun in" in capsys.readouterr().err


def hostile(word: str) -> Table:
    return Table("hostile", word, (word, "number"), [[word, -0.5], ["plain", 2]], note=word)


@pytest.mark.parametrize("word", ["=1+1", "+cmd", "-cmd", "@x", "\t=1"])
def test_a_word_that_a_spreadsheet_would_run_has_an_apostrophe(word: str) -> None:
    rows = list(csv.reader(io.StringIO(writers.csv(hostile(word)))))
    assert rows == [["'" + word, "number"], ["'" + word, "-0.5"], ["plain", "2"]]


def test_negative_numbers_stay_numbers_in_csv() -> None:
    assert writers.csv(Table("n", "n", ("a", "b"), [["-0.0400", "+0.0100"]])) == "a,b\n-0.0400,+0.0100\n"


def test_latex_escapes_what_latex_takes_for_commands() -> None:
    text = writers.latex(Table("l", "50 %\n\\input{x}", ("a_b",), [["& % $ # _ { } ~ ^ \\"]]))
    assert text.startswith("% 50 % \\input{x}\n")  # one comment, however many lines the title has
    assert r"a\_b" in text
    assert r"\& \% \$ \# \_ \{ \} \textasciitilde \space \textasciicircum \space \textbackslash" in text
    assert r"\toprule" in text


def test_markdown_keeps_a_cell_a_cell() -> None:
    line = writers.markdown(Table("m", "m", ("a", "b"), [["x|y\nz", "<b>*"]])).splitlines()[-1]
    assert line == r"| x\|y z | \<b>\* |"


def test_the_page_escapes_and_loads_nothing(storage: Path, tmp_path: Path) -> None:
    html = making.make([storage / "whole"], tmp_path).html.read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;%$#_{}~^" in html
    loaded = re.findall(r"(?:src|href)=\"([^\"]{0,40})|url\(([^)]*)|@import", html)
    assert loaded
    assert all(first.startswith(("data:image/png;base64,", "#")) for first, _ in loaded)


@pytest.mark.slow
def test_a_browser_shows_the_report(storage: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    page = making.make([storage / "whole"], tmp_path).html
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    words = [chromium, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    for seen in ("The best probe of each task, and its doubt", "Table 2.", "75.00 ± 0.00", "Which setting matters"):
        assert seen in shown
    assert shown.count('src="data:image/png;base64,') == 2  # Figures 2 and 3
    assert "<script" not in shown


def test_a_password_in_the_command_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["sweeps/grid.py", "--optuna-storage", "postgresql://me:se/cret@host:5432/db"])
    origin.note(tmp_path)
    command = origin.of(tmp_path)["command"]
    assert "cret" not in command
    assert "postgresql://me:***@host:5432/db" in command
