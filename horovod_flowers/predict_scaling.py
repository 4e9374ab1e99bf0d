"""Predict how a step scales, from runs on few ranks: which strategy on how many, and how sure that is.

    python -m horovod_flowers.predict_scaling
    python -m horovod_flowers.predict_scaling --network 100Gbit,2us --ranks-per-node 4 --ranks 64,256,1024

In: runs of one rank, and best of two small numbers of nodes, with collectives: true in the job file, and a step profile
(python -m horovod_flowers.step_profile). docs/scaling-model.md says how it is computed, and what limits it.
"""

from collections.abc import Sequence
from pathlib import Path

from horovod_flowers.config.command_line import parse
from horovod_flowers.report.__main__ import read_measurements, read_profiles, read_runs
from horovod_flowers.report.prediction.answer import answer
from horovod_flowers.report.prediction.options import PredictionConfig
from horovod_flowers.report.prediction.study import chosen_study
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import harmless
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.files import writable_folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.predict_scaling`."""
    with error_boundary("horovod_flowers.predict_scaling"):
        config = parse(PredictionConfig, "horovod_flowers.predict_scaling", __doc__, arguments)
        folders = [Path(folder) for folder in config.folders]
        runs, left_out = read_runs(folders)
        records, unreadable = read_measurements(folders)
        profiles, unread = read_profiles(folders)
        found = answer(config, chosen_study(config, runs, records, profiles))
        output = writable_folder(Path(config.output), "choose another folder with --output")
        from horovod_flowers.report.pages.predicted import print_answer, write_answer

        written = write_answer(output, found, config.formats)
        print_answer(found)
        for name, reason in (*left_out, *unreadable, *unread):
            say(harmless(f"left out: {name}: {reason}"))
        say(f"written: {output}/{', '.join(written)}")


if __name__ == "__main__":
    main()
