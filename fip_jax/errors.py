"""The one exception a user is meant to read."""


class UserError(Exception):
    """Something the user can put right: a wrong key, a missing file, a full disk.

    The message is one sentence that names the key or file, says what was found and what was expected. The
    command line prints it without a traceback and exits with status 2.
    """
