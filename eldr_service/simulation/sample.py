"""The recording that comes with the project, for those who have no real one."""

from importlib.resources import as_file, files

from eldr_service.fitting import Recording


def sample_recording() -> Recording:
    """Read the sample; `simulation.synthetic` made it."""
    with as_file(files(__package__) / "sample.npz") as path:
        return Recording.load(path)
