"""The errors that a user can mend."""


class MedcodeError(Exception):
    """A mistake that the user can mend.

    The message is one line: it names the thing (file, table, column, row count, id) and the way out, and it never
    quotes clinical text. The command line prints it and exits with 2; the API answers with a problem document.
    """


class OptionError(MedcodeError):
    """A request asks for what its engine cannot do."""


class EngineTimeoutError(MedcodeError):
    """An engine's server was too slow."""
