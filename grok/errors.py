"""Errors whose text is fit for the reader: where, what was found, what was expected, what to do."""


class GrokError(Exception):
    """Base of every error that `grok` raises on purpose."""


class ConfigError(GrokError):
    """A model configuration that describes no model of its family."""


class CheckpointError(GrokError):
    """A file of a model, or an answer of a server that holds them, that cannot be used."""


class TokenizerError(GrokError):
    """A tokenizer that is missing, unreadable or does not fit the model."""


class PromptError(GrokError):
    """A prompt or token list that the model cannot take."""


class BusyError(GrokError):
    """The model's queue is full, or a caller waited longer than the limit.

    Attributes:
        retry_after: seconds after which to try again; None where that is not known.
    """

    def __init__(self, text: str, *, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class DeviceError(GrokError):
    """The devices at hand cannot hold or run the model as asked."""


class SiteError(GrokError):
    """A site that the model doesn't have, or that is used where it cannot be."""


class InterventionError(GrokError):
    """An intervention that does not fit its site, its layer or the model."""


def plain(text: str, limit: int) -> str:
    """Text from a file without what could act as markup where a message is shown."""
    return "".join(c if c.isalnum() or c in " _.,-" else "?" for c in text[:limit])


def check_unicode(prompt: str) -> None:
    """Check that a prompt is text.

    Raises:
        PromptError: it holds half a surrogate pair, which is no Unicode text.
    """
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"The prompt's character {error.start} is half of a surrogate pair and not "
            "valid Unicode. Remove it."
        ) from None
