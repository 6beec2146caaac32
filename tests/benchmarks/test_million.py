"""A table of 1,000,000 clips of 1,000 classes: `pytest -m benchmark -s tests/benchmarks/test_million.py`, two minutes.

Read, split twice (a trial does) and cut into inner folds in a process of its own, in CPU seconds and its peak memory.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.benchmark
CLIPS, FILES, SPEAKERS, CLASSES = 1_000_000, 10_000, 50_000, 1_000
CPU_SECONDS, GIBIBYTES = 60, 4

PROGRAM = """
import json, resource, sys, time
from pathlib import Path
from audioconfit import corpora, folds, splits

began, told = time.process_time(), {}

def tell(name):
    told[name] = round(time.process_time() - began - sum(told.values()), 1)

table = Path(sys.argv[1])
corpus = corpora.load(str(table), table.parent)
tell("read")
for _ in range(2):
    split = splits.split(corpus)
tell("split twice")
inner = folds.cut(split)
tell("inner folds")
told["GiB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
sides = (split.train, split.valid, split.test)
told["clips"] = [len(corpus.clips), len(corpus.classes), len(inner), sum(map(len, sides))]
print(json.dumps(told))
"""


def test_a_million_clips_are_read_and_split_in_a_minute_of_cpu(tmp_path: Path) -> None:
    for number in range(FILES):
        (tmp_path / f"{number:05d}.wav").touch()
    each, draw = CLIPS // FILES, np.random.default_rng(0)
    labels = draw.integers(CLASSES, size=CLIPS)
    with (tmp_path / "clips.csv").open("w") as table:
        table.write("path,label,group,start,end\n")
        for number, label in enumerate(labels):
            file, second = divmod(number, each)
            speaker = number * SPEAKERS // CLIPS
            table.write(f"{file:05d}.wav,class {label},speaker {speaker},{second},{second + 1}\n")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "clips.csv")], check=True, capture_output=True, text=True
    )
    told = json.loads(ran.stdout)
    print(f"\n{told}")
    assert told.pop("clips") == [CLIPS, CLASSES, 5, CLIPS]
    assert told.pop("GiB") < GIBIBYTES
    assert sum(told.values()) < CPU_SECONDS
