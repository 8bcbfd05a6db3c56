"""The tree of LatentBank's errors.

The docstring of a class is the message a user reads unless a better one is given; `code` is what a program reads;
`status` is the HTTP status with which the gateway and the inference worker answer.

    LatentBankError
    ├── InvalidRequest          400  what was sent can't be taken as it is
    │   ├── EmptyContext        400
    │   ├── NotUtf8             400
    │   ├── ContextTooLong      400
    │   └── PromptTooLong       400
    ├── PayloadTooLarge         413
    ├── RequestTimeout          408
    ├── Unauthenticated         401
    ├── Forbidden               403
    ├── NotFound                404
    ├── Conflict                409
    │   ├── IdempotencyConflict 409
    │   └── IllegalTransition   409
    ├── TooMany                 429  come back later; `retry_after_seconds` says when
    │   ├── BacklogFull         429
    │   ├── QuotaExceeded       429
    │   ├── RateLimited         429
    │   └── Overloaded          429
    ├── Unavailable             503
    │   ├── AdapterPending      503
    │   ├── TextPending         503
    │   ├── TextsFull           503
    │   └── MasterKeyMissing    503
    ├── StorageError            503
    │   ├── ObjectMissing       404
    │   │   └── KeyMissing      404
    │   ├── ObjectCorrupt       500
    │   └── InvalidKey          500
    ├── AdapterInvalid          500
    │   └── WrongBase           500
    ├── LeaseLost               409
    ├── TrainerLost             503
    └── SetupError              500  the machine or the settings lack something
        └── Misconfigured       500
"""

from __future__ import annotations

from typing import ClassVar


class LatentBankError(Exception):
    """Something went wrong inside LatentBank."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.param = param
        super().__init__(self.message)


class InvalidRequest(LatentBankError):
    """The request can't be taken as it is."""

    code = "invalid_request"
    status = 400


class EmptyContext(InvalidRequest):
    """The context is empty; send text or messages with words in them."""

    code = "empty_context"


class NotUtf8(InvalidRequest):
    """The body is not valid UTF-8; encode it as UTF-8."""

    code = "not_utf8"


class ContextTooLong(InvalidRequest):
    """The context is longer than the base model can read; split it into several memories."""

    code = "context_too_long"


class PromptTooLong(InvalidRequest):
    """The prompt and the tokens asked for do not fit the base model's context window."""

    code = "context_length_exceeded"


class PayloadTooLarge(LatentBankError):
    """The body is larger than this gateway accepts."""

    code = "payload_too_large"
    status = 413


class RequestTimeout(LatentBankError):
    """The request did not come in time; send it again, faster."""

    code = "request_timeout"
    status = 408


class Unauthenticated(LatentBankError):
    """No valid API key; send it as 'Authorization: Bearer <key>'."""

    code = "invalid_api_key"
    status = 401


class Forbidden(LatentBankError):
    """This key may not do that; it needs the admin key."""

    code = "forbidden"
    status = 403


class NotFound(LatentBankError):
    """There is nothing with that id."""

    code = "not_found"
    status = 404


class Conflict(LatentBankError):
    """That contradicts the present state."""

    code = "conflict"
    status = 409


class IdempotencyConflict(Conflict):
    """This Idempotency-Key was used with another body; use a new key for a new request."""

    code = "idempotency_conflict"


class IllegalTransition(Conflict):
    """A job in that state can't do this."""

    code = "illegal_transition"


class TooMany(LatentBankError):
    """Too much was asked for; try again later."""

    code = "too_many"
    status = 429
    default_retry_after_seconds: ClassVar[int] = 30

    def __init__(self, message: str | None = None, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds or self.default_retry_after_seconds


class BacklogFull(TooMany):
    """Too many jobs are waiting for this tenant; try again later."""

    code = "backlog_full"


class QuotaExceeded(TooMany):
    """The tenant's memories take all the room it has; delete some, or ask the operator for more."""

    code = "quota_exceeded"
    default_retry_after_seconds = 600


class RateLimited(TooMany):
    """The tenant has sent too many requests this minute; try again later."""

    code = "rate_limited"
    default_retry_after_seconds = 60


class Overloaded(TooMany):
    """Too many questions are waiting for an answer; try again in a moment."""

    code = "overloaded"
    default_retry_after_seconds = 1


class Unavailable(LatentBankError):
    """A part that this needs is not there right now; try again."""

    code = "unavailable"
    status = 503


class AdapterPending(Unavailable):
    """The memory's adapter is still being loaded; try again in a moment."""

    code = "adapter_pending"


class TextPending(Unavailable):
    """The memory's text is still being read; try again in a moment."""

    code = "text_pending"


class TextsFull(Unavailable):
    """Too many memories wait for their adapters; this one serves when it has its own."""

    code = "texts_full"


class MasterKeyMissing(Unavailable):
    """A tenant's key can't be unwrapped with the master keys that are set."""

    code = "master_key_missing"


class StorageError(LatentBankError):
    """The object store did not do what was asked."""

    code = "storage_error"
    status = 503


class ObjectMissing(StorageError):
    """There is no object under that key."""

    code = "object_missing"
    status = 404


class KeyMissing(ObjectMissing):
    """The key that sealed the object is destroyed; what it sealed is forgotten."""

    code = "key_missing"


class ObjectCorrupt(StorageError):
    """The object's bytes are not the ones that its manifest names."""

    code = "object_corrupt"
    status = 500


class InvalidKey(StorageError):
    """That is not an object key."""

    code = "invalid_key"
    status = 500


class AdapterInvalid(LatentBankError):
    """The adapter can't be used."""

    code = "adapter_invalid"


class WrongBase(AdapterInvalid):
    """The adapter was trained on another base model."""

    code = "wrong_base"
    status = 409


class LeaseLost(LatentBankError):
    """The job's lease is no longer held; its work is discarded."""

    code = "lease_lost"
    status = 409


class TrainerLost(LatentBankError):
    """The training processes died or fell silent; the attempt is lost."""

    code = "trainer_lost"
    status = 503

    def __init__(self, message: str | None = None, *, last_words: str = "") -> None:
        super().__init__(message)
        self.last_words = last_words
        """The end of what the processes wrote to their standard error: for the log, never for a tenant."""


class SetupError(LatentBankError):
    """The machine or the settings lack something; run 'latentbank doctor'."""

    code = "setup_error"


class Misconfigured(SetupError):
    """A setting can't be what it is; run 'latentbank doctor'."""

    code = "misconfigured"


def message_of(code: str, tree: type[LatentBankError] = LatentBankError) -> str | None:
    """What the error with that code says where nothing better is known; `None` for a code that is not in the tree."""
    if tree.code == code:
        return (tree.__doc__ or "").strip()
    return next((found for child in tree.__subclasses__() if (found := message_of(code, child))), None)
