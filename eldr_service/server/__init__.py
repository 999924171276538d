"""`eldr-server`, the daemon: settings, messages in and out, what people and programs see of it."""


def main() -> None:
    """Run `eldr-server`."""
    from eldr_service.server.daemon import main as run  # `eldr` uses parts of this room without it

    run()
