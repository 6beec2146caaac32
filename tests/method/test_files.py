"""Files are written whole: whatever happens in between, a reader finds the old content or the new one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from audioconfit import files


def test_a_file_appears_when_the_block_ends_and_in_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "scores.json"
    files.write(path, "old")
    with files.whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.suffix == ".json"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_file_before_and_nothing_of_its_own(tmp_path: Path) -> None:
    files.write(tmp_path / "a", "old")

    def fill_the_disk() -> None:
        with files.whole(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk"):
        fill_the_disk()
    assert (tmp_path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_folder_appears_with_all_its_files_and_the_first_of_two_stays(tmp_path: Path) -> None:
    with files.whole(tmp_path / "stage") as first:
        (first / "encoder").mkdir(parents=True)
        (first / "encoder" / "weights").write_text("first")
        assert not (tmp_path / "stage").exists()
    with files.whole(tmp_path / "stage") as second:
        second.mkdir()
        (second / "weights").write_text("second")
    assert (tmp_path / "stage" / "encoder" / "weights").read_text() == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "stage"]


def test_a_killed_writer_leaves_the_file_before_and_a_name_that_begins_with_a_dot(tmp_path: Path) -> None:
    files.write(tmp_path / "a", "old")
    script = (
        "import os, signal, sys; from pathlib import Path; from audioconfit import files\n"
        "with files.whole(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")]).returncode == -signal.SIGKILL
    assert (tmp_path / "a").read_text() == "old"
    (left,) = set(tmp_path.iterdir()) - {tmp_path / "a"}
    assert left.name.startswith(".")


def test_what_is_written_may_be_read_as_its_folder_lets_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        files.write(tmp_path / "a", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
