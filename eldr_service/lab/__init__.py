"""Evidence: recordings, simulation, replay and reports. Nothing that serves imports it."""
