"""What a run is: a tree of options, from which flags, YAML keys and --help are generated.

run.py           the options of a training run, checked before MPI starts; presets/ has named sets of their values
script.py        those of a run of somebody's own script
optimizer.py     those of the optimizer and its learning rate; data.py: those of the images
emulate.py       those of runs that sleep; emulated_network.py: the virtual nodes that they may be on
losses.py        Keras' losses by name; keras_arguments.py: what its optimizers take
choices.py       the values that options, records and reports share
options.py       how an option is declared
command_line.py  from words and YAML to options, and back
yaml_file.py     YAML from strangers, read within limits; parser_messages.py: what jsonargparse says, in our sentences
"""
