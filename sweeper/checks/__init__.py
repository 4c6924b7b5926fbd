"""A sceptical reviewer's checks, C1 to C36, computed from the result tables alone: no torch, no Ray, no rerun.

`catalogue.py` says what each check asks and on whose word; `integrity.py`, `strength.py`, `claims.py` and `reporting.py` compute those that the
tables can answer; `all.py` runs them and `gate.py` says which trials must not be ranked. What needs the trained networks is `not_run` here, until
its row is stored in the table `checks`.
"""
