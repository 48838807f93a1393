"""Serve: `python -m examples.gateway STORE MODEL PORT FLUSH_INTERVAL LEASE_TTL`."""

import sys

import uvicorn

from examples.gateway.app import Gateway, application


def main() -> None:
    """Serve until told to end."""
    store, model, port, flush_interval, lease_ttl = sys.argv[1:]

    def stop() -> None:
        server.should_exit = True

    waits = {"flush_interval": float(flush_interval), "lease_ttl": float(lease_ttl)}
    app = application(Gateway(store, model, stop, **waits))
    config = uvicorn.Config(app, port=int(port), log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    server.run()


if __name__ == "__main__":
    main()
