"""A process that prepares: `python -m audioconfit.audio.worker`, started by preparing.py and never by hand."""

import json
import os
import sys
from pathlib import Path

from audioconfit.audio.decoders import Unreadable
from audioconfit.audio.parts import keep, prepare_part
from audioconfit.audio.waveforms import clips_of


def main(task: str, *words: str) -> None:
    """`stripe FOLDER PARTS WORKERS OWN PARENT`: parts OWN, OWN + WORKERS, ...; `alone CLIP OUT`: one suspect clip."""
    if task == "stripe":
        folder, (parts, workers, own, parent) = Path(words[0]), map(int, words[1:])
        for number in range(own, parts, workers):
            if os.getppid() != parent:
                sys.exit("The process that started this one has ended.")
            prepare_part(folder, number)
    else:
        (clip,) = clips_of(json.loads(words[0]))
        try:
            samples, version = keep(clip)
            samples.tofile(words[1])
            print(version)
        except Unreadable as fault:
            sys.exit(str(fault))


if __name__ == "__main__":
    main(*sys.argv[1:])
