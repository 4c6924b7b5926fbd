"""How much of a figure is the protocol? VQUNet under one change of it at a time: who is attacked, on which images, what is learned from.

The first three variants are the reference's own trial, scored in another way; `rank` and `report` show each under its own label, and the gray-box
sets of `victim=retrained` are crafted for each trial. The others change what the purifier or the classifier behind it learns from.
"""


def variants() -> list[dict[str, object]]:
    """Return the settings of each variant that differ from the reference, which comes first."""
    return [
        {},
        {"victim": "retrained"},  # gray-box attacks on the classifier that is scored, not on the original target
        {"mix": "full"},  # every image crafted on every transfer source
        {"attack_preset": "cleverhans"},  # steps and labels of the library that the paper used
        {"retrain": "none"},
        {"retrain": "scratch"},
        {"retrain": "mix"},
        {"train_input": "gauss"},
        {"train_input": "adv"},
        {"train_input": "mix"},
    ]
