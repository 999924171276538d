"""How many file descriptors the process may use."""

# For state, logs, metrics, fits and libraries.
OWN_DESCRIPTORS = 128


def spare_descriptors(wanted: int) -> int:
    """Raise the limit as far as allowed; return how many of the wanted descriptors fit."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return wanted
    infinite = resource.RLIM_INFINITY
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OWN_DESCRIPTORS
    if soft != infinite and soft < needed:
        soft = needed if hard == infinite else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == infinite else max(1, min(wanted, soft - OWN_DESCRIPTORS))
