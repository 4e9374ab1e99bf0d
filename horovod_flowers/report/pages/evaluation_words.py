"""How an evaluation is put into words, the same in the terminal, the pages and after `evaluate`."""

from horovod_flowers.report.analysis.classification import BINS, Metrics, Proportion
from horovod_flowers.report.pages.wording import counted

MOST_CONFUSED = 3


def with_bounds(found: Proportion) -> str:
    """'0.812 (95 % interval 0.774 to 0.845)'."""
    return f"{found.value:.3f} (95 % interval {found.low:.3f} to {found.high:.3f})"


def evaluation_sentences(found: Metrics) -> list[str]:
    """Accuracy, what is mixed up, and whether the probabilities can be believed."""
    top = f", top-{found.top_k.k} accuracy {with_bounds(found.top_k.accuracy)}" if found.top_k else ""
    lines = [f"accuracy {with_bounds(found.accuracy)} on {counted(found.images, 'image')}{top}"]
    if found.confused:
        often = [f"{label} for {predicted} ({count})" for count, label, predicted in found.confused[:MOST_CONFUSED]]
        lines.append(f"taken most often: {', '.join(often)}")
    calibration = found.calibration
    lead = calibration.confidence - found.accuracy.value
    verdict = "overconfident" if lead > 0 else "underconfident"
    loss = "" if found.log_loss is None else f", log loss {found.log_loss:.3f}"
    lines.append(
        f"calibration: on average {calibration.confidence:.3f} sure, {verdict} by {abs(lead):.3f}; expected "
        f"calibration error {calibration.expected_error:.3f} ({BINS} bins){loss}"
    )
    return lines
