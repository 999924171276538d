"""What ELDR would gain on some traffic: sweeps, figures of them, a page and a PDF."""
