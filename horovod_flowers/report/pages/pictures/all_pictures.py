"""Every picture that a report can show."""

from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.pictures import (
    calibration,
    collectives,
    confusion,
    drift,
    efficiency_losses,
    learning,
    predicted,
    rank_times,
    scaling,
)
from horovod_flowers.report.pages.pictures.picture import Picture, rendered


def pictures_of(content: Content) -> list[Picture]:
    """Draw everything that this report can show."""
    modules = (scaling, drift, predicted, efficiency_losses, collectives, rank_times, learning, confusion, calibration)
    return [picture for module in modules for picture in rendered(module.draw(content))]
