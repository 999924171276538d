"""How many files and sockets the process may have open."""

# For the state, logs, metrics, fits and what libraries open.
OWN_DESCRIPTORS = 128


def spare_descriptors(wanted: int) -> int:
    """Of so many descriptors, those that there may be; the limit is raised as far as is allowed."""
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
