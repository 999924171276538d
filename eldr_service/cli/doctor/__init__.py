"""`eldr doctor`: a deployment, checked end to end.

`look.py` looks at everything once. Each check is a function that judges what was seen, or says why
it could not be seen. `examine.py` runs them in order; `command.py` prints what they found.
"""
