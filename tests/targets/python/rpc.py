"""A service with SkyWalking's own Python agent that serves gRPC and HTTP: rpc.py RPC_ADDRESS HTTP_ADDRESS.

By HTTP it is told whom to call by gRPC: /relay?next=HOST:PORT. By gRPC it answers demo.Echo/Unary with what it was
sent. The agent takes its settings from SW_AGENT_*.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import grpc
from google.protobuf.wrappers_pb2 import BytesValue
from skywalking import agent, config

config.init()
agent.start()


def call(address):
    with grpc.insecure_channel(address) as channel:
        unary = channel.unary_unary('/demo.Echo/Unary', BytesValue.SerializeToString, BytesValue.FromString)
        return unary(BytesValue(value=b'python'), timeout=10).value


class Relay(BaseHTTPRequestHandler):
    def do_GET(self):
        following = parse_qs(urlsplit(self.path).query).get('next')
        body = call(following[0]) if following else b'python'
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


echo = grpc.unary_unary_rpc_method_handler(
    lambda message, context: message, BytesValue.FromString, BytesValue.SerializeToString
)
rpc = grpc.server(ThreadPoolExecutor(4))
rpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler('demo.Echo', {'Unary': echo}),))
rpc.add_insecure_port(sys.argv[1])
rpc.start()

host, port = sys.argv[2].split(':')
ThreadingHTTPServer((host, int(port)), Relay).serve_forever()
