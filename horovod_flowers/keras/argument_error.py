"""What an argument that cannot work is refused with."""

from horovod_flowers.runtime.errors import UserError


class ArgumentError(UserError, ValueError):
    """An argument of this interface that cannot work: in one sentence, what was given and what is allowed.

    A ValueError, too, which is what Horovod raises and scripts may catch.
    """
