"""Runs inside a sandbox: counts in memory, and answers with the count on a port of loopback."""

import os
from http.server import BaseHTTPRequestHandler, HTTPServer

count = 0
ticket = os.urandom(16).hex()


class Keeper(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer()

    def do_POST(self):
        global count
        count += 1
        self.answer()

    def answer(self):
        body = f"{ticket} {os.getpid()} {count}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


HTTPServer(("127.0.0.1", 7000), Keeper).serve_forever()
