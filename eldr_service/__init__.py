"""ELDR's daemon: places prefilled requests on decode workers by the experts that they use."""

import os

# Nothing here uses gRPC in a forked process, so gRPC need not prepare for that, nor log that it
# could not when the fitting process starts. It reads this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
