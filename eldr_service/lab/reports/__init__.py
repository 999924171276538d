"""What ELDR would gain on given traffic: sweeps, their figures, a page and a PDF."""
