"""Work spread over the machines of a Ray cluster, behind the interface that pools of processes have."""

import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

from letocc_core.errors import ConfigError, LetOccError, MissingDependencyError

RUN_AGAIN = 3  # times, where the process or the machine that ran a task is lost
LOCAL = "local"  # as address: workers on this machine alone


@contextmanager
def connected(address: str, workers: int) -> Iterator[None]:
    """Within, Ray is there: that of the cluster at `address`, or with `local` one of `workers` processes on 127.0.0.1.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: nothing answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # both are read as Ray is imported
    if address == LOCAL:  # a node that is no part of a cluster listens on 127.0.0.1 alone
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(f"--ray needs Ray ({error}): pip install 'letocc[ray]'") from error
    here: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address, logging_level=logging.WARNING, **(here if address == LOCAL else {}))
    except Exception as error:  # Ray has no class of its own for it: a node that does not start is an `Exception`
        raise ConfigError(
            f"--ray is '{address}', where no Ray answers ({_first_line(error)}); expected the address of a "
            f"cluster such as HOST:6379, auto for the one that this machine belongs to, or {LOCAL}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


class RayTasks(Executor):
    """Calls of functions as Ray tasks of one CPU each. A task whose process or machine is lost is run again elsewhere.

    Functions are sent by name and files by path: every machine has the library and, at the same path, the caller's folder.
    """

    def __init__(
        self,
        initializer: Callable[..., None] | None = None,
        initargs: tuple[Any, ...] = (),
        gpus: int = 0,
        environment: Mapping[str, str] | None = None,
    ):
        """
        Args:
            initializer: called as `initializer(*initargs)` in each process before its first task.
            gpus: that a task has for itself.
            environment: variables that are set in the processes.
        """
        import ray

        self._opening = (uuid.uuid4().hex, initializer, initargs)
        self._running: dict[Future, Any] = {}  # Ray's reference of each call that has not ended
        self._task = ray.remote(_call).options(
            num_cpus=1, num_gpus=gpus, max_retries=RUN_AGAIN, runtime_env={"env_vars": dict(environment or {})}
        )

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future:
        """As `Executor.submit`; the future raises `LetOccError` where a task was lost too often."""
        reference = self._task.remote(self._opening, os.getcwd(), function, arguments, named)
        result: Future = Future()
        result.set_running_or_notify_cancel()  # Ray has it: whether it has begun there is not known here
        self._running[result] = reference

        def settle(done: Future) -> None:
            self._running.pop(result)
            error = done.exception()
            if error is None:
                result.set_result(done.result())
            else:
                result.set_exception(_as_processes_raise(error))

        reference.future().add_done_callback(settle)
        return result

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for all that has not ended, or end it with `cancel_futures`."""
        import ray

        for result, reference in list(self._running.items()):
            if cancel_futures:
                ray.cancel(reference)
            elif wait:
                result.exception()


_opened = ""  # which executor's initializer this process has called


def _call(
    opening: tuple[str, Callable[..., None] | None, tuple[Any, ...]],
    folder: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    named: Mapping[str, Any],
) -> Any:
    """One task, in a process of Ray's."""
    global _opened
    executor, initializer, initargs = opening
    os.chdir(folder)
    if initializer is not None and _opened != executor:
        initializer(*initargs)
        _opened = executor
    return function(*arguments, **named)


def _as_processes_raise(error: BaseException) -> BaseException:
    """The exception that a function raised itself, or ours where Ray could not run it."""
    from ray.exceptions import RayError, RayTaskError

    if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
        error.cause.__cause__ = LetOccError(str(error))  # where it was raised, for a bug's traceback
        return error.cause
    if isinstance(error, RayTaskError):
        needed = "every machine of the cluster needs the library as this one has it"
        return LetOccError(f"Ray could not begin a task ({_first_line(error.cause)}); {needed}")
    if isinstance(error, RayError):
        lost = f"a task's process or machine was lost {1 + RUN_AGAIN} times"
        return LetOccError(f"{lost} ({_first_line(error)}); look at its memory, and at Ray's logs")
    return error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
