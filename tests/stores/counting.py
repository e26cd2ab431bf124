"""A server of one file that does ranges, at a pace of its own, and remembers what it was asked for."""

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK = 64 * 1024


class Counting:
    """Serves `content` at /m.gguf on loopback, each connection at most `bytes_per_second`."""

    def __init__(self, content, bytes_per_second=None):
        self.content, self.bytes_per_second = content, bytes_per_second
        self.ranges, self.lock = [], threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                server.answer(self)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/m.gguf"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler):
        total = len(self.content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("range", ""))
        start, end = (int(asked[1]), min(int(asked[2]) + 1, total)) if asked else (0, total)
        with self.lock:
            self.ranges.append((start, end))
        handler.send_response(206 if asked else 200)
        handler.send_header("etag", '"v1"')
        handler.send_header("content-length", str(end - start))
        if asked:
            handler.send_header("content-range", f"bytes {start}-{end - 1}/{total}")
        handler.end_headers()
        try:
            for at in range(start, end, CHUNK):
                handler.wfile.write(self.content[at : min(at + CHUNK, end)])
                if self.bytes_per_second:
                    time.sleep(CHUNK / self.bytes_per_second)
        except OSError:
            pass  # whoever asked is gone

    def take_ranges(self):
        """What was asked for since this was called last."""
        with self.lock:
            taken, self.ranges = self.ranges, []
        return taken

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
