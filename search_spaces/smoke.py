"""Does everything work here? Three variants, one epoch each, in under a minute: a first run on a new machine, and what the tests run."""

_SHORT = {"num_epochs": 1, "retraining/num_epochs": 1, "target/training/num_epochs": 4}


def variants() -> list[dict[str, object]]:
    """Return a short reference, the same without quantization, and no defense."""
    return [{**_SHORT}, {**_SHORT, "quantize": False}, {**_SHORT, "model": "identity", "retrain": "none"}]


EVALUATION = "quick"
