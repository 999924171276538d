"""Evidence: recordings, simulation, replay and reports. No serving code imports it."""
