"""What a user is meant to see when a command ends early."""


class UserError(Exception):
    """A mistake in what the user gave: printed as it stands, without a traceback; the process exits with code 2.

    The message says what is wrong, where, and what to do, in one sentence (a list of them for a recipe).
    """


class Stopped(Exception):
    """A run was interrupted by the user and has left a checkpoint; the message says how to go on. Exit code 130."""


class PeerFailedError(RuntimeError):
    """Another process of this run has failed, and has its own word on why. Exit code 1."""


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is not a number: the weights, and the last checkpoint, were left as they were."""
