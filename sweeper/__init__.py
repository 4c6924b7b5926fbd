"""Run ablations and searches of purifying defenses, and read how robust each one is.

`models`, `attacks` and `search_spaces` are common folder names, so before anything else is imported ours are put in place
(`lookup.claim_packages`): `python -m sweeper` then works from a folder that has a `models/` of its own.
"""

from sweeper.lookup import claim_packages

claim_packages()
