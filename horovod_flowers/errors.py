"""The one exception for what a user can put right."""


class UserError(Exception):
    """A mistake in the command, the files or the launch.

    The message is one sentence: what was given, what is allowed, what to try. Commands print it without a
    traceback and exit with status 2 (`launch.error_boundary`).
    """
