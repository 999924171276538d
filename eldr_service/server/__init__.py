"""`eldr-server`, the daemon: settings, RPC, and what people and programs see of it."""

import gc


def main() -> None:
    """Run `eldr-server`."""
    gc.disable()  # nothing imported ever becomes garbage
    from eldr_service.server.program import main as run  # late: `eldr` does not need it

    gc.freeze()
    gc.enable()
    run()
