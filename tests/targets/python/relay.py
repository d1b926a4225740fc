"""A service with SkyWalking's own Python agent: answers with its name, or asks the next one first.

The request says who is next: /relay?next=URL. The agent takes its settings from SW_AGENT_*.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

from skywalking import agent, config

config.init()
agent.start()


class Relay(BaseHTTPRequestHandler):
    def do_GET(self):
        following = parse_qs(urlsplit(self.path).query).get('next')
        body = b'python'
        if following:
            with urlopen(following[0], timeout=10) as answer:
                body += b' ' + answer.read()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


host, port = sys.argv[1].split(':')
server = ThreadingHTTPServer((host, int(port)), Relay)
print(f'python listens on http://{host}:{port}', flush=True)
server.serve_forever()
