"""Errors that the user can fix: the command prints them on one line, without a traceback."""


class UserError(Exception):
    """A mistake in the input. The message names the file, key or value and says what to do."""


class OptionsError(UserError):
    """A mistake in an options file."""


class UndefinedMetric(UserError):
    """A metric that is undefined for an image, such as SSIM below 11 x 11 pixels."""
