"""Searches: Optuna proposes settings, rungs end the hopeless early, and the tables remember everything.

`space.py` what a search space offers; `study.py` the only module that imports optuna; `rungs.py` which trials go on; `engine.py` what is to be done
next; `ledger.py` a search in the tables; `running.py` a search run to its end; `outcome.py` what it found.
"""
