"""`eldr doctor`: a deployment, checked end to end.

`look.py` looks at everything once. Each check is a function that tells how it stands by what was
seen, or that it could not be. `examine.py` has them in order; `command.py` prints what they found.
"""
