"""The HTTP service (contract: POST /execute, /contexts and below, GET /health)."""

import asyncio
import contextlib
import json
import logging
import os

import aiohttp
from aiohttp import web

from . import languages, messages
from .context import Context

log = logging.getLogger(__name__)

AGENT = "http://127.0.0.1:49983"
MAX_CODE_BYTES = 64 * 1024 * 1024


class Service:
    def __init__(self, cwd):
        self.cwd = cwd
        self.specifications = languages.Specifications()
        self.contexts = {}
        # Clients that name a language and no context get its default context.
        self.defaults = {}
        self.starting = asyncio.Lock()

    async def make(self, language, cwd):
        kernel = languages.kernel_of(self.specifications, language)
        context = Context(self.specifications, kernel, cwd or self.cwd)
        await context.start()
        self.contexts[context.id] = context
        return context

    async def default(self, language):
        kernel = languages.kernel_of(self.specifications, language)
        async with self.starting:
            if kernel not in self.defaults:
                self.defaults[kernel] = await self.make(kernel, None)
        return self.defaults[kernel]

    def named(self, id):
        try:
            return self.contexts[id]
        except KeyError:
            raise web.HTTPNotFound(text=f"Context {id} not found") from None

    def application(self):
        application = web.Application(client_max_size=MAX_CODE_BYTES)
        application.add_routes(
            [
                web.get("/health", self.health),
                web.post("/execute", self.execute),
                web.get("/contexts", self.list),
                web.post("/contexts", self.create),
                web.delete("/contexts/{id}", self.delete),
                web.post("/contexts/{id}/restart", self.restart),
            ]
        )
        return application

    async def health(self, _request):
        return web.Response(text="OK")

    async def list(self, _request):
        return web.json_response([context.describe() for context in self.contexts.values()])

    async def create(self, request):
        body = await body_of(request)
        cwd = text_of(body, "cwd")
        if cwd is not None and not os.path.isdir(cwd):
            raise web.HTTPBadRequest(text=f"cwd {cwd} is not a directory")
        try:
            context = await self.make(text_of(body, "language"), cwd)
        except languages.UnknownLanguage as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        return web.json_response(context.describe(), status=201)

    async def delete(self, request):
        context = self.named(request.match_info["id"])
        del self.contexts[context.id]
        self.defaults = {kernel: default for kernel, default in self.defaults.items() if default is not context}
        await context.stop()
        return web.Response(status=204)

    async def restart(self, request):
        await self.named(request.match_info["id"]).restart()
        return web.Response(status=204)

    async def execute(self, request):
        body = await body_of(request)
        code, id, language = text_of(body, "code"), text_of(body, "context_id"), text_of(body, "language")
        if code is None:
            raise web.HTTPBadRequest(text="code is missing")
        if id and language:
            raise web.HTTPBadRequest(text="either context_id or language, not both")
        environment = environment_of(body)
        try:
            context = self.named(id) if id else await self.default(language)
        except languages.UnknownLanguage as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        base = await environment_of_the_sandbox(request.headers.get("X-Access-Token"))
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-store"})
        await response.prepare(request)
        async with contextlib.aclosing(context.run(code, environment, base)) as lines:
            async for line in lines:
                await response.write(messages.encode(line))
        await response.write_eof()
        return response


async def body_of(request):
    try:
        body = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise web.HTTPBadRequest(text=f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body must be an object")
    return body


def text_of(body, field):
    value = body.get(field)
    if value is not None and not isinstance(value, str):
        raise web.HTTPBadRequest(text=f"{field} must be a string")
    return value


def environment_of(body):
    environment = body.get("env_vars") or {}
    if not isinstance(environment, dict) or not all(isinstance(value, str) for value in environment.values()):
        raise web.HTTPBadRequest(text="env_vars must be an object of strings")
    return environment


async def environment_of_the_sandbox(access_token):
    """The variables that the sandbox was created with: the kernels are older than the sandbox."""
    headers = {"X-Access-Token": access_token} if access_token else {}
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            async with session.get(f"{AGENT}/envs", headers=headers) as answer:
                return await answer.json() if answer.status == 200 else {}
    except (aiohttp.ClientError, TimeoutError) as error:
        log.debug("the sandbox's environment is not known: %s", error)
        return {}
