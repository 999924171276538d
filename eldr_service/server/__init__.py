"""`eldr-server`, the daemon: settings, messages in and out, what people and programs see of it."""

import gc


def main() -> None:
    """Run `eldr-server`."""
    gc.disable()  # nothing of what is imported is ever garbage
    from eldr_service.server.program import main as run  # `eldr` uses parts of this room without it

    gc.freeze()
    gc.enable()
    run()
