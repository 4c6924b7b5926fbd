"""A sceptical reviewer's checks that need the trained networks: a few passes and a few attacks on one defense, each answering one of C1 to C36.

Each probe takes a `Subject` and returns a `Finding`, with its value and its threshold; it knows nothing of trials, tables or Ray. `health` asks what
costs next to nothing and is asked of every trial, `strength` attacks again and harder. What the tables alone answer is in `sweeper/checks/`.
"""
