"""What TensorBoard's own HParams plugin reads from a folder, as JSON: hyperparameters and metrics of each session.

python -m tests.single.tensorboard_hparams FOLDER: in a process of its own, since it has TensorBoard do without
TensorFlow, as in an installation that has none.
"""

import json
import sys
import types
from typing import Any

sys.modules["tensorboard.compat.notf"] = types.ModuleType("tensorboard.compat.notf")

from tensorboard import context  # noqa: E402
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider  # noqa: E402
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer  # noqa: E402
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups  # noqa: E402


def read(folder: str) -> dict[str, Any]:
    """The experiment's names, and by session group what it was made with and what was measured."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(folder)
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, folder)
    plugin = backend_context.Context(types.SimpleNamespace(data_provider=provider))
    request = context.RequestContext()
    asked = api_pb2.GetExperimentRequest(include_metrics=True)
    experiment = get_experiment.Handler(request, plugin, "", asked).run()
    wanted = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=1000, allowed_statuses=[api_pb2.STATUS_SUCCESS], include_metrics=True
    )
    groups = list_session_groups.Handler(request, plugin, "", wanted).run().session_groups
    return {
        "hyperparameters": [info.name for info in experiment.hparam_infos],
        "metrics": [info.name.tag for info in experiment.metric_infos],
        "sessions": {
            group.name: {
                "hyperparameters": {name: _python(value) for name, value in group.hparams.items()},
                "metrics": {found.name.tag: found.value for found in group.metric_values},
            }
            for group in groups
        },
        "tensorflow": "tensorflow" in sys.modules,
    }


def _python(value: Any) -> Any:
    return getattr(value, value.WhichOneof("kind"))


if __name__ == "__main__":
    print(json.dumps(read(sys.argv[1])))
