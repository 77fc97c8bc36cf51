"""HTTP in front of a host: routes, tokens, limits, problems, OpenAPI, and the server that runs them.

from decalog.http import HttpSettings, serve

exit_code = serve(host, HttpSettings(port=8000), access=Access(store))
"""

from __future__ import annotations

from decalog.http.app import App
from decalog.http.server import EXIT_LOG_FAILED, serve, serve_here
from decalog.http.settings import HttpSettings

__all__ = ["EXIT_LOG_FAILED", "App", "HttpSettings", "serve", "serve_here"]
