"""Preparing against librosa.load, side by side: `pytest -m benchmark -s tests/benchmarks/test_prepare.py`, 30 s.

CPU seconds, so that neighbours on the machine do not count; the recordings are EmoDB's where they are there, else noise
of the same lengths and rate.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from audioconfit import audio, corpora
from audioconfit.audio import parts
from audioconfit.corpora import Clip, Corpus

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.filterwarnings("ignore:.*slated for removal:DeprecationWarning"),  # what librosa's readers import
]
REAL = Path(os.environ.get("AUDIOCONFIT_DATA", "data"))
RATE, SECONDS, CLIPS = 22_050, 2.0, 535  # of the copy of EmoDB


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """EmoDB, or noise in its shape."""
    if (REAL / "emodb").is_dir():
        return corpora.load("emodb", REAL)
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for place in range(CLIPS):
        path = folder / f"class{place % 7}" / f"{place}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(round(RATE * SECONDS)), RATE)
    return corpora.load(str(folder), folder)


def cpu_seconds(work: Callable[[], object], who: int = resource.RUSAGE_SELF) -> float:
    """User and system seconds of this process, or of the processes that it waited for."""
    before = resource.getrusage(who)
    work()
    after = resource.getrusage(who)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def row(what: str, ours: float, theirs: float, unit: str = "CPU s") -> float:
    print(f"{what:<44} {ours:7.3f} {unit}   {theirs:7.3f} {unit}   {theirs / ours:5.2f}x")
    return theirs / ours


def test_a_clip_takes_less_than_half_of_librosas_time(recordings: Corpus) -> None:
    """In one process, from the file to 16 kHz mono float32, and what preparing adds to that. Both spend most of it in
    soxr; ours also looks for silence, damage and non-finite samples, and under pytest its shapes are checked.
    """

    def ours() -> None:
        for clip in recordings.clips:
            audio.decode(clip)

    def prepared() -> None:
        for clip in recordings.clips:
            parts.to_int16(clip.path)
            parts.digest(clip)

    def theirs() -> None:
        for clip in recordings.clips:
            librosa.load(clip.path, sr=audio.SAMPLE_RATE)

    ours()  # the files are in the page cache, librosa's lazy modules are imported
    librosa.load(recordings.clips[0].path, sr=audio.SAMPLE_RATE)
    best = [min(cpu_seconds(work) for _ in range(5)) for work in (ours, prepared, theirs)]
    print("\nwhat                                            audioconfit         librosa   ratio")
    ratio = row(f"{len(recordings.clips)} clips decoded in one process", best[0], best[2])
    row("the same, rounded to int16 and hashed", best[1], best[2])
    assert ratio >= 2


def test_a_store_takes_less_than_half_of_librosas_time_with_both_starts(recordings: Corpus, tmp_path: Path) -> None:
    """Processes from their start: ours leaves a finished store, the other one an array per clip."""
    script = "import json, sys, numpy, librosa\nfor place, path in enumerate(json.load(sys.stdin)):\n"
    script += "    numpy.save(f'{sys.argv[1]}/{place}', (librosa.load(path, sr=16000)[0] * 32767).astype('int16'))"
    paths = json.dumps([str(clip.path) for clip in recordings.clips])
    (tmp_path / "arrays").mkdir()

    def theirs() -> None:
        command = [sys.executable, "-c", script, str(tmp_path / "arrays")]
        subprocess.run(command, input=paths, text=True, check=True, env=parts.worker_environment())

    def ours() -> None:
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        audio.prepare(recordings, tmp_path / "store", workers=1)

    best = [min(cpu_seconds(work, resource.RUSAGE_CHILDREN) for _ in range(3)) for work in (ours, theirs)]
    assert row("the same with process start and writing", *best) >= 2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.skipif(os.getloadavg()[0] > 1, reason="neighbours use this machine's cores")
def test_two_workers_share_the_work_on_two_cores(recordings: Corpus, tmp_path: Path) -> None:
    """Against what the machine itself gains when two processes that share nothing decode at once. Eight times the
    recordings, so that starting is not the work. Wall-clock, so on an idle machine only.
    """
    clips = tuple(Clip(f"{copy}/{clip.key}", clip.path, clip.labels) for copy in range(8) for clip in recordings.clips)
    many = Corpus("many", clips)

    def wall(workers: int) -> float:
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        start = time.perf_counter()
        audio.prepare(many, tmp_path / "store", workers=workers)
        return time.perf_counter() - start

    paths = json.dumps([str(clip.path) for clip in clips])
    alone, both = (min(_side_by_side(paths, count) for _ in range(2)) for count in (1, 2))
    machine = row("the machine: two processes, each all of it", both, 2 * alone, "s")
    two, one = (min(wall(workers) for _ in range(2)) for workers in (2, 1))
    assert row(f"{len(clips)} clips, two workers against one", two, one, "s") >= 0.9 * machine


def _side_by_side(paths: str, count: int) -> float:
    """Seconds until each of `count` processes has decoded all the recordings, without the processes' start."""
    script = (
        "import json, sys; from pathlib import Path; from audioconfit.audio import parts\n"
        "paths = json.loads(sys.stdin.readline()); print('ready', flush=True); sys.stdin.readline()\n"
        "for path in paths: parts.to_int16(Path(path))\n"
    )
    command, environment = [sys.executable, "-c", script], parts.worker_environment()
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdin
        assert process.stdout
        print(paths, file=process.stdin, flush=True)
        process.stdout.readline()
    start = time.perf_counter()
    for process in processes:
        process.communicate("go\n")
    return time.perf_counter() - start


def test_a_second_start_takes_under_half_a_second(recordings: Corpus, tmp_path: Path) -> None:
    first = time.perf_counter()
    audio.prepare(recordings, tmp_path)
    start = time.perf_counter()
    audio.prepare(recordings, tmp_path)
    second = time.perf_counter() - start
    row("second start against the first", second, start - first, "s")
    assert second < 0.5


def test_memory_does_not_grow_with_the_clips(recordings: Corpus, tmp_path: Path) -> None:
    """The largest worker's memory for 500 clips and for 10,000."""
    script = (
        "import resource, sys; from dataclasses import replace; from pathlib import Path\n"
        "from audioconfit import audio; from audioconfit.corpora import Clip, Corpus\n"
        "clips = tuple(Clip(str(n), Path(sys.argv[1]), ('x',)) for n in range(int(sys.argv[3])))\n"
        "audio.prepare(Corpus('x', clips), Path(sys.argv[2]), workers=1)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )

    def megabytes(count: int) -> float:
        words = [sys.executable, "-c", script, str(recordings.clips[0].path), str(tmp_path / str(count)), str(count)]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout) / 1024

    few, many = megabytes(500), megabytes(10_000)
    row("a worker's memory, 10,000 clips against 500", many, few, "MB")
    assert many < few + 32
