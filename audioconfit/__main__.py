"""The smaller commands, as `audioconfit ...` or `python -m audioconfit ...`.

`audioconfit corpora`: which corpora are here against the paper's, and how to get the rest.
`audioconfit doctor`: what this machine has, what is missing, how long an epoch will take; half a minute.
`audioconfit leak CORPUS`: how much a score owes to speakers or sources that stand in train and in test.
`audioconfit predict MODEL FILES|FOLDERS|-`: name recordings, as a table, JSON or CSV.
`audioconfit enrol MODEL NAME FILES|FOLDERS --out FOLDER`: a class more, from a few recordings and without training.
`audioconfit serve MODEL`: the same over HTTP, with a page that takes a file or the microphone.
`audioconfit export MODEL OUT --to transformers|onnx`: a checkpoint, or a graph, with a card; needs none of our code.
`audioconfit pretrain NAME --out FOLDER`: one of our own backbones, from nothing; 20 minutes on one core.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from audioconfit import audio, backbones, catalogue, classifier, corpora, doctor, errors, leak, method, pretraining
from audioconfit.corpora import CORPORA, Columns, download
from audioconfit.encoders import sequence_classifier
from audioconfit.errors import InputError
from audioconfit.handover import enrolling, models, onnx_graph, predicting, pushing, serving, trying
from audioconfit.pretraining import ARCHITECTURES, STEPS, Setting, held_out
from audioconfit.pretraining.held_out import Embed


def main(words: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit code: 0, 1 where some recordings could not be read, 2 for what the caller can
    mend.
    """
    parser = argparse.ArgumentParser(prog="audioconfit", description="AudioConFit's smaller commands.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("corpora", help="list the six corpora, or download those that are free")
    listing.add_argument("--data", type=Path, default=Path("data"), help="folder of the corpora (default: data)")
    listing.add_argument(
        "--download", metavar="NAME", action="append", default=[], help="fetch one, or 'all' that are free"
    )
    listing.set_defaults(run=_corpora)
    looking = commands.add_parser("doctor", help="what this machine has, and how long an epoch will take")
    looking.add_argument(
        "--seconds",
        type=float,
        default=doctor.SECONDS,
        help="after which no other backbone is tried (default: %(default)g)",
    )
    looking.set_defaults(run=_doctor)
    leaking = commands.add_parser("leak", help="what a split that mixes speakers or sources would promise too much")
    leaking.add_argument("corpus", help="one of the six, or your own folder or table")
    leaking.add_argument("--data", type=Path, default=Path("data"), help="folder of the corpora (default: data)")
    leaking.add_argument("--backbone", default="wav2vec2-tiny", help="frozen (default: wav2vec2-tiny)")
    for word in ("label", "group", "split"):
        leaking.add_argument(f"--{word}-column", metavar="NAME", help=f"of your own table: the {word}")
    leaking.set_defaults(run=_leak)
    _add_models(commands)
    training = commands.add_parser("pretrain", help="pre-train a small backbone on generated speech")
    training.add_argument("name", help=f"one of {', '.join(ARCHITECTURES)}")
    training.add_argument("--out", type=Path, required=True, help="folder, new or that of an interrupted run")
    training.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    training.add_argument("--steps", type=int, default=STEPS, help=f"how long (default: {STEPS})")
    training.add_argument("--threads", type=int, default=1, help="cores to use (default: 1, as the shipped weights)")
    training.set_defaults(run=_pretrain)
    arguments = parser.parse_args(words)
    return errors.guard(lambda: int(arguments.run(arguments)))


def _add_models(commands: Any) -> None:
    """The subcommands that take a trained model."""
    model = {"help": "an exported folder, models:/NAME@champion, a sweep's cell (STORAGE/SWEEP/CELL) or trial"}
    naming = commands.add_parser("predict", help="name recordings with a trained model")
    naming.add_argument("model", metavar="MODEL", **model)
    naming.add_argument(
        "recordings", metavar="FILE|FOLDER|-", nargs="+", help="recordings; - for their paths on standard input"
    )
    form = naming.add_mutually_exclusive_group()
    forms = {
        "json": "a JSON object a line",
        "csv": "a CSV row per class",
        "rttm": "a line per label and stretch, as tools of diarisation read them",
    }
    for name, what in forms.items():
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=what)
    naming.add_argument("--top-k", type=int, default=1, metavar="K", help="classes to show (default: 1)")
    naming.add_argument("--segments", type=float, metavar="SECONDS", help="a prediction per stretch of this length")
    naming.set_defaults(run=_predict, form="table")
    adding = commands.add_parser("enrol", help="add a class to a trained model from a few recordings of it")
    adding.add_argument("model", metavar="MODEL", **model)
    adding.add_argument("name", metavar="NAME", help="of the class, which the model does not have")
    adding.add_argument("recordings", metavar="FILE|FOLDER|-", nargs="+", help="of that class; about five")
    adding.add_argument("--out", type=Path, required=True, help="a new folder, or that of an earlier export")
    adding.add_argument("--on", metavar="CORPUS", help="its corpus, on whose test clips both models are tried")
    adding.add_argument("--data", type=Path, default=Path("data"), help="folder of the corpora (default: data)")
    adding.set_defaults(run=_enrol)
    listening = commands.add_parser("serve", help="name recordings over HTTP, with a page for a browser")
    listening.add_argument("model", metavar="MODEL", **model)
    listening.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)"
    )
    listening.add_argument("--port", type=int, default=8000, help="0: one that is free (default: %(default)s)")
    listening.add_argument("--max-mb", type=float, default=25.0, help="of one recording (default: %(default)g)")
    listening.add_argument("--max-seconds", type=float, default=600.0, help="of one recording (default: %(default)g)")
    listening.set_defaults(run=_serve)
    leaving = commands.add_parser("export", help="write a trained model for others to load")
    leaving.add_argument("model", metavar="MODEL", **model)
    leaving.add_argument("out", metavar="OUT", type=Path, help="a new folder, or that of an earlier export")
    leaving.add_argument(
        "--to", choices=("transformers", "onnx"), default="transformers", help="the format (default: %(default)s)"
    )
    leaving.add_argument("--int8", action="store_true", help="an ONNX graph of int8 weights too")
    leaving.add_argument("--on", metavar="CORPUS", help="its corpus, on whose test clips the int8 graph is tried")
    leaving.add_argument("--data", type=Path, default=Path("data"), help="folder of the corpora (default: data)")
    leaving.add_argument("--push", metavar="ORG/NAME", help="upload the checkpoint to the Hugging Face hub too")
    leaving.set_defaults(run=_export)


def _predict(arguments: argparse.Namespace) -> int:
    if arguments.top_k < 1:
        raise InputError(f"--top-k {arguments.top_k}: choose 1 or more.")
    if arguments.segments is not None and not 0 < arguments.segments < float("inf"):
        raise InputError(f"--segments {arguments.segments:g}: choose more than 0 seconds.")
    found = predicting.recordings(arguments.recordings)
    model = models.load(arguments.model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        tracked = bar.track(found, description="recordings")
        predictions = model.each(tracked, segment_seconds=arguments.segments, device=device)
        failed = predicting.write(predictions, arguments.form, top_k=arguments.top_k)
    if failed:
        print(f"{failed} of {len(found)} recordings could not be read.", file=sys.stderr)
    return 1 if failed else 0


def _enrol(arguments: argparse.Namespace) -> int:
    classifier.check_free(arguments.out)
    found = predicting.recordings(arguments.recordings)
    model = models.load(arguments.model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    heard = trying.heard(model, arguments.on, arguments.data) if arguments.on else []
    enrolled = enrolling.enrol(model, arguments.name, found, device=device)
    enrolled.model.save(arguments.out)
    several = "recording" if enrolled.clips == 1 else "recordings"
    print(f"{arguments.out} knows {enrolled.model.classes[-1]} too, from {enrolled.clips} {several}.")
    if enrolled.clips > 1:
        print(f"By the others alone {enrolled.found_again} of the {enrolled.clips} would have been named so.")
    if heard:
        before, after = (enrolling.right(one, heard, device=device) for one in (model, enrolled.model))
        print(f"On the {len(heard)} test clips of {arguments.on}, accuracy {before:.4f} before and {after:.4f} now.")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    for flag, value in (("--max-mb", arguments.max_mb), ("--max-seconds", arguments.max_seconds)):
        if not 0 < value < float("inf"):
            raise InputError(f"{flag} {value:g}: choose more than 0.")
    model = models.load(arguments.model)
    limits = serving.Limits(arguments.max_mb, arguments.max_seconds)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with serving.listening(model, host=arguments.host, port=arguments.port, limits=limits, device=device) as server:
        host, port = server.server_address[:2]
        print(f"{arguments.model}: http://{host!s}:{port}/ (Ctrl-C ends it)", flush=True)
        serving.until_told(server)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    if arguments.push is not None and arguments.to != "transformers":
        raise InputError(f"--push {arguments.push} takes --to transformers, which people load by the name alone.")
    if (arguments.int8 and arguments.to != "onnx") or (arguments.on and not arguments.int8):
        raise InputError("--int8 takes --to onnx, and --on takes --int8.")
    if arguments.push is not None:
        pushing.check(arguments.push)
    classifier.check_free(arguments.out)
    model = models.load(arguments.model)
    if not sequence_classifier.is_known(model.encoder, model.probe.layers):
        raise InputError(
            f"{model.encoder.name} is a {model.encoder.model.config.model_type} model: transformers' classifier does "
            "not read it as it was trained, and there is no ONNX graph of it; use `audioconfit predict`."
        )
    if arguments.to == "onnx":
        onnx_graph.check(model)
        heard = trying.heard(model, arguments.on, arguments.data) if arguments.on else []
        made = onnx_graph.save(model, arguments.out, small=heard if arguments.int8 else None)
        print(
            f"{arguments.out / onnx_graph.GRAPH} and its card; at most {made.difference:.0e} from the model on noise."
        )
        if made.tried:
            print(f"{made.tried}.")
        return 0
    model.save(arguments.out)
    upload = f"  hf upload ORGANISATION/NAME {arguments.out}"
    on_hub = upload if arguments.push is None else f"  {pushing.push(arguments.out, arguments.push)}"
    Console().print(
        f"{arguments.out} holds the model and its card. Without AudioConFit:\n"
        f'  transformers.pipeline("audio-classification", model="{arguments.out}")\n'
        f"On the hub:\n{on_hub}",
        markup=False,
        soft_wrap=True,
        highlight=False,
    )
    return 0


def _corpora(arguments: argparse.Namespace) -> int:
    names = [name for word in arguments.download for name in word.split(",")]
    if "all" in names:
        names = [name for name, source in CORPORA.items() if source.download is not None]
    console = Console()
    for name in names:
        _download(name, arguments.data, console)
    console.print(catalogue.listing(catalogue.states(arguments.data), durations=True))
    console.print(f"\nLooked in {arguments.data.resolve()}. The numbers after 'of' are Table 1 of the paper.")
    return 0


def _download(name: str, data: Path, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)
        try:
            folder = download.fetch(
                name, data, progress=lambda done, total: bar.update(task, completed=done, total=total)
            )
        except ConnectionError as error:
            raise InputError(f"{name} could not be downloaded: {error}") from None
    console.print(f"{CORPORA[name].title} is in {folder}.")


def _doctor(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.seconds < float("inf"):
        raise InputError(f"--seconds {arguments.seconds:g}: choose more than 0.")
    for sentence in doctor.examine(seconds=arguments.seconds):
        print(sentence, flush=True)
    return 0


def _leak(arguments: argparse.Namespace) -> int:
    backbones.find(arguments.backbone)
    named = Columns(arguments.label_column, arguments.group_column, arguments.split_column)
    corpus = corpora.load(arguments.corpus, arguments.data, named=named)
    with tempfile.TemporaryDirectory() as folder:
        waveforms = method.embeddable(arguments.backbone, audio.prepare(corpus, Path(folder)))
        found = leak.measure(waveforms, arguments.backbone)
    console = Console()
    for words, reached in (("kept on one side", found.apart), ("mixed", found.mixed)):
        mean, deviation = 100 * statistics.fmean(reached), 100 * statistics.stdev(reached)
        console.print(f"{found.groups} groups {words}: {mean:.1f} ± {deviation:.1f} per cent over {len(reached)} folds")
    console.print(f"Mixing them adds {100 * found.gain:+.1f} points that no new speaker or source would keep.")
    return 0


def _pretrain(arguments: argparse.Namespace) -> int:
    setting = Setting(arguments.name, seed=arguments.seed, steps=arguments.steps)
    if arguments.threads < 1:
        raise InputError(f"--threads {arguments.threads}: choose 1 or more.")
    torch.set_num_threads(arguments.threads)
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(setting.name, total=setting.steps, losses="")

        def progress(step: int, parts: dict[str, float]) -> None:
            bar.update(task, completed=step, losses="  ".join(f"{name} {part:.2f}" for name, part in parts.items()))

        encoder = pretraining.pretrain(setting, arguments.out, progress=progress)
    table = Table(title="Accuracy on generated speakers that were not heard: linear probe, frozen features")
    table.add_column("task")
    embeddings: dict[str, Embed] = {
        "log-mel statistics": held_out.log_mel_statistics,
        "untrained": pretraining.untrained(setting).eval(),
        "pre-trained": encoder,
    }
    for name in embeddings:
        table.add_column(name, justify="right")
    for tested in held_out.tasks():
        reached = (held_out.accuracy(tested, embed) for embed in embeddings.values())
        table.add_row(f"{len(tested.classes)} {tested.name}", *(f"{accuracy:.3f}" for accuracy in reached))
    console.print(table)
    console.print(f"{setting.name} is in {arguments.out}: pass this path as a backbone.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
