"""OpenTelemetry metrics: each worker reports its own pools, through its own SDK.

Needs OpenTelemetry's API, which only this package imports
(``pip install "flask-poolguard[otel]"``).
"""

from __future__ import annotations

try:
    import opentelemetry.metrics as _api  # noqa: F401 (to say what is missing)
except ImportError as error:
    raise ImportError(
        "flask_poolguard.otel needs OpenTelemetry's API:"
        " pip install 'flask-poolguard[otel]'"
    ) from error

from .instrumentation import Instrumentation, instrument

__all__ = ["Instrumentation", "instrument"]
