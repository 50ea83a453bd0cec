"""The models of the course behind HTTP: ``python -m helpers serve``.

Needs the extra ``serve``. From the request to the answer:

* ``guards``: sizes and types of bodies, hosts, headers, counting.
* ``schemas``, ``problems``: what may be asked for, made for each model; errors as problem+json.
* ``app``: the routes: :func:`create_app`.
* ``engine``: a queue, and requests that share evaluations of a network: :class:`Engine`.
* ``drawing``, ``pictures``: what a request does, and its file formats.
* ``catalogue``, ``settings``, ``metrics``: models, limits, numbers.
* ``server``: :func:`serve` until a signal comes; :func:`running` in a thread, for lessons and tests.
"""

from .app import create_app, make_engine
from .catalogue import ServedModel, kind_of, load_models
from .engine import Cancelled, Draining, Engine, Job, QueueFull, Shared
from .server import Server, running, serve
from .settings import Settings

__all__ = [
    "Cancelled",
    "Draining",
    "Engine",
    "Job",
    "QueueFull",
    "ServedModel",
    "Server",
    "Settings",
    "Shared",
    "create_app",
    "kind_of",
    "load_models",
    "make_engine",
    "running",
    "serve",
]
