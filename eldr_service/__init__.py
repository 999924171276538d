"""ELDR's daemon: places prefilled requests on decode workers by the experts that they use."""
