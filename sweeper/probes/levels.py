"""Which checks are probed, at which level; names only, so that a plan needs no torch for them."""

HEALTH = ("C2", "C3", "C4", "C5", "C24", "C30", "C20", "C21", "C25", "C10", "C22", "C23")  # of every trial
STRENGTH = ("C13", "C16", "C17")  # of the reference and the best row; under the full evaluation of every trial
ADVICE = ("C7", "C14", "C15", "C19", "C31", "C32")
LEVELS: dict[str, tuple[str, ...]] = {"standard": STRENGTH, "full": STRENGTH + ADVICE}
