"""Where runs are executed: in processes of this machine, or as tasks of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import torch

from restore_vlm.bench.execute import execute
from restore_vlm.bench.plan import Job
from restore_vlm.errors import UserError
from restore_vlm.runtime.children import run_in_child

DIED = "its process was killed, perhaps for lack of memory; the same command tries it again"


class Watch(Protocol):
    """Who is told how runs go."""

    def step(self, job: Job, done: int, total: int, note: str) -> None:
        """A run has done some of its training steps."""

    def finished(self, job: Job, error: str | None) -> None:
        """A run is done, or failed for the reason given."""


Engine = Callable[[Sequence[Job], Path, Watch], None]


def inline(jobs: Sequence[Job], out: Path, watch: Watch) -> None:
    """Executes runs one after the other in this process."""
    for job in jobs:
        watch.finished(job, execute(job, out, _steps(lambda *step, job=job: watch.step(job, *step))))


@dataclass(frozen=True)
class Local:
    """Processes of this machine, one per GPU, or else so many that they fill the cores.

    A run whose process dies fails alone; the others go on.

    Attributes:
        workers: Processes; None chooses.
        threads: Of each; None shares out the cores.
    """

    workers: int | None = None
    threads: int | None = None

    def __call__(self, jobs: Sequence[Job], out: Path, watch: Watch) -> None:
        gpus = torch.cuda.device_count()
        workers = min(self.workers or gpus or cores(), len(jobs))
        threads = self.threads or max(1, cores() // max(1, workers))
        queue: SimpleQueue[Job] = SimpleQueue()
        for job in jobs:
            queue.put(job)
        servers = [_Worker(out, threads, i % gpus if gpus else None) for i in range(workers)]
        crew = [threading.Thread(target=s.serve, args=(queue, watch), daemon=True) for s in servers]
        try:
            for member in crew:
                member.start()
            for member in crew:
                while member.is_alive():
                    member.join(0.2)
        finally:
            for server in servers:
                server.stop()
            for member in crew:
                if member.is_alive():
                    member.join()
        failed = next((s.failure for s in servers if s.failure), None)
        if failed:
            raise failed


class _Worker:
    """A process that executes one run after the other, started anew when it dies.

    It is bound to the thread that calls :meth:`serve`, and ends with it.
    """

    def __init__(self, out: Path, threads: int, gpu: int | None) -> None:
        self.out, self.threads, self.gpu = out, threads, gpu
        self.process: Any = None
        self.pipe: Connection | None = None
        self.failure: BaseException | None = None
        self.stopped = False
        self.lock = threading.Lock()

    def serve(self, queue: SimpleQueue[Job], watch: Watch) -> None:
        try:
            while not self.stopped:
                job = queue.get_nowait()
                error = self._run(job, watch)
                if not self.stopped:
                    watch.finished(job, error)
        except Empty:
            pass
        except BaseException as error:
            self.failure = error
        finally:
            self.stop()
            if self.process is not None:
                self.process.join()

    def stop(self) -> None:
        """Kills the process, or keeps one that is just being started from being left behind."""
        self.stopped = True
        with self.lock:
            if self.process is not None:
                self.process.kill()

    def _run(self, job: Job, watch: Watch) -> str | None:
        pipe = self._connected()
        if pipe is None:
            return DIED
        try:
            pipe.send(job)
            while True:
                kind, content = pipe.recv()
                if kind == "end":
                    return content
                watch.step(job, *content)
        except (EOFError, OSError):
            self.pipe = None
            return DIED

    def _connected(self) -> Connection | None:
        with self.lock:
            if self.stopped:
                return None
            if self.pipe is None:
                context = multiprocessing.get_context("spawn")
                self.pipe, theirs = context.Pipe()
                where = f"{_serve.__module__}:{_serve.__name__}"
                self.process = context.Process(
                    target=run_in_child, args=(where, theirs, self.out, self.threads, self.gpu)
                )
                self.process.start()
                theirs.close()
            return self.pipe


def _serve(pipe: Connection, out: Path, threads: int, gpu: int | None) -> None:
    """The life of a worker process."""
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[gpu] if visible != [""] else str(gpu)
    torch.set_num_threads(threads)
    while True:
        job = pipe.recv()
        pipe.send(("end", execute(job, out, _steps(lambda *step: pipe.send(("step", step))))))


@dataclass(frozen=True)
class Ray:
    """Tasks of a Ray cluster; ``out`` and the data must be on storage that all nodes share.

    A task whose worker or node dies is tried again elsewhere and goes on from its checkpoint.

    Attributes:
        address: Of the cluster; None starts one on this machine.
        threads: CPUs of each run.
        retries: After the death of a worker.
    """

    address: str | None = None
    threads: int | None = None
    retries: int = 3

    def __call__(self, jobs: Sequence[Job], out: Path, watch: Watch) -> None:
        ray = _import_ray()
        mine = not ray.is_initialized()
        if mine:
            _connect(ray, self.address)
        try:
            gpus = 1 if ray.cluster_resources().get("GPU") else 0
            task = ray.remote(_ray_task).options(
                num_cpus=self.threads or 1, num_gpus=gpus, max_retries=self.retries
            )
            pending = {task.remote(job, out, self.threads or 1): job for job in jobs}
            while pending:
                for done in ray.wait(list(pending), timeout=1.0)[0]:
                    watch.finished(pending.pop(done), _outcome(ray, done))
        finally:
            if mine:
                ray.shutdown()


def _ray_task(job: Job, out: Path, threads: int) -> str | None:
    torch.set_num_threads(threads)
    return execute(job, out)


def _outcome(ray: Any, task: Any) -> str | None:
    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return f"Ray gave it up ({type(error).__name__}: {first}); the same command tries it again"


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("Ray is not installed; install it: pip install 'restore-vlm[ray]'.") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Ray itself would try for minutes to reach a place where nothing answers, then end the process."""
    where = f"The Ray cluster {address or 'of this machine'} cannot be reached"
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdecimal():
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address, logging_level="error", log_to_driver=False)
    except (OSError, OverflowError, ValueError, RuntimeError, SystemExit) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"{where} ({first}); check --address.") from None


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _steps(tell: Callable[[int, int, str], None]) -> Callable[[int, int, dict[str, float]], None]:
    """Every fifth training step, and the last."""

    def on_step(done: int, total: int, metrics: dict[str, float]) -> None:
        if done % 5 == 0 or done == total:
            tell(done, total, f"loss {metrics['loss']:.2f}")

    return on_step
