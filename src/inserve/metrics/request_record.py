"""What is known of one request while it is answered, for whoever counts it."""

from __future__ import annotations

__all__ = ["RequestRecord"]


class RequestRecord:
    """Filled in by a handler as it goes; read by a front-end when the answer, or the error, is there.

    One for each request, used by one thread at a time. A handler that raises leaves what it knew by
    then; one that is called again for the same request needs a fresh record.
    """

    __slots__ = ("model_name", "num_examples", "run_s", "signature_name", "version")

    def __init__(self, model_name: str | None = None) -> None:
        self.model_name = model_name
        """As the client sent it, empty where it named none; None where the request was not understood."""
        self.version: int | None = None
        """The version that was found; None where there was none."""
        self.signature_name = ""
        """The signature of that version; empty where it has none of that name, or several run."""
        self.run_s: float | None = None
        """Seconds that the model took, waits for a batch included; None where it did not run or failed."""
        self.num_examples: int | None = None
        """Rows of a MultiInference that ran; None for any other."""

    def __repr__(self) -> str:
        return f"<RequestRecord {self.model_name} version {self.version} {self.signature_name}>"
