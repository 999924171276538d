"""Recording what an engine does, for `eldr simulate` and `eldr report`; see docs/recording.md."""
