"""Errors that are the user's to mend: the command prints them as one line, without a traceback."""


class UserError(Exception):
    """A mistake in the input. The message names the file, key or value and says what to do."""


class OptionsError(UserError):
    """An options file (YAML) that cannot be used as it stands."""


class UndefinedMetric(UserError):
    """A metric that has no value for this image, such as SSIM below 11 x 11 pixels."""
