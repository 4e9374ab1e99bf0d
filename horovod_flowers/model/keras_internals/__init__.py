"""All that this package takes from Keras beyond its public interface, in one place.

Written for the Keras of WRITTEN_FOR; a test (test_keras_internals) names what has changed under another.

layers.py       what a model's layers and graph hold beyond their public interface
optimizers.py   what optimizers keep, how they are copied, and as what they are written
losses.py       the losses that a model is compiled with, and how Keras reduces them
metrics.py      the metrics that a model is compiled with
callbacks.py    where callbacks save, and what they override
data.py         the adapters by which Keras reads data
"""

from keras.src.trainers.data_adapters.data_adapter import DataAdapter

from horovod_flowers.model.keras_internals.callbacks import (
    add_note,
    backup_paths,
    begin_at_epoch,
    has_hook,
    is_whole,
    note_in,
    saves_as_keras,
    saving_class,
)
from horovod_flowers.model.keras_internals.data import (
    arrays_in,
    data_adapter,
    read_on_demand,
    rows_at,
    split_for_validation,
    tensors_of,
)
from horovod_flowers.model.keras_internals.layers import (
    all_layers,
    build_for,
    follows_its_graph,
    forget_losses,
    has_own_moments,
    is_rematerialised,
    keeps_call,
    last_layer,
    layers_in,
    made_to_be_trained,
    nodes_in_use,
    nodes_into,
    replace_kernel,
    replace_moments,
    restore_moments,
    seed_owners,
    seed_states,
    swap_kernel,
    synchronized_moments,
    users_of,
)
from horovod_flowers.model.keras_internals.losses import (
    LossTerms,
    calls_as_keras,
    compiled_loss,
    compiled_settings,
    is_masked,
    losses_of_outputs,
    reduced_losses,
    wrapped_function,
)
from horovod_flowers.model.keras_internals.metrics import (
    compiled_metrics,
    mean_updates,
    metrics_compiled_with,
    metrics_of,
)
from horovod_flowers.model.keras_internals.optimizers import (
    adam_moments,
    copy_of_optimizer,
    copy_of_unbuilt,
    counters_of,
    decays,
    exclude_alike,
    keras_variable,
    learning_rate_of,
    settings_of,
    sgd_momentum,
    share_counters,
    slot_owners,
    slots_of,
    variable_built_for,
    variables_built_for,
    velocities,
    written_as,
)

WRITTEN_FOR = "3.12.4"


__all__ = [
    "WRITTEN_FOR",
    "DataAdapter",
    "LossTerms",
    "adam_moments",
    "add_note",
    "all_layers",
    "arrays_in",
    "backup_paths",
    "begin_at_epoch",
    "build_for",
    "calls_as_keras",
    "compiled_loss",
    "compiled_metrics",
    "compiled_settings",
    "copy_of_optimizer",
    "copy_of_unbuilt",
    "counters_of",
    "data_adapter",
    "decays",
    "exclude_alike",
    "follows_its_graph",
    "forget_losses",
    "has_hook",
    "has_own_moments",
    "is_masked",
    "is_rematerialised",
    "is_whole",
    "keeps_call",
    "keras_variable",
    "last_layer",
    "layers_in",
    "learning_rate_of",
    "losses_of_outputs",
    "made_to_be_trained",
    "mean_updates",
    "metrics_compiled_with",
    "metrics_of",
    "nodes_in_use",
    "nodes_into",
    "note_in",
    "read_on_demand",
    "reduced_losses",
    "replace_kernel",
    "replace_moments",
    "restore_moments",
    "rows_at",
    "saves_as_keras",
    "saving_class",
    "seed_owners",
    "seed_states",
    "settings_of",
    "sgd_momentum",
    "share_counters",
    "slot_owners",
    "slots_of",
    "split_for_validation",
    "swap_kernel",
    "synchronized_moments",
    "tensors_of",
    "users_of",
    "variable_built_for",
    "variables_built_for",
    "velocities",
    "wrapped_function",
    "written_as",
]
