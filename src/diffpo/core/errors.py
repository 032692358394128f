"""Errors that end a command early; each says what the user sees and which exit code the process has."""


class UserError(Exception):
    """A mistake in what the user gave. It is printed without a traceback; the process exits with code 2.

    The message says what is wrong, where, and what to do, in one sentence (a list of them for a recipe).
    """


class Stopped(Exception):
    """The user has interrupted a run, which has left a checkpoint; the message says how to go on. Exit code 130."""


class PeerFailedError(RuntimeError):
    """Another process of this run has failed, and reports the cause itself. Exit code 1."""


class PeerMissingError(PeerFailedError):
    """Another process of this run has not come, and nobody else says so. Exit code 1."""


class NonFiniteLogitsError(RuntimeError):
    """The model's logits are not finite, so that no token can be drawn from them. Exit code 1."""


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is not finite. The weights and the last checkpoint are as they were. Exit code 1."""
