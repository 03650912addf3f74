"""The package `rerun`, if it is there: apart, so that a recording opens without waiting for torch."""

from types import ModuleType

from letocc_core.errors import MissingDependencyError


def rerun_sdk() -> ModuleType:
    """The package `rerun`. Raises `MissingDependencyError` with the line that installs it."""
    try:
        import rerun
        import rerun.blueprint

        rerun.VoxelGridMap  # noqa: B018  # older ones read a blueprint otherwise
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(
            f"the viewer needs rerun-sdk 0.41 or later, on Python 3.11 or later with NumPy 2 ({error}): "
            "pip install 'letocc[view]'"
        ) from error
    return rerun
