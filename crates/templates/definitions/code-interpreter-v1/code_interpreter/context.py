"""A context: one kernel, with what was defined in it. Code runs in it one piece at a time."""

import asyncio
import logging
import uuid

from jupyter_client.manager import AsyncKernelManager

from . import languages, messages

log = logging.getLogger(__name__)

START_SECONDS = 60
# A kernel that does not stop what it does within this time after an interrupt is started anew.
INTERRUPT_SECONDS = 5


class KernelDied(Exception):
    """The kernel ended while it ran code."""


class Context:
    def __init__(self, specifications, kernel, cwd):
        self.id = str(uuid.uuid4())
        self.kernel = kernel
        self.cwd = cwd
        self.turn = asyncio.Lock()
        self.manager = AsyncKernelManager(kernel_name=kernel, kernel_spec_manager=specifications)
        self.client = None
        self.environment = {}

    def describe(self):
        return {"id": self.id, "language": languages.language_of(self.kernel), "cwd": self.cwd}

    async def start(self):
        await self.manager.start_kernel(cwd=self.cwd)
        await self._connect()

    async def restart(self):
        async with self.turn:
            await self._restart()

    async def _connect(self):
        self.environment = {}
        self.client = self.manager.client()
        self.client.start_channels()
        await self.client.wait_for_ready(timeout=START_SECONDS)
        await self._silently(languages.PRELUDE.get(self.kernel))

    async def _restart(self):
        self.client.stop_channels()
        await self.manager.restart_kernel(now=True)
        await self._connect()

    async def stop(self):
        if self.client is not None:
            self.client.stop_channels()
        await self.manager.shutdown_kernel(now=True)

    async def run(self, code, environment, base_environment):
        """Runs code and yields the lines of the answer. Stopping the iteration interrupts the code."""
        before = {}
        async with self.turn:
            try:
                before = await self._enter(environment, base_environment)
                async for message in self._messages(code):
                    if (line := messages.line_of(message)) is not None:
                        yield line
                await self._set(before)
            except KernelDied:
                log.warning("the kernel of context %s died", self.id)
                yield messages.error("KernelDied", "The kernel died, perhaps for want of memory. It was started anew.", "")
                await self._restart()
            except (asyncio.CancelledError, GeneratorExit):
                # The client went away: nobody waits for what still runs. The turn is kept until it has stopped.
                await asyncio.shield(self._interrupt(before))
                raise

    async def _enter(self, environment, base):
        """Sets the sandbox's variables when they are new, then this execution's; returns what undoes the latter."""
        fresh = {name: value for name, value in base.items() if self.environment.get(name) != value}
        await self._set(fresh)
        self.environment.update(fresh)
        await self._set(environment)
        return {name: self.environment.get(name) for name in environment}

    async def _set(self, variables):
        await self._silently(languages.set_environment(self.kernel, variables) if variables else None)

    async def _silently(self, code):
        if code:
            async for _ in self._messages(code, silent=True):
                pass

    async def _messages(self, code, silent=False):
        """Has the kernel run code and yields what it puts out until it is idle again."""
        request = self.client.execute(code, silent=silent, store_history=not silent, allow_stdin=False, stop_on_error=True)
        while True:
            message = await self._next_message()
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["msg_type"] == "status":
                if message["content"]["execution_state"] == "idle":
                    return
                continue
            yield message

    async def _next_message(self):
        while True:
            try:
                return await self.client.get_iopub_msg(timeout=1)
            except Exception as silence:  # queue.Empty, or zmq's errors when the kernel is gone
                if not await self.manager.is_alive():
                    raise KernelDied from silence

    async def _interrupt(self, undo):
        try:
            await self.manager.interrupt_kernel()
            async with asyncio.timeout(INTERRUPT_SECONDS):
                async for _ in self._messages("", silent=True):
                    pass
                await self._set(undo)
        except (TimeoutError, KernelDied):
            log.warning("context %s does not stop, its kernel is started anew", self.id)
            await self._restart()
