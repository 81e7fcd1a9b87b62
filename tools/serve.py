"""Serve a folder on 127.0.0.1 and print the address; takes a free port if the wanted one is busy."""
import argparse
import functools
import http.server


class Quiet(http.server.SimpleHTTPRequestHandler):
    """No log line per file, and no stale page after a rebuild."""

    def log_message(self, *args):
        pass

    def end_headers(self):
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()


def open_server(folder, port):
    """Bind the wanted port, or any free one."""
    handler = functools.partial(Quiet, directory=folder)
    for candidate in (port, 0):
        try:
            return http.server.ThreadingHTTPServer(("127.0.0.1", candidate), handler)
        except OSError:
            continue
    raise SystemExit("no free port on 127.0.0.1")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    server = open_server(arguments.folder, arguments.port)
    print(f"The book is at http://127.0.0.1:{server.server_port}/ (stop with Ctrl-C)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()
