"""figures.txt: 'figure = value unit', a line a figure, which a regular expression of ReFrame or JUBE finds.

A name is made of what its point is, strong.64.bf16.allreduce.2_ranks.speed_up, and depends on no other point. Of ranks
that shared cores and of emulated runs it says so before the figure, so that a pattern for a measured figure does not
find them. A figure that is missing has no line.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator
from importlib import metadata

from horovod_flowers.report.analysis.intervals import Estimate
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.analysis.run_factors import EMULATED, apart_key, recipe_of
from horovod_flowers.report.content import Content
from horovod_flowers.report.exports.exported import Exported
from horovod_flowers.runtime.errors import harmless

FILE = "figures.txt"


def figures(content: Content) -> Exported:
    """The file."""
    names = [name_of(point) for point in content.points]
    shared = {name for name, count in Counter(names).items() if count > 1}
    lines = [
        f"# horovod_flowers {metadata.version('horovod-flowers')}: figure = value unit",
        "# The name of a figure: scaling, batch (global of strong, per rank of weak), precision, strategy, ranks.",
    ]
    told = []
    for point, plain in zip(content.points, names, strict=True):
        name = f"{plain}.{_digest(point)}" if plain in shared else plain
        if plain in shared:
            lines.append(f"# {name}: {harmless(point.which) or 'see scaling.json'}")
        lines += [f"# {name}: doubtful: {harmless(sentence)}" for sentence in content.doubts.get(point, [])]
        lines += [f"# {name}: unlike its baseline, or each other: {harmless(words)}" for words in point.unlike]
        lines += [f"{name}.{figure} = {value} {unit}" for figure, value, unit in _figures(content, point)]
    if shared:
        told.append(
            f"in {FILE} several points would be called {', '.join(sorted(shared))}: a key behind the name tells them "
            "apart, and a line before each says what it is"
        )
    return Exported({FILE: "\n".join(lines) + "\n"}, told)


def name_of(point: Point) -> str:
    """Such as strong.64.bf16.allreduce.2_ranks."""
    ranks = "1_rank" if point.ranks == 1 else f"{point.ranks}_ranks"
    strategy = [] if point.ranks == 1 else [point.strategy.removesuffix(EMULATED)]
    words = [point.scaling, str(point.batch), point.precision, *strategy, ranks]
    words += ["emulated"] if point.emulated else []
    words += ["oversubscribed"] if point.oversubscribed else []
    return ".".join(re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_") for word in words)


def _digest(point: Point) -> str:
    """Of everything that tells the point's runs from others."""
    run = point.runs[0]
    told = repr([point.work, recipe_of(run), apart_key(run)])
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def _figures(content: Content, point: Point) -> Iterator[tuple[str, str, str]]:
    """Name, value and unit of each figure that is there; '1' is the unit of a ratio."""
    utilisation = content.utilisations.get(point)
    estimates: list[tuple[str, Estimate | None, str]] = [
        ("median_step_seconds", point.step_seconds, "s"),
        ("images_per_second", point.images_per_second, "images/s"),
        ("speed_up", point.speed_up, "1"),
        ("efficiency", point.efficiency, "1"),
        ("model_flops_utilisation", None if utilisation is None else utilisation.share, "1"),
    ]
    values: list[tuple[str, float | None, str]] = [("runs", len(point.runs), "runs")]
    for name, found, unit in estimates:
        if found is not None:
            values += [(name, found.value, unit), (f"{name}_low", found.low, unit), (f"{name}_high", found.high, unit)]
    values += [
        ("best_validation_accuracy", point.best_validation_accuracy, "1"),
        ("doubts", len(content.doubts.get(point, [])), "doubts"),
        ("unlike", len(point.unlike), "factors"),
    ]
    for name, value, unit in values:
        if value is not None and math.isfinite(value):
            yield name, repr(value), unit
