"""The recording that ships with the project, for use without a real one."""

from importlib.resources import as_file, files

from eldr_service.lab.recordings import Recording


def sample_recording() -> Recording:
    """Read the sample: real requests to a small trained Qwen3-MoE.

    `benchmarks/engines/tiny_moe` trained the model and recorded it: 4 layers x 32 experts, top-2;
    ten kinds of text, prefill and decode of each request as the model ran them. Its README compares
    the sample's locality with that of real models.
    """
    with as_file(files(__package__) / "sample.npz") as path:
        return Recording.load(path)
