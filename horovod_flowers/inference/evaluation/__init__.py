"""What a model's predictions are worth: figures, the files of an evaluation, and the words in the terminal."""
