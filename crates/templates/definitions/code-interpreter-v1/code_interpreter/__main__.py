"""Starts the service, with the default kernels up before the first client comes."""

import argparse
import asyncio
import logging
import os

from aiohttp import web

from .service import Service


async def main():
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, default=49999)
    options.add_argument("--warm", default="python,javascript", help="languages whose kernels start at once")
    options = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    service = Service(cwd=os.getcwd())
    for language in filter(None, options.warm.split(",")):
        await service.default(language)
    # With handler_cancellation a client that goes away interrupts its code.
    runner = web.AppRunner(service.application(), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", options.port).start()
    logging.info("listening on port %d", options.port)
    await asyncio.Event().wait()


asyncio.run(main())
