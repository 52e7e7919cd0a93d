"""Records what devices and host do while some steps run, with jax.profiler."""

import pathlib

import jax


class Recording:
    """A trace from its making until `stop`, for one process at a time."""

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        """Starts it; the files go to FOLDER/plugins/profile/NAME/, where xprof and TensorBoard look for them."""
        options = jax.profiler.ProfileOptions()
        options.session_id = name
        options.python_tracer_level = 0  # else every call of Python is in it, which slows down the host
        self._target = folder / "plugins" / "profile" / name
        for old in self._target.glob("*"):  # of an attempt that was cut short
            old.unlink()
        jax.profiler.start_trace(folder, profiler_options=options)

    def stop(self) -> pathlib.Path:
        """Ends it and returns its `*.xplane.pb`; whatever should be in it must have ended."""
        jax.profiler.stop_trace()
        (file,) = self._target.glob("*.xplane.pb")
        return file
