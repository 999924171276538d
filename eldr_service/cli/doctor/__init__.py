"""`eldr doctor`: a deployment, checked end to end.

`evidence.py` looks at everything once; each check is a function that makes one `Finding` of what was
seen, or says that it could not be. `examine.py` has them in order, and `command.py` prints what they
found.
"""
