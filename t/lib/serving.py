"""What the small servers of the tests have in common."""

import argparse
import asyncio
import os
import signal


def port_argument():
    """A parser of arguments that knows --port."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument('--port', type=int, required=True)
    return arguments


def exit_on_signals():
    """A test run that is stopped ends this process without a traceback."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))


async def serve_until_stopped():
    """Says that the server listens, and serves until a signal ends the process."""
    exit_on_signals()
    print('ready', flush=True)
    await asyncio.Event().wait()
