"""Attacks on image classifiers and purifying defenses, bounded in L-infinity.

Each module without a leading underscore is one attack, named by its file. It offers ``NORM``, ``VERSION``, a frozen
``Config`` and ``perturb(model, images, labels, *, epsilons, keys, config) -> Tensor`` (E, N, C, H, W), one slice per
epsilon. One that looks for the nearest adversarial image may also offer ``minimum_distances(model, images, labels, *, keys,
config) -> Tensor`` (N,) and ``DISTANCE_NORM``. Labels are the true ones. Modules with an underscore are shared parts; nothing needs to be registered.
"""
