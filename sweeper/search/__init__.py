"""Searches: Optuna proposes settings, rungs end the hopeless early, and the tables remember everything.

`space.py` what a search space offers, `plan.py` how proposals become trials; `study.py` the only module that imports optuna; `rungs.py` and
`population.py` which trials go on, `standing.py` how far each is, `engine.py` what is to be done next; `warm.py` earlier trials; `ledger.py` a search
in the tables, `running.py` a search run to its end, `estimate.py` what it will cost. From tables: `stored.py`, `outcome.py`, `importance.py`.
"""
